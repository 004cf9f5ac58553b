"""The standard cell of a damaged crystal: its lattice, averaged motif and space group.

A symmetry search answers P1 for a cell with one atom missing. The lattice under the damage is found by diffraction
(:mod:`jaxclear.crystals.lattice`), the atoms are averaged over its cells (:mod:`jaxclear.crystals.motif`), and the
symmetry is that of the average (:mod:`jaxclear.crystals.idealise`). spglib names its group and its standard setting.
"""

import itertools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxclear.blas_threads import one_blas_thread
from jaxclear.crystals import cloud as clouds
from jaxclear.crystals import lattice as lattices
from jaxclear.crystals import motif_fit as fits
from jaxclear.crystals.cells import (
    LOWEST_STANDARD_GROUP,
    MIN_CLOUD,
    cluster,
    in_standard_setting,
    nearest_neighbour_distance,
    symmetry_dataset,
)
from jaxclear.crystals.given_symmetry import Diffraction, diffraction, given_symmetry
from jaxclear.crystals.idealise import idealised
from jaxclear.crystals.motif import Motif
from jaxclear.crystals.shapes import ideal_dataset
from jaxclear.crystals.structure_factors import Spectrum, signal
from jaxclear.crystals.structures import Crystal

CUTOFFS = (3.0, 2.0)
"""Greatest wave vectors, in units of 1 / nearest-neighbour distance, tried in turn."""
LEAST_WAVES = 20
"""Wave vectors below which nothing can be told."""
LEAST_OCCUPANCIES = (0.3, 0.1)
"""Of a site, relative to the median, tried in turn: few copies of a large motif may leave a site nearly empty."""
COHERENT_PEAKS = (lattices.COHERENT_PEAK, 3 * lattices.COHERENT_PEAK)
"""Of the strongest peak, tried in turn: see :func:`~jaxclear.crystals.lattice.find_sublattice`."""
LEAST_EVIDENCE = 30.0
"""nats; random atoms with a hard core stay below."""
SUPERLATTICE_PRIOR = 5.0
"""nats by which a lattice with more sites has to be better, beside what its sites cost."""
MOST_STRAIN = 0.0135
"""Greatest principal strain that idealising the lattice may take: what a strain of 1 % leaves beside its mean."""
FEW_SITES = 8
"""A structure that is symmetric as given with no more atoms in its primitive cell is no damaged supercell."""
NEARLY_ALL = 0.95
"""Part of the atoms on sites from which a structure that is symmetric as given is one with interstitials."""


class Setting(NamedTuple):
    """The way from the primitive cell to the standard cell: ``standard = matrix @ primitive + origin``, fractional."""

    matrix: Float[np.ndarray, "3 3"]
    origin: Float[np.ndarray, "3"]


class AverageCell(NamedTuple):
    """The crystal that a damaged structure is made of copies of.

    Attributes:
        crystal: the standard conventional cell, idealised and without vacancies. A site that several species share has
            one atom a species, weighted by its fraction.
        space_group: 1 to 230, of that cell.
        arrangement_group: the same with species ignored: what the sites alone are.
        sites: Cartesian positions of the sites of `crystal`, Å.
        occupancies: part of the copies of each site that is filled; above 1 where an atom between sites was taken for
            one on it.
        spreads: root mean square displacement (length of the vector) of the atoms of each site, Å.
        copies: number of primitive cells in the structure.
        rotation: from the structure's frame to that of `crystal`, proper: ``r_standard = rotation @ r``.
        strain: greatest principal strain that idealising the lattice took.
        d_nn: mean nearest-neighbour distance of the ideal crystal, Å.
        evidence: figure of merit, the logarithm (nats) of the likelihood ratio of Bragg peaks to none; infinite where
            the structure's own cell was taken.
        motif: the primitive cell in the structure's frame, and the atoms on its sites; `motif.lattice` is the lattice.
            The structure's own cell where that was taken.
        setting: how the standard cell follows from it.
    """

    crystal: Crystal
    space_group: int
    arrangement_group: int
    sites: Float[np.ndarray, "sites 3"]
    occupancies: Float[np.ndarray, " sites"]
    spreads: Float[np.ndarray, " sites"]
    copies: int
    rotation: Float[np.ndarray, "3 3"]
    strain: float
    d_nn: float
    evidence: float
    motif: Motif
    setting: Setting


@one_blas_thread
def average_cell(structure: Crystal, *, symprec: float = 0.01) -> AverageCell | None:
    """The standard cell of the crystal that a damaged structure is made of, or None when it shows no lattice.

    Cell and orientation of the structure may be any. A structure that is symmetric as given is taken as
    :func:`~jaxclear.crystals.standard_cell` takes it when it has up to ``FEW_SITES`` atoms in its primitive cell, or is
    not where its average has its atoms: pristine ones. A supercell with one vacancy is symmetric too, but all on
    average sites: there the average counts. A lattice strained by up to 1 % is idealised. A piece of crystal of
    ``MIN_CLOUD`` atoms or more needs no cell.

    Species decide where they are ordered: rock salt has group 225 and two kinds of sites. They do not where they are
    mixed at random: the sites of a disordered alloy are of one kind, with the fractions of its species. The group with
    species ignored is given beside.

    Args:
        structure: checked.
        symprec: tolerance of the symmetry search in the structure as given, Å.

    Returns:
        The average, or None: for a glass or a liquid, damage beyond recognition, one or two periods, or too few atoms.
    """
    if not structure.pbc.any() and len(structure.numbers) >= MIN_CLOUD:
        return _from_cloud(structure)
    if not structure.pbc.all():
        return None
    waves = diffraction(structure, cutoff=CUTOFFS[0])
    own = _as_given(structure, waves, symprec)
    if own is not None and len(own.motif.sites) <= FEW_SITES * own.copies:
        return own
    found = _from_diffraction(structure, waves)
    return found if own is None or _explains(found, symprec) else own


def _explains(found: AverageCell | None, symprec: float) -> bool:
    """Whether a structure that is symmetric as given is no more than copies of its average, some atoms missing."""
    if found is None:
        return False
    on_sites = float(np.mean(found.motif.site_of_atom >= 0))
    exact = on_sites >= NEARLY_ALL and float(found.spreads.max()) < symprec
    return found.space_group >= LOWEST_STANDARD_GROUP and exact


def _from_diffraction(structure: Crystal, waves: Diffraction) -> AverageCell | None:
    """The average over the lattice of the Bragg peaks; of the cut-offs the first with a group that has axes."""
    cell, d_nn, whole = waves.cell, waves.d_nn, waves.spectrum
    best = None
    for coherent_peak, cutoff in itertools.product(COHERENT_PEAKS, CUTOFFS):
        count = int(np.searchsorted(whole.lengths, cutoff / d_nn))
        if count < LEAST_WAVES:
            continue
        part = Spectrum(whole.indices[:count], whole.lengths[:count], whole.amplitudes[:, :count])
        ratios, coherence = signal(part, waves.counts)
        peaks = lattices.find_sublattice(part, ratios, coherence, coherent_peak=coherent_peak)
        if peaks is None or peaks.evidence < LEAST_EVIDENCE:
            continue
        for least in LEAST_OCCUPANCIES:
            motif = _best_motif(structure, cell, part, ratios, peaks.basis, d_nn, least)
            if motif is None:
                continue
            found = standardised(structure, motif, copies=_copies(cell, motif), evidence=peaks.evidence, d_nn=d_nn)
            if found.space_group >= LOWEST_STANDARD_GROUP:
                return found
            best = best or found
    return best


def _best_motif(
    structure: Crystal,
    cell: Float[np.ndarray, "3 3"],
    spectrum: Spectrum,
    ratios: Float[np.ndarray, " waves"],
    basis: Int[np.ndarray, "3 3"],
    d_nn: float,
    least_occupancy: float,
) -> Motif | None:
    """The motif on the lattice of the peaks, or on one with more copies of weak peaks, which fits the atoms best."""
    best, least = None, np.inf
    for candidate in (basis, *lattices.superlattices(spectrum, ratios, basis)):
        primitive = np.linalg.inv(candidate).T @ cell
        primitive = lattices.reduced(primitive)
        motif = fits.motif_of(structure, primitive, d_nn=d_nn, least_occupancy=least_occupancy)
        if motif is None:
            continue
        cost = fits.description_length(motif, abs(float(np.linalg.det(cell))), d_nn)
        if cost < least - SUPERLATTICE_PRIOR * (best is not None):
            best, least = motif, cost
    return best


def _from_cloud(structure: Crystal) -> AverageCell | None:
    """The average over the lattice that a piece of crystal without periods shows."""
    centred = structure._replace(positions=structure.positions - structure.positions.mean(axis=0))
    d_nn = clouds.spacing(centred.positions)
    peaks, profile = clouds.find_peaks(centred.positions, d_nn=d_nn)
    best, least, evidence = None, np.inf, 0.0
    for candidate in clouds.candidates(centred.positions, peaks, profile, d_nn=d_nn):
        if candidate.evidence < LEAST_EVIDENCE:
            continue
        motif = fits.motif_of(centred, candidate.vectors, d_nn=d_nn, least_occupancy=LEAST_OCCUPANCIES[0])
        for _ in range(clouds.ROUNDS):
            if motif is None:
                break
            better = clouds.refined(motif, centred.positions)
            motif = fits.motif_of(centred, better, d_nn=d_nn, least_occupancy=LEAST_OCCUPANCIES[0])
        if motif is None:
            continue
        cost = fits.description_length(motif, clouds.volume(centred.positions), d_nn)
        if cost < least - SUPERLATTICE_PRIOR * (best is not None):
            best, least, evidence = motif, cost, candidate.evidence
    if best is None:
        return None
    return standardised(centred, best, copies=clouds.copies(best), evidence=evidence, d_nn=d_nn)


def _copies(cell: Float[np.ndarray, "3 3"], motif: Motif) -> int:
    return round(abs(float(np.linalg.det(cell) / np.linalg.det(motif.lattice))))


def standardised(structure: Crystal, motif: Motif, *, copies: int, evidence: float, d_nn: float) -> AverageCell:
    """The standard cell of a motif.

    Args:
        structure: that the motif is of.
        motif: sites and atoms.
        copies: number of primitive cells.
        evidence: of the lattice, nats.
        d_nn: an estimate of the nearest-neighbour distance, Å.
    """
    shares = fits.shares_of(structure, motif)
    kinds = fits.kinds_of(shares)
    ideal = idealised(
        motif.lattice, fits.fractions_of(motif), kinds, strain=MOST_STRAIN, allowed=fits.allowed_of(motif, d_nn)
    )
    cell = _sites_cell(ideal.lattice, ideal.fractions, kinds, structure.name)
    dataset = ideal_dataset(cell)
    if dataset is None:
        raise RuntimeError(f"expected a space group of the motif of {structure.name}, got none from spglib")
    standard, sites = _filled(structure, dataset, shares, kinds)
    setting = Setting(np.array(dataset.transformation_matrix), np.array(dataset.origin_shift))
    owners = _located(sites @ np.linalg.inv(standard.cell), setting, motif)[0]
    return AverageCell(
        crystal=standard,
        space_group=int(dataset.number),
        arrangement_group=_arrangement_group(cell, dataset, 1e-3 * d_nn),
        sites=sites,
        occupancies=motif.weights[owners] / copies,
        spreads=np.sqrt(motif.variances[owners]),
        copies=copies,
        rotation=_rotation(motif.lattice, setting, standard.cell),
        strain=ideal.strain,
        d_nn=nearest_neighbour_distance(cluster(standard).positions),
        evidence=evidence,
        motif=motif,
        setting=setting,
    )


def _sites_cell(
    lattice: Float[np.ndarray, "3 3"],
    fractions: Float[np.ndarray, "sites 3"],
    kinds: Int[np.ndarray, " sites"],
    name: str,
) -> Crystal:
    """A cell whose atomic numbers are kinds of sites, from 1."""
    numbers = kinds.astype(np.int32) + 1
    return Crystal(lattice, fractions @ lattice, numbers, np.ones(len(kinds)), np.ones(3, bool), name)


def _arrangement_group(sites: Crystal, own: Any, symprec: float) -> int:
    """Space group of the sites with their kinds ignored, 0 when there is none; `own` is the dataset with them."""
    if not np.ptp(sites.numbers):
        return int(own.number)
    dataset = symmetry_dataset(sites._replace(numbers=np.ones_like(sites.numbers)), symprec=symprec)
    return 0 if dataset is None else int(dataset.number)


def _filled(
    structure: Crystal, dataset: Any, shares: Float[np.ndarray, "sites species"], kinds: Int[np.ndarray, " sites"]
) -> tuple[Crystal, Float[np.ndarray, "standard 3"]]:
    """The standard cell of a dataset with the species of each kind of site, and its sites, Å."""
    cell = np.array(dataset.std_lattice, dtype=np.float64)
    sites = np.array(dataset.std_positions, dtype=np.float64) @ cell
    contents = np.stack([shares[kinds == kind].mean(axis=0) for kind in range(int(kinds.max()) + 1)])
    site, species = np.nonzero(contents[np.array(dataset.std_types) - 1])
    numbers = np.unique(structure.numbers)[species].astype(np.int32)
    occupancies = np.minimum(contents[np.array(dataset.std_types)[site] - 1, species], 1.0)
    return Crystal(cell, sites[site], numbers, occupancies, np.ones(3, bool), structure.name), sites


def nearest_site(
    standard: Float[np.ndarray, "places 3"], average: AverageCell
) -> tuple[Int[np.ndarray, " places"], Int[np.ndarray, "places 3"]]:
    """The site of the motif, and the lattice translation to its copy, at places in the standard cell.

    Args:
        standard: fractional coordinates in the standard cell.
        average: whose motif is meant.
    """
    return _located(standard, average.setting, average.motif)


def _located(
    standard: Float[np.ndarray, "places 3"], setting: Setting, motif: Motif
) -> tuple[Int[np.ndarray, " places"], Int[np.ndarray, "places 3"]]:
    primitive = (standard - setting.origin) @ np.linalg.inv(setting.matrix).T
    gaps = primitive[:, None] - fits.fractions_of(motif)
    steps = np.rint(gaps)
    owners = (((gaps - steps) @ motif.lattice) ** 2).sum(axis=-1).argmin(axis=1)
    return owners, steps[np.arange(len(owners)), owners].astype(np.int64)


def _rotation(
    lattice: Float[np.ndarray, "3 3"], setting: Setting, standard: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "3 3"]:
    """The rotation nearest to the map from the structure's frame to the standard one."""
    left, _, right = np.linalg.svd(standard.T @ setting.matrix @ np.linalg.inv(lattice.T))
    return left @ right


def _as_given(structure: Crystal, waves: Diffraction, symprec: float) -> AverageCell | None:
    """The structure's own cell as its average, where it has a group with axes."""
    found = given_symmetry(structure, waves, symprec)
    if found is None or found.dataset.number < LOWEST_STANDARD_GROUP:
        return None
    dataset = found.dataset
    standard = in_standard_setting(found.primitive, dataset)
    lattice = structure.cell if np.linalg.det(structure.cell) > 0 else -structure.cell
    matrix = np.array(dataset.transformation_matrix) @ np.linalg.inv(found.primitive.cell).T @ lattice.T
    setting = Setting(matrix, np.array(dataset.origin_shift))
    count = len(structure.numbers)
    motif = Motif(
        lattice=lattice,
        sites=structure.positions,
        site_of_atom=np.arange(count),
        steps=np.zeros((count, 3), dtype=np.int64),
        displacements=np.zeros((count, 3)),
        weights=structure.occupancies,
    )
    sites = np.array(dataset.std_positions, dtype=np.float64) @ standard.cell
    return AverageCell(
        crystal=standard,
        space_group=int(dataset.number),
        arrangement_group=_arrangement_group(found.primitive, dataset, symprec),
        sites=sites,
        occupancies=np.ones(len(sites)),
        spreads=np.zeros(len(sites)),
        copies=count // len(np.unique(dataset.mapping_to_primitive)),
        rotation=_rotation(lattice, setting, standard.cell),
        strain=0.0,
        d_nn=nearest_neighbour_distance(cluster(standard).positions),
        evidence=np.inf,
        motif=motif,
        setting=setting,
    )
