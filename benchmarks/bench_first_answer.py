"""How long until the first answer: importing the library, naming one file, the demonstration?

    python benchmarks/bench_first_answer.py [--quick] [--json]

Every round is a new process. `import jaxclear` is the time beyond importing jax and flax, measured inside, with what it
loaded that it should not (`loaded`, of ASE, pymatgen, TFDS, Matplotlib and so on: empty is right). `classify` is
`jaxclear classify FILE --json` on one CIF file of copper, from the start of Python to its end: cold, with an empty
cache of compiled programs, and warm, with the cache that the cold one filled, in turn. `demo` is `jaxclear demo`, cold.
`seconds` is the median, `cpu_s` that of the processor's time, which others on the machine disturb less.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import timing

COLUMNS = {"what": "s", "seconds": ".2f", "low": ".2f", "high": ".2f", "cpu_s": ".2f", "rounds": "d", "loaded": "s"}
HEAVY = ("ase", "pymatgen", "tensorflow_datasets", "matplotlib", "spglib", "gemmi", "PIL", "safetensors", "requests")
_ROOT = pathlib.Path(__file__).parents[1]
_IMPORT = f"""
import json, sys, time
import jax, flax, flax.linen
begun, busy = time.perf_counter(), time.process_time()
import jaxclear
took = time.perf_counter() - begun, time.process_time() - busy
print(json.dumps([*took, [name for name in {HEAVY!r} if name in sys.modules]]))
"""


def run(arguments: Sequence[str], **environment: str) -> tuple[float, float, str]:
    """Returns the seconds and the processor's seconds that a process took, and what it printed.

    Raises:
        RuntimeError: it failed.
    """
    inherited = {"PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])}
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command, settings = [sys.executable, *arguments], {**os.environ, **inherited, **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=settings, check=False)
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed: {done.stderr[-2000:]}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def importing(rounds: int) -> timing.Row:
    """Returns the row of `import jaxclear`."""
    found = [json.loads(run(["-c", _IMPORT])[2]) for _ in range(rounds + 1)][1:]  # the first one reads from the disk
    return _row("import jaxclear", [(seconds, busy) for seconds, busy, _ in found]) | {"loaded": ", ".join(found[0][2])}


def classifying(rounds: int) -> list[timing.Row]:
    """Returns the rows of `jaxclear classify`, cold and warm in turn."""
    from ase.build import bulk
    from ase.io import write

    times: Mapping[str, list[tuple[float, float]]] = {"cold": [], "warm": []}
    with tempfile.TemporaryDirectory() as folder:
        file = str(pathlib.Path(folder) / "copper.cif")
        write(file, bulk("Cu"))
        for number in range(rounds):
            cache = str(pathlib.Path(folder) / f"cache{number}")
            for state in times.values():
                command = ["-m", "jaxclear", "classify", file, "--json"]
                seconds, busy, printed = run(command, XDG_CACHE_HOME=cache)
                if "fcc" not in printed:
                    raise timing.Disagreement(f"expected copper to be named fcc, got {printed}")
                state.append((seconds, busy))
    return [_row(f"jaxclear classify, {name}", values) for name, values in times.items()]


def demonstration(rounds: int) -> timing.Row:
    """Returns the row of `jaxclear demo`."""
    times = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            command = ["-m", "jaxclear", "demo", "--out", str(pathlib.Path(folder) / "pictures")]
            times.append(run(command, XDG_CACHE_HOME=folder)[:2])
    return _row("jaxclear demo, cold", times)


def _row(what: str, times: Sequence[tuple[float, float]]) -> timing.Row:
    found = timing.summary(np.array(times))
    row = {"what": what, "seconds": found.median, "low": found.low, "high": found.high}
    return row | {"cpu_s": found.processor, "rounds": found.rounds}


def measure(options: argparse.Namespace) -> list[timing.Row]:
    """Returns the rows of all questions."""
    rounds = 2 if options.quick else 5
    return [importing(rounds), *classifying(rounds), demonstration(1 if options.quick else 3)]


if __name__ == "__main__":
    timing.command(__doc__, measure, COLUMNS)
