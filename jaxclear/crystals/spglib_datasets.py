"""What spglib says of a cell, asked once for small cubic cells that differ in size alone.

spglib takes some 10 ms for fcc or diamond, more than reading the file, cutting the cluster and computing the
fingerprint together. Those of elements are the same cell in another size: the same lattice vectors and fractional
coordinates, up to a factor. Cells of other systems have ratios of lengths or angles of their own.

An answer depends on the cell alone, to the last bit, not on what was asked before.
"""

import dataclasses
import functools
import math
import warnings
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxclear.crystals.settings import one_description

_MOST_SITES = 8
"""As the cube of diamond and of zincblende has: cells with more have positions of their own."""
_DIGITS = 10
"""Equal digits make a shape."""
_ALIKE = 1e-6
"""Numbers that differ by less are the same."""
_CUBIC_COSINES = (0.0, 1 / 2, 1 / 3)
"""Between the vectors of a cube, and of the primitive cells of fcc and bcc, whatever their signs."""


def dataset_of(
    cell: Float[np.ndarray, "3 3"],
    fractions: Float[np.ndarray, "sites 3"],
    kinds: Int[np.ndarray, " sites"],
    *,
    symprec: float,
    angle_tolerance: float,
) -> Any | None:
    """The dataset of spglib with the one description of its setting, or None when it finds no symmetry.

    A small cubic cell is answered from the cell of its shape and of unit volume, where spglib finds the same in that at
    a tolerance below and at one above, both in units of the cell's size; arrays of such an answer cannot be written to.

    Args:
        cell: lattice vectors in rows, Å.
        fractions: fractional coordinates.
        kinds: what is on the sites, numbered from 0; `std_types` numbers them from 1.
        symprec: Å.
        angle_tolerance: degrees; spglib's own choice when negative.
    """
    size = float(abs(np.linalg.det(cell)) ** (1 / 3))
    if len(kinds) <= _MOST_SITES and size > 0 and symprec > 0 and _is_cubic(unit := cell / size):
        shape = [rounded(values).tobytes() for values in (unit, fractions)]
        power = math.floor(math.log2(symprec / size))
        found = _of_shape(*shape, np.asarray(kinds, np.int64).tobytes(), 2.0**power, angle_tolerance)
        if found is not None:
            lengths = {name: size * getattr(found, name) for name in ("std_lattice", "primitive_lattice")}
            return dataclasses.replace(found, **lengths)
    return _asked(cell, fractions, kinds, symprec, angle_tolerance)


def rounded(values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Numbers of a cell of unit volume to the digits that make a shape, without negative zeros."""
    return np.round(values, _DIGITS) + 0.0


def forget() -> None:
    """Forgets the answers, as measurements of time must."""
    _of_shape.cache_clear()


def _is_cubic(unit: Float[np.ndarray, "3 3"]) -> bool:
    """Whether the vectors may be those of a cubic lattice, the conventional or the primitive ones."""
    metric = unit @ unit.T
    cosines = np.abs(metric[[0, 0, 1], [1, 2, 2]]) / metric[0, 0]
    equal = np.abs(np.diag(metric) / metric[0, 0] - 1).max() < _ALIKE
    return bool(equal and any(np.abs(cosines - cosine).max() < _ALIKE for cosine in _CUBIC_COSINES))


@functools.lru_cache(maxsize=256)
def _of_shape(cell: bytes, fractions: bytes, kinds: bytes, tolerance: float, angle_tolerance: float) -> Any | None:
    """The dataset of a cell of unit volume, or None where it is another at twice the tolerance."""
    structure = (
        np.frombuffer(cell).reshape(3, 3),
        np.frombuffer(fractions).reshape(-1, 3),
        np.frombuffer(kinds, np.int64),
    )
    fine, coarse = (_asked(*structure, symprec, angle_tolerance) for symprec in (tolerance, 2 * tolerance))
    if fine is None or coarse is None or not _same(fine, coarse):
        return None
    for field in dataclasses.fields(fine):
        if isinstance(value := getattr(fine, field.name), np.ndarray):
            value.setflags(write=False)
    return fine


def _same(one: Any, other: Any) -> bool:
    """Whether two datasets of one cell say the same: a space group can be found with more or with fewer atoms."""
    exact = ("number", "hall_number", "rotations", "mapping_to_primitive", "std_types")
    close = ("transformation_matrix", "origin_shift", "std_lattice", "std_positions", "translations")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in exact) and all(
        np.allclose(getattr(one, name), getattr(other, name), rtol=0, atol=_ALIKE) for name in close
    )


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
