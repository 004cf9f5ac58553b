"""Several devices for one call: how images lie on a mesh of them, and which part of the work is whose.

The work follows the images. Along the mesh axes that split the batch every device explains images of its own; along
all others the devices hold the same images and share their classes.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from jaxclear.inputs import check_image_array
from jaxclear.trace import split_leaves

__all__ = ["Division", "division_of", "from_all", "own_part", "place", "process_devices"]


class Division(NamedTuple):
    """How work is divided among the devices of a mesh.

    Attributes:
        mesh: the devices.
        batch_axes: the mesh axes that split the batch.
        class_axes: the mesh axes along which devices hold the same images.
    """

    mesh: Any
    batch_axes: tuple[str, ...]
    class_axes: tuple[str, ...]

    def spec(self, axis: int) -> PartitionSpec:
        """Returns the partition of an array whose `axis` counts images."""
        return PartitionSpec(*[None] * axis, self.batch_axes)

    def replicated(self, tree: Any) -> Any:
        """Returns a tree of arrays with a copy on every device; what is there already stays."""
        return _put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def divided(self, array: Any, axis: int) -> Any:
        """Returns an array with each device's images on it; `axis` counts images."""
        return _put(array, NamedSharding(self.mesh, self.spec(axis)))

    def mapped(self, function: Callable[..., Any], more_axes: tuple[int, ...], out_axes: Any) -> Callable[..., Any]:
        """Returns `function` run by every device on its own part.

        Args:
            function: `(variables, images, more) -> results`.
            more_axes: the axes that count images in `more`.
            out_axes: a tree of the axes that count images in the results.
        """
        in_specs = PartitionSpec(), self.spec(0), tuple(map(self.spec, more_axes))
        out_specs = jax.tree.map(self.spec, out_axes)
        # JAX cannot check that what was gathered from all devices is the same on all of them.
        return jax.shard_map(function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _put(tree: Any, sharding: NamedSharding) -> Any:
    """Returns a tree of arrays placed; those that are there already, or are being traced, stay."""
    leaves, treedef = jax.tree.flatten(tree)
    away = [
        number
        for number, leaf in enumerate(leaves)
        if not isinstance(leaf, Tracer) and getattr(leaf, "sharding", None) != sharding
    ]
    for number, leaf in zip(away, jax.device_put([leaves[number] for number in away], sharding), strict=True):
        leaves[number] = leaf
    return treedef.unflatten(leaves)


def division_of(images: Float[Array, "B *spatial C"]) -> Division | None:
    """Returns how images say that work is to be divided; None for one device, and where it cannot be known.

    It is known of arrays on a mesh, and while a function is being traced where the axes of the mesh are explicit.

    Raises:
        ValueError: the images are split along another axis than the batch.
    """
    traced = isinstance(images, Tracer)
    sharding = jax.typeof(images).sharding if traced else images.sharding
    if not isinstance(sharding, NamedSharding) or sharding.mesh.size == 1:
        return None
    mesh = sharding.mesh
    split = [_axes_of(entry, mesh) for entry in sharding.spec]
    if any(split[1:]):
        raise ValueError(
            f"expected images split among devices along their batch axis alone, got {sharding.spec} for images of "
            f"shape {images.shape}; place them with jaxclear.place"
        )
    batch_axes = split[0] if split else ()
    if traced and not (batch_axes and all(kind == AxisType.Explicit for kind in mesh.axis_types)):
        return None
    others = [name for name, size in mesh.shape.items() if size > 1 and name not in batch_axes]
    return Division(mesh, batch_axes, tuple(others))


def may_be_divided(images: Float[Array, "B *spatial C"]) -> bool:
    """Returns whether images may lie on several devices without it being seen: under the user's own `jax.jit`."""
    if not isinstance(images, Tracer):
        return False
    return any(kind == AxisType.Auto for kind in jax.typeof(images).sharding.mesh.axis_types)


def _axes_of(entry: Any, mesh: Any) -> tuple[str, ...]:
    """Returns the mesh axes of more than one device in one entry of a partition."""
    names = entry if isinstance(entry, tuple) else () if entry is None else (entry,)
    return tuple(name for name in names if mesh.shape[name] > 1)


def number_of_parts(axes: tuple[str, ...]) -> int:
    """Returns how many devices there are along mesh axes; 1 along none."""
    return math.prod(lax.axis_size(name) for name in axes)


def own_part(values: Array, axes: tuple[str, ...]) -> Array:
    """Returns this device's part of `values`, whose first axis is divided evenly along mesh axes."""
    if not axes:
        return values
    size = len(values) // number_of_parts(axes)
    return lax.dynamic_slice_in_dim(values, lax.axis_index(axes) * size, size)


def from_all(tree: Any, axes: tuple[str, ...], *, joined: bool = False) -> Any:
    """Returns all devices' arrays along mesh axes, stacked along a new first axis, or `joined` along the one there."""
    return jax.tree.map(lambda leaf: lax.all_gather(leaf, axes, tiled=joined), tree) if axes else tree


def process_devices(mesh: Mesh | None) -> list[Any]:
    """Returns this process's devices, or those of `mesh`.

    Raises:
        ValueError: no mesh, or one that has devices of other processes.
    """
    if not isinstance(mesh, Mesh | None):
        raise ValueError(f"expected a jax.sharding.Mesh, got {type(mesh).__name__}")
    devices = jax.local_devices() if mesh is None else list(mesh.devices.flat)
    foreign = [device for device in devices if device.process_index != jax.process_index()]
    if foreign:
        raise ValueError(
            f"expected a mesh of this process's devices, got {len(foreign)} of other processes; every process explains "
            "its own items"
        )
    return devices


def place(
    variables: Any, images: Float[Array, "B *spatial C"], *, mesh: Mesh | None = None
) -> tuple[Any, Float[Array, "B *spatial C"]]:
    """Returns variables and images on all of this process's devices, so that one explanation uses all of them.

    `explain(*place(variables, images))`. The images are divided among as many devices as take equal numbers of them,
    g = gcd(B, devices); the devices / g that hold the same images share their classes. The variables are copied to
    every device, but for those that are there.

    Args:
        variables: a tree of arrays; other leaves stay as they are.
        images: floating point, (B, *spatial, C), on the host or a device.
        mesh: take its devices instead.

    Raises:
        ValueError: the images are not as described, or `mesh` is not one of this process's devices.
    """
    check_image_array(images)
    devices = process_devices(mesh)
    grid = np.array(devices).reshape(math.gcd(len(images), len(devices)), -1)
    # Where a mesh's axes are explicit, JAX's default, who indexes the results has to name their sharding.
    mesh = Mesh(grid, ("batch", "classes"), axis_types=(AxisType.Auto, AxisType.Auto))
    division = Division(mesh, ("batch",), ("classes",))
    arrays, fixed = split_leaves(variables)
    return fixed.join(division.replicated(arrays)), division.divided(images, 0)
