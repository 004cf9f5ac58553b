"""What do numbers of 16 bits do to a CLEAR map, and what do they save?

    python benchmarks/bench_bfloat16.py [--quick] [--json]

The shipped crystal network on real crystals: the 71 of `jaxclear demo`, atoms displaced by σ = 0.06 Å. Weights and
fingerprints in float32, bfloat16 and float16; convolutions of the latter two are summed as the device sums them (XLA on
a CPU computes in float32 and rounds each layer's result).

Against float32: `classes` is the share of crystals that another class is given, `pixels` the share of pixels that
change their dominant class, `responding` the same among those where float32's dominant response is above 1 % of its
maximum over the image, `difference` that of the dominant responses, relative (2-norm). `ratio` is the time to
float32's: below 1 is faster.
"""

import argparse
import pathlib
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jaxclear
from benchmarks import timing
from jaxclear import models
from jaxclear.commands.demo import elements
from jaxclear.crystals.defects import displacements
from jaxclear.crystals.explain import explain_clusters

COLUMNS = {
    **{"rule": "s", "numbers": "s", "ms": ".1f", "spread": ".0%", "ratio": ".2f"},
    **{"classes": ".1%", "pixels": ".2%", "responding": ".2%", "difference": ".1%"},
}
NUMBERS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


def fingerprints(count: int) -> Float[np.ndarray, "B 64 64 3"]:
    """Returns the fingerprints of the first crystals of the demonstration, damaged."""
    clusters = [displacements(sample.cluster, 0.06, seed=k) for k, sample in enumerate(elements()[:count])]
    return explain_clusters(clusters).fingerprint


def changes(found: jaxclear.ClearMap, expected: jaxclear.ClearMap) -> dict[str, float]:
    """Returns what is different between two maps of the same images."""
    responses = [np.asarray(each.dominant_response, np.float64) for each in (found, expected)]
    other = np.asarray(found.dominant_class != expected.dominant_class)
    responding = responses[1] > 0.01 * responses[1].max(axis=(1, 2), keepdims=True)
    named = [np.asarray(each.class_scores.argmax(axis=-1)) for each in (found, expected)]
    return {
        "classes": float((named[0] != named[1]).mean()),
        "pixels": float(other.mean()),
        "responding": float(other[responding].mean()),
        "difference": float(np.linalg.norm(responses[0] - responses[1]) / np.linalg.norm(responses[1])),
    }


def bench(rule: str, images: Array, *, rounds: int) -> list[timing.Row]:
    """Returns one row a kind of numbers."""
    model = models.load("crystal")
    explain = jaxclear.clear_map(model.apply, rule=rule)
    inputs = {
        name: jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), (model.variables, images))
        for name, dtype in NUMBERS.items()
    }
    maps = {name: explain(*given) for name, given in inputs.items()}
    times = timing.alternate({name: lambda g=given: explain(*g) for name, given in inputs.items()}, rounds=rounds)
    return [
        {
            "rule": rule,
            "numbers": name,
            "ms": 1e3 * took.median,
            "spread": took.spread,
            "ratio": took.median / times["float32"].median,
            **changes(maps[name], maps["float32"]),
        }
        for name, took in times.items()
    ]


def measure(options: argparse.Namespace) -> Iterator[timing.Row]:
    """Yields the rows of both rules."""
    images = jnp.asarray(fingerprints(8 if options.quick else 71))
    rounds = 2 if options.quick else 5
    for rule in ("guided", "deconvnet"):
        yield from bench(rule, images, rounds=rounds)


if __name__ == "__main__":
    timing.command(__doc__, measure, COLUMNS)
