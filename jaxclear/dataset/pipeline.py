"""Reader, devices and writer at work at once, with a bounded number of parts and units between them."""

import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxclear.dataset.encoding import Field, masked
from jaxclear.dataset.loading import Groups, Part, UnitItems, items, parts
from jaxclear.dataset.program import Program, Running, Tell
from jaxclear.dataset.sources import Failure, Item, Source, signature
from jaxclear.dataset.store import Store, UnitRows
from jaxclear.dataset.units import unit_range
from jaxclear.worker_processes import TransientError

__all__ = ["ItemError", "Pipeline", "Totals"]

_AHEAD_PARTS = 2
"""Groups of parts, one part a device, that wait for the devices."""
_IN_FLIGHT = 2
_AHEAD_UNITS = 2
_NOT_FINITE = "the explanation of this item is not finite"


class ItemError(ValueError):
    """An item that could not be used, where the first one is to end the run."""


class Totals(NamedTuple):
    """What was done: units and items (failures included), failures, seconds, and the share of them without work."""

    units: int
    items: int
    failed: int
    seconds: float
    waiting: float


class _Stopped(Exception):
    """Another thread has failed."""


class _Channel:
    """A bounded queue whose two sides give up when the run stops."""

    def __init__(self, depth: int, stop: threading.Event) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(depth)
        self._stop = stop

    def put(self, value: Any) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(value, timeout=0.1)
            except queue.Full:
                continue
            return
        raise _Stopped

    def get(self) -> Any:
        while not self._stop.is_set():
            try:
                return self._queue.get(timeout=0.1)
            except queue.Empty:
                continue
        raise _Stopped

    def get_nowait(self) -> Any:
        return self._queue.get_nowait()


class Pipeline:
    """Explains units of a source into a store.

    Args:
        program: what works on a batch.
        source: where items come from.
        store: where results go.
        batch: items a part.
        fits: why items like this one cannot be explained, None where they can.
        workers: as `jaxclear.dataset.loading.items` takes them.
        fail_fast: whether the first failure ends the run.
        tell: called with "unit" after each commit.
    """

    def __init__(
        self,
        program: Program,
        source: Source,
        store: Store,
        *,
        batch: int,
        fits: Callable[[Any], str | None],
        workers: int | None,
        fail_fast: bool,
        tell: Tell,
    ) -> None:
        self._program, self._source, self._store = program, source, store
        self._batch, self._fits, self._workers, self._fail_fast = batch, fits, workers, fail_fast
        self._tell = tell
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._incoming = _Channel(_AHEAD_PARTS * program.devices, self._stop)
        self._outgoing = _Channel(_AHEAD_UNITS, self._stop)
        self._in_flight: deque[tuple[list[Part], Running]] = deque()
        self._open: dict[int, dict[str, np.ndarray]] = {}
        self._parts_done: dict[int, int] = {}
        self._ended: set[int] = set()
        self._started = 0.0
        self._waited = 0.0
        self._totals = Totals(0, 0, 0, 0.0, 0.0)

    def run(self, units: Sequence[int]) -> Totals:
        """Does these units; returns what was done.

        Raises:
            ItemError: with `fail_fast`, for the first item that cannot be used.
            TransientError: a unit could not be written, a reader was killed, a device failed.
        """
        self._started = time.perf_counter()
        threads = [
            threading.Thread(target=self._guarded, args=(work,), name=f"jaxclear-{name}")
            for name, work in (("reader", lambda: self._read(units)), ("writer", self._write))
        ]
        for thread in threads:
            thread.start()
        try:
            self._compute()
            self._outgoing.put(None)
            threads[1].join()
        except _Stopped:
            pass
        except jax.errors.JaxRuntimeError as error:
            raise TransientError(f"a device failed: {error}") from error
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
        if isinstance(self._error, OSError):
            raise TransientError(str(self._error)) from self._error
        if self._error is not None:
            raise self._error
        seconds = time.perf_counter() - self._started
        return self._totals._replace(seconds=seconds, waiting=self._waited / seconds)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except _Stopped:
            pass
        except BaseException as error:
            self._error = self._error or error
            self._stop.set()

    def _read(self, units: Sequence[int]) -> None:
        layout = self._store.layout
        ranges = {unit: unit_range(unit, layout.unit, layout.items) for unit in units}
        with items(self._source, itertools.chain.from_iterable(ranges.values()), self._workers) as found:
            for unit, members in ranges.items():
                wanted = self._checked(itertools.islice(found, len(members)))
                for piece in parts(wanted, unit, layout.unit, layout.items, self._batch):
                    self._incoming.put(piece)
        self._incoming.put(None)

    def _checked(self, found: Iterable[Item | Failure]) -> Iterator[Item | Failure]:
        """The items; those that do not fit have become failures."""
        reasons: dict[Any, str | None] = {}
        for item in found:
            reason = item.reason if isinstance(item, Failure) else None
            if isinstance(item, Item):
                kind = signature(item.value)
                if kind not in reasons:
                    reasons[kind] = self._fits(item.value)
                reason = reasons[kind] or self._unfit_extra(item)
            if reason is not None and self._fail_fast:
                raise ItemError(f"{item.id}: {reason}")
            yield item if reason is None else Failure(str(item.id), reason)

    def _unfit_extra(self, item: Item) -> str | None:
        fields = {field.name: field for field in self._store.layout.fields}
        for name, value in item.extra.items():
            field, array = fields.get(name), np.asarray(value)
            if field is None or array.shape != field.shape or not np.can_cast(array, field.dtype, "same_kind"):
                return f"expected {field}, got {name} of shape {array.shape} and {array.dtype}"
        return None

    def _compute(self) -> None:
        groups = Groups(self._program.devices)
        while (piece := self._next()) is not None:
            if isinstance(piece, Part):
                full = groups.add(piece)
            else:
                self._ended.add(piece.unit)
                self._finish(piece)
                full = groups.end(piece)
            for group in full:
                self._launch(group)
        for group in groups.rest():
            self._launch(group)
        while self._in_flight:
            self._collect()

    def _next(self) -> Part | UnitItems | None:
        """The next piece; results are collected while there is none."""
        while True:
            try:
                return self._incoming.get_nowait()
            except queue.Empty:
                pass
            if self._in_flight:
                self._collect()
                continue
            since = time.perf_counter()
            try:
                return self._incoming.get()
            finally:
                self._waited += time.perf_counter() - since

    def _launch(self, group: list[Part]) -> None:
        values = [part.value for part in group]
        values += [values[0]] * (self._program.devices - len(values))
        self._in_flight.append((group, self._program.start(values)))
        if len(self._in_flight) > _IN_FLIGHT:
            self._collect()

    def _collect(self) -> None:
        group, running = self._in_flight.popleft()
        for part, found in zip(group, running.results(), strict=False):
            target = self._rows(part.owner)
            for place, row in enumerate(part.rows):
                if not found["finite"][place]:
                    if self._fail_fast:
                        raise ItemError(f"{part.owner.ids[row]}: {_NOT_FINITE}")
                    part.owner.failures[row] = _NOT_FINITE
                    continue
                for name, values in found.items():
                    if name != "finite":
                        target[name][row] = values[place]
                for name, value in part.owner.extras.pop(row).items():
                    target[name][row] = value
                target["valid"][row] = True
            self._parts_done[part.owner.unit] = self._parts_done.get(part.owner.unit, 0) + 1
            self._finish(part.owner)

    def _rows(self, owner: UnitItems) -> dict[str, np.ndarray]:
        """The rows of a unit, masked until results come."""
        if owner.unit not in self._open:
            self._open[owner.unit] = {field.name: _empty(field, owner.count) for field in self._store.numeric}
        return self._open[owner.unit]

    def _finish(self, owner: UnitItems) -> None:
        """Hands a unit to the writer when all its parts are done."""
        if owner.unit not in self._ended or self._parts_done.get(owner.unit, 0) < (owner.parts or 0):
            return
        rows = self._rows(owner)
        rows["label"][:] = owner.labels
        del self._open[owner.unit]
        self._ended.remove(owner.unit)
        self._parts_done.pop(owner.unit, None)
        self._outgoing.put(UnitRows(owner.unit, rows, owner.ids, owner.failures))

    def _write(self) -> None:
        while (done := self._outgoing.get()) is not None:
            self._store.write(done)
            before = self._totals
            seconds = time.perf_counter() - self._started
            self._totals = Totals(
                before.units + 1,
                before.items + len(done.ids),
                before.failed + len(done.failures),
                seconds,
                self._waited / seconds,
            )
            self._tell("unit", unit=done.unit, failures=dict(done.failures), ids=done.ids, totals=self._totals)


def _empty(field: Field, count: int) -> np.ndarray:
    return np.full((count, *field.shape), masked(field), np.dtype(field.dtype))
