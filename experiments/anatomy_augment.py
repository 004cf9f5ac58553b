"""The augmentation of the study on radiographs: crop, rotate, translate, shear, stretch, flip, compiled into the step.

Source: D. Kumar, "Class Based Strategies for Understanding Neural Networks", University of Waterloo (2020), 3.5.2,
    which names these changes and no sizes; the sizes are this project's.
"""

import dataclasses

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from experiments import medical
from jaxclear.augment import RandomAffine

__all__ = ["Augment", "stretched_crop"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """The study's augmentation: crop and stretch, rotation, translation and shear, mirror. A pure function of a key.

    Attributes:
        least: least part of each side that a crop keeps; each side is drawn apart and brought back to full size, which
            stretches the image.
        degrees: largest angle, either way.
        shift: largest translation, part of the image's height.
        shear: largest shift of a row against the next one, pixels.
    """

    least: float = 0.8
    degrees: float = 20.0
    shift: float = 0.08
    shear: float = 0.1

    def __call__(self, key: PRNGKeyArray, images: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """The changed images."""
        for_crop, for_affine, for_mirror = jax.random.split(key, 3)
        images = stretched_crop(for_crop, images, least=self.least)
        affine = RandomAffine(shift=self.shift * images.shape[1], degrees=self.degrees, scale=0.0, shear=self.shear)
        return medical.mirrored(for_mirror, affine(for_affine, images), axes=(2,))


def stretched_crop(key: PRNGKeyArray, images: Float[Array, "B H W C"], *, least: float) -> Float[Array, "B H W C"]:
    """Returns a random part of each image, brought back to its size: cropped and stretched.

    Args:
        key: of the draws.
        images: the images.
        least: least part of the height and of the width that is kept, drawn apart.
    """
    count, *size, _ = images.shape
    unit = jax.random.uniform(key, (2, count, 2))
    zoom = 1 / (least + (1 - least) * unit[0])
    start = unit[1] * (1 - 1 / zoom) * np.array(size)

    def one(image: Array, scale: Array, offset: Array) -> Array:
        # Its coordinates are those of pixel edges: the first kept edge goes to zero.
        return jax.image.scale_and_translate(
            image, image.shape, (0, 1), scale, -offset * scale, method="linear", antialias=False
        )

    return jax.vmap(one)(images, zoom, start)
