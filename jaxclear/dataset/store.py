"""The store: a zarr v3 group whose arrays grow by whole shards, each unit committed by the rename of a marker.

A unit is there when its marker is, and not before: tensorstore writes each shard to a temporary file, syncs and renames
it; the marker, with the digests of the shards, follows the same way. Killed in between, the shards are written
again, with the same bytes.

Every array has the dimension "item" first, every dimension has a name, and the group carries its members' metadata, so
zarr-python, xarray and others open it. Item names and failures are strings in zarr's "vlen-utf8" chunks, which
tensorstore does not know; they are written here.

Source: Zarr v3 core specification, sharding codec (ZEP 2); zarr-extensions, data type "string" with codec "vlen-utf8".
"""

import contextlib
import hashlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxclear.dataset.encoding import Field, masked
from jaxclear.dataset.units import chunk_items

__all__ = ["Layout", "Store", "StoreError", "UnitRows", "create", "replace"]

_COMMITS = "commits"
_TEMPORARY = ".tmp"
_WHOLE_CHUNK = 2**20
INDEX_FIELDS = (Field("label", (), "int32", ("item",)), Field("valid", (), "bool", ("item",)))
STRINGS = ("item_id", "failure")


class StoreError(ValueError):
    """No store, one that is damaged, or one that was made from something else."""


class Layout(NamedTuple):
    """How many items, how many a unit, and which arrays."""

    items: int
    unit: int
    fields: tuple[Field, ...]

    @property
    def units(self) -> int:
        """The number of units."""
        return -(-self.items // self.unit)


class UnitRows(NamedTuple):
    """All that is stored of one unit."""

    unit: int
    rows: Mapping[str, np.ndarray]
    ids: Sequence[str]
    failures: Mapping[int, str]
    """Reason by row."""


def create(path: Path, layout: Layout, manifest: Mapping[str, Any]) -> None:
    """Makes an empty store, all at once; does nothing where another process was faster.

    Raises:
        StoreError: the folder holds something else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.new-"))
    try:
        _skeleton(building, layout, manifest)
        os.chmod(building, 0o755)
        for folder in (*(entry for entry in building.iterdir() if entry.is_dir()), building):
            _sync_folder(folder)
        os.rename(building, path)
        _sync_folder(path.parent)
    except OSError as error:
        if not path.is_dir() or not any(path.iterdir()):
            raise
        if not (path / "zarr.json").exists():
            raise StoreError(
                f"expected a new or empty folder or a store, got {str(path)!r} with other files; name another"
            ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def replace(path: Path, still_differs: Any) -> None:
    """Removes a store for a new one, unless another process has done so already.

    Args:
        path: of the store.
        still_differs: called with the lock held; whether the store is still to be replaced.
    """
    import fcntl

    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(handle).st_ino and still_differs():
                old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old-"))
                os.rename(path, old / "store")
                shutil.rmtree(old)
    finally:
        os.close(handle)


class Store:
    """A store on disk; arrays are opened when they are first needed.

    Attributes:
        path: its folder.
        layout: its arrays.
        manifest: what it was made from and with.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            group = json.loads((path / "zarr.json").read_text())
            self.manifest: dict[str, Any] = group["attributes"]["jaxclear"]
            found = self.manifest["layout"]
            fields = [Field(f[0], tuple(f[1]), f[2], tuple(f[3])) for f in found["fields"]]
            self.layout = Layout(found["items"], found["unit"], tuple(fields))
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise StoreError(
                f"expected a store of jaxclear, got {str(path)!r}: {type(error).__name__}: {error}"
            ) from error
        self._arrays: dict[str, Any] = {}

    @property
    def numeric(self) -> tuple[Field, ...]:
        """The arrays of numbers, those of the index first."""
        return (*INDEX_FIELDS, *self.layout.fields)

    def array(self, name: str) -> Any:
        """The tensorstore of an array of numbers."""
        if name not in self._arrays:
            import tensorstore

            kvstore = {"driver": "file", "path": str(self.path / name)}
            spec = {"driver": "zarr3", "kvstore": kvstore, "store_data_equal_to_fill_value": True}
            self._arrays[name] = tensorstore.open(spec, open=True).result()
        return self._arrays[name]

    def strings(self, name: str, unit: int) -> list[str]:
        """The strings of a unit; empty ones where it was not written."""
        count = self._count(unit)
        try:
            return _decoded((self.path / name / "c" / str(unit)).read_bytes())[:count]
        except FileNotFoundError:
            return [""] * count

    def committed(self) -> set[int]:
        """The units that are there."""
        return {int(name[:-5]) for name in os.listdir(self.path / _COMMITS) if name[0].isdigit()}

    def marker(self, unit: int) -> dict[str, Any]:
        """What was committed with a unit: its items, its failures, the digests of its files."""
        return json.loads(self._marker(unit).read_text())

    def markers(self) -> Iterator[dict[str, Any]]:
        """The markers of all units that are there, in order."""
        for unit in sorted(self.committed()):
            yield self.marker(unit)

    def files(self, unit: int) -> Iterator[str]:
        """The shards of a unit, relative to the store."""
        for field in self.numeric:
            yield "/".join([field.name, "c", str(unit), *["0"] * len(field.shape)])
        for name in STRINGS:
            yield f"{name}/c/{unit}"

    def write(self, done: UnitRows) -> None:
        """Writes the shards of a unit and commits it.

        Raises:
            OSError: it cannot be written; the store is as whole as before.
        """
        start = done.unit * self.layout.unit
        count = self._count(done.unit)
        if count < self.layout.unit and not self._marker(done.unit).exists():
            # A shard that reaches beyond the items is read before it is written, and a power cut may have left half.
            for file in self.files(done.unit):
                (self.path / file).unlink(missing_ok=True)
        try:
            pending = [
                self.array(field.name)[start : start + count].write(done.rows[field.name]) for field in self.numeric
            ]
            for future in pending:
                future.result()
        except ValueError as error:  # tensorstore's name for what the file system refuses
            raise OSError(f"{self.path}: unit {done.unit} could not be written: {error}") from error
        for name, texts in zip(STRINGS, (done.ids, _spread(done.failures, count)), strict=True):
            self._replace_file(done.unit, self.path / name / "c" / str(done.unit), _encoded(texts, self.layout.unit))
        failed = [[start + row, done.ids[row], reason] for row, reason in sorted(done.failures.items())]
        digests = {file: digest(self.path / file) for file in self.files(done.unit)}
        marker = {"unit": done.unit, "items": count, "failed": failed, "files": digests}
        self._replace_file(done.unit, self._marker(done.unit), json.dumps(marker, ensure_ascii=False).encode())

    def withdraw(self, unit: int) -> None:
        """Takes a unit back, so that it will be done again."""
        self._marker(unit).unlink(missing_ok=True)
        _sync_folder(self.path / _COMMITS)

    def clean(self, units: range) -> None:
        """Removes what a killed run left behind of some units; no other process may work on them."""
        for left in (self.path / _TEMPORARY).iterdir():
            number = left.name.partition("-")[0]
            if number.isdecimal() and int(number) in units:
                left.unlink(missing_ok=True)

    def update(self, manifest: Mapping[str, Any]) -> None:
        """Replaces the manifest."""
        group = json.loads((self.path / "zarr.json").read_text())
        group["attributes"]["jaxclear"] = dict(manifest)
        self._replace_file(0, self.path / "zarr.json", json.dumps(group, indent=1, ensure_ascii=False).encode())
        self.manifest = dict(manifest)

    def _count(self, unit: int) -> int:
        return min(self.layout.unit, self.layout.items - unit * self.layout.unit)

    def _marker(self, unit: int) -> Path:
        return self.path / _COMMITS / f"{unit:08d}.json"

    def _replace_file(self, unit: int, path: Path, content: bytes) -> None:
        handle, temporary = tempfile.mkstemp(dir=self.path / _TEMPORARY, prefix=f"{unit}-")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        _sync_folder(path.parent)


def digest(path: Path) -> str:
    """Returns the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def metadata_of(layout: Layout) -> dict[str, Any]:
    """Returns the zarr metadata of every array by its name."""
    arrays = {field.name: _metadata(layout, field) for field in (*INDEX_FIELDS, *layout.fields)}
    return arrays | {name: _string_metadata(layout) for name in STRINGS}


def _skeleton(path: Path, layout: Layout, manifest: Mapping[str, Any]) -> None:
    """Writes the metadata of the group and of every array."""
    arrays = metadata_of(layout)
    for name, metadata in arrays.items():
        (path / name / "c").mkdir(parents=True)
        _write_json(path / name / "zarr.json", metadata)
    for folder in (_COMMITS, _TEMPORARY):
        (path / folder).mkdir()
    commits = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    _write_json(path / _COMMITS / "zarr.json", commits)
    described = {**manifest, "layout": {"items": layout.items, "unit": layout.unit, "fields": layout.fields}}
    members = {"kind": "inline", "must_understand": False, "metadata": arrays}
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"jaxclear": described}}
    _write_json(path / "zarr.json", {**group, "consolidated_metadata": members})


def _metadata(layout: Layout, field: Field) -> dict[str, Any]:
    """The zarr metadata of an array of numbers: sharded where a unit is more than a mebibyte."""
    dtype = np.dtype(field.dtype)
    shape = list(field.shape)
    byte_order = {"configuration": {"endian": "little"}} if dtype.itemsize > 1 else {}
    to_bytes = {"name": "bytes", **byte_order}
    compress = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}
    codecs: list[Any] = [to_bytes, compress, {"name": "crc32c"}]
    if layout.unit * dtype.itemsize * int(np.prod(shape)) > _WHOLE_CHUNK:
        index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
        sharding = {
            "chunk_shape": [chunk_items(field.shape, dtype.itemsize, layout.unit), *shape],
            "codecs": codecs,
            "index_codecs": index,
            "index_location": "end",
        }
        codecs = [{"name": "sharding_indexed", "configuration": sharding}]
    fill = masked(field)
    fill = "NaN" if dtype.kind == "f" and np.isnan(fill) else bool(fill) if dtype.kind == "b" else dtype.type(fill)
    return _array(layout, dtype.name, shape, fill if isinstance(fill, str | bool) else fill.item(), codecs, field)


def _string_metadata(layout: Layout) -> dict[str, Any]:
    return _array(layout, "string", [], "", [{"name": "vlen-utf8"}], Field("", (), "", ("item",)))


def _array(
    layout: Layout, data_type: str, shape: list[int], fill: Any, codecs: list[Any], field: Field
) -> dict[str, Any]:
    grid = {"name": "regular", "configuration": {"chunk_shape": [layout.unit, *shape]}}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [layout.items, *shape],
        "data_type": data_type,
        "chunk_grid": grid,
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": codecs,
        "attributes": {},
        "dimension_names": list(field.dimensions),
    }


def _encoded(texts: Sequence[str], length: int) -> bytes:
    """A whole chunk of strings: their number, then each one's length and bytes."""
    parts = [struct.pack("<I", length)]
    for text in (*texts, *[""] * (length - len(texts))):
        content = text.encode("utf-8", "replace")
        parts += [struct.pack("<I", len(content)), content]
    return b"".join(parts)


def _decoded(chunk: bytes) -> list[str]:
    try:
        (length,), place, texts = struct.unpack_from("<I", chunk), 4, []
        for _ in range(length):
            (size,) = struct.unpack_from("<I", chunk, place)
            texts.append(chunk[place + 4 : place + 4 + size].decode())
            place += 4 + size
    except (struct.error, UnicodeDecodeError) as error:
        raise StoreError(f"expected a whole chunk of strings, got a damaged one ({error}); verify the store") from error
    return texts


def _spread(failures: Mapping[int, str], count: int) -> list[str]:
    return [failures.get(row, "") for row in range(count)]


def _write_json(path: Path, content: Any) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
