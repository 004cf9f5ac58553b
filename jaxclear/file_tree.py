"""The files of a folder or of an archive, by their names in it: sorted, without hidden ones, read in any order."""

import contextlib
import shutil
import tarfile
import tempfile
import weakref
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["FileTree"]

_HIDDEN = (".", "__MACOSX")


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


def _sizes_in(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
