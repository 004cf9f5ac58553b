"""What a class is decided by: bright regions of its response, named by the peaks of the crystal under them.

A pixel's response is divided among the reciprocal-lattice points that it lies under in the six shots of the
fingerprint, by their kinematic intensities there; see :mod:`jaxclear.crystals.peaks`.

Source: the naming of what a network looks at is this project's; the maps are those of D. Kumar, Class Based Strategies
for Understanding Neural Networks, University of Waterloo (2020), figure 3.5 and section 5.2.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxclear.crystals.beam import wave_vectors
from jaxclear.crystals.explain import CrystalExplanation
from jaxclear.crystals.peaks import Family, PeakError, PeakIndex, cell_of, index_peaks
from jaxclear.crystals.structures import Crystal


class BrightRegion(NamedTuple):
    """A connected bright region of a class's response."""

    families: tuple[str, ...]
    """What lies under it, strongest first, each with a tenth of its response or more; empty beside all peaks."""
    d_spacing: float
    """Of the first family, Å; NaN without one."""
    share: float
    """Its part of the class's whole response."""
    pixels: int
    centre: tuple[float, float]
    """Detector x and y, pixel indices, weighted by the response."""
    radius: float
    """``|s|`` at the centre, 1/d_nn."""


class PeakTable(NamedTuple):
    """What one class of one structure is decided by; printing it shows a table of what has half a percent or more."""

    name: str
    class_name: str
    probability: float
    families: tuple[Family, ...]
    """Those that have a part of the response, the largest first."""
    shares: tuple[float, ...]
    """Their parts of the class's whole response."""
    beside: float
    """The part of the response that lies under no peak."""
    regions: tuple[BrightRegion, ...]
    """The largest share first."""

    def __str__(self) -> str:
        head = f"{self.name}: {self.class_name} ({100 * self.probability:.1f} %)"
        if not self.regions:
            return f"{head} responds nowhere"
        lines = [f"{head}, response under", "hkl         d / Å  |G| d_nn   share"]
        for family, share in zip(self.families, self.shares, strict=True):
            if share >= 0.005:
                lines.append(f"{family.name:10s} {family.d_spacing:6.3f} {family.radius:9.3f} {100 * share:6.1f} %")
        lines.append(f"{'no peak':27s} {100 * self.beside:6.1f} %")
        lines.append("region      x     y    |s| d_nn   share  hkl")
        for number, region in enumerate(self.regions, start=1):
            if region.share >= 0.005:
                x, y = region.centre
                place = f"{number:6d} {x:6.1f} {y:5.1f} {region.radius:10.3f}"
                lines.append(f"{place} {100 * region.share:6.1f} %  {' '.join(region.families) or 'none'}")
        return "\n".join(lines)


def explain_peaks(
    found: CrystalExplanation,
    row: int = 0,
    wanted: str | int | None = None,
    *,
    cell: Crystal | None = None,
    response: Float[np.ndarray, "x y *channels"] | None = None,
    threshold: float = 0.1,
) -> PeakTable:
    """The bright regions of a class's response in one structure, named by the peaks under them.

    A pixel's response is divided among the peaks that it lies under in the six shots, by their intensities there.

    Args:
        found: explanations, as :func:`jaxclear.crystals.explain` returns them.
        row: which structure.
        wanted: the class, its name or number; the predicted one by default.
        cell: the cell that the cluster was cut from; by default the one that was found when the structure was turned,
            or for a cluster that came without one what its symmetry says, which a damaged cluster does not have.
        response: the class's response (x, y) or, by channel, (x, y, 3), as `jaxclear.class_responses` returns it; by
            default the CLEAR map where the class is dominant.
        threshold: a region is where the response is above this part of its maximum.

    Raises:
        PeakError: for an unknown class, a response of another shape, a threshold outside [0, 1), or a cell that is not
            found or does not fit.

    Example:
        >>> from ase.build import bulk
        >>> import jaxclear.crystals
        >>> table = explain_peaks(jaxclear.crystals.explain(bulk("Cu")))
        >>> table.class_name, table.families[0].name in ("{111}", "{200}", "{220}")
        ('fcc', True)
    """
    number = _class_number(found, row, wanted)
    if not 0 <= threshold < 1:
        raise PeakError(f"expected a threshold from 0 to below 1, got {threshold}")
    if response is None:
        dominant = np.asarray(found.clear.dominant_class[row]) == number
        response = np.where(dominant, np.asarray(found.clear.dominant_response[row]), 0.0)
    expected = found.fingerprint.shape[1:]
    if response.shape not in (expected, expected[:2]):
        raise PeakError(f"expected a response of shape {expected} or {expected[:2]}, got {response.shape}")
    cluster = found.clusters[row]
    cell = found.cells[row] if cell is None else cell
    index = index_peaks(cell_of(cluster) if cell is None else cell, cluster, d_nn=float(found.d_nn[row]))
    positive = np.maximum(np.asarray(response, np.float64), 0)
    parts = _attributed(positive, index)
    summed = positive if positive.ndim == 2 else positive.sum(axis=-1)
    total = summed.sum() or 1.0
    shares = np.bincount(index.family[parts > 0], weights=parts[parts > 0], minlength=len(index.families)) / total
    order = [family for family in np.argsort(-shares, kind="stable") if shares[family] > 0]
    return PeakTable(
        name=found.names[row],
        class_name=found.class_names[number],
        probability=float(found.probabilities[row, number]),
        families=tuple(index.families[family] for family in order),
        shares=tuple(float(shares[family]) for family in order),
        beside=max(float(1 - shares.sum()), 0.0) if order or summed.any() else 0.0,
        regions=tuple(_regions(summed, parts, index, threshold)),
    )


def _class_number(found: CrystalExplanation, row: int, wanted: str | int | None) -> int:
    names = found.class_names
    if wanted is None:
        return int(found.predicted_class[row])
    if wanted in names:
        return names.index(str(wanted))
    if isinstance(wanted, int) and 0 <= wanted < len(names):
        return wanted
    raise PeakError(f"expected a class out of {', '.join(names)}, or its number, got {wanted!r}")


def _attributed(response: Float[np.ndarray, "x y *channels"], index: PeakIndex) -> Float[np.ndarray, "x y 3 2"]:
    """The response divided among the shots by the intensity of the peak under the pixel; a channel keeps its own."""
    axes = (2, 3) if response.ndim == 2 else (3,)
    whole = index.intensity.sum(axis=axes, keepdims=True)
    spread = response.reshape(*response.shape, *[1] * (4 - response.ndim))
    return spread * index.intensity / np.where(whole > 0, whole, 1.0)


def _regions(
    response: Float[np.ndarray, "x y"], parts: Float[np.ndarray, "x y 3 2"], index: PeakIndex, threshold: float
) -> list[BrightRegion]:
    """Connected regions above the threshold, diagonal neighbours included, the largest share first."""
    from scipy import ndimage

    if not response.any():
        return []
    labels = np.zeros(response.shape, np.int32)
    ndimage.label(response > threshold * response.max(), structure=np.ones((3, 3)), output=labels)
    lengths = np.linalg.norm(wave_vectors()[:, :, 0, 0], axis=-1)
    regions = []
    for label in range(1, int(np.max(labels)) + 1):
        inside = labels == label
        weight = response[inside]
        own = parts[inside]
        shares = np.bincount(index.family[inside][own > 0], weights=own[own > 0], minlength=len(index.families))
        order = [k for k in np.argsort(-shares, kind="stable") if shares[k] >= 0.1 * weight.sum()]
        x, y = np.average(np.argwhere(inside), axis=0, weights=weight)
        regions.append(
            BrightRegion(
                families=tuple(index.families[k].name for k in order),
                d_spacing=index.families[order[0]].d_spacing if order else float("nan"),
                share=float(weight.sum() / response.sum()),
                pixels=int(inside.sum()),
                centre=(float(x), float(y)),
                radius=float(np.average(np.nan_to_num(lengths[inside]), weights=weight)),
            )
        )
    return sorted(regions, key=lambda region: -region.share)
