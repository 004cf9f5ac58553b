"""What spglib says of a cell, asked once for cells that differ in size alone.

spglib takes some 10 ms for fcc or diamond, more than reading the file, cutting the cluster and computing the
fingerprint together. Those of cubic elements are the same cell in another size: the same lattice vectors and fractional
coordinates, up to a factor.
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

_MOST_SITES = 64
"""Larger cells are mostly damaged ones, no two of one shape, and have much to remember."""
_SHAPES = 128
"""So many are remembered, those that were asked for last."""
_DIGITS = 10
"""Equal digits make a shape."""

_Answers = list[tuple[float, Any]]
"""(tolerance in units of the cell's size, dataset or None), in the order of the tolerances."""
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

    A cell that differs in size alone from others that spglib was asked about is answered from theirs: where it found
    the same space group at a tolerance below, and at one above, that of this cell, all in units of the cell's size.

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
        answers = _known.setdefault(shape, [])
        _known.move_to_end(shape)
        while len(_known) > _SHAPES:
            _known.popitem(last=False)
        unit = _between(answers, tolerance)
    if unit is None:
        found = _asked(cell, fractions, kinds, symprec, angle_tolerance)
        with _lock:
            bisect.insort(answers, (tolerance, found and _scaled(found, 1 / size)), key=lambda answer: answer[0])
        return found
    return _scaled(unit, size)


def forget() -> None:
    """Forgets all answers, as measurements of time must."""
    with _lock:
        _known.clear()


def _between(answers: _Answers, tolerance: float) -> Any | None:
    """The dataset of the next smaller tolerance, if the next greater one gave the same space group."""
    place = bisect.bisect_right(answers, tolerance, key=lambda answer: answer[0])
    below = answers[place - 1] if place else None
    above = below if below and below[0] == tolerance else answers[place] if place < len(answers) else None
    if below is None or above is None or below[1] is None or above[1] is None:
        return None
    return below[1] if below[1].number == above[1].number else None


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
