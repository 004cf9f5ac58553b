"""What a person wants to know of a structure: its class by the network, beside what a symmetry search says.

The function :func:`classify` has the name of its module; import the module's other names from
``jaxclear.crystals.classify``.
"""

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxclear.crystals.cells import Orientation, symmetry_dataset
from jaxclear.crystals.explain import (
    CrystalExplanation,
    Verdict,
    explain_oriented,
    judge_oriented,
    shipped_model,
    verdicts,
)
from jaxclear.crystals.orient import FoundOrientation, OrientedCluster, orient
from jaxclear.crystals.recover import Recovered
from jaxclear.crystals.structures import Crystal, read, to_ase
from jaxclear.crystals.symmetry import CLASS_NAMES, class_of_space_group
from jaxclear.rules import Rule, resolve
from jaxclear.worker_processes import mapped

if TYPE_CHECKING:
    import ase

    from jaxclear.models import LoadedModel

SPGLIB_SYMPREC = 1e-5
"""spglib's own default tolerance, Å."""
_PART = 256
"""Structures that the network is given at once where nobody asked for maps."""


class SpglibAnswer(NamedTuple):
    """What spglib says of a structure at one tolerance."""

    symprec: float
    """Å."""
    number: int | None
    """Space group, 1 to 230; None when it finds none or the structure has fewer than three periods."""
    symbol: str | None
    """International symbol."""
    class_name: str | None
    """The network's class of that group, None for a group of no class."""

    def __str__(self) -> str:
        if self.number is None:
            return "no space group"
        return f"{self.symbol} ({self.number})" + (f" = {self.class_name}" if self.class_name else "")


class Classification(NamedTuple):
    """The answer for one structure.

    Attributes:
        name: where the structure came from.
        predicted: the class that the network holds most probable; to be believed when the verdict is "member".
        probability: its calibrated probability among the classes.
        runner_up: the second most probable class.
        runner_up_probability: its probability.
        probabilities: of every class, by name.
        verdict: "member" of the class, "outside" all of them, "no lattice" found, "unknown" for want of a reference.
        outside_score: cosine distance to what the network has learnt, see :mod:`jaxclear.crystals.outside`.
        spglib: what spglib finds in the structure as given, at its own default tolerance.
        orientation: how the axes were found, as :class:`~jaxclear.crystals.orient.OrientedCluster` has it.
        recovered: lattice, rotation to the standard setting and averaged cell, where they were found.
        notes: what to keep in mind about this answer, one sentence each.
    """

    name: str
    predicted: str
    probability: float
    runner_up: str
    runner_up_probability: float
    probabilities: dict[str, float]
    verdict: Verdict
    outside_score: float
    spglib: SpglibAnswer
    orientation: FoundOrientation
    recovered: Recovered | None
    notes: tuple[str, ...]

    @property
    def answer(self) -> str:
        """The class of a member, and the verdict of what is none."""
        return self.predicted if self.verdict in ("member", "unknown") else self.verdict


class ClassificationReport(NamedTuple):
    """Answers in the order of the structures, what they were made with, and how long it took.

    Attributes:
        results: one answer a structure.
        explanation: the arrays behind them, with the CLEAR maps; None where no maps were asked for.
        version: of this package.
        weights: SHA-256 of the network's weights.
        seconds: by step: "orientation" (lattice and averaged cell), "spglib" (its answer beside), "network"
            (fingerprint, network and CLEAR map, its compilation at the first call included). With worker processes the
            steps run beside each other, and together take less than their sum.
    """

    results: tuple[Classification, ...]
    explanation: CrystalExplanation | None
    version: str
    weights: str
    seconds: dict[str, float]


def spglib_answer(crystal: Crystal, *, symprec: float = SPGLIB_SYMPREC) -> SpglibAnswer:
    """Returns what spglib says of a structure.

    Args:
        crystal: the structure; checked.
        symprec: tolerance, Å.
    """
    dataset = symmetry_dataset(crystal, symprec=symprec)
    if dataset is None:
        return SpglibAnswer(symprec, None, None, None)
    index = class_of_space_group(int(dataset.number))
    name = None if index is None else CLASS_NAMES[index]
    return SpglibAnswer(symprec, int(dataset.number), str(dataset.international), name)


def classify(
    structures: Any,
    *,
    rule: str | Rule = "guided",
    orientation: Orientation = "standard",
    model: "LoadedModel | None" = None,
    symprec: float = 0.01,
    maps: bool = True,
    workers: int = 0,
) -> ClassificationReport:
    """Returns class, probability and runner-up of structures, with spglib's answer beside them.

    Args:
        structures: anything :func:`~jaxclear.crystals.read` takes: files, ``ase.Atoms``, pymatgen structures, or many.
        rule: of the CLEAR maps.
        orientation: "standard" looks for the lattice of each structure, whatever its cell, its axes and its damage, and
            turns it to its standard cell; "as given" keeps its axes.
        model: another network than the shipped one.
        symprec: tolerance of the symmetry search in structures as given, Å.
        maps: whether to make the CLEAR maps too, which takes longer than the answers.
        workers: processes that find the lattices and ask spglib; 0 for this one alone. A script that asks for some
            needs the usual ``if __name__ == "__main__":``.

    Raises:
        StructureError: when a structure cannot be used.
        ValueError: for an unknown rule or orientation, workers below 0, no structures, or no shipped weights.
    """
    if workers < 0:
        raise ValueError(f"expected workers of at least 0, got {workers}")
    rule, model = resolve(rule), shipped_model() if model is None else model
    crystals = read(structures)
    if not crystals:
        raise ValueError("expected at least one structure, got none")
    with mapped(functools.partial(prepare, orientation=orientation, symprec=symprec), workers) as prepared:
        ready = iter(prepared(crystals))
        # Without maps the network works on some while processes prepare more.
        parts = iter(lambda: list(itertools.islice(ready, len(crystals) if maps else _PART)), [])
        reports = [classify_prepared(part, rule=rule, model=model, maps=maps) for part in parts]
    results = tuple(result for report in reports for result in report.results)
    seconds = {step: sum(report.seconds[step] for report in reports) for step in reports[0].seconds}
    return reports[0]._replace(results=results, seconds=seconds)


class Prepared(NamedTuple):
    """A structure ready for the network, and what the host alone says of it.

    Attributes:
        crystal: as given.
        piece: its cluster in the beam.
        spglib: spglib's answer.
        seconds: spent on "orientation" and "spglib".
    """

    crystal: Crystal
    piece: OrientedCluster
    spglib: SpglibAnswer
    seconds: dict[str, float]


def prepare(crystal: Crystal, *, orientation: Orientation = "standard", symprec: float = 0.01) -> Prepared:
    """Returns a structure turned, with spglib's answer: what needs no device, and can be done in any process.

    Args:
        crystal: the structure; checked.
        orientation: as :func:`classify`.
        symprec: as :func:`classify`.

    Raises:
        StructureError: when the structure cannot be used.
        ValueError: for an unknown orientation.
    """
    started = time.perf_counter()
    piece = orient(crystal, orientation=orientation, symprec=symprec)
    between = time.perf_counter()
    answer = spglib_answer(crystal)
    seconds = {"orientation": between - started, "spglib": time.perf_counter() - between}
    return Prepared(crystal, piece, answer, seconds)


def classify_prepared(
    prepared: Sequence[Prepared],
    *,
    rule: str | Rule = "guided",
    model: "LoadedModel | None" = None,
    maps: bool = True,
    progress: Callable[[int], None] | None = None,
) -> ClassificationReport:
    """Returns the answers for structures that :func:`prepare` made ready.

    Args:
        prepared: the structures.
        rule: of the CLEAR maps.
        model: another network than the shipped one.
        maps: whether to make the CLEAR maps too.
        progress: called with the number of structures done.

    Raises:
        ValueError: as :func:`classify`.
    """
    import jaxclear

    resolve(rule)
    model = shipped_model() if model is None else model
    pieces = [one.piece for one in prepared]
    started = time.perf_counter()
    if maps:
        explanation = explain_oriented(pieces, rule=rule, model=model, progress=progress)
        probabilities, scores = explanation.probabilities, explanation.outside_scores
    else:
        explanation = None
        probabilities, scores = judge_oriented(pieces, model=model, progress=progress)
    answers = zip(probabilities, scores.tolist(), verdicts(pieces, scores, model=model), strict=True)
    results = tuple(_answer(one, model.class_names, *answer) for one, answer in zip(prepared, answers, strict=True))
    seconds = {step: sum(one.seconds[step] for one in prepared) for step in ("orientation", "spglib")}
    seconds["network"] = time.perf_counter() - started
    weights = str(model.metadata.get("sha256", ""))
    return ClassificationReport(results, explanation, jaxclear.__version__, weights, seconds)


def annotated(crystal: Crystal, result: Classification) -> "ase.Atoms":
    """Returns the structure as ``ase.Atoms`` with its answer: one value each in ``info``, one an atom in ``arrays``.

    In ``info``: class, verdict, probability and spglib's group; where a lattice was found also the space group of the
    averaged cell, the primitive lattice and the rotation to the standard setting. In ``arrays``: the site of the
    averaged primitive cell on which each atom is, -1 for one between sites, and its displacement from that site in Å.
    ASE writes all of it to extended xyz.

    Args:
        crystal: the structure that was classified.
        result: its answer.
    """
    atoms = to_ase(crystal)
    atoms.info |= {
        "crystal_class": result.predicted,
        "verdict": result.verdict,
        "probability": result.probability,
        "spglib": str(result.spglib),
    }
    if result.recovered is not None:
        motif = result.recovered.average.motif
        atoms.info |= {
            "space_group": result.recovered.space_group,
            "primitive_lattice": result.recovered.lattice,
            "rotation_to_standard": result.recovered.rotation,
        }
        atoms.set_array("site", motif.site_of_atom.astype(np.int64))
        atoms.set_array("displacement", np.array(motif.displacements))
    return atoms


def _answer(
    prepared: Prepared,
    names: Sequence[str],
    probabilities: Float[np.ndarray, " K"],
    outside_score: float,
    verdict: Verdict,
) -> Classification:
    piece = prepared.piece
    first, second = (int(k) for k in np.argsort(-probabilities, kind="stable")[:2])
    return Classification(
        name=piece.name,
        predicted=names[first],
        probability=float(probabilities[first]),
        runner_up=names[second],
        runner_up_probability=float(probabilities[second]),
        probabilities={name: float(p) for name, p in zip(names, probabilities, strict=True)},
        verdict=verdict,
        outside_score=outside_score,
        spglib=prepared.spglib,
        orientation=piece.orientation,
        recovered=piece.found,
        notes=tuple(_notes(prepared, names[first], verdict)),
    )


def _notes(prepared: Prepared, predicted: str, verdict: Verdict) -> list[str]:
    """What to keep in mind about an answer."""
    notes = []
    piece, periods = prepared.piece, int(prepared.crystal.pbc.sum())
    compound = len(set(piece.cluster.numbers.tolist())) > 1
    if piece.orientation == "not found" and periods in (1, 2):
        notes.append(
            f"a structure with {periods} of three periods: lattices are found of crystals with all three, and of "
            "pieces with none"
        )
    elif piece.orientation == "not found":
        notes.append(
            "no lattice was found: the class is that of the axes as given, right only if they are those of the crystal"
        )
    if verdict == "outside":
        notes.append("unlike anything that the network has learnt: the class is the most similar one, not an answer")
    if piece.found is not None and not compound:
        group = piece.found.average.space_group
        label = class_of_space_group(group)
        if label is None:
            notes.append(f"averaged cell of space group {group}, none of the network's classes")
        elif CLASS_NAMES[label] != predicted:
            notes.append(
                f"the averaged cell has space group {group}, of class {CLASS_NAMES[label]}: one of them is wrong"
            )
    if compound:
        notes.append(
            "a compound: the network has learnt from elements, and names the lattice of the most similar arrangement"
        )
    count = len(piece.cluster.numbers)
    if count > 256:
        notes.append(f"{count} atoms in the beam; the network has learnt from 100 to 200")
    return notes
