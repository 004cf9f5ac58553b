"""`jaxclear report`: a store as one HTML file."""

import argparse
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxclear import report
from jaxclear.commands.recipes import Ingredients, prepare
from jaxclear.commands.terminal import Progress, complain, one_line
from jaxclear.dataset import StoreError, open_store
from jaxclear.dataset.program import digest_of
from jaxclear.dataset.sources import Item, identity, read


def run(options: argparse.Namespace) -> int:
    """Writes the report; returns the exit code."""
    store = open_store(options.store)
    out = options.out or Path(f"{options.store.resolve().name}.html")
    progress = Progress()
    recipe = store.manifest.get("recipe", {})
    images = responses = None
    if recipe and not options.no_source:
        progress.show("finding source and network", force=True)
        try:
            found = prepare(recipe)
            _check(store.manifest, found)
            images, responses = _functions(found, progress)
        except (ValueError, OSError) as error:
            progress.clear()
            complain(f"no images and maps of single classes in the report: {one_line(error)}")
    try:
        done = report.write(
            store,
            out,
            images=images,
            responses=responses,
            items=options.items,
            title=options.title,
            upper=recipe.get("kind") != "structures",
        )
    finally:
        progress.clear()
    print(f"{out}: {done.items:,} items, {done.bytes / 2**20:.1f} MiB")
    return 0


def _check(manifest: dict[str, Any], found: Ingredients) -> None:
    """Raises where source or network are not those that the store was made of."""
    if digest_of(found.variables) != manifest["explanation"]["variables"]:
        raise StoreError("expected the weights that the store was made with, got others")
    if identity(found.source) != manifest["source"]:
        raise StoreError("expected the source that the store was made from, got a changed one")


def _functions(found: Ingredients, progress: Progress) -> tuple[report.Images, report.Responses]:
    """Images of items by their indices, and every class's response to images."""
    see = jax.jit(found.images)
    done = 0

    def images(indices: Any) -> Any:
        nonlocal done
        pictures = []
        for index in np.asarray(indices).tolist():
            done += 1
            progress.show(f"{done} items")
            item = read(found.source, index)
            if not isinstance(item, Item):
                raise StoreError(f"expected item {index} to be readable as it was, got {item.reason}")
            pictures.append(np.asarray(see(found.variables, jax.tree.map(lambda leaf: leaf[None], item.value)))[0])
        return np.stack(pictures)

    return images, lambda pictures: np.asarray(found.responses(found.variables, jax.numpy.asarray(pictures)))
