"""How fast is a whole data set explained, and what limits it: the device, the writer, or the reader?

    python benchmarks/bench_dataset.py [--network mnist svhn] [--items 512] [--rounds 3] [--json FILE]

For each network, in turns within one process: the compiled call alone, and the whole run into a store, at the batch
that `batch="auto"` chooses; their ratio, in wall time and in processor time, which depends less on what else runs; the
share of time without work for the device; bytes an item on disk; the compiled program's memory, and the largest
resident memory of the process. Then 1 to 8 forced devices and 1 to 3 processes, each in processes of their own, and
the writer alone, on maps of 28² and 224² (one process, shards as a run has them). Random images and untrained weights:
neither speed nor size of the maps of a trained network are promised, but the limits are. Before anything is timed the
store is compared with the explanation called directly. Compilation is not in the times.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import jaxclear
from benchmarks import timing
from jaxclear import models
from jaxclear.cpu_threads import threads_for
from jaxclear.dataset import ArraySource, explain_dataset
from jaxclear.dataset.encoding import Field
from jaxclear.dataset.program import Program, local_mesh
from jaxclear.dataset.store import Layout, Store, UnitRows, create
from jaxclear.dataset.units import default_unit

SPREADS = ((1, 1), (2, 1), (4, 1), (8, 1), (1, 2), (1, 3))
"""Forced devices and processes."""


def explanation(name: str, count: int) -> tuple[Any, Any, np.ndarray]:
    """Returns an explanation, its variables, and random images."""
    module, network = models.build(name)
    variables = module.init(jax.random.key(1), np.zeros((1, *network.input_shape), np.float32))
    images = np.random.default_rng(0).integers(0, 256, (count, *network.input_shape)).astype(np.uint8)
    return jaxclear.clear_map(module.apply, rule="guided"), variables, images


class Alone:
    """The compiled call by itself, results copied to the host."""

    def __init__(self, explain: Any, variables: Any, images: np.ndarray, batch: int) -> None:
        self._program = Program(explain, variables, local_mesh(None), batch)
        step = batch * self._program.devices
        self._parts = [
            [images[start + batch * k : start + batch * (k + 1)] for k in range(self._program.devices)]
            for start in range(0, len(images) - step + 1, step)
        ]
        self._items = step * len(self._parts)
        self._program.start(self._parts[0]).results()

    def __call__(self) -> tuple[float, float]:
        """Returns items a second, and processor seconds an item."""
        begun, started = time.process_time(), time.perf_counter()
        for parts in self._parts:
            self._program.start(parts).results()
        seconds = time.perf_counter() - started
        return self._items / seconds, (time.process_time() - begun) / self._items


def whole(
    explain: Any, variables: Any, images: np.ndarray, store: Path, rank: int = 0, world: int = 1
) -> dict[str, Any]:
    """Returns what a run into a store did after its first unit, which waited for the compiler."""
    events: list[tuple[float, float, dict[str, Any]]] = []
    log = lambda event: events.append((time.perf_counter(), time.process_time(), event))  # noqa: E731
    unit = max(1, len(images) // (8 * world))  # the rate is that between units
    done = explain_dataset(explain, variables, ArraySource(images), store, unit=unit, rank=rank, world=world, log=log)
    units = [(wall, busy, event["items"]) for wall, busy, event in events if event["event"] == "unit"]
    items = sum(count for *_, count in units[1:])
    return {
        "items": items,
        "items_per_second": items / (units[-1][0] - units[0][0]),
        "processor_seconds": (units[-1][1] - units[0][1]) / items,
        "batch": done.batch,
        "waiting": done.waiting,
        "program_bytes": next((event["bytes"] for *_, event in events if event["event"] == "batch"), None),
    }


def compared(name: str, count: int, rounds: int) -> dict[str, Any]:
    """Returns the run into a store beside the compiled call alone, in turns.

    Raises:
        RuntimeError: the store does not have what the explanation returns.
    """
    explain, variables, images = explanation(name, count)
    alone, rows = None, []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            found = whole(explain, variables, images, Path(folder) / "store")
            if alone is None:
                _agree(explain, variables, images, Path(folder) / "store")
                alone = Alone(explain, variables, images, found["batch"])
            found["bytes_an_item"] = (
                sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()) / count
            )
        rate, busy = alone()
        ratios = {"wall_ratio": found["items_per_second"] / rate, "processor_ratio": busy / found["processor_seconds"]}
        rows.append({**found, "alone_per_second": rate, "alone_processor_seconds": busy, **ratios})
    names = ("items_per_second", "alone_per_second", "wall_ratio", "processor_ratio", "waiting", "processor_seconds")
    medians = {what: statistics.median(row[what] for row in rows) for what in names}
    spread = {what: [min(row[what] for row in rows), max(row[what] for row in rows)] for what in names}
    kept = {what: rows[0][what] for what in ("batch", "program_bytes", "bytes_an_item")}
    return {"network": name, **kept, **medians, "spread": spread}


def _agree(explain: Any, variables: Any, images: np.ndarray, store: Path) -> None:
    direct = np.asarray(explain(variables, images[:4].astype(np.float32) / 255).dominant_response)
    found = jaxclear.open_store(store).clear_map(slice(0, 4)).dominant_response
    if not np.allclose(found, direct, atol=2e-3 * np.abs(direct).max()):
        raise RuntimeError("expected the store to have what the explanation returns")


def spread_out(name: str, count: int, devices: int, processes: int) -> dict[str, Any]:
    """Returns rate and largest resident memory of runs in processes of their own, all into one store."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    places = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "XLA_FLAGS": flags, "NPROC": str(threads_for(devices)), "PYTHONPATH": places}
    with tempfile.TemporaryDirectory() as folder:
        call = [sys.executable, __file__, "--network", name, "--items", str(count), "--into", f"{folder}/store"]
        running = [
            subprocess.Popen([*call, str(rank), str(processes)], env=environment, stdout=subprocess.PIPE, text=True)
            for rank in range(processes)
        ]
        found = [json.loads(process.communicate()[0]) for process in running]
    rate = sum(row["items_per_second"] for row in found)
    busy = sum(row["processor_seconds"] * row["items"] for row in found) / sum(row["items"] for row in found)
    memory = max(row["peak_resident_bytes"] for row in found)
    told = {"items_per_second": rate, "processor_seconds": busy, "peak_resident_bytes": memory}
    return {"devices": devices, "processes": processes, **told}


def peak_resident_bytes() -> int:
    """Returns the largest memory that this process had, where the system counts it in KiB."""
    import resource

    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def writer(side: int, count: int) -> dict[str, float]:
    """Returns items and bytes a second that are written and committed, sync to disk included."""
    maps = (side, side)
    fields = (
        Field("dominant_class", maps, "uint8", ("item", "y", "x")),
        Field("dominant_response", maps, "float16", ("item", "y", "x")),
        Field("class_scores", (10,), "float32", ("item", "class")),
    )
    unit = default_unit(10**7, [(field.shape, np.dtype(field.dtype).itemsize) for field in fields])
    layout = Layout(unit * max(1, count // unit), unit, fields)
    rng = np.random.default_rng(0)
    rows = {
        "dominant_class": np.repeat(rng.integers(0, 10, (unit, side // 4, side)), 4, axis=1).astype(np.uint8),
        "dominant_response": rng.normal(size=(unit, *maps)).astype(np.float16),
        "class_scores": rng.normal(size=(unit, 10)).astype(np.float32),
        "label": np.zeros(unit, np.int32),
        "valid": np.ones(unit, bool),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        create(path, layout, {"batch": 1})
        store = Store(path)
        started = time.perf_counter()
        for number in range(layout.units):
            store.write(UnitRows(number, rows, [str(k) for k in range(unit)], {}))
        seconds = time.perf_counter() - started
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return {"side": side, "unit": unit, "items_per_second": layout.items / seconds, "bytes_per_second": size / seconds}


def main() -> None:
    """Prints the tables, or writes one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", default=["mnist", "svhn"], choices=models.names())
    parser.add_argument("--items", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--into", nargs=3, metavar=("STORE", "RANK", "WORLD"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.into:
        store, rank, world = options.into
        found = whole(*explanation(options.network[0], options.items), Path(store), int(rank), int(world))
        print(json.dumps({**found, "peak_resident_bytes": peak_resident_bytes()}))
        return
    load = [os.getloadavg()[0]]
    runs = [compared(name, options.items, options.rounds) for name in options.network]
    memory = peak_resident_bytes()
    for run in runs:
        print(f"{run['network']}: {run['items_per_second']:.1f}/s into a store at batch {run['batch']}, ", end="")
        print(f"{run['alone_per_second']:.1f}/s alone: ratio {run['wall_ratio']:.2f} in wall time, ", end="")
        print(f"{run['processor_ratio']:.2f} in processor time; waiting {100 * run['waiting']:.1f} %; ", end="")
        print(f"{run['bytes_an_item']:.0f} bytes an item; program {(run['program_bytes'] or 0) / 2**20:.0f} MiB")
    print(f"largest resident memory {memory / 2**20:.0f} MiB")
    spreads = [spread_out(options.network[0], options.items, *how) for how in SPREADS]
    for row in spreads:
        print(f"{row['devices']} devices, {row['processes']} processes: {row['items_per_second']:.1f}/s, ", end="")
        print(f"{1000 * row['processor_seconds']:.1f} ms of processor an item, ", end="")
        print(f"at most {row['peak_resident_bytes'] / 2**20:.0f} MiB resident")
    writers = []
    for side, count in ((28, 16384), (224, 1024)):
        rounds = sorted((writer(side, count) for _ in range(3)), key=lambda row: row["items_per_second"])
        writers.append(
            {**rounds[1], "slowest": rounds[0]["items_per_second"], "fastest": rounds[2]["items_per_second"]}
        )
    for row in writers:
        rate, size = row["items_per_second"], row["bytes_per_second"] / 1e6
        print(f"writer alone at {row['side']}²: {rate:,.0f} items/s, {size:,.0f} MB/s, units of {row['unit']}", end="")
        print(f" (median of 3, {row['slowest']:,.0f} to {row['fastest']:,.0f})")
    if options.json:
        document = {"device": jax.devices()[0].device_kind, "devices": jax.local_device_count()}
        machine = {
            "machine": timing.machine(),
            "cores": os.cpu_count(),
            "load_at_start": load[0],
            "load_at_end": os.getloadavg()[0],
        }
        measured = {"runs": runs, "peak_resident_bytes": memory, "spread_out": spreads, "writer": writers}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({**document, **machine, **measured}, indent=1) + "\n")


if __name__ == "__main__":
    main()
