"""How much memory does a CLEAR map take, against the number of classes, the batch and the side of the image?

    python benchmarks/bench_memory.py [--quick] [--json]

Each point is a process of its own that compiles one program for a small network (four 3x3 convolutions of 32 channels,
a max-pooling after the second) and calls it once: `jaxclear`, or `obvious`, the `vmap` over the classes of a `vjp`.
`program_mib` is what the compiled program takes beside its arguments and results, as XLA says; `process_mib` the
largest resident size of the process after the call less that before it was compiled, so it counts the compiler too. One
of classes, batch and side is varied at a time. To read: down a column of classes, `jaxclear` should not grow.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jaxclear
from benchmarks import networks, timing
from benchmarks.bench_clear import plain_explanations
from jaxclear.models.layers import Conv, MaxPool

COLUMNS = {
    **{"varied": "s", "classes": "d", "batch": "d", "side": "d", "contender": "s"},
    **{"program_mib": ".1f", "process_mib": ".0f"},
}
CONTENDERS = ("jaxclear", "obvious")


def point(contender: str, classes: int, batch: int, side: int) -> dict[str, float]:
    """Returns the two peaks of one program, measured in this process."""
    layers = (Conv(3, 32), Conv(3, 32), MaxPool(2, 2), Conv(3, 32), Conv(3, 32), Conv(1, classes))
    network = networks.from_layers(layers, (side, side, 3))
    images = jnp.zeros((batch, side, side, 3)) + 0.5
    if contender == "jaxclear":
        explain: Any = jaxclear.clear_map(network.apply, rule="guided")
    else:
        explain = plain_explanations(network, "guided", range(classes))["obvious"]
    before = _resident()
    program, _ = timing.compiled(explain, network.variables, images)
    jax.block_until_ready(program(network.variables, images))
    return {
        "program_mib": program.memory_analysis().temp_size_in_bytes / 2**20,
        "process_mib": _resident() - before,
    }


def _resident() -> float:
    """The largest resident size of this process so far, MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def points(quick: bool) -> list[timing.Row]:
    """Returns what is varied, and to which numbers."""
    usual = {"classes": 10, "batch": 4, "side": 32}
    sweeps = {"classes": (2, 10, 100, 1000), "batch": (1, 4, 16, 64), "side": (16, 32, 64, 128)}
    if quick:
        sweeps = {key: values[1:3] for key, values in sweeps.items()}
    return [{"varied": key, **usual, key: value} for key, values in sweeps.items() for value in values]


def measure(options: argparse.Namespace) -> list[timing.Row]:
    """Returns one row a point and contender."""
    rows = []
    for place in points(options.quick):
        for contender in CONTENDERS:
            sizes = [str(place[key]) for key in ("classes", "batch", "side")]
            command = [sys.executable, __file__, "--point", contender, *sizes]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
            rows.append({**place, "contender": contender, **json.loads(done.stdout)})
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--point"]:
        print(json.dumps(point(sys.argv[2], *map(int, sys.argv[3:]))))
    else:
        timing.command(__doc__, measure, COLUMNS)
