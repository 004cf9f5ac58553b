"""Many of a kind in blocks of equal size, for loops whose rounds are all alike."""

import numpy as np
from jaxtyping import Int


def even_groups(count: int, most: int) -> tuple[int, int]:
    """Returns how many groups of equal size, and their size, at most `most`, take `count` with little to spare."""
    number = -(-count // most)
    return number, -(-count // number)


def group_size(count: int, most: int) -> int:
    """Returns how many of `count` make a group, at most `most`, but half of it or more, so that little is filled."""
    sizes = range(min(most, count), 0, -1) if count < most else range(most, -(-most // 2) - 1, -1)
    return min(sizes, key=lambda size: -(-count // size) * size)


def places_in_blocks(
    count: int, most: int, *, devices: int = 1, together: int = 1
) -> Int[np.ndarray, "n_blocks block"]:
    """Returns which of `count` each block has, in order; the last of them fills up the last blocks.

    Args:
        count: of what is divided.
        most: the size of a block; blocks may be smaller, so that little has to be filled.
        devices: which have equally many blocks.
        together: how many blocks at most make a group, all groups of a device being of one size (`group_size`).
    """
    number, size = even_groups(-(-count // devices), most)
    group = group_size(number, together)
    number = -(-number // group) * group
    return np.minimum(np.arange(devices * number * size), count - 1).reshape(devices * number, size)
