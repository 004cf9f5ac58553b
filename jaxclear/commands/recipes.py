"""What `explain-dataset` works with, from words that can be written down and turned into the same things again."""

import os
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import jaxclear
from jaxclear import models
from jaxclear.commands.explain import MANY_CLASSES, TOP, chosen_model, imported
from jaxclear.dataset import ArraySource, ImageFiles, StructureFiles
from jaxclear.dataset.sources import Item, Source, read, source_of
from jaxclear.dataset.structure_files import structure_explanation, structure_images
from jaxclear.file_tree import FileTree
from jaxclear.inputs import as_floats

__all__ = ["Ingredients", "prepare", "written_down"]

_IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


class Ingredients(NamedTuple):
    """All that a run or a report needs.

    Attributes:
        explain: `(variables, batch) ->` a ClearMap, or a mapping with one.
        variables: its variables.
        source: the items.
        class_names: one name a class.
        notes: model and rule in words, to be compared on resumption.
        value_names: words for the numbers in arrays of the store, by the array's name.
        images: `(variables, batch) -> (B, H, W, C)`: what the network sees of a batch.
        responses: `(variables, images) -> (K, B, H, W)`.
    """

    explain: Callable[[Any, Any], Any]
    variables: Any
    source: Source
    class_names: tuple[str, ...]
    notes: dict[str, str]
    value_names: dict[str, tuple[str, ...]]
    images: Callable[[Any, Any], Float[Array, "B H W C"]]
    responses: Callable[[Any, Any], Float[Array, "K B H W"]]


def written_down(options: Any) -> dict[str, Any]:
    """Returns the choices of a call, with paths that hold from any folder."""
    source = options.source if _is_object(options.source) else os.path.abspath(options.source)
    return {
        "source": source,
        "kind": options.kind or _kind(source, options.model),
        "model": options.model,
        "weights": None if options.weights is None else os.path.abspath(options.weights),
        "rule": options.rule or ("guided" if options.model == "crystal" else "deconvnet"),
        "classes": options.classes,
        "channels": options.channels,
        "size": options.size,
    }


def prepare(recipe: dict[str, Any]) -> Ingredients:
    """Returns the things that a recipe names.

    Raises:
        ValueError: a source, model or weights that are not there or do not fit each other.
    """
    words = Namespace(model=recipe["model"], weights=recipe["weights"], channels=recipe["channels"])
    model = chosen_model(words)
    rule = recipe["rule"]
    notes = {"model": recipe["model"], "rule": rule}
    names = tuple(recipe["classes"].split(",")) if recipe["classes"] else model.class_names or ()
    value_names: dict[str, tuple[str, ...]] = {}
    if recipe["kind"] == "structures":
        from jaxclear.crystals.explain import VERDICTS

        if model.name != "crystal":
            raise ValueError(f"expected --model crystal for structures, got {model.name!r}")
        loaded = models.load("crystal", words.weights)
        source = StructureFiles(recipe["source"], class_names=names)
        explain, variables = structure_explanation(loaded, rule=rule)
        images, network_variables = structure_images, lambda v: v["network"]
        value_names = {"verdict": VERDICTS}
    else:
        shape = model.input_shape or (None if recipe["size"] is None else (*recipe["size"], model.channels))
        source = _images(recipe["source"], recipe["kind"], model.channels, shape, names)
        variables, images, network_variables = model.variables, _images_seen, lambda v: v
        explain = None
    names = names or _counted(model.apply, variables, source)
    if explain is None:
        top_k = TOP if len(names) > MANY_CLASSES else None
        explain = jaxclear.clear_map(model.apply, rule=rule, top_k=top_k)
    respond = jaxclear.class_responses(model.apply, rule=rule, on_unmatched="ignore")

    def responses(variables: Any, pictures: Any) -> Float[Array, "K B H W"]:
        return respond(network_variables(variables), pictures).sum(axis=-1)

    return Ingredients(explain, variables, source, names, notes, value_names, images, responses)


def _images(path: str, kind: str, channels: int, shape: tuple[int, int, int] | None, names: tuple[str, ...]) -> Source:
    if kind == "object":
        module, _, name = path.partition(":")
        found = imported(module, name)
        return source_of(found() if callable(found) and not isinstance(found, Source) else found)
    if kind == "arrays":
        try:
            loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"expected arrays that NumPy wrote, got {path}, which is none or damaged") from error
        if isinstance(loaded, np.ndarray):
            return ArraySource(loaded)
        if "images" not in loaded:
            raise ValueError(f"expected an array 'images' in {path}, got {', '.join(loaded)}")
        ids = [str(name) for name in loaded["ids"]] if "ids" in loaded else None
        return ArraySource(loaded["images"], loaded.get("labels"), ids)
    return ImageFiles(path, channels=channels, input_shape=shape, class_names=names)


def _is_object(source: str) -> bool:
    return ":" in source and not Path(source).exists()


def _kind(source: str, model: str) -> str:
    """What a source is, by its name and content, and for the crystal network by what files there are."""
    path = Path(source)
    if _is_object(source):
        return "object"
    if path.suffix in (".npz", ".npy"):
        return "arrays"
    if model != "crystal":
        return "images"
    files = FileTree(path).names
    if files and Path(files[0]).suffix.lower() in _IMAGE_SUFFIXES:
        return "images"
    return "structures"


def _counted(apply: Callable[[Any, Any], Any], variables: Any, source: Source) -> tuple[str, ...]:
    """Numbers as names of the classes, where nobody gave others."""
    for index in range(len(source)):
        item = read(source, index)
        if isinstance(item, Item):
            one = jax.ShapeDtypeStruct((1, *np.shape(item.value)), jnp.float32)
            try:
                return tuple(map(str, range(jax.eval_shape(apply, variables, one).shape[-1])))
            except Exception as error:  # whatever a user's function raises
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                raise ValueError(f"expected a model for images of shape {one.shape}, got {reason[:300]}") from error
    return ()


def _images_seen(variables: Any, batch: Any) -> Float[Array, "B H W C"]:
    return as_floats(batch)
