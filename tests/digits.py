"""Digits of seven segments, 28x28, where MNIST is not at hand."""

import numpy as np

from jaxclear.data import LabelledImages

_SEGMENTS = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg")
_BOXES = {
    "a": (4, 7, 9, 19),
    "b": (4, 14, 16, 19),
    "c": (12, 23, 16, 19),
    "d": (20, 23, 9, 19),
    "e": (12, 23, 9, 12),
    "f": (4, 14, 9, 12),
    "g": (12, 15, 9, 19),
}


def segment_digits(count, *, seed=0):
    """Every class equally often, moved by up to 2 pixels, each of its own brightness."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % 10
    images = np.zeros((count, 28, 28, 1), np.uint8)
    for image, label in zip(images, labels, strict=True):
        for segment in _SEGMENTS[label]:
            top, bottom, left, right = _BOXES[segment]
            image[top:bottom, left:right] = rng.integers(150, 256)
        image[:] = np.roll(image, rng.integers(-2, 3, 2), (0, 1))
    return LabelledImages(images, labels, tuple(str(number) for number in range(count)), ())
