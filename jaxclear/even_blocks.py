"""Many of a kind in blocks of equal size, for loops whose rounds are all alike."""

import numpy as np
from jaxtyping import Int


def places_in_blocks(count: int, most: int, devices: int = 1) -> Int[np.ndarray, "n_blocks block"]:
    """Returns which of `count` each block has, in order; the last of them fills up the last blocks.

    Every device has equally many blocks. They are as large as `most`, or smaller, so that little has to be filled.
    """
    own = -(-count // devices)
    number = -(-own // most)
    size = -(-own // number)
    return np.minimum(np.arange(devices * number * size), count - 1).reshape(devices * number, size)
