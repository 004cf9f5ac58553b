"""Proof that a store is complete and undamaged."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jaxclear.dataset.store import Store, StoreError, digest, metadata_of

__all__ = ["Verification", "verify"]


class Verification(NamedTuple):
    """What was found in a store.

    Attributes:
        items: of the source.
        units: that it should have.
        missing: units that are not there.
        damaged: units that are there but not as they were written, and why.
        metadata: what is wrong with the description of the arrays.
        failures: index, name and reason of each item that could not be used.
    """

    items: int
    units: int
    missing: tuple[int, ...]
    damaged: dict[int, str]
    metadata: tuple[str, ...]
    failures: tuple[tuple[int, str, str], ...]

    @property
    def whole(self) -> bool:
        """Whether nothing is missing and nothing damaged; failures are recorded, and no holes."""
        return not (self.missing or self.damaged or self.metadata)


def verify(
    path: str | os.PathLike[str], *, repair: bool = False, progress: Callable[[int, int], None] | None = None
) -> Verification:
    """Returns what is missing from a store or damaged: every file is read and its SHA-256 compared.

    Args:
        path: of the store.
        repair: take damaged units back, so that the next run does them again.
        progress: called with the number of units looked at and their total.

    Raises:
        StoreError: there is no store.
    """
    store = Store(Path(path))
    wrong = _wrong_metadata(store)
    there = store.committed()
    damaged: dict[int, str] = {}
    failures: list[tuple[int, str, str]] = []
    for number, unit in enumerate(sorted(there), start=1):
        reason = _damage(store, unit)
        if reason is None:
            failures += [(index, name, why) for index, name, why in store.marker(unit)["failed"]]
        else:
            damaged[unit] = reason
            if repair:
                store.withdraw(unit)
        if progress is not None:
            progress(number, len(there))
    missing = tuple(unit for unit in range(store.layout.units) if unit not in there)
    return Verification(store.layout.items, store.layout.units, missing, damaged, tuple(wrong), tuple(failures))


def _wrong_metadata(store: Store) -> list[str]:
    wrong = []
    arrays = json.loads(json.dumps(metadata_of(store.layout)))
    group = json.loads((store.path / "zarr.json").read_text())
    if (group.get("consolidated_metadata") or {}).get("metadata") != arrays:
        wrong.append("zarr.json: does not describe the arrays that were written")
    for name, wanted in arrays.items():
        try:
            found = json.loads((store.path / name / "zarr.json").read_text())
        except (OSError, ValueError) as error:
            wrong.append(f"{name}/zarr.json: {type(error).__name__}")
            continue
        if found != wanted:
            wrong.append(f"{name}/zarr.json: does not describe what was written")
    return wrong


def _damage(store: Store, unit: int) -> str | None:
    """Why a unit is not as it was written; None where it is."""
    try:
        marker = store.marker(unit)
        files, failed = dict(marker["files"]), {index: reason for index, _, reason in marker["failed"]}
    except (ValueError, KeyError, TypeError, OSError) as error:
        return f"marker: {type(error).__name__}: {error}"
    if set(files) != set(store.files(unit)) or not 0 <= unit < store.layout.units:
        return "marker: names other files than the unit has"
    for file, wanted in files.items():
        try:
            if digest(store.path / file) != wanted:
                return f"{file}: its SHA-256 differs"
        except OSError as error:
            return f"{file}: {error.strerror or error}"
    try:
        recorded = {
            unit * store.layout.unit + row: why for row, why in enumerate(store.strings("failure", unit)) if why
        }
    except StoreError as error:
        return f"failure: {error}"
    return None if recorded == failed else "marker: other failures than in the array"
