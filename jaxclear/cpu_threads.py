"""Threads of XLA's CPU backend: how many several devices need to compute what they should."""

import functools
import os

import jax
from jax.sharding import AxisType

from jaxclear.worker_processes import cores

_SPARE = 2
"""Threads beside those that drive devices: with one, wrong results were still seen."""

_MOST_CONVOLUTIONS = 400
"""That devices of too few threads may be given in one program; the fewest that went wrong were some 800."""


def threads_for(devices: int) -> int:
    """Returns what `NPROC` in the environment has to be, before JAX starts, for that many CPU devices."""
    return max(cores(), devices + _SPARE)


@functools.cache
def too_few_threads() -> bool:
    """Returns whether CPU devices that work at once may go wrong in long programs.

    XLA's CPU backend (jaxlib 0.10 to 0.12) runs the parts of convolutions on one pool of threads, one a core or as many
    as the environment's `NPROC` said when JAX started. Where every thread drives a device nobody empties the pool's
    queue, and when that is full, after some thousand convolutions, parts of images are computed wrongly.
    """
    if jax.default_backend() != "cpu" or jax.local_device_count() == 1:
        return False
    given = os.environ.get("NPROC", "")
    threads = int(given) if given.isdigit() else cores()
    return threads < jax.local_device_count() + _SPARE


def check_threads(convolutions: int) -> None:
    """Checks that a program for several CPU devices is short enough, while it is traced for them.

    Raises:
        ValueError: it is too long for the threads there are.
    """
    mesh = jax.sharding.get_abstract_mesh()
    divided = mesh.size > 1 and any(kind == AxisType.Manual for kind in mesh.axis_types)
    if divided and convolutions > _MOST_CONVOLUTIONS and too_few_threads():
        devices = jax.local_device_count()
        raise ValueError(
            f"expected at most {_MOST_CONVOLUTIONS} convolutions on {devices} CPU devices of too few threads, got some "
            f"{convolutions}: XLA would compute some of them wrongly; start Python with the environment variable "
            f"NPROC={threads_for(devices)}, or use one device, or explain fewer classes"
        )
