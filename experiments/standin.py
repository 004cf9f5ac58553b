"""A stand-in for SVHN with exact masks: printed digits composited on photographs, a digit in the middle of others.

This is not SVHN, and nothing measured on it is a figure of SVHN. It has what SVHN lacks: for each digit, the one in the
middle that gives the label and those at its sides, the pixels that belong to it. Images look like SVHN's cropped ones,
32x32 RGB: digits in one font, size, colour and angle, the middle one nearly as tall as the image, those beside it cut
off by its border. Fonts are those that matplotlib carries, photographs those that the wheels of scikit-image and
scikit-learn carry; nothing is downloaded.

Source of the form: Y. Netzer et al., "Reading digits in natural images with unsupervised feature learning", NIPS
    workshop 2011. How hard the images are (contrast, blur, noise, clutter) is this project's choice. It was made with a
    seed that no result uses, so that a network trained on SVHN is right on about 90 % of them.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from experiments.ccexam_network import packaged
from jaxclear.image_files import read_image

if TYPE_CHECKING:
    from PIL import Image

SIZE = 32
CLASSES = 10
PHOTOGRAPHS = {
    "scikit-image": tuple(
        f"skimage/data/{name}"
        for name in (
            "astronaut.png",
            "brick.png",
            "camera.png",
            "chelsea.png",
            "coffee.png",
            "grass.png",
            "gravel.png",
            "motorcycle_left.png",
            "rocket.jpg",
        )
    ),
    "scikit-learn": ("sklearn/datasets/images/china.jpg", "sklearn/datasets/images/flower.jpg"),
}
"""Files by the distribution that carries them."""
FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-BoldOblique",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-BoldItalic",
    "STIXGeneralBol",
    "cmb10",
    "cmss10",
)
"""Of matplotlib, without its thinnest ones."""

_FINE = 6  # pixels of the drawing along each pixel of the image


class StandInError(ValueError):
    """Settings that no stand-in set can have, or a packaged photograph that is missing."""


class StandIn(NamedTuple):
    """Images of the stand-in and where their digits are.

    A pixel belongs to the digit that covers more than half of it.

    Attributes:
        images: RGB.
        labels: class of the digit in the middle.
        masks: pixels of the digit in the middle.
        neighbours: classes of the digits to the left and to the right; -1 where there is none.
        neighbour_masks: pixels of these digits.
    """

    images: UInt8[np.ndarray, "N 32 32 3"]
    labels: Int[np.ndarray, " N"]
    masks: Bool[np.ndarray, "N 32 32"]
    neighbours: Int[np.ndarray, "N 2"]
    neighbour_masks: Bool[np.ndarray, "N 2 32 32"]


@dataclass(frozen=True, kw_only=True)
class Look:
    """From what intervals an image is drawn, uniformly.

    Attributes:
        neighbour: chance that a digit stands at a side, for each of the two.
        height: of the digits, in pixels.
        shift: largest distance of the middle digit from the image's centre along each axis, in pixels.
        degrees: largest angle, either way.
        gap: between digits, in heights.
        contrast: least difference in luminance between digits and the photograph behind them, of at most 1.
        flatness: range of the weight with which one colour is laid over the photograph, as the plate under a number.
        opacity: of the digits.
        blur: largest standard deviation of the blur, in pixels.
        noise: largest standard deviation of the noise, of at most 1.
    """

    neighbour: float = 0.6
    height: tuple[float, float] = (15.0, 26.0)
    shift: float = 1.5
    degrees: float = 10.0
    gap: tuple[float, float] = (0.02, 0.15)
    contrast: float = 0.15
    flatness: tuple[float, float] = (0.1, 0.85)
    opacity: tuple[float, float] = (0.8, 1.0)
    blur: float = 0.9
    noise: float = 0.04

    def __post_init__(self) -> None:
        """Raises StandInError for settings that no image can have."""
        if not 0 <= self.neighbour <= 1 or not 0 <= self.contrast <= 0.45:
            raise StandInError(
                f"expected neighbour in [0, 1] and contrast in [0, 0.45], got {self.neighbour} and {self.contrast}"
            )
        if not 4 <= self.height[0] <= self.height[1] <= SIZE:
            raise StandInError(f"expected height as an interval within 4 to {SIZE} pixels, got {self.height}")


def make(
    count: int,
    *,
    seed: int,
    look: Look = Look(),
    photographs: Sequence[UInt8[np.ndarray, "H W 3"]] | None = None,
    fonts: Sequence[str] = FONTS,
) -> StandIn:
    """Returns stand-in images with their masks; the classes of the digits in one image all differ.

    Args:
        count: of images.
        seed: of all that is random; image `i` of a seed is the same whatever the count.
        look: from what the images are drawn.
        photographs: to cut backgrounds from, each at least 32 pixels wide and high; all of `PHOTOGRAPHS` by default.
        fonts: names of font files of matplotlib.

    Raises:
        StandInError: a count below 1, or photographs that are too small.
        CcexamError: a package that carries the photographs is not installed.
    """
    if count < 1:
        raise StandInError(f"expected count >= 1, got {count}")
    backgrounds = tuple(load_photographs().values()) if photographs is None else tuple(photographs)
    if not backgrounds or any(photo.ndim != 3 or min(photo.shape[:2]) < SIZE for photo in backgrounds):
        raise StandInError(f"expected photographs (H, W, 3) of {SIZE} pixels at least, got {len(backgrounds)} others")
    made = [_one(np.random.default_rng((seed, number)), look, backgrounds, fonts) for number in range(count)]
    return StandIn(*map(np.stack, zip(*made, strict=True)))


def load_photographs(names: Mapping[str, Sequence[str]] = PHOTOGRAPHS) -> dict[str, UInt8[np.ndarray, "H W 3"]]:
    """Returns photographs that installed packages carry, by the name of their file.

    Args:
        names: files by the distribution that carries them.

    Raises:
        CcexamError: a package is not installed, or has no such file.
    """
    return {
        Path(path).stem: np.round(255 * read_image(str(packaged(name, None, path)), 3)).astype(np.uint8)
        for name, paths in names.items()
        for path in paths
    }


def _one(
    rng: np.random.Generator, look: Look, photographs: Sequence[np.ndarray], fonts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One image, its label, the mask of its digit, and classes and masks of the digits beside it."""
    digits = rng.permutation(CLASSES)[:3]
    there = np.array([True, *(rng.random(2) < look.neighbour)])
    covers = _drawn(rng, look, digits, there, str(rng.choice(fonts)))
    background = _plate(rng, look, _crop(rng, photographs[int(rng.integers(len(photographs)))]))
    colour = _contrasting(rng, background.mean(axis=(0, 1)), look.contrast)
    ink = rng.uniform(*look.opacity) * covers.sum(axis=0).clip(0, 1)[..., None]
    image = _degraded(rng, look, background + ink * (colour - background))
    masks = covers > 0.5
    label, *beside = np.where(there, digits, -1)
    return image, label, masks[0], np.array(beside), masks[1:]


def _drawn(
    rng: np.random.Generator, look: Look, digits: np.ndarray, there: np.ndarray, font: str
) -> Float[np.ndarray, "3 32 32"]:
    """How much of each pixel the middle digit, the left and the right one cover."""
    height = _FINE * rng.uniform(*look.height)
    angle, gap = rng.uniform(-look.degrees, look.degrees), height * rng.uniform(*look.gap)
    shift = _FINE * rng.uniform(-look.shift, look.shift, 2)
    glyphs = [_glyph(font, int(digit), round(height)) for digit in digits]
    half = glyphs[0].width / 2
    offsets = (-half, -half - gap - glyphs[1].width, half + gap)
    return np.stack(
        [
            _placed(glyph, offset, shift, angle) if present else np.zeros((SIZE, SIZE))
            for glyph, offset, present in zip(glyphs, offsets, there, strict=True)
        ]
    )


def _placed(glyph: "Image.Image", left: float, shift: np.ndarray, angle: float) -> Float[np.ndarray, "32 32"]:
    """The cover of a glyph that starts `left` of the centre, turned about the centre, averaged over pixels."""
    from PIL import Image

    side = _FINE * SIZE
    canvas = Image.new("L", (3 * side, 3 * side))  # wide enough for what turns into the image from outside it
    canvas.paste(glyph, (round(1.5 * side + left), round(1.5 * side - glyph.height / 2)))
    canvas = canvas.rotate(angle, Image.Resampling.BILINEAR, translate=(round(shift[0]), round(shift[1])))
    inner = np.asarray(canvas.crop((side, side, 2 * side, 2 * side)), np.float64) / 255
    return inner.reshape(SIZE, _FINE, SIZE, _FINE).mean(axis=(1, 3))


@functools.lru_cache(maxsize=4096)
def _glyph(font: str, digit: int, height: int) -> "Image.Image":
    """A digit of a height in fine pixels, cut to its ink."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    if not file.is_file():
        raise StandInError(f"expected a font that matplotlib carries, got {font!r}")
    # The tallest digit decides about the size, so that old-style figures keep their proportions.
    face = ImageFont.truetype(str(file), 2 * height)
    tall = max(box[3] - box[1] for box in (face.getbbox(str(k)) for k in range(CLASSES)))
    face = ImageFont.truetype(str(file), max(1, round(2 * height * height / tall)))
    left, top, right, bottom = face.getbbox(str(digit))
    picture = Image.new("L", (max(1, round(right - left)), max(1, round(bottom - top))))
    ImageDraw.Draw(picture).text((-left, -top), str(digit), fill=255, font=face)
    return picture


def _crop(rng: np.random.Generator, photograph: np.ndarray) -> Float[np.ndarray, "32 32 3"]:
    """A square of a photograph of any size from 32 pixels up, at 32x32 pixels, in [0, 1]."""
    from PIL import Image

    tall, wide = photograph.shape[:2]
    side = rng.integers(SIZE, min(tall, wide, 160) + 1)
    top, left = rng.integers(tall - side + 1), rng.integers(wide - side + 1)
    square = Image.fromarray(photograph[top : top + side, left : left + side])
    return np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BOX), np.float64) / 255


def _plate(rng: np.random.Generator, look: Look, crop: np.ndarray) -> Float[np.ndarray, "32 32 3"]:
    """The photograph under a colour near its own, as the plate under a house number."""
    weight = rng.uniform(*look.flatness)
    tone = np.clip(crop.mean(axis=(0, 1)) + rng.normal(0, 0.1, 3), 0, 1)
    return (1 - weight) * crop + weight * tone


def _contrasting(rng: np.random.Generator, ground: np.ndarray, least: float) -> Float[np.ndarray, " 3"]:
    """A colour whose luminance differs by `least` or more from that of the ground."""
    luminance = np.array([0.299, 0.587, 0.114])
    base = float(luminance @ ground)
    up, down = 1 - base - least, base - least
    lighter = rng.random() * (max(up, 0) + max(down, 0)) < max(up, 0)
    target = rng.uniform(base + least, 1) if lighter else rng.uniform(0, base - least)
    tint = rng.normal(0, 0.12, 3)
    return np.clip(target + tint - luminance @ tint, 0, 1)


def _degraded(rng: np.random.Generator, look: Look, picture: np.ndarray) -> UInt8[np.ndarray, "32 32 3"]:
    """The picture as a cheap camera sees it."""
    from scipy import ndimage

    blurred = ndimage.gaussian_filter(picture, (*[rng.uniform(0, look.blur)] * 2, 0), mode="nearest")
    noisy = blurred + rng.normal(0, rng.uniform(0, look.noise), picture.shape)
    return np.round(255 * noisy.clip(0, 1)).astype(np.uint8)
