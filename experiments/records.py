"""What experiments share: the command line of those on structures, where results go, what a run was made by."""

import argparse
import contextlib
import functools
import pathlib
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
import numpy as np

from jaxclear.models import LoadedModel
from jaxclear.training import EpochRecord

RESULTS = pathlib.Path(__file__).parent / "results"
FIGURES = pathlib.Path(__file__).parent / "figures"

Run = Callable[[str, pathlib.Path], dict[str, Any]]
"""`(source, workdir) -> results`."""


def command(
    name: str, doc: str | None, arguments: Sequence[str] | None, run: Run, ship: Mapping[str, pathlib.Path]
) -> dict[str, Any]:
    """Runs an experiment from the command line, STRUCTURES [--workdir DIR] [--ship], and returns its results.

    An error of the user's ends the program with one line.

    Args:
        name: of the experiment; its folder is workdir/NAME by default.
        doc: what --help prints.
        arguments: of the command line; those of the process by default.
        run: the experiment.
        ship: where --ship copies files of the folder to.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="folder, archive or file of crystal structures")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("workdir") / name)
    parser.add_argument("--ship", action="store_true", help="write what was made into the checkout")
    options = parser.parse_args(arguments)
    with one_line(name):
        results = run(options.source, options.workdir)
    if options.ship:
        for made, place in ship.items():
            place.write_bytes((options.workdir / made).read_bytes())
    return results


@contextlib.contextmanager
def one_line(name: str) -> Iterator[None]:
    """Ends the program with one line and exit code 2 for an error of the user's: a wrong argument, file or folder.

    Args:
        name: of the command, for the line.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def weights_of(model: LoadedModel) -> dict[str, Any]:
    """Returns which weights a model has, for results: their SHA-256, and the seed of their training if they say it."""
    training = model.metadata.get("training")
    seed = training.get("seed") if isinstance(training, dict) else None
    return {"weights_sha256": model.metadata["sha256"], "training_seed": seed}


def wilson(correct: int, count: int, *, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's interval of a share, 95 % by default.

    Example:
        >>> wilson(10, 10)[0] > 0.7
        True

    Source: E. B. Wilson, J. Am. Stat. Assoc. 22, 209 (1927).
    """
    share, spread = correct / count, z**2 / count
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * np.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def interval_percent(correct: int, count: int, *, digits: int = 2) -> list[float]:
    """The 95 % interval of a share, in percent, as results keep it; arguments as those of :func:`wilson`."""
    return [round(100 * bound, digits) for bound in wilson(correct, count)]


def write_whole(file: pathlib.Path, text: str) -> None:
    """Writes a file so that a kill leaves the old one or the new one, and never half."""
    partial = file.with_suffix(".part")
    partial.write_text(text)
    partial.replace(file)


def provenance() -> dict[str, Any]:
    """Returns the commit (and whether the checkout differed from it), the device and the versions behind a run.

    The results of benchmarks are no difference: a run of several writes them after each.
    """
    folder = pathlib.Path(__file__).parent
    ask = functools.partial(subprocess.run, capture_output=True, text=True, check=False, cwd=folder)
    found = ask(["git", "rev-parse", "HEAD"])
    changed = ask(
        ["git", "status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)benchmarks/results"]
    )
    return {
        "commit": found.stdout.strip() or None,
        "uncommitted_changes": bool(changed.stdout.strip()),
        "device": f"{jax.devices()[0].device_kind}, {platform.machine()}, {platform.system()}",
        "versions": {name: metadata.version(name) for name in ("jax", "flax", "optax", "numpy", "spglib", "ase")},
    }


def trained(history: Iterable[EpochRecord | Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the history of a training for its results, with its own commit and seconds, whenever it is evaluated.

    Args:
        history: one record an epoch, as `jaxclear.training.fit` returned them, or as JSON holds them.

    Returns:
        `training_commit` (a list where it went on at another; None where an epoch does not say), `training_seconds`,
        the sum over the epochs, however often it was broken off, and `history`.
    """
    records = [dict(one) if isinstance(one, Mapping) else one._asdict() for one in history]
    commits = list(dict.fromkeys(record.pop("made_by", None) for record in records))
    return {
        "training_commit": None if None in commits else commits[0] if len(commits) == 1 else commits,
        "training_seconds": round(sum(record["seconds"] for record in records), 1),
        "history": records,
    }


def ship(workdir: pathlib.Path, results: str, pictures: Sequence[str]) -> None:
    """Copies results and pictures of a run into the checkout."""
    for name, folder in ((results, RESULTS), *((picture, FIGURES) for picture in pictures)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((workdir / name).read_bytes())


def say_to(progress: bool) -> Callable[..., None]:
    """Returns a function that prints on standard error, or one that does nothing."""
    return functools.partial(print, file=sys.stderr, flush=True) if progress else lambda *_: None
