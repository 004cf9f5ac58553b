"""What the studies on photographs and radiographs share: their command line, mirrored images, maps against truth."""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from experiments.records import one_line, ship
from jaxclear.dataset.sources import Failure
from jaxclear.localisation import localise

_NAMED = 5


def command(
    name: str,
    doc: str | None,
    arguments: Sequence[str] | None,
    run: Callable[[str | None, pathlib.Path], dict[str, Any]],
    pictures: Sequence[str],
    *,
    folder: str,
) -> dict[str, Any]:
    """Runs a study from the command line, FOLDER or --phantoms, [--workdir DIR] [--record], and returns its results.

    An error of the user's ends the program with one line and exit code 2.

    Args:
        name: of the study; phantoms have NAME-phantoms in its place, in all files.
        doc: what --help prints.
        arguments: of the command line; those of the process by default.
        run: `(folder or None for phantoms, workdir) -> results`.
        pictures: their names, with {} for the study's; --record takes them along.
        folder: what FOLDER holds, for --help.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help=folder)
    parser.add_argument("--phantoms", action="store_true", help="drawings with known truth instead of the data set")
    parser.add_argument("--workdir", type=pathlib.Path, help="by default workdir/ and the name of the study")
    parser.add_argument("--record", action="store_true", help="write results and pictures into the checkout")
    options = parser.parse_args(arguments)
    title = f"{name}-phantoms" if options.phantoms else name
    workdir = options.workdir or pathlib.Path("workdir") / title
    with one_line(name):
        if options.phantoms == (options.folder is not None):
            raise ValueError(
                f"expected either a folder ({folder}) or --phantoms, got {'both' if options.folder else 'neither'}"
            )
        results = run(options.folder, workdir)
    if options.record:
        ship(workdir, f"{title}.json", [picture.format(title) for picture in pictures])
    return results


def write_results(workdir: pathlib.Path, name: str, results: dict[str, Any]) -> None:
    """Writes the results of a run as NAME.json."""
    (workdir / f"{name}.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def settings(config: Any) -> dict[str, Any]:
    """Returns a Config as JSON holds it: a folder by its last name, functions by their names."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return getattr(value, "__name__", str(value)) if callable(value) else value

    found = plain(config)
    return found | {"source": pathlib.Path(config.source).name} if config.source else found


def left_out(missing: Sequence[Failure], unreadable: Sequence[Failure], say: Callable[..., None]) -> dict[str, Any]:
    """Returns how much of a data set a study goes without, with the first names, for its results; says why.

    Args:
        missing: what the publisher's folder lacks or contradicts itself in, a source's `failures`.
        unreadable: what turned out to be damaged when it was read.
        say: is told the names with their reasons, which hold the paths of this machine and so stay out of results.
    """
    every = [*missing, *unreadable]
    if every:
        say(f"{len(every)} parts of the data set are left out; the first:")
    for name, reason in every[:_NAMED]:
        say(f"    {name}: {reason}")
    return {"missing": len(missing), "unreadable": len(unreadable), "first": [name for name, _ in every[:_NAMED]]}


def mirrored(
    key: PRNGKeyArray, images: Float[Array, "B H W C"], *, axes: tuple[int, ...] = (1, 2)
) -> Float[Array, "B H W C"]:
    """Returns each image mirrored at random along each of some axes: 1 up and down, 2 left and right."""
    for axis, drawn in zip(axes, jax.random.split(key, len(axes)), strict=True):
        flipped = jax.random.bernoulli(drawn, shape=(len(images), 1, 1, 1))
        images = jnp.where(flipped, jnp.flip(images, axis), images)
    return images


def moved(mask: Bool[np.ndarray, "H W"], rng: np.random.Generator) -> Bool[np.ndarray, "H W"]:
    """Returns a mask shifted at random, what leaves at one side coming in at the other: same area, same shape.

    Unlike `jaxclear.strong_features.random_region` it moves a mask that spans the whole image too.
    """
    down, right = (int(rng.integers(1, length)) for length in mask.shape)
    return np.roll(mask, (down, right), axis=(0, 1))


def turned(mask: Bool[np.ndarray, "S S"], rng: np.random.Generator) -> Bool[np.ndarray, "S S"]:
    """Returns a mask turned by a right angle or two or three, and perhaps mirrored: a control that stays in a disc."""
    other = np.rot90(mask, int(rng.integers(1, 4)))
    return other[:, ::-1] if rng.uniform() < 0.5 else other


def truth_scores(
    responses: Float[np.ndarray, "N H W"],
    masks: Bool[np.ndarray, "N H W"],
    control: Callable[[np.ndarray, np.random.Generator], np.ndarray],
    *,
    within: Bool[np.ndarray, "N H W"] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns how much of the maps lies on the truth, against the truth's area and against control masks.

    Args:
        responses: of one class in each image.
        masks: the truth.
        control: makes a mask of the same area somewhere else, `(mask, rng) -> mask`.
        within: pixels that count at all.
        seed: of the controls.

    Returns:
        Means over the images in percent, with the 95 % interval of the share's mean, and the number of images.
    """
    rng = np.random.default_rng(seed)
    found = localise(responses, masks, within=within)
    elsewhere = localise(responses, np.stack([control(mask, rng) for mask in masks]), within=within)
    known = np.isfinite(found.share)
    if not known.any():
        return {"images": 0}
    half = 1.96 * float(np.std(found.share[known]) / np.sqrt(known.sum()))
    mean = float(found.share[known].mean())
    return {
        "images": int(known.sum()),
        "share_percent": round(100 * mean, 2),
        "share_interval_95": [round(100 * (mean - half), 2), round(100 * (mean + half), 2)],
        "area_percent": round(100 * float(found.area[known].mean()), 2),
        "control_share_percent": round(100 * float(np.nanmean(elsewhere.share)), 2),
        "hit_percent": round(100 * float(found.hit[known].mean()), 2),
        "control_hit_percent": round(100 * float(np.nanmean(elsewhere.hit)), 2),
    }
