"""What spglib says of a cell, asked once for cubic cells that differ in size alone.

spglib takes some 10 ms for fcc or diamond, more than reading the file, cutting the cluster and computing the
fingerprint together. Those of elements are the same cell in another size: the same lattice vectors and fractional
coordinates, up to a factor. Cells of other systems have ratios of lengths or angles of their own.
"""

import bisect
import collections
import dataclasses
import threading
import warnings
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxclear.crystals.settings import one_description

_FIRST_CUBIC_GROUP = 195
_MOST_SITES = 64
"""Larger cells are mostly damaged ones, no two of one shape, and have much to remember."""
_SHAPES = 128
"""So many are remembered, those that were asked for last."""
_DIGITS = 10
"""Equal digits make a shape."""
_ALIKE = 1e-6
"""Numbers of answers that differ by less are the same."""

_Answers = list[tuple[float, Any]]
"""(tolerance, dataset) of a cell of unit volume, in the order of the tolerances."""
_known: collections.OrderedDict[Any, _Answers] = collections.OrderedDict()
_lock = threading.Lock()


def dataset_of(
    cell: Float[np.ndarray, "3 3"],
    fractions: Float[np.ndarray, "sites 3"],
    kinds: Int[np.ndarray, " sites"],
    *,
    symprec: float,
    angle_tolerance: float,
) -> Any | None:
    """The dataset of spglib with the one description of its setting, or None when it finds no symmetry.

    A cubic cell that differs in size alone from others that spglib was asked about is answered from theirs: where it
    found the same at a tolerance below, and at one above, that of this cell, all in units of the cell's size.

    Arrays of a remembered dataset cannot be written to.

    Args:
        cell: lattice vectors in rows, Å.
        fractions: fractional coordinates.
        kinds: what is on the sites, numbered from 0; `std_types` numbers them from 1.
        symprec: Å.
        angle_tolerance: degrees; spglib's own choice when negative.
    """
    size = float(abs(np.linalg.det(cell)) ** (1 / 3))
    if len(kinds) > _MOST_SITES or not size > 0:
        return _asked(cell, fractions, kinds, symprec, angle_tolerance)
    digits = [np.round(values, _DIGITS) + 0.0 for values in (cell / size, fractions)]
    shape = (*(values.tobytes() for values in digits), kinds.tobytes(), angle_tolerance)
    tolerance = symprec / size
    with _lock:
        known = _between(_known.get(shape, []), tolerance)
        if known is not None:
            _known.move_to_end(shape)
            return _scaled(known, size)
    found = _asked(cell, fractions, kinds, symprec, angle_tolerance)
    if found is not None and found.number >= _FIRST_CUBIC_GROUP:
        with _lock:
            _remember(shape, tolerance, _scaled(found, 1 / size))
    return found


def forget() -> None:
    """Forgets all answers, as measurements of time must."""
    with _lock:
        _known.clear()


def _between(answers: _Answers, tolerance: float) -> Any | None:
    """The dataset of the next smaller tolerance, or of this one, if the next greater one gave the same."""
    place = bisect.bisect_right(answers, tolerance, key=_tolerance)
    below = answers[place - 1] if place else None
    if below is not None and below[0] == tolerance:
        return below[1]
    above = answers[place] if place < len(answers) else None
    return below[1] if below is not None and above is not None and _same(below[1], above[1]) else None


def _remember(shape: Any, tolerance: float, dataset: Any) -> None:
    """Adds an answer, and drops those between two of the same, which say no more, and shapes not asked for lately."""
    for field in dataclasses.fields(dataset):
        if isinstance(value := getattr(dataset, field.name), np.ndarray):
            value.setflags(write=False)
    answers = _known.setdefault(shape, [])
    bisect.insort(answers, (tolerance, dataset), key=_tolerance)
    inner = range(len(answers) - 2, 0, -1)
    for place in inner:
        if _same(answers[place - 1][1], answers[place][1]) and _same(answers[place][1], answers[place + 1][1]):
            del answers[place]
    _known.move_to_end(shape)
    while len(_known) > _SHAPES:
        _known.popitem(last=False)


def _tolerance(answer: tuple[float, Any]) -> float:
    return answer[0]


def _same(one: Any, other: Any) -> bool:
    """Whether two datasets of one cell say the same: a space group can be found with more or with fewer atoms."""
    exact = ("number", "hall_number", "rotations", "mapping_to_primitive", "std_types")
    close = ("transformation_matrix", "origin_shift", "std_lattice", "std_positions", "translations")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in exact) and all(
        np.allclose(getattr(one, name), getattr(other, name), rtol=0, atol=_ALIKE) for name in close
    )


def _scaled(dataset: Any, factor: float) -> Any:
    """The dataset of a cell of another size."""
    lengths = ("std_lattice", "primitive_lattice")
    return dataclasses.replace(dataset, **{name: factor * np.asarray(getattr(dataset, name)) for name in lengths})


def _asked(cell: Any, fractions: Any, kinds: Any, symprec: float, angle_tolerance: float) -> Any | None:
    """The answer of spglib itself; alone in knowing how its versions report failure."""
    import spglib

    structure: Any = (cell, fractions, kinds + 1)
    failures = getattr(spglib, "SpglibError", ())  # 2.6 has no such class and returns None
    with warnings.catch_warnings():
        # spglib 2.7 and later warn about their default way of reporting errors at every call.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        try:
            dataset = spglib.get_symmetry_dataset(structure, symprec=symprec, angle_tolerance=angle_tolerance)
        except failures:
            return None
    return None if dataset is None else one_description(dataset)
