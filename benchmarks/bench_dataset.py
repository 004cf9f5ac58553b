"""How fast is a whole data set explained, and what limits it: the device, the writer, or the reader?

    python benchmarks/bench_dataset.py [--network mnist svhn] [--items 512] [--json FILE]

For each network: the explanation alone at several batches (what `batch="auto"` chooses is marked), the whole run into a
store, its ratio to the explanation alone, the share of time without work for the device, bytes an item on disk; then
the writer alone, on maps of 28² and 224² (one process, shards as a run has them). Random images and untrained weights:
neither speed nor size of the maps of a trained network are promised, but the limits are. Before anything is timed the
store is compared with the explanation called directly.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxclear
from jaxclear import models
from jaxclear.dataset import ArraySource, explain_dataset
from jaxclear.dataset.encoding import Field
from jaxclear.dataset.program import Program, local_mesh
from jaxclear.dataset.store import Layout, Store, UnitRows, create
from jaxclear.dataset.units import default_unit

BATCHES = (1, 4, 8, 16, 64)


def alone(name: str, batches: tuple[int, ...], repeats: int) -> tuple[dict[int, float], Any, Any]:
    """Returns images a second by batch, the explanation and its variables."""
    module, network = models.build(name)
    variables = module.init(jax.random.key(1), np.zeros((1, *network.input_shape), np.float32))
    explain = jaxclear.clear_map(module.apply, rule="guided")
    rates = {}
    for batch in batches:
        program = Program(explain, variables, local_mesh(None), batch)
        images = np.random.default_rng(0).random((batch, *network.input_shape)).astype(np.float32)
        parts = [images] * program.devices
        program.start(parts).results()
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            program.start(parts).results()
            times.append(time.perf_counter() - started)
        rates[batch] = batch * program.devices / statistics.median(times)
    return rates, explain, variables


def whole(name: str, explain: Any, variables: Any, count: int) -> dict[str, Any]:
    """Returns the rate of a run into a store, without its compilation, and the bytes an item takes.

    Raises:
        RuntimeError: the store does not have what the explanation returns.
    """
    shape = models.network(name).input_shape
    images = np.random.default_rng(0).integers(0, 256, (count, *shape)).astype(np.uint8)
    events: list[tuple[float, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        log = lambda event: events.append((time.perf_counter(), event))  # noqa: E731
        done = explain_dataset(explain, variables, ArraySource(images), store, log=log)
        direct = np.asarray(explain(variables, images[:4].astype(np.float32) / 255).dominant_response)
        found = jaxclear.open_store(store).clear_map(slice(0, 4)).dominant_response
        if not np.allclose(found, direct, atol=2e-3 * np.abs(direct).max()):
            raise RuntimeError("expected the store to have what the explanation returns")
        size = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
    units = [(when, event["items"]) for when, event in events if event["event"] == "unit"]
    rate = sum(n for _, n in units[1:]) / (units[-1][0] - units[0][0]) if len(units) > 1 else float("nan")
    return {"items_per_second": rate, "batch": done.batch, "waiting": done.waiting, "bytes_an_item": size / count}


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
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    device = jax.devices()[0]
    load = os.getloadavg()[0]
    runs = []
    for name in options.network:
        rates, explain, variables = alone(name, BATCHES, options.repeats)
        found = whole(name, explain, variables, options.items)
        ratio = found["items_per_second"] / max(rates.values())
        runs.append({"network": name, "alone": rates, **found, "ratio_to_best_alone": ratio})
        print(f"{name}: alone " + "  ".join(f"{b}: {rate:.1f}/s" for b, rate in rates.items()))
        words = (
            f"  into a store {found['items_per_second']:.1f}/s at batch {found['batch']}, {ratio:.2f} of the best alone"
        )
        print(f"{words}; waiting {100 * found['waiting']:.1f} %; {found['bytes_an_item']:.0f} bytes an item")
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
        document = {"device": device.device_kind, "devices": jax.local_device_count(), "jax": jax.__version__}
        machine = {"cores": os.cpu_count(), "load_at_start": load}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({**document, **machine, "runs": runs, "writer": writers}, indent=1) + "\n")


if __name__ == "__main__":
    main()
