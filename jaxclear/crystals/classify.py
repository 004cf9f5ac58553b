"""What a person wants to know of a structure: its class by the network, beside what a symmetry search says.

The function :func:`classify` has the name of its module; import the module's other names from
``jaxclear.crystals.classify``.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxclear.crystals.cells import Orientation, symmetry_dataset
from jaxclear.crystals.explain import CrystalExplanation, OrientedCluster, explain_oriented, orient, shipped_model
from jaxclear.crystals.structures import Crystal, read
from jaxclear.crystals.symmetry import CLASS_NAMES, class_of_space_group
from jaxclear.rules import Rule

if TYPE_CHECKING:
    from jaxclear.models import LoadedModel

SPGLIB_SYMPREC = 1e-5
"""spglib's own default tolerance, Å."""


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
        predicted: the most probable class.
        probability: its softmax probability; how sure the network is, not how often it is right.
        runner_up: the second most probable class.
        runner_up_probability: its probability.
        probabilities: of every class, by name.
        spglib: what spglib finds in the structure as given, at its own default tolerance.
        orientation: "standard", or "as given" where the structure kept its axes.
        notes: what to keep in mind about this answer, one sentence each.
    """

    name: str
    predicted: str
    probability: float
    runner_up: str
    runner_up_probability: float
    probabilities: dict[str, float]
    spglib: SpglibAnswer
    orientation: Orientation
    notes: tuple[str, ...]


class ClassificationReport(NamedTuple):
    """Answers in the order of the structures, what they were made with, and how long it took.

    Attributes:
        results: one answer a structure.
        explanation: the arrays behind them.
        version: of this package.
        weights: SHA-256 of the network's weights.
        seconds: by step: "symmetry" (standard cells, spglib's answer), "network" (fingerprint, network and CLEAR map,
            its compilation at the first call included).
    """

    results: tuple[Classification, ...]
    explanation: CrystalExplanation
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
) -> ClassificationReport:
    """Returns class, probability and runner-up of structures, with spglib's answer beside them.

    Args:
        structures: anything :func:`~jaxclear.crystals.read` takes: files, ``ase.Atoms``, pymatgen structures, or many.
        rule: of the CLEAR maps.
        orientation: "standard" turns each structure to its standard cell first; "as given" keeps its axes.
        model: another network than the shipped one.
        symprec: tolerance of the search for the standard cell, Å.

    Raises:
        StructureError: when a structure cannot be used.
        ValueError: for an unknown rule or orientation, no structures, or no shipped weights.
    """
    crystals = read(structures)
    started = time.perf_counter()
    pieces = [orient(crystal, orientation=orientation, symprec=symprec) for crystal in crystals]
    seconds = time.perf_counter() - started
    report = classify_oriented(crystals, pieces, rule=rule, model=model, asked=orientation, symprec=symprec)
    return report._replace(seconds={**report.seconds, "symmetry": report.seconds["symmetry"] + seconds})


def classify_oriented(
    crystals: Sequence[Crystal],
    pieces: Sequence[OrientedCluster],
    *,
    rule: str | Rule = "guided",
    model: "LoadedModel | None" = None,
    asked: Orientation = "standard",
    symprec: float = 0.01,
    progress: Callable[[int], None] | None = None,
) -> ClassificationReport:
    """Returns the answers for structures whose clusters were cut already.

    Args:
        crystals: the structures as given, for spglib.
        pieces: their clusters, as `jaxclear.crystals.explain.orient` returns them.
        rule: of the CLEAR maps.
        model: another network than the shipped one.
        asked: the orientation that was asked for.
        symprec: the tolerance it was searched with, for the notes.
        progress: called with the number of structures done.

    Raises:
        ValueError: as :func:`classify`.
    """
    import jaxclear

    model = shipped_model() if model is None else model
    started = time.perf_counter()
    explanation = explain_oriented(pieces, rule=rule, model=model, progress=progress)
    between = time.perf_counter()
    results = tuple(
        _answer(crystal, piece, probabilities, explanation.class_names, asked, symprec)
        for crystal, piece, probabilities in zip(crystals, pieces, explanation.probabilities, strict=True)
    )
    seconds = {"symmetry": time.perf_counter() - between, "network": between - started}
    weights = str(model.metadata.get("sha256", ""))
    return ClassificationReport(results, explanation, jaxclear.__version__, weights, seconds)


def _answer(
    crystal: Crystal,
    piece: OrientedCluster,
    probabilities: np.ndarray,
    class_names: tuple[str, ...],
    asked: Orientation,
    symprec: float,
) -> Classification:
    first, second = (int(k) for k in np.argsort(-probabilities, kind="stable")[:2])
    return Classification(
        name=piece.name,
        predicted=class_names[first],
        probability=float(probabilities[first]),
        runner_up=class_names[second],
        runner_up_probability=float(probabilities[second]),
        probabilities={name: float(p) for name, p in zip(class_names, probabilities, strict=True)},
        spglib=spglib_answer(crystal),
        orientation=piece.orientation,
        notes=tuple(_notes(crystal, piece, asked, symprec)),
    )


def _notes(crystal: Crystal, piece: OrientedCluster, asked: Orientation, symprec: float) -> list[str]:
    """What to keep in mind about an answer."""
    notes = []
    if asked == "standard" and piece.orientation == "as given":
        if not crystal.pbc.all():
            why = "without three periods no standard cell can be found"
        elif piece.space_group is None:
            why = f"no symmetry found at {symprec:g} Å"
        else:
            why = f"no axes to turn to: space group {piece.space_group} at {symprec:g} Å"
        notes.append(f"orientation kept as given ({why}): right only if its axes are those of the undamaged crystal")
    if piece.orientation == "standard" and piece.space_group and class_of_space_group(piece.space_group) is None:
        notes.append(
            f"space group {piece.space_group} at {symprec:g} Å is none of the network's classes; it has to name one of "
            "them all the same"
        )
    if len(set(piece.cluster.numbers.tolist())) > 1:
        notes.append(
            "a compound: the network has learnt from elements alone, and may name the lattice of all its atoms"
        )
    count = len(piece.cluster.numbers)
    if count > 256:
        notes.append(f"{count} atoms in the beam; the network has learnt from 128 to 256")
    return notes
