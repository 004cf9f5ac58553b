"""Random changes of training images that leave their class as it is, pure functions of a key, compiled into the step.

Array contract: float images `(B, H, W, C)`; each image of a batch is changed on its own.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, PRNGKeyArray

__all__ = ["AugmentError", "RandomAffine"]


class AugmentError(ValueError):
    """An augmentation that no image could bear."""


@dataclass(frozen=True, kw_only=True)
class RandomAffine:
    """A random shift, rotation, scale and shear of each image about its centre, interpolated linearly.

    A point `p` of the result, from the image's centre, has the value at `R(angle) S(shear) p / scale + shift` of the
    image. All of it is drawn uniformly and independently from the intervals below.

    Attributes:
        shift: Largest shift along each axis, in pixels, fractions included.
        degrees: Largest angle, either way.
        scale: Largest relative change of size: 0.1 draws from 0.9 to 1.1.
        shear: Largest shift of a row against the next one, in pixels.
        fill: Value outside the image.

    Example:
        >>> still = RandomAffine(shift=0.0, degrees=0.0, scale=0.0)
        >>> still(jax.random.key(0), jnp.ones((1, 2, 2, 1))).ravel().tolist()
        [1.0, 1.0, 1.0, 1.0]

    Source: P. Simard, D. Steinkraus and J. Platt, "Best practices for convolutional neural networks applied to visual
        document analysis", ICDAR 2003, section 2.
    """

    shift: float = 2.0
    degrees: float = 10.0
    scale: float = 0.1
    shear: float = 0.0
    fill: float = 0.0

    def __post_init__(self) -> None:
        """Raises AugmentError for a size of a change that is negative, or that makes images vanish."""
        sizes = (self.shift, self.degrees, self.scale, self.shear)
        if not min(sizes) >= 0 or not self.scale < 1:
            raise AugmentError(f"expected shift, degrees, scale and shear >= 0 and scale below 1, got {sizes}")

    def __call__(self, key: PRNGKeyArray, images: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """The changed images."""
        count, *size, _ = images.shape
        unit = jax.random.uniform(key, (count, 5), minval=-1.0, maxval=1.0)
        angle = unit[:, 0] * jnp.deg2rad(self.degrees)
        zoom = 1 / (1 + self.scale * unit[:, 1])
        shear = self.shear * unit[:, 2]
        cosine, sine = jnp.cos(angle) * zoom, jnp.sin(angle) * zoom
        matrix = jnp.stack(
            [jnp.stack([cosine, -sine], -1), jnp.stack([sine + shear * cosine, cosine - shear * sine], -1)], -2
        )
        centre = (jnp.array(size) - 1) / 2
        grid = jnp.stack(jnp.meshgrid(*map(jnp.arange, size), indexing="ij"), -1) - centre
        places = jnp.einsum("bij,hwj->bihw", matrix, grid)
        places += (centre + self.shift * unit[:, 3:])[:, :, None, None]

        def sampled(channel: Array, place: Array) -> Array:
            return map_coordinates(channel, list(place), order=1, mode="constant", cval=self.fill)

        return jax.vmap(jax.vmap(sampled, in_axes=(-1, None), out_axes=-1))(images, places)
