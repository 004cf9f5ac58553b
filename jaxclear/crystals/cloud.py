"""The lattice of a piece of crystal without a cell: atom-probe or molecular-dynamics regions, nanoparticles.

Without periods the structure factor is a function of a continuous wave vector, with peaks as wide as one over the size
of the piece around the points of the reciprocal lattice. Three of them that index the others are a first guess of it;
the atoms themselves, each a lattice translation from its site, refine it.

Wave vectors do not carry 2 pi. Lattice vectors are rows, in Å.

Source: this project's; the size of the peaks is that of a sphere, A. Guinier, X-ray Diffraction (1963), chapter 5.
"""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxclear.crystals import lattice as lattices
from jaxclear.crystals.motif import Motif
from jaxclear.crystals.structure_factors import background, evidence, spectrum

CUTOFF = 2.2
"""Greatest wave vector, in units of 1 / nearest-neighbour distance."""
STEP = 0.25
"""Of the grid of wave vectors, in units of 1 / radius."""
INNERMOST = 1.0
"""Least wave vector, in units of 1 / radius: below, the shape of the piece scatters."""
APART = 0.7
"""Least distance of two peaks, in units of 1 / radius: a sphere's peak falls to zero there."""
INDEXED = 0.2
"""Distance from a lattice point, in units of 1 / radius, up to which a peak belongs to it."""
PEAKS, BASES, CANDIDATES = 40, 10, 6
"""Peaks kept; the strongest and the shortest of them that may span the lattice; lattices compared in full."""
ROUNDS = 4


class Peaks(NamedTuple):
    """Maxima of the intensity, strongest first."""

    vectors: Float[np.ndarray, "peaks 3"]
    """1/Å."""
    ratios: Float[np.ndarray, " peaks"]
    """Intensity in units of the background."""


class CloudLattice(NamedTuple):
    """A lattice that a piece of crystal shows."""

    vectors: Float[np.ndarray, "3 3"]
    """Primitive lattice vectors, a reduced basis, Å."""
    evidence: float
    """nats, of its reciprocal lattice points against background."""


def radius(positions: Float[np.ndarray, "atoms 3"]) -> float:
    """The radius of the sphere with the same radius of gyration, Å."""
    return float(np.sqrt(5 / 3 * ((positions - positions.mean(axis=0)) ** 2).sum(axis=1).mean()))


def volume(positions: Float[np.ndarray, "atoms 3"]) -> float:
    """The volume of the ellipsoid with the same moments of inertia, Å^3; exact for a ball, 13 % too much for a box."""
    moments = np.linalg.eigvalsh(np.cov(positions.T, bias=True))
    return float(4 / 3 * np.pi * np.sqrt(np.prod(5 * np.maximum(moments, 1e-12))))


def find_peaks(positions: Float[np.ndarray, "atoms 3"], *, d_nn: float) -> tuple[Peaks, Float[np.ndarray, "shells 2"]]:
    """The peaks of the structure factor of a cloud, and the background by wave number.

    Args:
        positions: centred, Å.
        d_nn: an estimate of the nearest-neighbour distance, Å.
    """
    size = radius(positions)
    count = len(positions)
    box = np.eye(3) * size / STEP
    waves = spectrum(box, positions, np.zeros(count, dtype=int), np.ones(count), cutoff=CUTOFF / d_nn)
    outer = np.searchsorted(waves.lengths, INNERMOST / size)
    vectors = waves.indices[outer:] @ np.linalg.inv(box).T
    intensities = np.abs(waves.amplitudes[0, outer:].astype(complex)) ** 2
    level = background(intensities, floor=0.05 * count)
    ratios = intensities / level
    high = np.flatnonzero(ratios >= lattices.LEAST_PEAK / 2)
    high = high[np.argsort(-ratios[high], kind="stable")]
    chosen = high[_apart(vectors[high], least=APART / size)]
    refined = _climbed(positions, vectors[chosen], longest=STEP / size)
    heights = np.abs(_structure_factor(positions, refined)) ** 2 / level[chosen]
    best = np.argsort(-heights, kind="stable")
    profile = np.stack([np.linalg.norm(vectors, axis=1), level], axis=1)
    return Peaks(refined[best], heights[best]), profile


def _apart(vectors: Float[np.ndarray, "waves 3"], *, least: float) -> Int[np.ndarray, " peaks"]:
    """The first wave vectors, each at least so far from those before it and from their opposites."""
    chosen: list[int] = []
    left = np.arange(len(vectors))
    while len(left) and len(chosen) < PEAKS:
        chosen.append(int(left[0]))
        for sign in (1, -1):
            away = vectors[left] - sign * vectors[chosen[-1]]
            left = left[np.einsum("ij,ij->i", away, away) > least**2]
    return np.array(chosen, dtype=int)


def _structure_factor(
    positions: Float[np.ndarray, "atoms 3"], vectors: Float[np.ndarray, "waves 3"]
) -> Float[np.ndarray, " waves"]:
    return np.exp(-2j * np.pi * vectors @ positions.T).sum(axis=1)


def _climbed(
    positions: Float[np.ndarray, "atoms 3"], vectors: Float[np.ndarray, "peaks 3"], *, longest: float
) -> Float[np.ndarray, "peaks 3"]:
    """Maxima of ``|S(q)|^2`` near given wave vectors, by Newton's method with bounded steps."""
    outer = positions[:, :, None] * positions[:, None, :]
    for _ in range(ROUNDS):
        waves = np.exp(-2j * np.pi * vectors @ positions.T)
        value = waves.sum(axis=1)
        first = -2j * np.pi * waves @ positions
        second = -4 * np.pi**2 * np.einsum("pn,nij->pij", waves, outer)
        slope = 2 * np.real(value.conj()[:, None] * first)
        curvature = 2 * np.real(first.conj()[:, :, None] * first[:, None, :] + value.conj()[:, None, None] * second)
        values, axes = np.linalg.eigh(curvature)
        # Uphill also where the intensity is not concave yet.
        along = np.einsum("pij,pi->pj", axes, slope) / np.maximum(np.abs(values), 1e-12)
        step = np.einsum("pij,pj->pi", axes, along)
        length = np.linalg.norm(step, axis=1, keepdims=True)
        vectors = vectors + step * np.minimum(1.0, longest / np.maximum(length, 1e-12))
    return vectors


def candidates(
    positions: Float[np.ndarray, "atoms 3"], peaks: Peaks, profile: Float[np.ndarray, "shells 2"], *, d_nn: float
) -> list[CloudLattice]:
    """Lattices whose reciprocal lattice holds the peaks, by evidence.

    Args:
        positions: centred, Å.
        peaks: of their structure factor.
        profile: wave numbers and background.
        d_nn: an estimate of the nearest-neighbour distance, Å.
    """
    size = radius(positions)
    gain = np.maximum(evidence(peaks.ratios), 0.0)
    ball = 2 / 3 * np.pi * (CUTOFF / d_nn) ** 3
    clear = np.flatnonzero(peaks.ratios > lattices.LEAST_PEAK)
    shortest = clear[np.argsort(np.linalg.norm(peaks.vectors[clear], axis=1))][:BASES]
    triples = np.array(list(itertools.combinations(np.union1d(clear[:BASES], shortest), 3)), int).reshape(-1, 3)
    guesses = peaks.vectors[triples]
    volumes = np.abs(np.linalg.det(guesses))
    guesses, volumes = (values[volumes >= (0.5 / size) ** 3] for values in (guesses, volumes))
    worth = _nearest(peaks.vectors, guesses, INDEXED / size)[1] @ gain - ball / volumes
    bases: list[np.ndarray] = []
    for guess in guesses[np.argsort(-worth, kind="stable")]:
        if len(bases) < CANDIDATES and not any(_same_lattice(guess, other) for other in bases):
            bases += _fitted(peaks, lattices.reduced(guess), size)
    # The first to hold all peaks may need more than three of them to span it.
    for basis in bases[:]:
        for grown in _extended(peaks, basis, size):
            if not any(_same_lattice(grown, other) for other in bases):
                bases += _fitted(peaks, grown, size)
    found = []
    for basis in bases:
        vectors = np.linalg.inv(basis).T
        vectors = lattices.reduced(vectors)
        found.append(CloudLattice(vectors, _evidence(positions, vectors, profile, d_nn)))
    return sorted(found, key=lambda lattice: -lattice.evidence)[:CANDIDATES]


def _fitted(peaks: Peaks, basis: Float[np.ndarray, "3 3"], size: float) -> list[Float[np.ndarray, "3 3"]]:
    """The reciprocal basis fitted to the peaks that it indexes; nothing when they span no volume."""
    for _ in range(ROUNDS):
        numbers, indexed = _indexed(peaks.vectors, basis, INDEXED / size)
        if np.linalg.matrix_rank(numbers[indexed]) < 3:
            return []
        weights = np.sqrt(peaks.ratios[indexed])[:, None]
        basis = np.linalg.lstsq(weights * numbers[indexed], weights * peaks.vectors[indexed], rcond=None)[0]
    return [basis] if abs(np.linalg.det(basis)) > (0.5 / size) ** 3 else []


def _extended(peaks: Peaks, basis: Float[np.ndarray, "3 3"], size: float) -> list[Float[np.ndarray, "3 3"]]:
    """Reciprocal bases that hold a lattice and the strongest peak beside it, at simple fractions of the basis."""
    _, indexed = _indexed(peaks.vectors, basis, INDEXED / size)
    left = np.setdiff1d(np.flatnonzero(peaks.ratios > lattices.LEAST_PEAK), indexed)
    found = []
    for peak in left[:3]:
        fractions = peaks.vectors[peak] @ np.linalg.inv(basis)
        for order in (2, 3, 4, 6):
            numbers = np.rint(order * fractions)
            if np.linalg.norm((numbers / order - fractions) @ basis) < INDEXED / size:
                rows = np.vstack([order * np.eye(3), numbers]).astype(np.int64)
                grown = lattices.hermite(rows) @ basis / order
                found.append(lattices.reduced(grown))
                break
    return found


def _same_lattice(one: Float[np.ndarray, "3 3"], other: Float[np.ndarray, "3 3"]) -> bool:
    """Whether two bases span the same lattice, as nearly as peaks tell."""
    relation = one @ np.linalg.inv(other)
    whole = np.rint(relation)
    return bool(np.abs(relation - whole).max() < INDEXED and abs(round(np.linalg.det(whole))) == 1)


def _indexed(
    vectors: Float[np.ndarray, "peaks 3"], basis: Float[np.ndarray, "3 3"], tolerance: float
) -> tuple[Int[np.ndarray, "peaks 3"], Int[np.ndarray, " indexed"]]:
    """Nearest lattice points of wave vectors, and which are within the tolerance of theirs."""
    numbers, near = _nearest(vectors, basis, tolerance)
    return numbers.astype(np.int64), np.flatnonzero(near)


def _nearest(
    vectors: Float[np.ndarray, "peaks 3"], bases: Float[np.ndarray, "*b 3 3"], tolerance: float
) -> tuple[Float[np.ndarray, "*b peaks 3"], Bool[np.ndarray, "*b peaks"]]:
    """Nearest points of lattices to wave vectors, and whether they are within the tolerance and not the origin."""
    numbers = np.rint(vectors @ np.linalg.inv(bases))
    away = numbers @ bases - vectors
    return numbers, (np.einsum("...i,...i->...", away, away) < tolerance**2) & numbers.any(axis=-1)


def _evidence(
    positions: Float[np.ndarray, "atoms 3"],
    vectors: Float[np.ndarray, "3 3"],
    profile: Float[np.ndarray, "shells 2"],
    d_nn: float,
) -> float:
    """Evidence of the reciprocal lattice of given lattice vectors, as of a sublattice in a cell."""
    points = spectrum(vectors, np.zeros((1, 3)), np.zeros(1, dtype=int), np.ones(1), cutoff=CUTOFF / d_nn)
    waves = points.indices @ np.linalg.inv(vectors).T
    outer = points.lengths > profile[0, 0]
    ratios = np.abs(_structure_factor(positions, waves[outer])) ** 2
    ratios /= np.interp(points.lengths[outer], profile[:, 0], profile[:, 1])
    return float(np.cumsum(evidence(ratios)).max(initial=0.0))


def refined(motif: Motif, positions: Float[np.ndarray, "atoms 3"]) -> Float[np.ndarray, "3 3"]:
    """The lattice vectors that put the atoms of a motif nearest to copies of its sites, by least squares.

    Args:
        motif: sites, and the translations of the atoms from them.
        positions: of the atoms, Å.
    """
    on_site = np.flatnonzero(motif.site_of_atom >= 0)
    design = np.zeros((len(on_site), 3 + len(motif.sites)))
    design[:, :3] = motif.steps[on_site]
    design[np.arange(len(on_site)), 3 + motif.site_of_atom[on_site]] = 1
    lattice = np.linalg.lstsq(design, positions[on_site], rcond=None)[0][:3]
    return lattices.reduced(lattice)


def copies(motif: Motif) -> int:
    """Number of primitive cells with an atom in them."""
    return len(np.unique(motif.steps[motif.site_of_atom >= 0], axis=0))


def spacing(positions: Float[np.ndarray, "atoms 3"]) -> float:
    """The median distance to the nearest neighbour, Å."""
    from scipy.spatial import KDTree

    return float(np.median(KDTree(positions).query(positions, k=2)[0][:, 1]))
