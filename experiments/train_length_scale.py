"""The length scale of damaged crystals: a perceptron from pair distances to the undamaged nearest-neighbour distance.

Source: this project's; the published protocol divides by the mean distance of the damaged structure's nearest
    neighbours, which is wrong by a quarter at displacements of 0.2 d_nn.
Command: python -m experiments.train_length_scale STRUCTURES [--workdir DIR] [--ship]
    STRUCTURES is a folder, an archive or a file of crystal structures; spglib labels them. With --ship the weights and
    the results go into the package and into experiments/results/.
Run time: 6 minutes on 2 busy CPU cores for 9,313 POSCAR files.
Published: nothing to compare with.
Own figure: experiments/results/train_length_scale.json, on elements kept out of training.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from experiments.crystal_study import Labelled, batches, equal_counts, evenly, labelled, piece, random_damage, roles
from experiments.records import command, provenance
from jaxclear import models
from jaxclear.crystals.cells import PaddedAtoms
from jaxclear.crystals.defect_kernels import count_of, displace, remove
from jaxclear.crystals.scale import NUM_FEATURES, ScaleNetwork, pair_features
from jaxclear.models import weights

PACKAGE_WEIGHTS = pathlib.Path(models.__file__).parent / "data" / "length_scale.safetensors"
RESULTS = pathlib.Path(__file__).parent / "results" / "train_length_scale.json"
COLUMNS = {
    "pristine": (0.0, 0.0),
    "sigma 0.05 d_nn": (0.05, 0.0),
    "sigma 0.1 d_nn": (0.1, 0.0),
    "sigma 0.15 d_nn": (0.15, 0.0),
    "sigma 0.2 d_nn": (0.2, 0.0),
    "vacancies 25 %": (0.0, 0.25),
    "vacancies 60 %": (0.0, 0.6),
    "vacancies 80 %": (0.0, 0.8),
    "sigma 0.1 d_nn, vacancies 25 %": (0.1, 0.25),
}
"""Standard deviation of the displacements in d_nn, and share of vacancies."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of one run.

    Attributes:
        source: folder, archive or file of structures.
        examples: damaged structures to train on, as many of each class.
        tested: damaged structures a column.
        steps: of Adam, with a learning rate that falls to zero along a cosine.
        batch_size: examples a step.
        learning_rate: at the start.
        seed: of the damage, the weights and the order.
    """

    source: str
    examples: int = 42_000
    tested: int = 1_050
    steps: int = 20_000
    batch_size: int = 256
    learning_rate: float = 2e-3
    seed: int = 0


def smoke_config(source: str) -> Config:
    """Returns settings that run in seconds on a handful of structures."""
    return Config(source=source, examples=70, tested=14, steps=20, batch_size=16)


def run(config: Config, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains, evaluates, and returns the results, written to `workdir` beside the weights.

    Raises:
        DatasetError: the source holds no usable structures.
    """
    made_by = provenance()
    workdir.mkdir(parents=True, exist_ok=True)
    study = labelled(config.source)
    parts = roles(study.dataset)
    features, target = _examples(study, parts.training, config.examples, config.seed, random_damage)
    variables = _fit(features, target, config)
    test = parts.test[~study.dataset.near_degenerate[parts.test]]
    figures = {}
    for number, (name, (sigma, missing)) in enumerate(COLUMNS.items(), start=1):
        seed = config.seed + number
        tested, truth = _examples(study, test, config.tested, seed, _of_column, sigma, missing)
        figures[name] = {
            "mean of nearest neighbours": _errors(-truth),
            "scale network": _errors(np.asarray(ScaleNetwork().apply(variables, tested)) - truth),
        }
    results = {
        "experiment": "train_length_scale",
        "config": dataclasses.asdict(config) | {"source": pathlib.Path(config.source).name},
        "relative_error_percent": figures,
        **made_by,
    }
    summary = {"command": "python -m experiments.train_length_scale STRUCTURES", "commit": results["commit"]}
    results["weights_sha256"] = weights.save(
        workdir / PACKAGE_WEIGHTS.name, variables, {"training": json.dumps(summary)}
    )
    (workdir / RESULTS.name).write_text(json.dumps(results, indent=1) + "\n")
    return results


def _of_column(
    key: Key[Array, ""], atoms: PaddedAtoms, species: Array, sigma: Float[Array, ""], missing: Float[Array, ""]
) -> PaddedAtoms:
    """The damage of one column of the results."""
    first, second = jax.random.split(key)
    return remove(second, displace(first, atoms, sigma), count_of(atoms, missing))


@functools.partial(jax.jit, static_argnames="damage")
def _measured(
    keys: Key[Array, " n"], atoms: PaddedAtoms, amounts: tuple[float, ...], *, damage: Any
) -> tuple[Float[Array, "n F"], Float[Array, " n"]]:
    """Features of structures after `damage`, and the means of their nearest-neighbour distances."""

    def one(pair: Any) -> Any:
        damaged = damage(*pair, jnp.arange(1, 99), *amounts)
        return pair_features(damaged.positions, damaged.occupancies)

    return jax.lax.map(one, (keys, atoms))


def _examples(
    study: Labelled, rows: Int[np.ndarray, " n"], count: int, seed: int, damage: Any, *amounts: float
) -> tuple[Float[np.ndarray, "count features"], Float[np.ndarray, " count"]]:
    """Features and targets of structures drawn equally from the classes, each damaged on its own."""
    rng = np.random.default_rng(seed)
    drawn = evenly(study, rows, equal_counts(count), rng)
    features, targets = np.zeros((len(drawn), NUM_FEATURES), np.float32), np.zeros(len(drawn), np.float32)
    order: list[int] = []
    for made, keys, atoms in batches([piece(study, row, rng) for row in drawn.tolist()], seed=seed):
        found, mean = _measured(keys, atoms, amounts, damage=damage)
        features[made], targets[made] = np.asarray(found), -np.log(np.asarray(mean))
        order += made.tolist()
    by_size = list(dict.fromkeys(order))
    return features[by_size], targets[by_size]


def _fit(features: Float[np.ndarray, "N F"], target: Float[np.ndarray, " N"], config: Config) -> Any:
    """Trained variables, standardisation included."""
    network = ScaleNetwork()
    variables = dict(network.init(jax.random.key(config.seed), features[:1]))
    variables["standardisation"] = {"mean": features.mean(axis=0), "deviation": features.std(axis=0) + 1e-6}
    params, still = variables["params"], {"standardisation": variables["standardisation"]}
    optimizer = optax.adamw(optax.cosine_decay_schedule(config.learning_rate, config.steps), weight_decay=1e-3)

    def loss(params: Any, features: jax.Array, target: jax.Array) -> jax.Array:
        predicted = jnp.asarray(network.apply({"params": params, **still}, features))
        return optax.losses.huber_loss(predicted, target, delta=0.05).mean()

    @jax.jit
    def step(params: Any, state: Any, features: jax.Array, target: jax.Array) -> tuple[Any, Any]:
        updates, state = optimizer.update(jax.grad(loss)(params, features, target), state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    rng = np.random.default_rng(config.seed)
    for _ in range(config.steps):
        chosen = rng.integers(0, len(features), config.batch_size)
        params, state = step(params, state, features[chosen], target[chosen])
    return {"params": params, **still}


def _errors(logarithms: Float[np.ndarray, " n"]) -> dict[str, float]:
    """Bias, median and 95th percentile of the size of relative errors, in percent."""
    relative = 100 * np.expm1(logarithms)
    return {
        "mean": round(float(relative.mean()), 3),
        "median_size": round(float(np.median(np.abs(relative))), 3),
        "95th_percentile": round(float(np.percentile(np.abs(relative), 95)), 3),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment from the command line."""
    ship = {PACKAGE_WEIGHTS.name: PACKAGE_WEIGHTS, RESULTS.name: RESULTS}
    results = command(
        "train_length_scale", __doc__, arguments, lambda source, workdir: run(Config(source=source), workdir), ship
    )
    for name, figures in results["relative_error_percent"].items():
        print(name, *(f"{method}: {errors}" for method, errors in figures.items()), sep="\n  ")


if __name__ == "__main__":
    main()
