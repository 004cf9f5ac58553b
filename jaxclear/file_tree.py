"""The files of a folder or of an archive, by their names in it: sorted, without hidden ones, read in any order."""

import bisect
import contextlib
import hashlib
import itertools
import shutil
import tarfile
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["FileTree", "content_digest"]

_HIDDEN = (".", "__MACOSX")
_WHOLE = 64 * 2**20
"""Bytes of content up to which all of it is read for its digest."""
_BLOCK = 64 * 2**10


class FileTree:
    """The files under a path, which is a folder, a zip or tar archive, or one file.

    Files of a zip archive are unpacked one at a time when they are asked for; a tar archive, which has no order to find
    them in, is unpacked as a whole into a temporary folder that goes with this object. A copy in another process uses
    the files of the original, which has to live as long.

    Attributes:
        path: as given.
        packed: whether it is an archive.
        names: of the files, relative to the folder or archive, with slashes.
        sizes: in bytes, of each.

    Args:
        path: of the folder, archive or file.

    Raises:
        ValueError: no such path, or a damaged archive.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise ValueError(f"expected a folder, an archive or a file, got no such file {str(path)!r}; check the name")
        self._zip: zipfile.ZipFile | None = None
        self._root: Path | None = self.path if self.path.is_dir() else self.path.parent
        self.packed = False
        if self.path.is_dir():
            found = _sizes_in(self.path)
        else:
            try:
                found = self._opened()
            except (OSError, RuntimeError, zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
                words = f"expected a whole archive, got {str(path)!r}, which is damaged: {error}"
                raise ValueError(words) from error
        names = sorted(name for name in found if not any(part.startswith(_HIDDEN) for part in Path(name).parts))
        self.names: tuple[str, ...] = tuple(names)
        self.sizes: tuple[int, ...] = tuple(found[name] for name in names)

    def _opened(self) -> dict[str, int]:
        """The sizes of an archive's files; or of the file itself."""
        if zipfile.is_zipfile(self.path):
            self.packed, self._root, self._zip = True, None, zipfile.ZipFile(self.path)
            return {entry.filename: entry.file_size for entry in self._zip.infolist() if not entry.is_dir()}
        if tarfile.is_tarfile(self.path):
            self.packed, self._root = True, Path(tempfile.mkdtemp())
            weakref.finalize(self, shutil.rmtree, self._root, ignore_errors=True)
            with tarfile.open(self.path) as archive:
                archive.extractall(self._root, filter="data")
            return _sizes_in(self._root)
        return {self.path.name: self.path.stat().st_size}

    def content_digest(self) -> str:
        """Returns a digest of the content, as :func:`content_digest` does; of a zip archive of all of it."""
        if self._root is not None:
            return content_digest([self._root / name for name in self.names])
        with zipfile.ZipFile(self.path) as archive:
            return _digest_of(archive.getinfo(name).CRC for name in self.names)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_zip": None}

    @contextlib.contextmanager
    def located(self, name: str) -> Iterator[Path]:
        """Gives the path of a file, which for one of an archive holds only inside the `with`; errors name the file.

        Args:
            name: one of `names`.

        Raises:
            Exception: whatever is raised inside, with the file's name in the place of its path.
        """
        with contextlib.ExitStack() as stack:
            if self._root is not None:
                path = self._root / name
            else:
                self._zip = self._zip or zipfile.ZipFile(self.path)
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                path = Path(self._zip.extract(name, folder))
            try:
                yield path
            except Exception as error:
                words = str(error)
                if str(path) in words:
                    raise ValueError(words.replace(str(path), name)) from error
                raise


def content_digest(files: Sequence[Path]) -> str:
    """Returns a digest of the content of files: of all up to 64 MiB together, of evenly chosen blocks above.

    Above, 1,024 blocks of 64 KiB are read, evenly from the first byte of the first file to the last byte of the last:
    a change of a few files among very many can go unnoticed, unless their sizes change too. What cannot be read counts
    as empty.

    Args:
        files: in an order that is the same every time.
    """
    return _digest_of(_checksum(files[file], *block) for file, *block in _blocks([_size(file) for file in files]))


def _digest_of(checksums: Iterable[int]) -> str:
    return hashlib.sha256("\n".join(map(str, checksums)).encode()).hexdigest()


def _checksum(file: Path, start: int, length: int) -> int:
    """The CRC-32 of a block, which zip archives have of their files."""
    try:
        with file.open("rb") as opened:
            opened.seek(start)
            return zlib.crc32(opened.read(length))
    except OSError:
        return 0


def _blocks(sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """File, first byte and length of each block that a digest is made of."""
    total = sum(sizes)
    if total <= _WHOLE:
        yield from ((number, 0, size) for number, size in enumerate(sizes))
        return
    ends = list(itertools.accumulate(sizes))
    count = _WHOLE // _BLOCK
    for block in range(count):
        place = block * (total - 1) // (count - 1)
        file = bisect.bisect_right(ends, place)
        start = max(0, min(place - (ends[file] - sizes[file]), sizes[file] - _BLOCK))
        yield file, start, min(_BLOCK, sizes[file])


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _sizes_in(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
