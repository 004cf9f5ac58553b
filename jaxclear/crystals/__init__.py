"""Crystal structures, their diffraction fingerprints and the symmetry baseline.

The functions :func:`fingerprint`, :func:`explain`, :func:`classify` and :func:`strangers` have the names of their
modules; import the modules' other names from ``jaxclear.crystals.fingerprint`` and so on.
"""

from jaxclear.crystals.average import AverageCell, average_cell
from jaxclear.crystals.beam import Beam
from jaxclear.crystals.cells import (
    PaddedAtoms,
    StandardCell,
    cluster,
    nearest_neighbour_distance,
    pad,
    prepare,
    standard_cell,
)
from jaxclear.crystals.classify import Classification, ClassificationReport, annotated, classify
from jaxclear.crystals.datasets import LabelledStructures
from jaxclear.crystals.defects import displacements, vacancies
from jaxclear.crystals.explain import CrystalExplanation, explain, explain_clusters, explain_kernel
from jaxclear.crystals.fingerprint import fingerprint, fingerprint_kernel
from jaxclear.crystals.optimade import Fetched, OptimadeError, load_optimade
from jaxclear.crystals.peak_tables import PeakTable, explain_peaks
from jaxclear.crystals.peaks import PeakIndex, index_peaks
from jaxclear.crystals.prototypes import PROTOTYPES, Prototype, members
from jaxclear.crystals.recover import Recovered, recover
from jaxclear.crystals.regions import RegionMap, map_regions
from jaxclear.crystals.strangers import Strangers, amorphous, strangers
from jaxclear.crystals.structures import Crystal, StructureError, from_ase, from_pymatgen, read, to_ase
from jaxclear.crystals.symmetry import CLASS_NAMES, class_of_space_group, classify_spglib, near_degenerate, space_group

__all__ = [
    "CLASS_NAMES",
    "PROTOTYPES",
    "AverageCell",
    "Beam",
    "Classification",
    "ClassificationReport",
    "Crystal",
    "CrystalExplanation",
    "Fetched",
    "LabelledStructures",
    "OptimadeError",
    "PaddedAtoms",
    "PeakIndex",
    "PeakTable",
    "Prototype",
    "Recovered",
    "RegionMap",
    "StandardCell",
    "Strangers",
    "StructureError",
    "amorphous",
    "annotated",
    "average_cell",
    "class_of_space_group",
    "classify",
    "classify_spglib",
    "cluster",
    "displacements",
    "explain",
    "explain_clusters",
    "explain_kernel",
    "explain_peaks",
    "fingerprint",
    "fingerprint_kernel",
    "from_ase",
    "from_pymatgen",
    "index_peaks",
    "load_optimade",
    "map_regions",
    "members",
    "near_degenerate",
    "nearest_neighbour_distance",
    "pad",
    "prepare",
    "read",
    "recover",
    "space_group",
    "standard_cell",
    "strangers",
    "to_ase",
    "vacancies",
]
