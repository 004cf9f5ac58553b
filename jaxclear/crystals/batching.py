"""Clusters of any sizes through one compiled kernel: buckets of atoms, batches of structures, few programs."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxclear.crystals.cells import PaddedAtoms, bucket, pad
from jaxclear.crystals.structures import Crystal

MAX_BATCH = 32
"""Most structures in one compiled call, unless another number is asked for."""


def run_batched(
    kernel: Callable[..., Any],
    clusters: Sequence[Crystal],
    *,
    d_nn: Float[np.ndarray, " batch"] | None = None,
    batch_size: int = MAX_BATCH,
    progress: Callable[[int], None] | None = None,
) -> Any:
    """Returns the kernel's results for all clusters, in their order, as host arrays.

    Batches are filled up to a power of two, so that few programs are compiled. While the device works on one batch the
    host prepares the next.

    Args:
        kernel: `(positions, species, occupancies)`, as `PaddedAtoms` has them, to arrays that all lead with the batch.
        clusters: at least one.
        d_nn: length by which each cluster is divided, Å; its mean nearest-neighbour distance by default.
        batch_size: most clusters in one call.
        progress: called with the number of clusters done.
    """
    order: list[Int[np.ndarray, " n"]] = []
    results: list[Any] = []
    waiting: Any = None

    def collect() -> None:
        results.append(jax.tree.map(lambda value: np.asarray(value)[: len(order[len(results)])], waiting))
        if progress is not None:
            progress(sum(len(part) for part in order[: len(results)]))

    for part in _parts(clusters, batch_size):
        lengths = None if d_nn is None else d_nn[part].tolist()
        started = kernel(*_filled(pad([clusters[i] for i in part], lengths), batch_size))
        if waiting is not None:
            collect()
        order.append(part)
        waiting = started
    collect()
    back = np.argsort(np.concatenate(order))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[back], *results)


def _parts(clusters: Sequence[Crystal], batch_size: int) -> Iterator[Int[np.ndarray, " n"]]:
    """Indices of clusters that go into one call: of one bucket of sizes, `batch_size` at most."""
    sizes = np.array([bucket(len(crystal.numbers)) for crystal in clusters])
    for size in np.unique(sizes):
        members = np.flatnonzero(sizes == size)
        for start in range(0, len(members), batch_size):
            yield members[start : start + batch_size]


def _filled(atoms: PaddedAtoms, batch_size: int) -> Iterator[np.ndarray]:
    """The arrays with empty structures added."""
    missing = rows_for(len(atoms.species), batch_size) - len(atoms.species)
    for values in atoms:
        yield np.pad(values, [(0, missing)] + [(0, 0)] * (values.ndim - 1))


def rows_for(count: int, batch_size: int) -> int:
    """Returns the size that a batch is filled up to: a power of two, or the batch size, so that few are compiled."""
    return min(batch_size, 1 << (count - 1).bit_length())
