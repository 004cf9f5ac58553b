"""Items ahead of the device: read in order by the caller, by threads or by processes, grouped into parts of a unit.

A part is what one device works on at once. Its items depend on nothing but the unit and the batch: neither on the
number of devices nor on that of processes, so that the results do not either.
"""

import concurrent.futures
import contextlib
import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxclear.dataset.sources import Failure, Item, Source, read, signature
from jaxclear.dataset.units import unit_range
from jaxclear.worker_processes import cores, pool

__all__ = ["Groups", "Part", "UnitItems", "items", "parts"]

_CHUNK = 16
_MOST_THREADS = 8


@dataclass(kw_only=True)
class UnitItems:
    """What is known of a unit's items, filled in while they are read.

    Attributes:
        unit: its number.
        count: its items.
        ids: their names.
        labels: their labels.
        extras: what they bring along, by row.
        failures: reasons by row.
        parts: how many parts it has; None until all its items are read.
    """

    unit: int
    count: int
    ids: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    extras: dict[int, dict[str, Any]] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    parts: int | None = None


class Part(NamedTuple):
    """Items of one shape, stacked, (B, ...): fewer than B real ones are filled up with repetitions."""

    owner: UnitItems
    rows: list[int]
    value: Any


def parts(found: Iterable[Item | Failure], unit: int, size: int, total: int, batch: int) -> Iterator[Part | UnitItems]:
    """Yields the parts of a unit, and at its end the unit.

    Args:
        found: its items, in order.
        unit: its number.
        size: items a unit.
        total: items of the source.
        batch: items a part.
    """
    owner = UnitItems(unit=unit, count=len(unit_range(unit, size, total)))
    groups: dict[Any, list[tuple[int, Any]]] = {}
    number = 0
    for row, item in enumerate(found):
        owner.ids.append(str(item.id))
        owner.labels.append(item.label if isinstance(item, Item) else -1)
        if isinstance(item, Failure):
            owner.failures[row] = item.reason
            continue
        owner.extras[row] = {name: np.asarray(value) for name, value in item.extra.items()}
        group = groups.setdefault(signature(item.value), [])
        group.append((row, item.value))
        if len(group) == batch:
            number += 1
            yield _part(owner, group, batch)
            group.clear()
    for group in groups.values():
        if group:
            number += 1
            yield _part(owner, group, batch)
    owner.parts = number
    yield owner


def _part(owner: UnitItems, group: list[tuple[int, Any]], batch: int) -> Part:
    filled = list(itertools.islice(itertools.cycle([value for _, value in group]), batch))
    return Part(owner, [row for row, _ in group], jax.tree.map(lambda *leaves: np.stack(leaves), *filled))


class Groups:
    """Parts of one shape that are worked on together, one a device.

    A part waits until its group is full, or until a unit ends that had none of its shape. So shapes that alternate do
    not leave devices without work, and a rare one does not keep its unit open for long.
    """

    def __init__(self, devices: int) -> None:
        self._devices = devices
        self._waiting: dict[Any, list[Part]] = {}

    def add(self, part: Part) -> list[list[Part]]:
        """Takes a part; returns the groups that are to start."""
        kind = signature(part.value)
        group = self._waiting.setdefault(kind, [])
        group.append(part)
        return [self._waiting.pop(kind)] if len(group) == self._devices else []

    def end(self, owner: UnitItems) -> list[list[Part]]:
        """Takes note that a unit has no more parts; returns the groups that are to start."""
        late = [kind for kind, group in self._waiting.items() if group[-1].owner is not owner]
        return [self._waiting.pop(kind) for kind in late]

    def rest(self) -> list[list[Part]]:
        """Returns the groups that will not be full."""
        return list(self._waiting.values())


@contextlib.contextmanager
def items(source: Source, indices: Iterable[int], workers: int | None) -> Iterator[Iterator[Item | Failure]]:
    """Gives an iterator over items in order, read ahead by the workers that the source asks for.

    A source says by its attribute `reading` whether its items may be read by "threads" or "processes" at once; one that
    says nothing is read by one thread, data sets of Grain by several, as Grain reads them itself.

    Args:
        source: where from.
        indices: which.
        workers: how many threads or processes; by default as many as there are cores, threads at most 8.
    """
    of_grain = type(source).__module__.partition(".")[0] == "grain"
    kind = getattr(source, "reading", "threads" if of_grain else "serial")
    most = cores() if kind == "processes" else min(_MOST_THREADS, cores())
    number = most if workers is None else workers
    if kind == "serial" or number == 0:
        yield (read(source, index) for index in indices)
    elif kind == "threads":
        threads = concurrent.futures.ThreadPoolExecutor(number, "jaxclear-read")
        try:
            yield _ahead(threads, indices, 2 * number, source)
        finally:
            threads.shutdown(cancel_futures=True)
    elif kind == "processes":
        with pool(number, _adopt, source) as processes:
            yield _ahead(processes, indices, 3 * number, None)
    else:
        raise ValueError(f"expected source.reading as 'serial', 'threads' or 'processes', got {kind!r}")


def _ahead(
    executor: concurrent.futures.Executor, indices: Iterable[int], depth: int, source: Source | None
) -> Iterator[Item | Failure]:
    """Items in order, with a bounded number of chunks under way."""
    remaining = iter(indices)
    waiting: deque[concurrent.futures.Future[list[Item | Failure]]] = deque()
    try:
        while True:
            while len(waiting) < depth and (chunk := list(itertools.islice(remaining, _CHUNK))):
                waiting.append(executor.submit(_read_chunk, source, chunk))
            if not waiting:
                return
            yield from waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


_adopted: list[Source] = []
"""The source of a worker process, sent once instead of with every chunk."""


def _adopt(source: Source) -> None:
    _adopted[:] = [source]


def _read_chunk(source: Source | None, indices: list[int]) -> list[Item | Failure]:
    chosen = _adopted[0] if source is None else source
    return [read(chosen, index) for index in indices]
