"""The lattice under a damaged crystal, from the Bragg peaks of its own cell.

In a cell of any size and shape the structure factor lives on the cell's own reciprocal lattice. Atoms that are copies
of a smaller cell scatter onto a sublattice of it, which displacements and vacancies weaken but do not move, while what
they scatter elsewhere is a smooth background. The sublattice that explains the intensities best is the reciprocal
lattice of the primitive cell, and exact: its basis vectors are integer combinations of those of the given cell.

Wave vectors do not carry 2 pi. Lattice vectors are rows, in Å.

Source: this project's; kinematic diffraction as in B. E. Warren, X-ray Diffraction (1969), chapters 3 and 13.
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxclear.crystals.structure_factors import Spectrum, evidence

LEAST_PEAK = 6.0
"""Intensities up to so many backgrounds are not tried as peaks."""
MOST_REFUSED = 20
"""Peaks in turn that belong to no lattice, after which the search ends."""
MOST_TRIED = 100
COHERENT_PEAK = 12.0
"""Intensity over the coherent background that a chance maximum among some hundred wave vectors hardly ever reaches."""
BRIGHT = 3.0
"""Mean excess over the background, in its standard errors, of a superlattice worth a look."""
MOST_SUPERLATTICES = 3
PRIMES = (2, 3, 5, 7)
"""Indices of the sublattices that are tried at the end."""


class Sublattice(NamedTuple):
    """A sublattice of the reciprocal lattice of a cell, and how well it explains the intensities."""

    basis: Int[np.ndarray, "rank 3"]
    """Integer coordinates in the reciprocal lattice of the cell; a Hermite normal form."""
    evidence: float
    """Logarithm (nats) of the likelihood ratio to a structure without any lattice."""


def reduced(cell: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """The reduced, right-handed basis of the lattice that `cell` spans, see :func:`reduction`."""
    return reduction(cell) @ cell


def reduction(cell: Float[np.ndarray, "3 3"]) -> Int[np.ndarray, "3 3"]:
    """The unimodular matrix that turns lattice vectors into a reduced, right-handed basis.

    No vector gets shorter by adding integer multiples of one other, or plus or minus both others: what Minkowski asks
    in three dimensions. Shortest vector first.

    Args:
        cell: lattice vectors; ``reduction(cell) @ cell`` is the reduced basis.
    """
    steps = np.eye(3, dtype=np.int64)
    signs = [(s, t) for s in (1, -1) for t in (1, -1)]
    while True:
        vectors = steps @ cell
        order = np.argsort((vectors**2).sum(axis=1), kind="stable")
        steps, vectors = steps[order], vectors[order]
        gram = vectors @ vectors.T
        trials = [(i, j, -int(np.round(gram[i, j] / gram[j, j]))) for i, j in ((2, 1), (2, 0), (1, 0))]
        changed = False
        for i, j, factor in trials:
            if factor and gram[i, i] + 2 * factor * gram[i, j] + factor**2 * gram[j, j] < gram[i, i] * (1 - 1e-9):
                steps[i] += factor * steps[j]
                changed = True
                break
        if changed:
            continue
        sums = [steps[2] + s * steps[0] + t * steps[1] for s, t in signs]
        squares = [float(((v @ cell) ** 2).sum()) for v in sums]
        best = int(np.argmin(squares))
        if squares[best] < gram[2, 2] * (1 - 1e-9):
            steps[2] = sums[best]
            continue
        return steps if np.linalg.det(vectors) > 0 else -steps


def hermite(rows: Int[np.ndarray, "rows 3"]) -> Int[np.ndarray, "rank 3"]:
    """The Hermite normal form of the integer lattice that rows span: upper triangular, without rows of zeros."""
    pivots: list[list[int] | None] = [None, None, None]
    for row in rows.tolist():
        left = row
        for column in range(3):
            pivot = pivots[column]
            if pivot is None:
                if left[column]:
                    pivots[column] = left
                    break
                continue
            while left[column]:
                factor = pivot[column] // left[column]
                pivot, left = left, [a - factor * b for a, b in zip(pivot, left, strict=True)]
            pivots[column] = pivot
    form: list[list[int]] = []
    for column, found in enumerate(pivots):
        if found is None:
            continue
        pivot = found if found[column] > 0 else [-value for value in found]
        for row in form:
            factor = row[column] // pivot[column]
            row[:] = [a - factor * b for a, b in zip(row, pivot, strict=True)]
        form.append(pivot)
    return np.array(form, dtype=np.int64).reshape(-1, 3)


def members(indices: Int[np.ndarray, "waves 3"], basis: Int[np.ndarray, "rank 3"]) -> Bool[np.ndarray, " waves"]:
    """Which integer vectors belong to the lattice with the given basis, of any rank."""
    columns = indices.T  # NumPy is twice as fast along the long axis
    if len(basis) == 3:
        return _whole(np.linalg.inv(basis).T @ columns)
    coordinates = np.rint(np.linalg.pinv(basis.astype(float)).T @ columns)
    away = np.abs(basis.T @ coordinates - columns) < 0.5
    return away[0] & away[1] & away[2]


def _whole(coordinates: Float[np.ndarray, "3 waves"]) -> Bool[np.ndarray, " waves"]:
    """Which columns are whole numbers."""
    near = np.abs(coordinates - np.rint(coordinates)) < 1e-6
    return near[0] & near[1] & near[2]


def find_sublattice(
    spectrum: Spectrum,
    ratios: Float[np.ndarray, " waves"],
    coherence: Float[np.ndarray, " waves"],
    *,
    coherent_peak: float = COHERENT_PEAK,
) -> Sublattice | None:
    """The sublattice with the greatest evidence, grown from the strongest peaks; None when they span no volume.

    A peak is taken up when the wave vectors that the lattice gains with it have evidence (see `_Proof`): a chance
    maximum brings many without signal along. Last, sublattices of small prime index are tried, which mend what a wrong
    peak did.

    Args:
        spectrum: structure factors.
        ratios: intensities in units of the background.
        coherence: the part of the background that repeats itself from one zone to the next.
        coherent_peak: what the strongest of the peaks has to be in units of that part. A cell of few sites with
            vacancies alone has few intensities that differ, and their median may be far below their mean.
    """
    proof = _proof(ratios, coherence, coherent_peak)
    indices = np.asfortranarray(spectrum.indices, float)
    basis, inside = np.zeros((0, 3), dtype=np.int64), np.zeros(len(ratios), dtype=bool)
    left = np.flatnonzero(ratios > LEAST_PEAK)
    left = left[np.argsort(-ratios[left], kind="stable")]
    refused, without_evidence = 0, set[bytes]()
    for _ in range(MOST_TRIED):
        if not len(left) or refused == MOST_REFUSED:
            break
        grown = hermite(np.vstack([basis, spectrum.indices[left[0]]]))
        within = None if grown.tobytes() in without_evidence else members(indices, grown)
        if within is not None and _gain(proof, np.flatnonzero(within & ~inside)) > 0:
            basis, inside, refused = grown, within, 0
            without_evidence.clear()
            left = left[~inside[left]]
        else:
            # Chance maxima mostly lead to the same few lattices.
            without_evidence.add(grown.tobytes())
            left, refused = left[1:], refused + 1
    if len(basis) < 3:
        return None
    basis = _thinned(indices, proof, basis)
    return Sublattice(basis, _gain(proof, np.flatnonzero(members(indices, basis))))


class _Proof(NamedTuple):
    """What each wave vector, by its length, says for being a Bragg peak.

    Evidence is summed up to the length beyond which it only falls: there displacements have washed the peaks out. Where
    the background repeats itself from zone to zone one chance maximum comes back many times, so the sum proves nothing:
    the greatest intensity has to be beyond what one such maximum reaches.
    """

    evidence: Float[np.ndarray, " waves"]
    """nats, against background."""
    certain: Bool[np.ndarray, " waves"]
    """Whether the intensity is beyond what the background that repeats itself reaches."""


def _proof(ratios: Float[np.ndarray, " waves"], coherence: Float[np.ndarray, " waves"], coherent_peak: float) -> _Proof:
    return _Proof(evidence(ratios), ratios / np.maximum(coherence, 1e-3) > coherent_peak)


def _gain(proof: _Proof, chosen: Int[np.ndarray, " chosen"]) -> float:
    """Evidence (nats) that chosen wave vectors, in order of length, are Bragg peaks; at most 0 when they are not."""
    if not len(chosen):
        return 0.0
    sums = np.cumsum(proof.evidence[chosen])
    last = int(np.argmax(sums))
    best = float(sums[last])
    return best if proof.certain[chosen[: last + 1]].any() else min(best, 0.0)


def _gains(
    proof: _Proof, waves: Int[np.ndarray, " waves"], chosen: Bool[np.ndarray, "waves choices"]
) -> Float[np.ndarray, " choices"]:
    """The same of several choices among some wave vectors, each a column."""
    sums = np.cumsum(np.where(chosen, proof.evidence[waves, None], 0.0), axis=0)
    last = np.argmax(sums, axis=0)
    best = sums[last, np.arange(chosen.shape[1])]
    sure = chosen & proof.certain[waves, None]
    first = np.where(sure.any(axis=0), np.argmax(sure, axis=0), len(waves))
    return np.where(first <= last, best, np.minimum(best, 0.0))


def _thinned(
    indices: Float[np.ndarray, "waves 3"], proof: _Proof, basis: Int[np.ndarray, "3 3"]
) -> Int[np.ndarray, "3 3"]:
    """The sublattice of prime steps down from a lattice whose other wave vectors have no evidence."""
    for prime in PRIMES:
        functionals = projective(prime)
        improved = True
        while improved:
            inside = np.flatnonzero(members(indices, basis))
            coordinates = np.rint(indices[inside] @ np.linalg.inv(basis)).astype(np.int64)
            outside = (coordinates @ functionals.T) % prime != 0
            values = _gains(proof, inside, outside)
            worst = int(np.argmin(values))
            improved = values[worst] <= 0 and bool(outside[:, worst].any())
            if improved:
                kept = coordinates[~outside[:, worst]] @ basis
                basis = hermite(np.vstack([kept, prime * basis]))
    return basis


def superlattices(
    spectrum: Spectrum, ratios: Float[np.ndarray, " waves"], basis: Int[np.ndarray, "3 3"]
) -> list[Int[np.ndarray, "3 3"]]:
    """Reciprocal lattices with two or three times as many points whose other points are brighter than background.

    Peaks too weak to be taken up one by one show in their mean. The brightest first, at most ``MOST_SUPERLATTICES``.

    Args:
        spectrum: structure factors.
        ratios: intensities in units of the background.
        basis: of the lattice.
    """
    columns = np.linalg.inv(basis).T @ np.asfortranarray(spectrum.indices, float).T
    found = []
    for prime in (2, 3):
        parts = columns * prime
        near = np.flatnonzero(_whole(parts))
        classes = np.rint(parts[:, near]).T.astype(np.int64) % prime
        near, classes = near[classes.any(axis=1)], classes[classes.any(axis=1)]
        for line in projective(prime):
            on_line = np.zeros(len(near), dtype=bool)
            for multiple in range(1, prime):
                on_line |= (classes == line * multiple % prime).all(axis=1)
            if not on_line.any():
                continue
            sums = np.cumsum(ratios[near[on_line]] - 1) / np.sqrt(np.arange(1, on_line.sum() + 1))
            if sums.max() > BRIGHT:
                # One point of the line spans the others, a prime being no product.
                found.append((sums.max(), hermite(np.vstack([basis, spectrum.indices[near[on_line][0]]]))))
    found.sort(key=lambda pair: -pair[0])
    return [candidate for _, candidate in found[:MOST_SUPERLATTICES]]


@functools.cache
def projective(prime: int) -> Int[np.ndarray, "points 3"]:
    """One vector of each line through the origin of the three-dimensional space over the integers modulo a prime."""
    span = np.arange(prime)
    plane = np.stack(np.meshgrid(span, span, indexing="ij"), axis=-1).reshape(-1, 2)
    first = np.column_stack([np.ones(len(plane), dtype=np.int64), plane])
    second = np.column_stack([np.zeros(prime, dtype=np.int64), np.ones(prime, dtype=np.int64), span])
    return np.vstack([first, second, [[0, 0, 1]]])
