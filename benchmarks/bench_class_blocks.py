"""How many classes should be worked on at once? CLEAR maps of the crystal and mnist networks by block size.

    python benchmarks/bench_class_blocks.py [--batch 8 64] [--repeats 5] [--json]

Every block size is first compared with all classes at once (relative difference below 1e-4), then all are timed in
turn, round by round, on the whole result. Times are medians in milliseconds with the spread of the rounds; the ratio is
to all classes at once. Compile times stand apart. The mnist network is untrained: its speed does not depend on that.
"""

import argparse
import json
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

import jaxclear
from jaxclear import models


def measure(name: str, batch: int, repeats: int) -> list[dict[str, Any]]:
    """Returns one row for each block size.

    Raises:
        RuntimeError: a block size gives another map.
    """
    module, network = models.build(name)
    images = jax.random.uniform(jax.random.key(0), (batch, *network.input_shape))
    variables = module.init(jax.random.key(1), images[:1])
    count = len(network.class_names)
    compiled, compile_seconds, results = {}, {}, {}
    for block in sorted({1, 2, 4, count}):
        explain = jax.jit(jaxclear.clear_map(module.apply, rule="guided", class_block=block))
        started = time.perf_counter()
        compiled[block] = explain.lower(variables, images).compile()
        compile_seconds[block] = time.perf_counter() - started
        results[block] = jax.block_until_ready(compiled[block](variables, images))
    reference = results[count].dominant_response
    scale = float(jnp.abs(reference).max())
    for block, found in results.items():
        difference = float(jnp.abs(found.dominant_response - reference).max()) / scale
        if difference > 1e-4:
            raise RuntimeError(
                f"expected the same map from blocks of {block} classes, got a difference of {difference}"
            )
    times: dict[int, list[float]] = {block: [] for block in compiled}
    for _ in range(repeats):
        for block, explain in compiled.items():
            started = time.perf_counter()
            jax.block_until_ready(explain(variables, images))
            times[block].append(1e3 * (time.perf_counter() - started))
    whole = statistics.median(times[count])
    return [
        {
            "network": name,
            "batch": batch,
            "block": block,
            "median_ms": statistics.median(rounds),
            "spread_ms": max(rounds) - min(rounds),
            "ratio": statistics.median(rounds) / whole,
            "compile_s": compile_seconds[block],
            "temporary_mib": compiled[block].memory_analysis().temp_size_in_bytes / 2**20,
        }
        for block, rounds in times.items()
    ]


def main() -> None:
    """Prints the table, or one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [
        row for name in ("crystal", "mnist") for batch in options.batch for row in measure(name, batch, options.repeats)
    ]
    if options.json:
        print(json.dumps({"device": jax.devices()[0].device_kind, "jax": jax.__version__, "rows": rows}, indent=1))
        return
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}")
    heads = ("network", "batch", "block", "median ms", "spread", "ratio", "compile s", "MiB")
    print("{:8s} {:>5s} {:>5s} {:>10s} {:>8s} {:>6s} {:>9s} {:>7s}".format(*heads))
    for row in rows:
        print(
            f"{row['network']:8s} {row['batch']:5d} {row['block']:5d} {row['median_ms']:10.1f} {row['spread_ms']:8.1f} "
            f"{row['ratio']:6.2f} {row['compile_s']:9.2f} {row['temporary_mib']:7.0f}"
        )


if __name__ == "__main__":
    main()
