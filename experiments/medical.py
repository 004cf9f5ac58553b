"""What the studies on photographs and radiographs share: their command line, maps in batches, maps against truth."""

import argparse
import dataclasses
import functools
import json
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

import jaxclear
from experiments.networks import ship
from jaxclear.inputs import as_floats
from jaxclear.localisation import localise
from jaxclear.responses import Apply

RULES = tuple(jaxclear.RULES)
"""Names of the rules that are compared."""


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
    try:
        if options.phantoms == (options.folder is not None):
            raise ValueError(
                f"expected either a folder ({folder}) or --phantoms, got {'both' if options.folder else 'neither'}"
            )
        results = run(options.folder, workdir)
    except ValueError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        sys.exit(2)
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


def mirrored(
    key: PRNGKeyArray, images: Float[Array, "B H W C"], *, axes: tuple[int, ...] = (1, 2)
) -> Float[Array, "B H W C"]:
    """Returns each image mirrored at random along each of some axes: 1 up and down, 2 left and right."""
    for axis, drawn in zip(axes, jax.random.split(key, len(axes)), strict=True):
        flipped = jax.random.bernoulli(drawn, shape=(len(images), 1, 1, 1))
        images = jnp.where(flipped, jnp.flip(images, axis), images)
    return images


def batches(images: np.ndarray, size: int) -> Iterator[tuple[Float[jax.Array, "B H W C"], slice]]:
    """Yields images as floats in batches of one size, the last filled with its last image, and which they are."""
    size = min(size, len(images))
    for start in range(0, len(images), size):
        chosen = images[start : start + size]
        filled = np.concatenate([chosen, np.repeat(chosen[-1:], size - len(chosen), axis=0)])
        yield as_floats(filled), slice(start, start + len(chosen))


def mapped(
    function: Callable[..., Any], variables: Any, images: np.ndarray, *more: np.ndarray, batch_size: int = 16
) -> Any:
    """Returns what `function(variables, images, *more)` returns for all images, batch by batch, as NumPy arrays.

    Args:
        function: an explanation; each of its arrays has one row an image. Compiled here.
        variables: of the network.
        images: uint8 or float32.
        more: further arrays with one row an image.
        batch_size: images a call.
    """
    compiled = jax.jit(function)
    parts = []
    for batch, place in batches(images, batch_size):
        others = [np.resize(rows[place], (len(batch), *rows.shape[1:])) for rows in more]
        count = place.stop - place.start
        parts.append(
            jax.tree.map(lambda rows, kept=count: np.asarray(rows)[:kept], compiled(variables, batch, *others))
        )
    return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)


def speaking(apply: Apply) -> Apply:
    """Returns a network whose class maps are cut off at zero: a class speaks only where its map is positive.

    For explanation, not for prediction. The class layers of the published networks have no ReLU. A class that is out of
    the question has strongly negative maps, and a negative seed through negative weights is a strong positive response:
    uncut, the class that is *least* likely dominates the CLEAR map.
    """
    return lambda variables, images: jax.nn.relu(apply(variables, images))


def class_maps(
    apply: Apply, variables: Any, images: np.ndarray, *, rule: str, batch_size: int = 16
) -> Float[np.ndarray, "N K H W"]:
    """Returns every class's response in each image, summed over channels."""
    respond = jaxclear.class_responses(apply, rule=rule, on_unmatched="ignore")

    def by_image(tree: Any, batch: Array) -> Array:
        return jnp.swapaxes(respond(tree, batch).sum(axis=-1), 0, 1)

    return mapped(by_image, variables, images, batch_size=batch_size)


def of_class(responses: Float[np.ndarray, "N K H W"], labels: Int[np.ndarray, " N"]) -> Float[np.ndarray, "N H W"]:
    """Returns the responses of one class of each image."""
    return responses[np.arange(len(labels)), labels]


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


def say_to(progress: bool) -> Callable[..., None]:
    """Returns a function that prints on standard error, or one that does nothing."""
    return functools.partial(print, file=sys.stderr, flush=True) if progress else lambda *_: None
