"""How fast are CLEAR maps of all classes, against every other way to make them, and against what the machine can do?

    python benchmarks/bench_clear.py [--quick | --full] [--network NAME …] [--batch N …] [--contenders NAME …]
        [--classes N] [--rule RULE] [--json]

Networks: the published `mnist`, `svhn` and `crystal`, and with 1,000 classes at 224² `vgg` (VGG-16) and `resnet`
(ResNet-18). Contenders, all with the same weights, all giving the dominant response and class of each pixel:

- jaxclear: `clear_map`, as it comes, on one device;
- jaxclear, all devices: the same, of variables and images that `jaxclear.place` put there; on a CPU this process has a
  device a core. Left out where there is one device only;
- obvious: what one writes first in JAX, `jit` of `vmap` over the classes of a `vjp`, with a ReLU of its own gradient;
- class loop: a compiled function of one class, called class by class;
- captum: `GuidedBackprop` or `Deconvolution`, class by class; zennit: the same composites; torch, one forward: a
  hand-written loop in PyTorch that keeps its forward pass. `pip install 'jaxclear[bench]'` brings these;
- forward: the network alone, no explanation; nobody can be faster.

Before anything is timed the responses must agree to 1e-4 of the largest, in at least 95 % of a batch's images, or of
the pixels of one image in a batch of few: `ties` counts the other images, where a pooling decides between values that
are equal but for rounding. Then all are timed in turn, with a product of large matrices (float32) among them. How to
read the table: `images_s` is images a second, all classes of each; `faster` how many times captum's rate (without
captum: the obvious one's, or else the class loop's); `share` the share of the matrix product's rate in the same rounds,
counting only the dense multiply-adds of one forward pass and one backward pass a class; `faster_cpu` and `share_cpu`
are the same by the time that this process had the processor, which others on the machine disturb less. They mean
nothing on a GPU; and on a busy machine PyTorch's threads spin while they wait for each other, so that no ratio to it
holds there unless all run on one core: `taskset -c 0 python benchmarks/bench_clear.py`. `changed` is the share of
pixels with another class than the obvious one's: near-ties by rounding (the library's own where the obvious one is left
out). What would not fit the memory is left out. On a CPU the big networks are timed with the first classes of the
1,000, as `classes` says, and with all of them by --full.
"""

import argparse
import functools
import pathlib
import sys
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jaxclear
from benchmarks import networks, timing, torch_peers
from benchmarks.counting import operations
from jaxclear.commands.terminal import processors_as_devices

TOLERANCE = 1e-4
EXCEPTIONS = 0.05
"""Share of a batch's images, or of the pixels of one alone, that may differ by more: where two values that a pooling or
a rectifier decides between are equal but for rounding, another order of sums decides otherwise."""
ALL_DEVICES = "jaxclear, all devices"
CONTENDERS = (ALL_DEVICES, "obvious", "class loop", *torch_peers.NAMES)
"""Who is timed beside the library on one device and the forward pass."""
BIG = ("vgg", "resnet")
COLUMNS = {
    **{"network": "s", "batch": "d", "classes": "d", "contender": "s", "ms": ".1f", "spread": ".0%"},
    **{"images_s": ".1f", "faster": ".2f", "faster_cpu": ".2f", "share": ".2f", "share_cpu": ".2f"},
    **{"compile_s": ".1f", "changed": ".0e", "ties": "d"},
}


def rectifier(rule: str) -> Callable[[jax.Array], jax.Array]:
    """Returns a ReLU that passes a response back by the rule, written out."""

    @jax.custom_vjp
    def relu(x: jax.Array) -> jax.Array:
        return jnp.maximum(x, 0)

    def backward(x: jax.Array, response: jax.Array) -> tuple[jax.Array]:
        positive = jnp.maximum(response, 0)
        return (jnp.where(x > 0, positive, 0) if rule == "guided" else positive,)

    relu.defvjp(lambda x: (jnp.maximum(x, 0), x), backward)
    return relu


def plain_explanations(network: networks.Network, rule: str, classes: Sequence[int]) -> dict[str, Callable[..., Any]]:
    """Returns the obvious contender, and the response of one class, as functions of parameters and images."""
    relu = rectifier(rule)
    ids = jnp.asarray(classes)

    def maps_and_pull(parameters: Any, images: jax.Array) -> tuple[jax.Array, Callable[[jax.Array], tuple[jax.Array]]]:
        return jax.vjp(lambda pixels: networks.forward(network.layers, parameters, pixels, relu=relu), images)

    def obvious(parameters: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        maps, pull = maps_and_pull(parameters, images)
        seeds = jax.nn.one_hot(ids, network.num_classes)
        responses = jax.vmap(lambda seed: pull(seed * jnp.maximum(maps, 0))[0])(seeds).sum(axis=-1)
        return responses.max(axis=0), ids[responses.argmax(axis=0)]

    def one_class(parameters: Any, images: jax.Array, number: jax.Array) -> jax.Array:
        maps, pull = maps_and_pull(parameters, images)
        return pull(jax.nn.one_hot(number, network.num_classes) * jnp.maximum(maps, 0))[0].sum(axis=-1)

    return {"obvious": obvious, "one class": one_class}


def class_loop(
    one_class: Callable[..., jax.Array], parameters: Any, images: jax.Array, classes: Sequence[int]
) -> Callable[[], Any]:
    """Returns a call that explains class by class and keeps a running maximum."""

    @jax.jit
    def larger(best: jax.Array, best_class: jax.Array, response: jax.Array, number: jax.Array) -> Any:
        better = response > best
        return jnp.where(better, response, best), jnp.where(better, number, best_class)

    def explain() -> tuple[jax.Array, jax.Array]:
        best = jnp.full(images.shape[:-1], -jnp.inf)
        best_class = jnp.zeros(images.shape[:-1], jnp.int32)
        for number in map(jnp.int32, classes):
            best, best_class = larger(best, best_class, one_class(parameters, images, number), number)
        return best, best_class

    return explain


def bench(
    name: str,
    batch: int,
    *,
    rule: str,
    most_classes: int | None,
    rounds: int,
    budget: float,
    chosen: Container[str] = CONTENDERS,
) -> list[timing.Row]:
    """Returns one row a contender: the library, those chosen, and the forward pass.

    Raises:
        Disagreement: two contenders give other responses.
    """
    network = networks.network(name)
    classes = list(range(min(network.num_classes, most_classes or network.num_classes)))
    images = jax.random.uniform(jax.random.key(0), (batch, *network.input_shape))
    calls, compile_seconds = _jax_contenders(network, images, rule, classes, chosen)
    calls |= _peers(network, images, rule, classes, chosen)
    changed, ties = _compare(name, calls)
    forward, compile_seconds["forward"] = timing.compiled(network.apply, network.variables, images)
    calls["forward"] = lambda: forward(network.variables, images)
    for call in (calls["forward"], timing.matrix_product):  # the others were called to compare them
        jax.block_until_ready(call())
    matrix_too = {**calls, timing.MATRIX: timing.matrix_product}
    times = timing.alternate(matrix_too, rounds=rounds, budget=budget, called_before=True)
    matrix = times.pop(timing.MATRIX)
    shape = jax.ShapeDtypeStruct(images.shape, images.dtype)
    alone = operations(network.apply, network.variables, shape).multiply_adds
    work = operations(plain_explanations(network, rule, classes)["obvious"], network.parameters, shape).multiply_adds
    slowest = next((times[other] for other in ("captum", "obvious", "class loop") if other in times), None)
    rows = []
    for contender, took in times.items():
        row: timing.Row = {"network": name, "batch": batch, "classes": len(classes), "rule": rule}
        row |= {"contender": contender, "ms": 1e3 * took.median, "spread": took.spread, "rounds": took.rounds}
        row |= {"images_s": batch / took.median}
        compared = slowest if contender != "forward" else None
        row |= {"faster": compared and compared.median / took.median}
        row |= {"faster_cpu": compared and compared.processor / took.processor}
        rows.append(row | _share(alone if contender == "forward" else work, took, matrix))
        rows[-1] |= {"compile_s": compile_seconds.get(contender)}
        rows[-1] |= {"changed": changed.get(contender), "ties": ties.get(contender)}
    return rows


def _share(multiply_adds: int, took: timing.Timing, matrix: timing.Timing) -> timing.Row:
    """The share of the matrix product's rate, and what it was made from."""
    rate, rate_cpu = timing.matrix_rate(matrix.median), timing.matrix_rate(matrix.processor)
    return {
        "share": multiply_adds / took.median / rate,
        "share_cpu": multiply_adds / took.processor / rate_cpu,
        "multiply_adds": multiply_adds,
        "matrix_gflops": 2e-9 * rate,
    }


def _compare(name: str, calls: dict[str, Callable[[], Any]]) -> tuple[dict[str, float], dict[str, int]]:
    """The share of pixels with another class than the reference's, and the items that differ, by contender.

    The reference is the obvious contender, or the library where that is left out. Each is called once.

    Raises:
        Disagreement: with the reference's responses.
    """
    found = {contender: jax.block_until_ready(call()) for contender, call in calls.items()}
    reference = found.get("obvious") or found["jaxclear"]
    changed, ties = {}, {}
    for contender, (response, dominant) in found.items():
        ties[contender] = timing.assert_most_agree(
            f"{contender}, {name}", response, reference[0], tolerance=TOLERANCE, exceptions=EXCEPTIONS
        )
        # Where nothing responds, the library alone says so with -1.
        shown = (np.asarray(dominant) != np.asarray(reference[1])) & (np.asarray(reference[0]) > 0)
        changed[contender] = float(shown.mean())
    return changed, ties


def _jax_contenders(
    network: networks.Network, images: jax.Array, rule: str, classes: Sequence[int], chosen: Container[str]
) -> tuple[dict[str, Callable[[], Any]], dict[str, float]]:
    """The calls of the library and of those chosen, and their compile times."""
    every = len(classes) == network.num_classes
    explain = jaxclear.clear_map(network.apply, rule=rule, classes=None if every else classes)
    ours, ours_seconds = timing.compiled(explain, network.variables, images)
    plain = plain_explanations(network, rule, classes)

    def jaxclear_map(program: Callable[..., Any], variables: Any, images: jax.Array) -> Any:
        clear = program(variables, images)
        return clear.dominant_response, clear.dominant_class

    calls: dict[str, Callable[[], Any]] = {"jaxclear": functools.partial(jaxclear_map, ours, network.variables, images)}
    seconds = {"jaxclear": ours_seconds}
    if "obvious" in chosen:
        obvious, obvious_seconds = timing.compiled(plain["obvious"], network.parameters, images)
        if timing.fits(obvious):
            calls["obvious"], seconds["obvious"] = lambda: obvious(network.parameters, images), obvious_seconds
        else:
            print(f"obvious is left out at batch {len(images)}: too big for the memory", file=sys.stderr)
    if "class loop" in chosen:
        one_class, seconds["class loop"] = timing.compiled(plain["one class"], network.parameters, images, jnp.int32(0))
        calls["class loop"] = class_loop(one_class, network.parameters, images, classes)
    if ALL_DEVICES in chosen and jax.local_device_count() > 1:
        calls[ALL_DEVICES] = functools.partial(jaxclear_map, explain, *jaxclear.place(network.variables, images))
    return calls, seconds


def _peers(
    network: networks.Network, images: jax.Array, rule: str, classes: Sequence[int], chosen: Container[str]
) -> dict[str, Callable[[], Any]]:
    """The calls of those chosen that PyTorch computes, where it is installed."""
    try:
        return torch_peers.Peers(network, np.asarray(images), rule=rule, classes=classes).contenders(chosen)
    except ImportError as error:
        print(f"PyTorch is left out: {error}", file=sys.stderr)
        return {}


def measure(options: argparse.Namespace) -> Iterator[timing.Row]:
    """Yields the rows of all networks and batches that were asked for, or that fit the machine."""
    accelerator = jax.default_backend() != "cpu"
    for name in options.network or (name for name in networks.NAMES if not (options.quick and name in BIG)):
        big = name in BIG
        batches = (1,) if big and not accelerator else (1, 8, 64, 512)
        if options.quick:
            batches = (1,) if big else (8,)
        elif options.full and big and not accelerator:
            batches = (1, 8)
        most = 4 if big and options.quick else 16 if big and not (options.full or accelerator) else None
        for batch in options.batch or batches:
            few = {"rounds": 3, "budget": 10.0} if options.quick else {"rounds": 9, "budget": 60.0}
            chosen, classes = options.contenders, options.classes or most
            yield from bench(name, batch, rule=options.rule, most_classes=classes, chosen=chosen, **few)
            print(f"{name}, batch {batch}: done", file=sys.stderr)
            jax.clear_caches()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what to measure."""
    parser.add_argument(
        "--full", action="store_true", help="the big networks on a CPU: batches of 8 too, and all of the 1,000 classes"
    )
    parser.add_argument("--network", nargs="+", choices=networks.NAMES)
    parser.add_argument("--batch", type=int, nargs="+")
    parser.add_argument(
        "--contenders",
        nargs="*",
        choices=CONTENDERS,
        default=CONTENDERS,
        metavar="NAME",
        help=f"compare with these only: {'; '.join(CONTENDERS)}",
    )
    parser.add_argument("--classes", type=int, metavar="N", help="explain the first N classes only")
    parser.add_argument("--rule", choices=("guided", "deconvnet"), default="guided")


if __name__ == "__main__":
    processors_as_devices(None)
    timing.command(__doc__, measure, COLUMNS, add=add_options)
