"""Work units: which items belong together, and which process does them.

A unit is a run of consecutive items, the shard of every array that is written and committed at once. Units are dealt
out in stripes, so that each process knows its own without asking anybody.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["Place", "chunk_items", "default_unit", "place", "unit_range", "units_of"]

_SCHEDULERS = {
    "Slurm": ("SLURM_PROCID", "SLURM_NTASKS"),
    "Kubernetes": ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"),
}
_SHARD_BYTES = 96 * 2**20
_CHUNK_BYTES = 128 * 2**10
_MOST_ITEMS = 4096
_MOST_CHUNK_ITEMS = 128
_LEAST_UNITS = 64


class Place(NamedTuple):
    """Which of how many processes this is, and who said so: "arguments", "Slurm", "Kubernetes" or "default"."""

    rank: int
    world: int
    told_by: str


def place(rank: int | None, world: int | None, environment: Mapping[str, str] | None = None) -> Place:
    """Returns this process's place, from the arguments or else from the scheduler's environment.

    Args:
        rank: number of this process, from 0.
        world: number of processes.
        environment: in place of `os.environ`.

    Raises:
        ValueError: one of the two without the other, or a rank that is not below the world.

    Example:
        >>> place(None, None, {"SLURM_PROCID": "3", "SLURM_NTASKS": "8"})
        Place(rank=3, world=8, told_by='Slurm')
    """
    environment = os.environ if environment is None else environment
    found: tuple[Any, Any] = (rank, world)
    told_by = "arguments"
    if found == (None, None):
        found, told_by = (0, 1), "default"
        for scheduler, (rank_name, world_name) in _SCHEDULERS.items():
            if rank_name in environment:
                if world_name not in environment:
                    raise ValueError(
                        f"expected {world_name} beside {rank_name} in the environment, got only {rank_name}; set it to "
                        "the number of processes, or give rank and world"
                    )
                found, told_by = (environment[rank_name], environment[world_name]), scheduler
                break
    if found[0] is None or found[1] is None:
        raise ValueError(f"expected rank and world together, got rank {rank} and world {world}")
    try:
        found = int(found[0]), int(found[1])
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected rank and world as whole numbers, got {found} from {told_by}") from error
    if not 0 <= found[0] < found[1]:
        raise ValueError(f"expected a rank from 0 and below world, got rank {found[0]} of {found[1]}")
    return Place(found[0], found[1], told_by)


def units_of(where: Place, number: int) -> range:
    """Returns the units of one process out of `number`: every `world`-th from its rank on."""
    return range(where.rank, number, where.world)


def unit_range(unit: int, size: int, items: int) -> range:
    """Returns the items of a unit."""
    return range(unit * size, min((unit + 1) * size, items))


def default_unit(items: int, shapes: Sequence[tuple[tuple[int, ...], int]]) -> int:
    """Returns how many items a unit has: a power of two.

    The largest shard stays below 96 MiB, so that a process needs little memory and a kill costs little; a small source
    is split into 64 units, so that there is something to share out and to resume.

    Args:
        items: of the source.
        shapes: for each array the shape of one item's row and its bytes an element.
    """
    shape, size = max(shapes, key=lambda field: _row_bytes(*field), default=((), 1))
    most = min(_MOST_ITEMS, _floor_power(max(1, _SHARD_BYTES // _row_bytes(shape, size))))
    return min(most, max(chunk_items(shape, size, most), _ceil_power(-(-items // _LEAST_UNITS))))


def chunk_items(shape: tuple[int, ...], size: int, unit: int) -> int:
    """Returns how many items an inner chunk of a shard has: about 128 KiB, a divisor of the unit.

    Args:
        shape: of one item's row.
        size: bytes an element.
        unit: items a shard.

    Example:
        >>> chunk_items((28, 28), 2, 4096), chunk_items((224, 224), 2, 512)
        (64, 1)
    """
    items = min(_MOST_CHUNK_ITEMS, _floor_power(max(1, _CHUNK_BYTES // _row_bytes(shape, size))))
    while unit % items:
        items //= 2
    return items


def _row_bytes(shape: tuple[int, ...], size: int) -> int:
    for length in shape:
        size *= length
    return max(size, 1)


def _floor_power(number: int) -> int:
    return 1 << (number.bit_length() - 1)


def _ceil_power(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()
