"""An explanation of a batch made callable: checked, compiled, divided among devices and into blocks of images."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxclear.cpu_threads import too_few_threads
from jaxclear.devices import Division, division_of, may_be_divided
from jaxclear.even_blocks import places_in_blocks
from jaxclear.inputs import check_apply, check_block, check_images
from jaxclear.mesh_context import own_mesh
from jaxclear.rules import RULES, Rule
from jaxclear.trace import FixedLeaves, keeps_images_apart, split_leaves

# Pixels of images that are worked on at a time at most unless the user says otherwise; batches of so few images are not
# divided. On a CPU what one class needs has to fit the cache; an accelerator takes the whole batch:
# benchmarks/bench_image_blocks.py.
_BLOCK_PIXELS = {"cpu": 2**15}
_FEWEST_IMAGES = 8


def transformation(
    apply: Callable[[Any, Any], Any],
    rule: Rule,
    core: Callable[..., Any],
    *,
    class_block: int | None = None,
    image_block: int | None = None,
    out_axes: Any = 0,
    more_axes: tuple[int, ...] = (),
) -> Callable[..., Any]:
    """Returns `core` checked and compiled: `(variables, images, *more) -> result`.

    Values that are known are checked before anything is compiled. Leaves of `variables` that are not arrays, such as
    an activation function kept in a model's tree, are held fixed. Where the images are divided among devices, so is
    the work: `jaxclear.devices`. Each device works on a block of images after another, if `apply` is seen to leave the
    images apart and `rule` is one of the library's, or the user gives the size of a block.

    Args:
        apply: what is explained.
        rule: by which.
        core: `(class_axes, variables, images, *more) -> result` on one device; along the mesh axes `class_axes` other
            devices have the same images.
        class_block: how many classes the user wants to be worked on at once.
        image_block: how many images.
        out_axes: a tree of the axes that count images in the result.
        more_axes: the axes that count images in `more`.
    """
    check_apply(apply)
    check_block(class_block, "class_block")
    check_block(image_block, "image_block")

    @functools.partial(jax.jit, static_argnums=(0, 1, 2))
    def compiled(
        fixed: FixedLeaves,
        division: Division | None,
        in_blocks: bool,
        arrays: list[Any],
        images: Array,
        more: tuple[Any, ...],
    ) -> Any:
        def on_device(arrays: list[Any], images: Array, more: tuple[Any, ...]) -> Any:
            variables = fixed.join(arrays)

            def explain(images: Array, *more: Any) -> Any:
                return core(division.class_axes if division else (), variables, images, *more)

            chosen = _default_block(apply, variables, images) if in_blocks else None
            # Many blocks are a long program.
            size = None if division is not None and too_few_threads() else image_block or chosen
            return _in_blocks(explain, size, (images, *more), (0, *more_axes), out_axes)

        if division is None:
            return on_device(arrays, images, more)
        return division.mapped(on_device, more_axes[: len(more)], out_axes)(arrays, images, more)

    @functools.wraps(apply)
    def transformed(variables: Any, images: Any, *more: Any) -> Any:
        if len(more) > len(more_axes):
            raise TypeError(f"expected at most {2 + len(more_axes)} arguments, got {2 + len(more)}")
        images = check_images(images)
        arrays, fixed = split_leaves(variables)
        division = division_of(images)
        if division is not None:
            arrays = division.replicated(arrays)
            more = tuple(division.divided(value, axis) for value, axis in zip(more, more_axes, strict=False))
        in_blocks = rule in RULES.values() and not may_be_divided(images) and not too_few_threads()
        with own_mesh(images):
            return compiled(fixed, division, in_blocks, arrays, images, more)

    del transformed.__wrapped__  # the signature is the transformation's, not the network's
    return transformed


def _default_block(apply: Callable[[Any, Any], Any], variables: Any, images: Array) -> int | None:
    """Returns how many images to work on at once on the default device; None for the whole batch."""
    pixels = _BLOCK_PIXELS.get(jax.default_backend())
    if pixels is None or not _is_of_known_size(images):
        return None
    size = max(_FEWEST_IMAGES, pixels // math.prod(images.shape[1:-1]))
    part = -(-len(images) // -(-len(images) // size))
    return size if part < len(images) and keeps_images_apart(apply, variables, images, part) else None


def _is_of_known_size(images: Array) -> bool:
    """Whether the images' numbers are known; an exported function may have symbols for them."""
    return all(isinstance(size, int) for size in images.shape)


def _in_blocks(
    explain: Callable[..., Any], size: int | None, arguments: tuple[Any, ...], axes: tuple[int, ...], out_axes: Any
) -> Any:
    """Returns `explain(*arguments)`, worked out for blocks of at most `size` images, one after another.

    The blocks are of equal size; the last image fills them up.

    Args:
        explain: from images and more arrays to a tree of results.
        size: how many images at most; None for all, and so it is where their number is a symbol.
        arguments: the images of the whole batch, and what else `explain` takes.
        axes: which axis counts images in each argument.
        out_axes: a tree of the axes that count images in the result.
    """
    if size is None or not _is_of_known_size(arguments[0]) or size >= len(arguments[0]):
        return explain(*arguments)
    batch = len(arguments[0])
    places = places_in_blocks(batch, size)

    def split(values: Array, axis: int) -> Array:
        first = jnp.moveaxis(values, axis, 0)
        return first.reshape(*places.shape, *first.shape[1:]) if places.size == batch else first[places]

    def each(values: tuple[Array, ...]) -> Any:
        return explain(*(jnp.moveaxis(value, 0, axis) for value, axis in zip(values, axes, strict=False)))

    def join(axis: int, results: Any) -> Any:
        def one(result: Array) -> Array:
            first = jnp.moveaxis(result, axis + 1, 1)
            return jnp.moveaxis(first.reshape(places.size, *first.shape[2:])[:batch], 0, axis)

        return jax.tree.map(one, results)

    results = lax.map(each, tuple(map(split, arguments, axes)))
    return jax.tree.map(join, out_axes, results)
