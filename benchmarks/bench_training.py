"""How many training steps a second, against the same network in PyTorch?

    python benchmarks/bench_training.py [--quick] [--network mnist crystal] [--batch N] [--json]

The published `mnist` and `crystal` networks, float32, one batch of random images again and again, cross entropy, Adam
with a rate of 1e-3, the same initial weights in both bare steps. `fit` is `jaxclear.training.fit` itself, as a user
calls it: the time of its second epoch, in which nothing is compiled, as its history says. `jax step` is the bare
compiled step, written out; `torch` the same in PyTorch (`pip install 'jaxclear[bench]'`). Dropout is off in these two,
so that they can be compared: before anything is timed their losses must agree to 1e-4, and to 1e-2 after two steps.
`fit` trains with dropout where the network has it. `faster` is over torch (without torch: over the bare step),
`faster_cpu` the same by the processor's time.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import networks, timing
from jaxclear import models, training
from jaxclear.class_backprop import scores_of
from jaxclear.models.layers import ConvNet, Dense

COLUMNS = {
    **{"network": "s", "batch": "d", "contender": "s", "ms": ".1f", "spread": ".0%", "steps_s": ".2f"},
    **{"faster": ".2f", "faster_cpu": ".2f"},
}
RATE = 1e-3


class Example:
    """One network without dropout, its initial variables and one batch."""

    def __init__(self, name: str, batch: int):
        self.table = models.network(name)
        layers = [dataclasses.replace(x, dropout=0.0) if isinstance(x, Dense) else x for x in self.table.layers]
        self.module = ConvNet(layers=tuple(layers))
        rng = np.random.default_rng(0)
        self.images = rng.random((batch, *self.table.input_shape)).astype(np.float32)
        self.labels = rng.integers(0, len(self.table.class_names), batch)
        self.variables = self.module.init(jax.random.key(0), self.images[:1])

    def jax_step(self) -> Callable[[], Any]:
        """Returns a call that makes one step and returns the loss."""
        optimizer = optax.adam(RATE)
        images, labels = jnp.asarray(self.images), jnp.asarray(self.labels)
        statistics = {key: value for key, value in self.variables.items() if key != "params"}
        state = [self.variables["params"], statistics, optimizer.init(self.variables["params"])]

        @jax.jit
        def step(params: Any, statistics: Any, moments: Any, images: Any, labels: Any) -> Any:
            def loss_of(params: Any) -> Any:
                variables = {"params": params, **statistics}
                outputs: Any = self.module.apply(variables, images, train=True, mutable=list(statistics))
                losses = optax.softmax_cross_entropy_with_integer_labels(scores_of(outputs[0]), labels)
                return losses.mean(), outputs[1]

            (loss, changed), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
            updates, moments = optimizer.update(gradients, moments, params)
            return optax.apply_updates(params, updates), dict(changed), moments, loss

        def call() -> Any:
            *state[:], loss = step(*state, images, labels)
            return jax.block_until_ready(loss)

        return call

    def torch_step(self) -> Callable[[], Any]:
        """Returns the same in PyTorch."""
        import torch  # pyright: ignore[reportMissingImports]

        device = "cuda" if torch.cuda.is_available() else "cpu"
        layers = self.module.layers
        module = networks.torch_module(layers, networks.from_flax(layers, self.variables)).to(device).train()
        images = torch.from_numpy(np.array(self.images.transpose(0, 3, 1, 2), order="C")).to(device)
        labels = torch.from_numpy(self.labels).to(device)
        optimizer = torch.optim.Adam(module.parameters(), lr=RATE)

        def call() -> float:
            optimizer.zero_grad()
            outputs = module(images)
            logits = outputs.flatten(2).mean(2) if outputs.ndim > 2 else outputs
            loss = torch.nn.functional.cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()
            return float(loss.detach())

        return call

    def fit(self, steps: int) -> float:
        """Trains for two epochs of so many steps with the library's own loop; returns the seconds of the second."""
        config = training.TrainConfig(epochs=2, batch_size=len(self.images), learning_rate=RATE)
        images, labels = (np.concatenate([values] * steps) for values in (self.images, self.labels))
        found = training.fit(ConvNet(layers=self.table.layers), images, labels, config, progress=False)
        return found.history[1].seconds


def bench(name: str, batch: int, *, rounds: int, steps: int) -> list[timing.Row]:
    """Returns one row a contender.

    Raises:
        Disagreement: the losses of the first steps differ.
    """
    example = Example(name, batch)
    calls: dict[str, Callable[[], Any]] = {"jax step": example.jax_step()}
    try:
        calls["torch"] = example.torch_step()
    except ImportError as error:
        print(f"PyTorch is left out: {error}", file=sys.stderr)
    losses = {contender: [float(call()) for _ in range(3)] for contender, call in calls.items()}
    for contender, found in losses.items():
        # Adam's first steps are signs of the gradient, and rounding decides on those of gradients near zero.
        for steps_done, tolerance in enumerate((1e-4, 1e-2, 1e-2)):
            title = f"loss of {contender}, {name}, after {steps_done} steps"
            expected = losses["jax step"][steps_done]
            timing.assert_agreement(title, found[steps_done], expected, tolerance=tolerance)
    fits: list[float] = []
    times = timing.alternate({**calls, "fit": lambda: fits.append(example.fit(steps) / steps)}, rounds=rounds)
    low, median, high = np.percentile(fits[1:], [25, 50, 75]).tolist()  # the first one warmed up
    times["fit"] = timing.Timing(median, low, high, float("nan"), times["fit"].rounds)
    base = times.get("torch") or times["jax step"]
    return [
        {"network": name, "batch": batch, "contender": contender, "ms": 1e3 * took.median, "spread": took.spread}
        | {"steps_s": 1 / took.median, "rounds": took.rounds}
        | {"faster": base.median / took.median}
        | {"faster_cpu": None if contender == "fit" else base.processor / took.processor}
        for contender, took in times.items()
    ]


def measure(options: argparse.Namespace) -> Iterator[timing.Row]:
    """Yields the rows of the networks."""
    few = {"rounds": 3, "steps": 4} if options.quick else {"rounds": 7, "steps": 20}
    for name in options.network:
        batch = options.batch or {"mnist": 64}.get(name, 32)
        yield from bench(name, batch, **few)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what to measure."""
    parser.add_argument("--network", nargs="+", choices=("mnist", "svhn", "crystal"), default=("mnist", "crystal"))
    parser.add_argument("--batch", type=int, help="by default 32 for crystal, as published, and 64")


if __name__ == "__main__":
    timing.command(__doc__, measure, COLUMNS, add=add_options)
