"""Explaining a whole data set: every item of a source, over devices and processes, into a store that can be resumed."""

import functools
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxclear.dataset import manifest as manifests
from jaxclear.dataset.encoding import Field, check_extras, fields_of, one_item
from jaxclear.dataset.memory import choose_batch
from jaxclear.dataset.pipeline import Pipeline, Totals
from jaxclear.dataset.program import Program, describe, digest_of, local_mesh
from jaxclear.dataset.sources import Item, Source, identity, read, signature, source_of
from jaxclear.dataset.store import Layout, Store, create, replace
from jaxclear.dataset.units import Place, default_unit, place, units_of
from jaxclear.mesh_context import no_mesh

__all__ = ["DatasetRun", "explain_dataset"]

Log = Callable[[dict[str, Any]], None]
Explain = Callable[[Any, Any], Any]


class DatasetRun(NamedTuple):
    """What one process did.

    Attributes:
        items: explained in this run, failures included.
        failed: items of this process's units that could not be used, those of earlier runs included.
        units: done in this run.
        resumed: units of this process that were there already.
        missing: units of the whole store that are not there yet; other processes may be at work on them.
        seconds: of this run's work, compilation included.
        waiting: share of that time in which no work was under way on the devices, for lack of items.
        batch: items that a device worked on at once.
        devices: of this process.
    """

    items: int
    failed: int
    units: int
    resumed: int
    missing: int
    seconds: float
    waiting: float
    batch: int
    devices: int


class _Prepared(NamedTuple):
    """An open store, and what says whether items fit it."""

    store: Store
    fits: Callable[[Any], str | None]


@no_mesh()
def explain_dataset(
    explain: Explain,
    variables: Any,
    source: Source,
    out: str | os.PathLike[str],
    *,
    unit: int | str = "auto",
    batch: int | str = "auto",
    mesh: Mesh | None = None,
    rank: int | None = None,
    world: int | None = None,
    class_names: Sequence[str] = (),
    notes: Mapping[str, str] | None = None,
    value_names: Mapping[str, Sequence[str]] | None = None,
    recipe: Mapping[str, Any] | None = None,
    workers: int | None = None,
    fail_fast: bool = False,
    overwrite: bool = False,
    retry_failed: bool = False,
    log: Log | None = None,
) -> DatasetRun:
    """Explains every item of a source into a zarr store; started again, it goes on where it stopped.

    One process a host, no communication between them: each does its units of the items, on all its devices. A unit is
    there whole or not at all, whenever the process is killed. The arrays do not depend on the number of devices and
    processes, nor on where a run was interrupted. They may differ in the last bits between batch sizes, which is why a
    store keeps the one that it was begun with.

    Args:
        explain: `(variables, batch) -> result`, a pure function: `jaxclear.clear_map(...)`, or any that returns arrays
            (B, ...), also in tuples and mappings.
        variables: its variables.
        source: anything with `__len__` and `__getitem__`; see `jaxclear.dataset.Item` for what it may give. Arrays of
            images, or the pair (images, labels), will do. Images that are uint8 are divided by 255.
        out: folder of the store.
        unit: items that are written and committed at once; "auto" is 4,096 at most and less for large maps.
        batch: items a device works on at once; "auto" is what the device's memory and caches suggest.
        mesh: devices to use, of this process; all of its own by default.
        rank: number of this process, from 0; by default from the environment of Slurm or Kubernetes, from
            `jax.distributed` where that is initialised, or else 0.
        world: how many processes there are.
        class_names: kept in the store for its readers.
        notes: texts by name that tell model and rule apart, compared on resumption and shown where they differ.
        value_names: words for the numbers in an array of the result, by its name; kept in the store for its readers.
        recipe: how this call can be made again, kept for readers and not compared.
        workers: threads or processes that read ahead, where the source allows it.
        fail_fast: end at the first item that cannot be used, instead of recording it.
        overwrite: replace a store that was made from or with something else; one of the same is resumed all the same.
        retry_failed: do those units again that have failures.
        log: called with a dictionary at the start, after every unit and at the end; to Python's `logging` by default.

    Returns:
        What this process did.

    Raises:
        StoreError: `out` is a store of another model, rule, source or version; or no store and not empty.
        ItemError: with `fail_fast`.
        ValueError: an argument that is not as described, before anything is compiled.
        OSError: the store cannot be written, for example because the disk is full; during the work a
            `jaxclear.worker_processes.TransientError`, also for a reader that was killed and a device that failed.

    Example:
        >>> import jax.numpy as jnp, numpy as np, tempfile, jaxclear
        >>> mean = lambda weights, images: images.mean((1, 2)) @ weights
        >>> images = np.ones((5, 8, 8, 3), np.float32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     done = jaxclear.explain_dataset(mean, jnp.eye(3), images, folder, log=lambda event: None)
        >>> done.items, done.failed
        (5, 0)
    """
    where = _place(rank, world)
    _check_numbers(unit, batch, workers)
    if not callable(explain):
        raise ValueError(f"expected a function (variables, batch) -> result, got {type(explain).__name__}")
    source = source_of(source)
    tell = _Teller(where, log or _to_logging)
    program = Program(explain, variables, local_mesh(mesh), 1, tell)
    call = _Call(explain, variables, source, Path(out), unit, batch, program, dict(notes or {}), tell, {})
    values = {name: list(words) for name, words in (value_names or {}).items()}
    keep = {"class_names": list(class_names), "value_names": values, "recipe": dict(recipe or {})}
    store, fits = _prepare(call, keep, overwrite, retry_failed)
    layout, kept_batch = store.layout, store.manifest["batch"]
    own = units_of(where, layout.units)
    store.clean(own)
    if retry_failed:
        _withdraw_failed(store, own)
    there = store.committed()
    pending = [number for number in own if number not in there]
    tell.begin(store, pending, len(there), program)
    earlier = sum(len(store.marker(number)["failed"]) for number in own if number in there)
    options = {"batch": kept_batch, "fits": fits, "workers": workers, "fail_fast": fail_fast}
    pipeline = Pipeline(program, source, store, tell=tell, **options)
    totals = pipeline.run(pending) if pending else Totals(0, 0, 0, 0.0, 0.0)
    missing = layout.units - len(store.committed())
    resumed = len(own) - len(pending)
    done = DatasetRun(
        totals.items,
        earlier + totals.failed,
        totals.units,
        resumed,
        missing,
        totals.seconds,
        totals.waiting,
        program.batch,
        program.devices,
    )
    tell("end", **done._asdict())
    return done


def _check_numbers(unit: Any, batch: Any, workers: Any) -> None:
    for value, name, least, other in (
        (unit, "unit", 1, "auto"),
        (batch, "batch", 1, "auto"),
        (workers, "workers", 0, None),
    ):
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if value != other and not (whole and value >= least):
            raise ValueError(f"expected {name} as {other!r} or a whole number of at least {least}, got {value!r}")


def _place(rank: int | None, world: int | None) -> Place:
    """This process's place; where nobody tells it, that in an initialised `jax.distributed`."""
    where = place(rank, world)
    if where.told_by == "default" and jax.process_count() > 1:
        return Place(jax.process_index(), jax.process_count(), "jax.distributed")
    return where


class _Call(NamedTuple):
    """The arguments of a call that decide what is made."""

    explain: Explain
    variables: Any
    source: Source
    out: Path
    unit: int | str
    batch: int | str
    program: Program
    notes: dict[str, str]
    tell: "_Teller"
    described: dict[Any, dict[str, str]]
    """By batch and signature, so that a new store is not described twice."""


def _prepare(call: _Call, keep: dict[str, Any], overwrite: bool, retry_failed: bool) -> _Prepared:
    """The store, new or checked; the program gets its batch."""
    source_identity = identity(call.source)
    # A file that was mended has another content.
    ignored = ("source.sizes", "source.contents") if retry_failed else ()
    while True:
        if (call.out / "zarr.json").exists():
            store = Store(call.out)
            wanted = _wanted(call, store, source_identity)
            if not overwrite or not manifests.differences(store.manifest, wanted, ignored=ignored):
                manifests.check(store.manifest, wanted, call.out, ignored=ignored)
                if store.manifest["source"] != source_identity:
                    store.update({**store.manifest, "source": source_identity})
                break
            replace(call.out, functools.partial(_differs, call.out, wanted, ignored))
        layout, manifest = _new(call, keep, source_identity)
        create(call.out, layout, manifest)
    call.program.batch = store.manifest["batch"]
    return _Prepared(store, _fitting(call, store.layout.fields))


def _differs(out: Path, wanted: dict[str, Any], ignored: tuple[str, ...]) -> bool:
    return bool(manifests.differences(Store(out).manifest, wanted, ignored=ignored))


def _wanted(call: _Call, store: Store, source_identity: dict[str, Any]) -> dict[str, Any]:
    """The manifest that a store would have if it were begun now, at the stored one's batch and unit."""
    stored = store.manifest
    found = _first_item(call.source, stored["first"] or 0)
    unit = store.layout.unit if call.unit == "auto" else int(call.unit)
    batch = stored["batch"] if call.batch == "auto" else min(int(call.batch), unit, max(len(call.source), 1))
    return _identity(call, None if found is None else found[1], batch, unit, source_identity)


def _new(call: _Call, keep: dict[str, Any], source_identity: dict[str, Any]) -> tuple[Layout, dict[str, Any]]:
    """The layout and the manifest of a new store."""
    count = len(call.source)
    found = _first_item(call.source, 0)
    if found is None:
        unit = default_unit(count, []) if call.unit == "auto" else int(call.unit)
        batch = 1 if call.batch == "auto" else min(int(call.batch), unit, max(count, 1))
        wanted = _identity(call, None, batch, unit, source_identity)
        return Layout(count, unit, ()), {**wanted, **keep, "first": None}
    first, item = found
    rows = one_item(call.explain, call.variables, item.value)
    results = fields_of(rows)
    check_extras(item.extra, results)
    _check_names(keep["class_names"], results)
    fields = results + tuple(_extra_field(name, value) for name, value in item.extra.items())
    shapes = [(field.shape, np.dtype(field.dtype).itemsize) for field in fields]
    unit = default_unit(count, shapes) if call.unit == "auto" else int(call.unit)
    most = min(unit, count)
    batch = _chosen_batch(call, item, fields, most, unit) if call.batch == "auto" else min(int(call.batch), most)
    wanted = _identity(call, item, batch, unit, source_identity)
    return Layout(count, unit, fields), {**wanted, **keep, "first": first}


def _check_names(class_names: Sequence[str], fields: Sequence[Field]) -> None:
    classes = next((field.shape[0] for field in fields if field.name == "class_scores"), None)
    if class_names and classes is not None and len(class_names) != classes:
        raise ValueError(f"expected {classes} class names, one a class of the network, got {len(class_names)}")


def _chosen_batch(call: _Call, item: Item, fields: Sequence[Field], most: int, unit: int) -> int:
    leaves = jax.tree.leaves(item.value)
    pixels = max(
        [int(np.prod(leaf.shape[:-1])) for leaf in leaves]
        + [int(np.prod(field.shape)) for field in fields if field.name == "dominant_class"]
    )
    device = call.program.mesh.devices.flat[0]
    rows = unit * sum(int(np.prod(field.shape)) * np.dtype(field.dtype).itemsize for field in fields)
    batch = choose_batch(lambda size: call.program.memory(item.value, size), pixels, most, device, rows=rows)
    call.tell("batch", batch=batch, bytes=call.program.memory(item.value, batch), device=device.device_kind)
    return batch


def _identity(call: _Call, item: Item | None, batch: int, unit: int, source_identity: dict[str, Any]) -> dict[str, Any]:
    """What is compared with a store before it is resumed."""
    if item is None:
        described = {"variables": digest_of(call.variables)}
    else:
        key = batch, signature(item.value)
        if key not in call.described:
            call.described[key] = describe(call.explain, call.variables, item.value, batch)
        described = call.described[key]
    wanted = {
        "format": manifests.FORMAT,
        "versions": manifests.versions(),
        "platform": call.program.mesh.devices.flat[0].platform,
        "explanation": {**call.notes, **described},
        "source": source_identity,
        "batch": batch,
        "unit": unit,
    }
    return json.loads(json.dumps(wanted))


def _first_item(source: Source, start: int) -> tuple[int, Item] | None:
    """The first item from `start` on that can be read, and its index."""
    for index in (*range(start, len(source)), *range(start)):
        item = read(source, index)
        if isinstance(item, Item):
            return index, item
    return None


def _extra_field(name: str, value: Any) -> Field:
    array = np.asarray(value)
    return Field(name, array.shape, array.dtype.name, ("item", *(f"{name}_{k}" for k in range(array.ndim))))


def _fitting(call: _Call, fields: Sequence[Field]) -> Callable[[Any], str | None]:
    """A function that tells why an item like this one cannot be explained into these arrays."""
    wanted = {field.name: (field.shape, field.dtype) for field in fields}

    def fits(value: Any) -> str | None:
        try:
            found = fields_of(one_item(call.explain, call.variables, value))
        except Exception as error:  # whatever the network says to such an item
            return " ".join(f"{type(error).__name__}: {error}".split())[:300]
        for field in found:
            if wanted.get(field.name) != (field.shape, field.dtype):
                return f"expected {field.name} of {wanted.get(field.name)}, got {(field.shape, field.dtype)}"
        return None

    return fits


def _withdraw_failed(store: Store, own: Sequence[int]) -> None:
    there = store.committed()
    for number in own:
        if number in there and store.marker(number)["failed"]:
            store.withdraw(number)


class _Teller:
    """Turns what happens into dictionaries for the log, with progress over all runs."""

    def __init__(self, where: Place, log: Log) -> None:
        self._where, self._log = where, log
        self._pending_items = self._there = self._units = 0
        self._first: Totals | None = None

    def begin(self, store: Store, pending: Sequence[int], there: int, program: Program) -> None:
        layout = store.layout
        self._pending_items = sum(min(layout.unit, layout.items - unit * layout.unit) for unit in pending)
        self._there, self._units = there, layout.units
        self(
            "start",
            items=layout.items,
            units=layout.units,
            units_done=there,
            units_here=len(pending),
            unit=layout.unit,
            batch=store.manifest["batch"],
            devices=program.devices,
            told_by=self._where.told_by,
            store=str(store.path),
        )

    def __call__(self, event: str, **values: Any) -> None:
        if event == "unit":
            values = self._progress(**values)
        self._log({"event": event, "rank": self._where.rank, "world": self._where.world, **values})

    def _progress(self, unit: int, failures: dict[int, str], ids: Sequence[str], totals: Totals) -> dict[str, Any]:
        # The first unit had to wait for the compiler: it says nothing about the rate.
        first = self._first = self._first or totals
        since = Totals(0, 0, 0, 0.0, 0.0) if totals is first else first
        rate = (totals.items - since.items) / max(totals.seconds - since.seconds, 1e-9)
        return {
            "unit": unit,
            "items": len(ids),
            "failed": len(failures),
            "failures": [[ids[row], reason] for row, reason in sorted(failures.items())][:5],
            "units_done": self._there + totals.units,
            "units": self._units,
            "items_per_second": round(rate, 2),
            "seconds_left": round((self._pending_items - totals.items) / rate, 1),
            "waiting": round(totals.waiting, 4),
        }


def _to_logging(event: dict[str, Any]) -> None:
    logging.getLogger("jaxclear.dataset").info("%s", json.dumps(event, ensure_ascii=False))
