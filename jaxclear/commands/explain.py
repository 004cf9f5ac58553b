"""`jaxclear explain`: CLEAR map, heat map and coverage of image files, for a published network or any function."""

import argparse
import importlib
import os
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import jaxclear
from jaxclear import models
from jaxclear.clear import ClearMap
from jaxclear.commands.terminal import Progress, complain, folder, one_line
from jaxclear.heatmaps import HeatMap, heat_rgb
from jaxclear.image_files import read_image
from jaxclear.palettes import legible

MANY_CLASSES = 20
"""Above so many classes one map is hard to read, and the `TOP` of each image are compared (the source, 6.1.1)."""
TOP = 10

Maps = Callable[[Any, Any], tuple[ClearMap, HeatMap | None]]


class ChosenModel(NamedTuple):
    """What is explained."""

    name: str
    apply: Callable[[Any, Any], Any]
    variables: Any
    class_names: tuple[str, ...] | None
    input_shape: tuple[int, int, int] | None
    """Height, width and channels that images are brought to; None keeps their size."""
    channels: int


def run(options: argparse.Namespace) -> int:
    """Explains all images; returns the exit code."""
    model = chosen_model(options)
    rule = options.rule or ("guided" if model.name == "crystal" else "deconvnet")
    out = folder(options.out or options.default_out)
    if model.input_shape is not None:
        height, width, channels = model.input_shape
        colour = "grey" if channels == 1 else "RGB"
        print(f"{model.name}: images are turned to {colour} and resized to {width} x {height} pixels")
    progress = Progress()
    prepared: tuple[Maps, tuple[str, ...]] | None = None
    done = 0
    for number, file in enumerate(options.images, start=1):
        progress.show(f"explaining {number}/{len(options.images)}  {Path(file).name}", force=True)
        try:
            image = read_image(file, model.channels, model.input_shape)
        except (ValueError, OSError) as error:
            progress.clear()
            complain(error)
            continue
        if prepared is None:
            count = _report_coverage(model, rule, image, progress)
            prepared = _maps(model, rule, count), _names(options.classes, model, count)
        words = _explain(model, *prepared, rule, image, Path(file), out / _file_name(done + 1, file))
        progress.clear()
        print(words, flush=True)
        done += 1
    progress.clear()
    if done:
        print(f"pictures: {out}")
    return 0 if done == len(options.images) else 1 if done else 2


def chosen_model(options: argparse.Namespace) -> ChosenModel:
    """The network and its variables.

    Raises:
        ValueError: an unknown name, a module or function that is not there, or weights that do not fit.
    """
    if ":" not in options.model:
        if options.model not in models.names():
            raise ValueError(
                f"expected --model as one of {', '.join(models.names())}, or as module:function, got {options.model!r}"
            )
        loaded = models.load(options.model, options.weights)
        shape = loaded.input_shape
        return ChosenModel(options.model, loaded.apply, loaded.variables, loaded.class_names, shape, shape[-1])
    module_name, _, function_name = options.model.partition(":")
    apply = imported(module_name, function_name)
    if not callable(apply):
        raise ValueError(f"expected a function apply(variables, images), got {function_name!r}: {type(apply).__name__}")
    variables = {} if options.weights is None else models.load_weights(options.weights).variables
    return ChosenModel(options.model, apply, jax.tree.map(jnp.asarray, variables), None, None, options.channels)


def imported(module_name: str, function_name: str) -> Any:
    """Returns a function or another callable of a user's module, from the current folder or wherever Python looks.

    Raises:
        ValueError: there is no such module, or no such thing in it.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        value = importlib.import_module(module_name)
    except Exception as error:  # whatever a user's module raises
        kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
        raise ValueError(f"expected a module to import, got {module_name!r}: {kind}{error}") from error
    for part in function_name.split("."):
        if not hasattr(value, part):
            raise ValueError(
                f"expected a function of module {module_name!r}, got {function_name!r}: it has no {part!r}"
            )
        value = getattr(value, part)
    return value


def _report_coverage(model: ChosenModel, rule: str, image: Float[np.ndarray, "H W C"], progress: Progress) -> int:
    """Prints what the rule replaces, and returns the number of classes."""
    shape = jax.ShapeDtypeStruct((1, *image.shape), jnp.float32)
    report, outputs = _blaming(
        model,
        lambda: (
            jaxclear.coverage(model.apply, model.variables, shape, rule=rule),
            jax.eval_shape(model.apply, model.variables, shape),
        ),
    )
    if not hasattr(outputs, "shape") or len(outputs.shape) < 2:
        raise ValueError(f"expected {model.name} to return class maps (B, *map, K) or logits (B, K), got {outputs}")
    progress.clear()
    print(report)
    return outputs.shape[-1]


def _blaming(model: ChosenModel, work: Callable[[], Any]) -> Any:
    """What `work()` returns; errors of the user's function become one message with its name.

    Raises:
        ValueError: the function failed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", jaxclear.UnmatchedNonlinearityWarning)
            return work()
    except Exception as error:  # whatever a user's function raises
        reason = one_line(error)
        if isinstance(error, ValueError) and reason.startswith("expected "):
            raise
        raise ValueError(
            f"expected {model.name} to work as apply(variables, images), got {type(error).__name__}: {reason[:300]}"
        ) from error


def _names(given: str | None, model: ChosenModel, count: int) -> tuple[str, ...]:
    names = tuple(given.split(",")) if given else model.class_names or tuple(str(k) for k in range(count))
    if len(names) != count:
        raise ValueError(f"expected {count} names in --classes, one a class of {model.name}, got {len(names)}")
    return names


def _maps(model: ChosenModel, rule: str, count: int) -> Maps:
    top_k = TOP if count > MANY_CLASSES else None
    clear = jaxclear.clear_map(model.apply, rule=rule, top_k=top_k, on_unmatched="ignore")
    heat = None if count < 2 else jaxclear.heat_map(model.apply, rule=rule, on_unmatched="ignore")
    return lambda variables, images: (clear(variables, images), None if heat is None else heat(variables, images))


def _explain(
    model: ChosenModel,
    maps: Maps,
    names: tuple[str, ...],
    rule: str,
    image: Float[np.ndarray, "H W C"],
    source: Path,
    target: Path,
) -> str:
    """Writes the picture of one image and returns what to print."""
    from jaxclear import plot
    from jaxclear.drawing import certainty, class_shares, shares_text

    images = jnp.asarray(image)[None]
    clear, heat = _blaming(model, lambda: maps(model.variables, images))
    scores = np.asarray(clear.class_scores[0], np.float64)
    if not np.isfinite(scores).all():
        raise ValueError(f"expected finite class scores for {source}, got {scores.tolist()[:8]}; check the weights")
    probabilities = np.asarray(jax.nn.softmax(scores))
    colours = _colours(probabilities)
    coloured = jaxclear.to_rgb(clear, palette=colours)
    panels = [("CLEAR map", coloured[0]), ("CLEAR map on the image", jaxclear.overlay(coloured, images)[0])]
    order = np.argsort(-probabilities, kind="stable")
    first = int(order[0])
    if heat is not None:
        panels.append((f"hot: for {names[first]} · green: against", heat_rgb(heat)[0]))
    shares = class_shares(clear.dominant_class[0], clear.dominant_response[0], len(names))
    figure = plot.image_figure(
        image,
        [(words, np.asarray(panel)) for words, panel in panels],
        title=f"{source.name}: {names[first]} ({certainty(float(probabilities[first]))})  ·  {model.name}, rule {rule}",
        class_names=names,
        probabilities=probabilities,
        shares=shares,
        colours=colours,
        most=MANY_CLASSES if len(names) <= MANY_CLASSES else TOP,
    )
    plot.save(figure, target)
    words = f"{source}: {names[first]} {probabilities[first]:.4f}"
    if len(names) > 1:
        second = int(order[1])
        words += f", then {names[second]} {probabilities[second]:.4f}"
    return f"{words}; response: {shares_text(shares, names)}; {target.name}"


def _colours(probabilities: Float[np.ndarray, " K"]) -> Float[np.ndarray, "K 3"]:
    """Each class's colour; of many classes only the compared ones have one, far apart."""
    count = len(probabilities)
    if count <= MANY_CLASSES:
        return legible(count)
    colours = np.full((count, 3), 0.5, np.float32)
    colours[np.sort(np.argsort(-probabilities, kind="stable")[:TOP])] = legible(TOP)
    return colours


def _file_name(number: int, source: str) -> str:
    return f"{number:04d}-{re.sub(r'[^0-9A-Za-z_.+-]+', '_', Path(source).stem)[-80:]}.png"
