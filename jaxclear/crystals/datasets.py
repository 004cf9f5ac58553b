"""Labelled data sets from folders and archives of structure files, and their fingerprints, computed once.

Labels are what spglib says, and only where it says the same at several tolerances: a structure on the edge between two
groups has no label to learn from. Nothing is lost silently: what was dropped is counted by reason, what could not be
read is listed with its message. Copies of one structure, of which published sets are full, are named as such and kept.
"""

import contextlib
import hashlib
import os
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxclear.crystals import duplicates, structures, symmetry
from jaxclear.crystals.cells import standard_cell
from jaxclear.crystals.fingerprint import fingerprint
from jaxclear.crystals.structures import Crystal, StructureError
from jaxclear.file_tree import FileTree

__all__ = [
    "DatasetError",
    "LabelledStructures",
    "Split",
    "distinct",
    "fingerprints",
    "load",
    "split_by_element",
    "take",
]

TOLERANCES = (1e-4, 1e-3, 1e-2)
"""Default tolerances of the symmetry search, Å, that have to agree."""
_DRAWS = 10_000
_CHUNK = 512

Progress = Callable[[int, int], None]


class DatasetError(ValueError):
    """A source without usable structures, or a split that cannot be made."""


class LabelledStructures(NamedTuple):
    """Structures with one label each, and the account of those that have none.

    Attributes:
        crystals: The structures.
        labels: Index into `jaxclear.crystals.symmetry.CLASS_NAMES`.
        space_groups: International number, the same at every tolerance.
        elements: Chemical system of each structure, "Fe" or "Cl-Na".
        near_degenerate: Whether it lies within 3 % of a structure of another class.
        dropped: How many structures were left out, by reason.
        failures: Name and message of each file, or frame of a file of many, that could not be read.
        duplicate_of: For each structure the index of the first one that it duplicates, its own when it is the first
            (see `jaxclear.crystals.duplicates`); duplicates are kept, `distinct` takes the first ones.
    """

    crystals: tuple[Crystal, ...]
    labels: Int[np.ndarray, " N"]
    space_groups: Int[np.ndarray, " N"]
    elements: tuple[str, ...]
    near_degenerate: Bool[np.ndarray, " N"]
    dropped: dict[str, int]
    failures: tuple[tuple[str, str], ...]
    duplicate_of: Int[np.ndarray, " N"]

    @property
    def duplicates(self) -> int:
        """How many structures duplicate an earlier one."""
        return int((self.duplicate_of != np.arange(len(self.duplicate_of))).sum())


class Split(NamedTuple):
    """Indices of the training and of the validation structures, and the validation elements."""

    training: Int[np.ndarray, " M"]
    validation: Int[np.ndarray, " V"]
    elements: tuple[str, ...]


def load(
    source: str | os.PathLike[str] | Sequence[Crystal],
    *,
    label: str = "spglib",
    tolerances: Sequence[float] = TOLERANCES,
    angle_tolerance: float = -1.0,
    duplicate_tolerance: float = duplicates.TOLERANCE,
    progress: Progress | None = None,
) -> LabelledStructures:
    """The structures of a folder, an archive or a file that belong to one of the eight groups, with their labels.

    Args:
        source: A folder (searched through), a zip or tar archive of structure files, one file of any number of frames
            (an ASE data base, an extended xyz, …), or structures that were read already.
        label: Where labels come from: `"spglib"`.
        tolerances: Distances in Å at which spglib has to find the same group.
        angle_tolerance: Tolerance of angles in degrees; spglib's own choice when negative.
        duplicate_tolerance: Largest relative difference of the lengths of two structures that are the same.
        progress: Called with the number of structures labelled and their total.

    Returns:
        The labelled structures, in the order of their names.

    Raises:
        DatasetError: No such source, no structure in it could be read, none belongs to a known group, or an unknown
            `label`.
    """
    if label != "spglib":
        raise DatasetError(f"expected label 'spglib', got {label!r}")
    if len(tolerances) == 0 or min(tolerances) <= 0:
        raise DatasetError(f"expected at least one tolerance above 0 Å, got {tuple(tolerances)}")
    crystals, failures = _read(source) if isinstance(source, str | os.PathLike) else (list(source), [])
    if not crystals:
        reason = f": {failures[0][1]}" if failures else ""
        raise DatasetError(f"expected structures, got none out of {len(failures)} files in {source!s}{reason}")
    kept, labels, groups = [], [], []
    dropped: Counter[str] = Counter()
    for number, crystal in enumerate(crystals, start=1):
        label_or_reason, group = _label(crystal, tolerances, angle_tolerance)
        if isinstance(label_or_reason, str):
            dropped[label_or_reason] += 1
        else:
            kept.append(crystal)
            labels.append(label_or_reason)
            groups.append(group)
        if progress is not None:
            progress(number, len(crystals))
    if not kept:
        raise DatasetError(f"expected structures of the groups of {symmetry.CLASS_NAMES}, got none: {dict(dropped)}")
    standard = [standard_cell(crystal).crystal for crystal in kept]  # the same structures, in smaller cells
    return LabelledStructures(
        crystals=tuple(kept),
        labels=np.array(labels, np.int32),
        space_groups=np.array(groups, np.int32),
        elements=tuple(_chemical_system(crystal) for crystal in kept),
        near_degenerate=np.array([symmetry.near_degenerate(crystal) for crystal in standard], bool),
        dropped=dict(dropped),
        failures=tuple(failures),
        duplicate_of=duplicates.first_of_each(standard, tolerance=duplicate_tolerance),
    )


def take(dataset: LabelledStructures, index: Int[np.ndarray, " M"]) -> LabelledStructures:
    """The chosen structures with their labels; what was dropped and what failed stays that of the whole."""
    return dataset._replace(
        crystals=tuple(dataset.crystals[i] for i in index),
        labels=dataset.labels[index],
        space_groups=dataset.space_groups[index],
        elements=tuple(dataset.elements[i] for i in index),
        near_degenerate=dataset.near_degenerate[index],
        duplicate_of=duplicates.regroup(dataset.duplicate_of, index),
    )


def distinct(dataset: LabelledStructures) -> LabelledStructures:
    """The first structure of each group of duplicates."""
    return take(dataset, np.flatnonzero(dataset.duplicate_of == np.arange(len(dataset.duplicate_of))))


def split_by_element(dataset: LabelledStructures, validation: int | Sequence[str], *, seed: int = 0) -> Split:
    """A split in which no validation element occurs in training.

    With a number, sets of that many elements are drawn at random until both sides have every class of the data set,
    each with a member outside the near-degenerate band (where the data set has one): the first such set is taken. A
    compound is a validation structure when any of its elements is a validation element.

    Args:
        dataset: Labelled structures.
        validation: Elements to keep for validation, or how many to draw.
        seed: Of the draw.

    Returns:
        The split.

    Raises:
        DatasetError: An element that does not occur, a side that would be empty, or no set that has every class.
    """
    systems = [frozenset(system.split("-")) for system in dataset.elements]
    known = sorted(frozenset().union(*systems))
    if not isinstance(validation, int):
        missing = sorted(set(validation) - set(known))
        if missing:
            raise DatasetError(f"expected elements out of {', '.join(known)}, got {', '.join(missing)}")
        split = _split(systems, tuple(validation))
        if not len(split.training) or not len(split.validation):
            raise DatasetError(f"expected structures on both sides of the split, got none on one: {split.elements}")
        return split
    if not 0 < validation < len(known):
        raise DatasetError(f"expected 1 to {len(known) - 1} validation elements, got {validation}")
    clear = ~dataset.near_degenerate
    wanted = set(dataset.labels[clear])
    rng = np.random.default_rng(seed)
    for _ in range(_DRAWS):
        split = _split(systems, tuple(sorted(rng.choice(known, validation, replace=False).tolist())))
        if all(set(dataset.labels[side][clear[side]]) == wanted for side in (split.training, split.validation)):
            return split
    raise DatasetError(
        f"expected {validation} elements of {len(known)} that have every class on both sides of the split, got none in "
        f"{_DRAWS} draws; name the elements, or ask for another number"
    )


def fingerprints(
    dataset: LabelledStructures,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Float[np.ndarray, "N 64 64 3"]:
    """The diffraction fingerprints of a data set, from the cache where they have been computed before.

    The file is `fingerprints-KEY.npz`; the key is the SHA-256 of all structures, the code that makes fingerprints of
    them and the versions of JAX and spglib, so a stale file is never used. A damaged file is computed again.

    Args:
        dataset: Labelled structures.
        cache_dir: Folder of the cache; without one nothing is kept.
        batch_size: Structures a call of the fingerprint kernel.
        progress: Called with the number of structures done and their total.

    Returns:
        Fingerprints, float32 in [0, 1].

    Raises:
        StructureError: A structure that cannot be used.
    """
    count = len(dataset.crystals)
    path = None if cache_dir is None else Path(cache_dir) / f"fingerprints-{_key(dataset.crystals)[:24]}.npz"
    if path is not None and path.exists():
        with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile), path.open("rb") as file:
            images = np.load(file, allow_pickle=False)["images"]
            if images.shape[0] == count:
                return images
    images = np.zeros((count, 64, 64, 3), np.float32)
    for start in range(0, count, _CHUNK):
        chunk = list(dataset.crystals[start : start + _CHUNK])
        images[start : start + len(chunk)] = fingerprint(chunk, batch_size=batch_size)
        if progress is not None:
            progress(start + len(chunk), count)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
            np.savez(file, images=images)
        os.replace(file.name, path)
    return images


def _read(source: str | os.PathLike[str]) -> tuple[list[Crystal], list[tuple[str, str]]]:
    crystals, failures = [], []
    try:
        tree = FileTree(Path(source))
        for name in tree.names:
            with tree.located(name) as file:
                try:
                    frames, failed = structures.read_frames(file)
                except StructureError as error:
                    frames, failed = [], [(str(file), str(error))]
            crystals += [crystal._replace(name=crystal.name.replace(str(file), name)) for crystal in frames]
            failures += [(frame.replace(str(file), name), why.replace(str(file), name)) for frame, why in failed]
    except zipfile.BadZipFile as error:
        raise DatasetError(f"expected a whole archive, got {str(source)!r}, which is damaged: {error}") from error
    except ValueError as error:
        raise DatasetError(str(error)) from error
    return crystals, failures


def _label(crystal: Crystal, tolerances: Sequence[float], angle_tolerance: float) -> tuple[int | str, int]:
    groups = {
        symmetry.space_group(crystal, symprec=tolerance, angle_tolerance=angle_tolerance) for tolerance in tolerances
    }
    known = {group for group in groups if group is not None and symmetry.class_of_space_group(group) is not None}
    if not known:
        return "of another space group", 0
    if len(groups) > 1:
        return "tolerances disagree", 0
    group = known.pop()
    label = symmetry.class_of_space_group(group)
    return ("of another space group" if label is None else label), group


def _chemical_system(crystal: Crystal) -> str:
    from ase.data import chemical_symbols

    return "-".join(sorted(chemical_symbols[number] for number in np.unique(crystal.numbers)))


def _split(systems: Sequence[frozenset[str]], elements: tuple[str, ...]) -> Split:
    held_out = np.array([not system.isdisjoint(elements) for system in systems])
    return Split(np.flatnonzero(~held_out), np.flatnonzero(held_out), elements)


def _key(crystals: Sequence[Crystal]) -> str:
    digest = hashlib.sha256()
    for module in ("batching", "cells", "fingerprint", "form_factors", "settings", "structures"):
        digest.update(Path(__file__).with_name(f"{module}.py").read_bytes())
    for package in ("jax", "spglib"):
        digest.update(metadata.version(package).encode())
    digest.update(digest_of(crystals).encode())
    return digest.hexdigest()


def digest_of(crystals: Sequence[Crystal]) -> str:
    """Returns a SHA-256 of structures: their cells, positions, species, occupancies and periods."""
    digest = hashlib.sha256()
    for crystal in crystals:
        for array in (crystal.cell, crystal.positions, crystal.numbers, crystal.occupancies, crystal.pbc):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
