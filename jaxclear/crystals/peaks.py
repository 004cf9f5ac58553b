"""Bright regions of a fingerprint or of its CLEAR map, named by the reciprocal-lattice points under them.

A pixel of the rotation ``M`` sees the wave vector ``q = M^-1 s`` of the crystal. The cluster of ``N_1 x N_2 x N_3``
cells ``a_1, a_2, a_3`` scatters there with the structure factor of the nearest point ``G_hkl`` times the shape
function::

    I(q) ~ |F_hkl|^2 prod_i [sin(pi N_i x_i) / (N_i sin(pi x_i))]^2        x_i = q . a_i - h_i

The pixel lies under the peak ``hkl`` when ``N_i |x_i| <= 1`` on every axis, which is within the first zero of that
function: in length ``1 / (N_i |a_i|)``, the finite-size width of the cluster. Points whose structure factor vanishes
(systematic absences) are no peaks. Wave vectors are in cycles per nearest-neighbour distance.

Indices are those of the cell that is given, the standard conventional one as a rule; a family ``{hkl}`` holds what the
point group of its space group and Friedel's law make equal.

Source: C. Kittel, Introduction to Solid State Physics, chapter 2, for structure factor and shape function; the naming
of what a network looks at is this project's.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxclear.crystals.cells import cluster as cut
from jaxclear.crystals.cells import nearest_neighbour_distance, standard_cell, symmetry_dataset
from jaxclear.crystals.fingerprint import PUBLISHED, Beam, wave_vectors
from jaxclear.crystals.form_factors import form_factors
from jaxclear.crystals.structures import Crystal

if TYPE_CHECKING:
    from jaxclear.crystals.explain import CrystalExplanation

ABSENT = 1e-3
"""A structure factor below this part of its largest possible value is an absence."""
BESIDE = 1.0
"""How far outside the detector points are looked for that may be nearest to a pixel, in 1/d_nn."""
AXES = ("x", "y", "z")


class PeakError(ValueError):
    """Peaks that cannot be indexed, or a class or region that is not there; the message says what to do."""


class Family(NamedTuple):
    """Reciprocal-lattice points that symmetry makes equal."""

    name: str
    """``{111}``; with spaces where an index is negative or above 9."""
    hkl: tuple[int, int, int]
    """The member with the fewest negative indices, of these the largest in order."""
    multiplicity: int
    d_spacing: float
    """Å."""
    radius: float
    """``|G|`` in 1/d_nn."""
    structure_factor: float
    """``|F|`` of one cell in electrons, at the scale of the fingerprint."""


class PeakIndex(NamedTuple):
    """The reciprocal-lattice point nearest to each pixel in each of its six shots; absences are no points.

    Axes are those of :func:`~jaxclear.crystals.fingerprint.wave_vectors`: detector x and y, channel, rotation.
    """

    hkl: Int[np.ndarray, "pixels pixels 3 2 3"]
    """Zero where the pixel is dropped."""
    family: Int[np.ndarray, "pixels pixels 3 2"]
    """Index into `families`, -1 where the pixel is dropped."""
    distance: Float[np.ndarray, "pixels pixels 3 2"]
    """``|q - G|`` in 1/d_nn; infinite where the pixel is dropped."""
    offset: Float[np.ndarray, "pixels pixels 3 2"]
    """The same in finite-size widths, ``max_i N_i |x_i|``: up to 1 the pixel lies under the peak."""
    intensity: Float[np.ndarray, "pixels pixels 3 2"]
    """``|F|^2`` times the shape function, relative to the brightest; 0 where the pixel lies under no peak."""
    families: tuple[Family, ...]
    """By radius."""


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


def index_peaks(cell: Crystal, cluster: Crystal | None = None, *, beam: Beam = PUBLISHED) -> PeakIndex:
    """The reciprocal-lattice point under each pixel of a crystal's fingerprint.

    Args:
        cell: the periodic cell, in the orientation in which it stands in the beam; as a rule
            ``standard_cell(crystal).crystal``.
        cluster: the piece in the beam, cut from that cell, with or without defects; by default the one that
            :func:`~jaxclear.crystals.cluster` cuts.
        beam: the simulated experiment.

    Raises:
        PeakError: for a cell without three periods, or a cluster that is not made of whole cells of it.

    Example:
        >>> from ase.build import bulk
        >>> from jaxclear.crystals import read, standard_cell
        >>> index = index_peaks(standard_cell(read(bulk("Cu"))[0]).crystal)
        >>> [family.name for family in index.families[:3]]
        ['{111}', '{200}', '{220}']
    """
    if not cell.pbc.all():
        raise PeakError(f"{cell.name}: expected a cell with three periods, got pbc {cell.pbc.tolist()}")
    piece = cut(cell) if cluster is None else cluster
    repeats = _repeats(cell, piece)
    d_nn = nearest_neighbour_distance(piece.positions)
    lattice = cell.cell / d_nn
    vectors = wave_vectors(beam)
    kept = ~np.isnan(vectors[:, :, 0, 0, 0])
    seen = vectors[kept]  # (kept, 3, 2, 3)
    furthest = float(np.linalg.norm(seen, axis=-1).max())
    points, factors = _points(cell, lattice, furthest + BESIDE)
    fractions = seen @ lattice.T
    offset, nearest = _nearest(points * repeats, fractions * repeats)
    differences = fractions - points[nearest]
    under = offset <= 1
    intensity = np.where(under, factors[nearest] ** 2 * _shape_function(differences, repeats), 0.0)
    families, member_of = _families(cell, points, factors, d_nn)
    distance = np.linalg.norm(differences @ np.linalg.inv(lattice).T, axis=-1)

    def whole(values: np.ndarray, dropped: float) -> np.ndarray:
        full = np.full((*kept.shape, *values.shape[1:]), dropped, values.dtype)
        full[kept] = values
        return full

    brightest = max(float(intensity.max()), np.finfo(float).tiny)
    return PeakIndex(
        hkl=whole(points[nearest], 0),
        family=whole(member_of[nearest], -1),
        distance=whole(distance, np.inf),
        offset=whole(offset, np.inf),
        intensity=whole(intensity / brightest, 0.0),
        families=families,
    )


def _repeats(cell: Crystal, cluster: Crystal) -> Int[np.ndarray, "3"]:
    """How many cells the cluster has along each axis."""
    ratio = cluster.cell @ np.linalg.inv(cell.cell)
    repeats = np.round(np.diag(ratio)).astype(int)
    if np.any(repeats < 1) or not np.allclose(ratio, np.diag(repeats), atol=1e-3):
        raise PeakError(
            f"{cluster.name}: expected a cluster of whole cells, got cell vectors that are {ratio.round(3).tolist()} "
            "of the cell's; pass the cell that the cluster was cut from"
        )
    return repeats


def _points(
    cell: Crystal, lattice: Float[np.ndarray, "3 3"], furthest: float
) -> tuple[Int[np.ndarray, "points 3"], Float[np.ndarray, " points"]]:
    """All hkl up to a length with a structure factor, without 000, and their ``|F|``."""
    most = np.floor(furthest * np.linalg.norm(lattice, axis=1)).astype(int)
    grid = np.meshgrid(*(np.arange(-n, n + 1) for n in most), indexing="ij")
    points = np.stack(grid, axis=-1).reshape(-1, 3)
    lengths = np.linalg.norm(points @ np.linalg.inv(lattice).T, axis=1)
    inside = (lengths <= furthest) & points.any(axis=1)
    points, lengths = points[inside], lengths[inside]
    places = cell.positions @ np.linalg.inv(cell.cell)
    species, kinds = np.unique(cell.numbers, return_inverse=True)
    weights = form_factors(species, lengths)
    total = np.zeros(len(points), complex)
    for kind, weight in enumerate(weights):
        here = kinds == kind
        total += weight * (np.exp(-2j * np.pi * (points @ places[here].T)) @ cell.occupancies[here])
    largest = np.bincount(kinds, weights=cell.occupancies) @ np.abs(weights)
    present = np.abs(total) > ABSENT * largest
    return points[present], np.abs(total[present])


def _nearest(
    points: Float[np.ndarray, "points 3"], wanted: Float[np.ndarray, "kept 3 2 3"]
) -> tuple[Float[np.ndarray, "kept 3 2"], Int[np.ndarray, "kept 3 2"]]:
    """Distance to the nearest point and its number, as the largest difference along an axis."""
    from scipy.spatial import KDTree

    distances, nearest = KDTree(points).query(wanted, p=np.inf)
    return np.asarray(distances), np.asarray(nearest)


def _shape_function(differences: Float[np.ndarray, "... 3"], repeats: Int[np.ndarray, "3"]) -> Float[np.ndarray, "..."]:
    """``prod_i [sin(pi N_i x_i) / (N_i sin(pi x_i))]^2`` for ``N_i |x_i| <= 1``; one cell has no shape of its own."""
    one_cell = np.sinc(differences)
    ratio = np.sinc(differences * repeats) / np.where(repeats == 1, 1.0, np.maximum(one_cell, 1e-9))
    return (np.where(repeats == 1, 1.0, ratio) ** 2).prod(axis=-1)


def _families(
    cell: Crystal, points: Int[np.ndarray, "points 3"], factors: Float[np.ndarray, " points"], d_nn: float
) -> tuple[tuple[Family, ...], Int[np.ndarray, " points"]]:
    """The families by radius, and the family of each point."""
    dataset = symmetry_dataset(cell)
    operations = np.eye(3, dtype=int)[None] if dataset is None else np.unique(np.asarray(dataset.rotations), axis=0)
    images = np.concatenate([points @ operations, -points @ operations])  # h' = h W, for x' = W x
    names, member_of = np.unique(_canonical(images), axis=0, return_inverse=True)
    lengths = np.linalg.norm(names @ np.linalg.inv(cell.cell).T, axis=1)
    order = np.lexsort((*-names.T, lengths.round(9)))
    rank = np.argsort(order)[member_of.reshape(-1)]
    families = []
    for number, family in enumerate(order):
        members = rank == number
        hkl = (int(names[family, 0]), int(names[family, 1]), int(names[family, 2]))
        strongest = float(factors[members].max())
        d_spacing = float(1 / lengths[family])
        families.append(Family(_family_name(hkl), hkl, int(members.sum()), d_spacing, d_nn / d_spacing, strongest))
    return tuple(families), rank


def _canonical(images: Int[np.ndarray, "operations points 3"]) -> Int[np.ndarray, "points 3"]:
    """For each point the image with the fewest negative indices, the largest in order of these."""
    base = 2 * int(np.abs(images).max()) + 1
    negative = (images < 0).sum(axis=-1)
    order = (images @ np.array([base**2, base, 1])) - negative * base**4
    return np.take_along_axis(images, order.argmax(axis=0)[None, :, None], axis=0)[0]


def _family_name(hkl: tuple[int, int, int]) -> str:
    separator = "" if all(0 <= index <= 9 for index in hkl) else " "
    return "{" + separator.join(map(str, hkl)) + "}"


def explain_peaks(
    found: "CrystalExplanation",
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
        cell: the cell that the cluster was cut from. By default it is found in the cluster by its symmetry, which a
            damaged cluster does not have.
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
    index = index_peaks(cell_of(found.clusters[row]) if cell is None else cell, found.clusters[row])
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


def _class_number(found: "CrystalExplanation", row: int, wanted: str | int | None) -> int:
    names = found.class_names
    if wanted is None:
        return int(found.predicted_class[row])
    if wanted in names:
        return names.index(str(wanted))
    if isinstance(wanted, int) and 0 <= wanted < len(names):
        return wanted
    raise PeakError(f"expected a class out of {', '.join(names)}, or its number, got {wanted!r}")


def cell_of(cluster: Crystal) -> Crystal:
    """The standard cell that an undamaged cluster was cut from, found by its symmetry.

    Raises:
        PeakError: when the cluster has not the symmetry, or another setting than the standard one.
    """
    periodic = cluster._replace(pbc=np.ones(3, dtype=bool))
    found = standard_cell(periodic) if abs(np.linalg.det(cluster.cell)) > 0 else None
    if found is None or found.orientation != "standard":
        raise PeakError(f"{cluster.name}: expected a cluster with symmetry, got a damaged one; pass its pristine cell")
    _repeats(found.crystal, cluster)
    return found.crystal


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
