"""How fast does `jaxclear explain-dataset` work through 100,000 crystals, and how long does the device wait?

    python benchmarks/structures_dataset.py [--count 100000] [--minutes 20] [--data FILE.db] [--json FILE]

Writes an ASE data base of elemental crystals of the seven classes, every other one a supercell with a tenth of its
atoms missing and the others displaced, and runs the command on it, stopped by SIGINT when the time is over: what was
done then is reported, and the same call with the same --data goes on. Beside it the parts of the work alone, in seconds
of processor time an item, which depend less on what else the machine does: preparation on the host, and the compiled
call. Where the device is the processor both share the cores, and their sum is the least that is possible.
"""

import argparse
import json
import os
import signal
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

from benchmarks import timing
from jaxclear import crystals
from jaxclear.crystals import defects
from jaxclear.crystals.explain import shipped_model
from jaxclear.dataset import Item, StructureFiles, open_store, structure_explanation
from jaxclear.dataset.program import Program, local_mesh
from jaxclear.dataset.sources import read, signature

KINDS = 700
"""Different crystals; each comes again with other damage."""
ALONE = 96
UNIT = 128
"""Smaller than that of so many items by default, so that little is lost when the time is over."""


def write_structures(path: Path, count: int, seed: int = 0) -> None:
    """Adds structures to a data base until it has `count`."""
    import ase.db

    found = [crystals.to_ase(crystal) for crystal in crystals.members(min(KINDS, count), seed=seed).crystals]
    with ase.db.connect(path) as rows:  # pyright: ignore[reportGeneralTypeIssues]
        for number in range(len(rows), count):
            atoms = found[number % len(found)]
            if number % 2:
                atoms = atoms.repeat(max(1, round((128 / len(atoms)) ** (1 / 3))))
                damaged = defects.vacancies(atoms, 0.1, seed=number)
                atoms = defects.displacements(damaged, 0.05, seed=number)
            rows.write(atoms)


def alone(path: Path, batch: int) -> dict[str, float]:
    """Processor seconds an item: preparation, and the compiled call at a batch; and the call's items a second."""
    source = StructureFiles(path)
    read(source, 0)
    started = time.process_time()
    items = [item for item in (read(source, index) for index in range(ALONE)) if isinstance(item, Item)]
    preparing = (time.process_time() - started) / ALONE
    kind = signature(items[0].value)
    values = [item.value for item in items if signature(item.value) == kind]
    values = values[: len(values) // batch * batch]
    explain, variables = structure_explanation(shipped_model())
    program = Program(explain, variables, local_mesh(None), batch)
    parts = [
        jax.tree.map(lambda *leaves: np.stack(leaves), *values[start : start + batch])
        for start in range(0, len(values), batch)
    ]
    program.start(parts[:1]).results()
    begun, started = time.process_time(), time.perf_counter()
    for part in parts:
        program.start([part]).results()
    calling, seconds = (time.process_time() - begun) / len(values), time.perf_counter() - started
    return {"preparing": preparing, "calling": calling, "calls_per_second": len(values) / seconds}


def command(data: Path, store: Path, log: Path, minutes: float) -> dict[str, Any]:
    """Runs the command until it ends or the time is over; returns what it did after its first unit."""
    begun = os.times()
    call = [sys.executable, "-m", "jaxclear", "explain-dataset", str(data), str(store), "--model", "crystal"]
    call += ["--unit", str(UNIT)]
    with log.open("wb") as errors:
        process = subprocess.Popen([*call, "--log", str(log.with_suffix(".jsonl"))], stderr=errors, stdout=errors)
        try:
            process.wait(60 * minutes)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            process.wait()
    ended = os.times()
    events = [json.loads(line) for line in log.with_suffix(".jsonl").read_text().splitlines()]
    last_start = max(k for k, event in enumerate(events) if event["event"] == "start")
    units = [event for event in events[last_start:] if event["event"] == "unit"]
    if len(units) < 2:
        raise RuntimeError(f"expected two units or more in {minutes} minutes, got {len(units)}; see {log}")
    items, failed = (sum(event[what] for event in units) for what in ("items", "failed"))
    processor = ended.children_user + ended.children_system - begun.children_user - begun.children_system
    return {
        "exit_code": process.returncode,
        "items": items,
        "failed": failed,
        "items_per_second": units[-1]["items_per_second"],
        "waiting": units[-1]["waiting"],
        "processor_seconds_per_item": processor / items,
        "batch": events[last_start]["batch"],
        "devices": events[last_start]["devices"],
    }


def main() -> None:
    """Prints what was measured, or writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--data", type=Path, metavar="FILE", help="of the data base; kept, and its store beside it")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or Path(folder) / "structures.db"
        write_structures(data, options.count)
        load = [os.getloadavg()[0]]
        store = data.with_suffix(".store")
        done = command(data, store, data.with_suffix(".log"), options.minutes)
        load.append(os.getloadavg()[0])
        parts = alone(data, done["batch"])
        found = open_store(store)
        verdicts = {word: len(found.index(verdict=word)) for word in found.value_names["verdict"]}
    least = parts["preparing"] + parts["calling"]
    document = {
        "structures": options.count,
        "done": done,
        "verdicts_in_store": verdicts,
        "alone": parts,
        "least_processor_seconds_per_item": least,
        "processor_ratio": least / done["processor_seconds_per_item"],
        "hours_for_100_000": 1e5 / done["items_per_second"] / 3600,
        "mean_load": statistics.mean(load),
        "machine": timing.machine(),
    }
    text = json.dumps(document, indent=1)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
