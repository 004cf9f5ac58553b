"""JAX works on arrays of one mesh at a time, that of `jax.set_mesh` where the user called it."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding


def own_mesh(array: Any) -> contextlib.AbstractContextManager[Any]:
    """Returns a context in which an array can be computed with, whatever mesh the user has set.

    An array on one device goes with every mesh, and while something is being traced the mesh is settled.
    """
    sharding = None if isinstance(array, Tracer) else getattr(array, "sharding", None)
    if not isinstance(sharding, NamedSharding) or not isinstance(sharding.mesh, Mesh):
        return contextlib.nullcontext()
    try:
        return jax.set_mesh(sharding.mesh)
    except ValueError:  # something else is being traced
        return contextlib.nullcontext()


@contextlib.contextmanager
def no_mesh() -> Iterator[None]:
    """Puts the user's mesh aside; also a decorator."""
    with jax.set_mesh(None):  # pyright: ignore[reportArgumentType]
        yield
