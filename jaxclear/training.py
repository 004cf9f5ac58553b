"""One train loop for every network of the package: Adam, cross entropy, a jitted step, resumable after each epoch.

Array contract: images NHWC in host memory, float32 in [0, 1] or uint8 (divided by 255 on the device); labels are class
numbers. Class maps `(B, H, W, K)` are averaged over space to logits, the global average pooling of the thesis.

All that is random follows from the seed and the step: the same seed gives the same weights on the same machine, and
a run that was stopped and resumed gives what it would have given in one go.
"""

import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int, Shaped

from jaxclear._progress import Progress
from jaxclear.inputs import as_floats
from jaxclear.models import weights
from jaxclear.responses import scores_of

__all__ = [
    "EpochRecord",
    "Evaluation",
    "TrainConfig",
    "TrainResult",
    "TrainingError",
    "evaluate",
    "fit",
    "predict",
]

Augment = Callable[[jax.Array, jax.Array], jax.Array]
_Batch = tuple[Any, Any, Any]  # images, labels, weights


class TrainingError(ValueError):
    """Training data or settings that do not fit, a checkpoint of another run, or a loss that is not finite."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train.

    Attributes:
        epochs: Passes over the images.
        batch_size: Images a step; the last batch of an epoch is filled up with images from its start.
        learning_rate: Adam's learning rate, at the start when it decays.
        decay: `"constant"`, or `"cosine"`: to zero over all the steps.
        label_smoothing: Share of the target spread evenly over the classes.
        seed: Initial weights, order of the images, dropout, augmentation.
        augment: `(key, images) -> images`, pure, compiled into the step.
    """

    epochs: int
    batch_size: int = 32
    learning_rate: float = 1e-3
    decay: str = "constant"
    label_smoothing: float = 0.0
    seed: int = 0
    augment: Augment | None = None

    def __post_init__(self) -> None:
        """Raises TrainingError for settings that no training can have."""
        if self.epochs < 1 or self.batch_size < 1:
            raise TrainingError(f"expected epochs and batch_size >= 1, got {self.epochs} and {self.batch_size}")
        if not self.learning_rate > 0:
            raise TrainingError(f"expected learning_rate > 0, got {self.learning_rate}")
        if self.decay not in ("constant", "cosine"):
            raise TrainingError(f"expected decay 'constant' or 'cosine', got {self.decay!r}")
        if not 0 <= self.label_smoothing < 1:
            raise TrainingError(f"expected label_smoothing in [0, 1), got {self.label_smoothing}")


class EpochRecord(NamedTuple):
    """One epoch: mean loss and accuracy over its steps, the same on the validation images, and its time in seconds."""

    epoch: int
    loss: float
    accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    seconds: float


class TrainResult(NamedTuple):
    """The trained variables, as `module.apply` takes them, and one record an epoch."""

    variables: dict[str, Any]
    history: tuple[EpochRecord, ...]


class Evaluation(NamedTuple):
    """How a network does on labelled images.

    Attributes:
        accuracy: Share of the images whose most probable class is the label.
        loss: Mean cross entropy, in nats.
        confusion: Counts, true class by predicted class.
        probabilities: Softmax of the logits, one row an image.
    """

    accuracy: float
    loss: float
    confusion: Int[np.ndarray, "K K"]
    probabilities: Float[np.ndarray, "N K"]


class _State(NamedTuple):
    """What a train step takes and gives back; its buffers are donated."""

    params: Any
    statistics: Any
    optimizer: Any
    step: Any


def fit(
    module: nn.Module,
    images: Shaped[np.ndarray, "N *spatial C"],
    labels: Shaped[np.ndarray, " N"],
    config: TrainConfig,
    *,
    sample_weights: Shaped[np.ndarray, " N"] | None = None,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> TrainResult:
    """The variables of a network trained on images, and the history of the training.

    Args:
        module: A Linen module whose `__call__` takes images and `train`, as `jaxclear.models.ConvNet`.
        images: float32 in [0, 1] or uint8, NHWC.
        labels: Class number of each image.
        config: Settings.
        sample_weights: Weight of each image's loss; only their ratios matter.
        validation: Images and labels to evaluate after each epoch.
        checkpoint: File that takes the whole state after each epoch. When it is there already, training goes on from
            it, and the result is that of an uninterrupted run.
        progress: Whether to report on standard error: a live line on a terminal, one line an epoch elsewhere.

    Returns:
        Variables and history.

    Raises:
        TrainingError: Shapes, dtypes or labels that do not fit, a checkpoint of another run, or a loss that is not
            finite.
        WeightsError: A checkpoint that is damaged, or of another network.
    """
    labels = _checked(images, labels)
    weight = _normalised(sample_weights, len(labels))
    batch = min(config.batch_size, len(labels))
    steps = -(-len(labels) // batch)
    optimizer = _optimizer(config, steps)
    state = _initial_state(module, images[:1], labels, config, optimizer)
    step = jax.jit(functools.partial(_step, module, optimizer, config), donate_argnums=0)
    fingerprint = _run_fingerprint(images, labels, weight, config)
    state, history = _resumed(checkpoint, state, fingerprint)
    report = Progress(config.epochs, steps, quiet=not progress)
    for epoch in range(len(history), config.epochs):
        started = time.perf_counter()
        order = np.random.default_rng((config.seed, epoch)).permutation(len(labels))
        batches = ((images[chosen], labels[chosen], weight[chosen]) for chosen in np.resize(order, (steps, batch)))
        state, loss, accuracy = _epoch(step, state, batches, functools.partial(report.step, epoch))
        checked = None if validation is None else evaluate(module.apply, _variables(state), *validation)
        validated = (None, None) if checked is None else (checked.loss, checked.accuracy)
        record = EpochRecord(epoch + 1, loss, accuracy, *validated, time.perf_counter() - started)
        history = (*history, record)
        report.epoch(epoch, loss, accuracy, record.validation_accuracy)
        if checkpoint is not None:
            _save_state(checkpoint, state, history, fingerprint)
    return TrainResult(_variables(state), history)


def predict(
    apply: Callable[..., Any],
    variables: Any,
    images: Shaped[np.ndarray, "N *spatial C"],
    *,
    batch_size: int = 64,
) -> Float[np.ndarray, "N K"]:
    """The class probabilities of images, in batches of one size, so that one program is compiled.

    Args:
        apply: The pure function `(variables, images) -> class maps or logits`.
        variables: Its variables.
        images: float32 in [0, 1] or uint8.
        batch_size: Images a call.

    Returns:
        Softmax of the logits.

    Raises:
        TrainingError: No images, or of another dtype.
    """
    _check_images(images)
    batch = min(batch_size, len(images))
    rows = []
    for start in range(0, len(images), batch):
        chosen = images[start : start + batch]
        padded = np.concatenate([chosen, np.repeat(chosen[-1:], batch - len(chosen), axis=0)])
        rows.append(np.asarray(_probabilities(apply, variables, padded))[: len(chosen)])
    return np.concatenate(rows)


def evaluate(
    apply: Callable[..., Any],
    variables: Any,
    images: Shaped[np.ndarray, "N *spatial C"],
    labels: Shaped[np.ndarray, " N"],
    *,
    batch_size: int = 64,
) -> Evaluation:
    """Accuracy, loss, confusion matrix and probabilities of a network on labelled images.

    Args:
        apply: The pure function `(variables, images) -> class maps or logits`.
        variables: Its variables.
        images: float32 in [0, 1] or uint8.
        labels: Class number of each image.
        batch_size: Images a call.

    Returns:
        The evaluation.

    Raises:
        TrainingError: Shapes, dtypes or labels that do not fit.
    """
    labels = _checked(images, labels)
    probabilities = predict(apply, variables, images, batch_size=batch_size)
    classes = probabilities.shape[1]
    _check_classes(labels, classes)
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    own = probabilities[np.arange(len(labels)), labels]
    return Evaluation(
        accuracy=float((predicted == labels).mean()),
        loss=float(-np.log(np.maximum(own, np.finfo(np.float32).tiny)).mean()),
        confusion=confusion,
        probabilities=probabilities,
    )


@functools.partial(jax.jit, static_argnums=0)
def _probabilities(apply: Callable[..., Any], variables: Any, images: jax.Array) -> jax.Array:
    return jax.nn.softmax(scores_of(apply(variables, as_floats(images))))


def _epoch(
    step: Callable[..., Any], state: _State, batches: Iterable[_Batch], report: Callable[[int, float, float], None]
) -> tuple[_State, float, float]:
    losses, hits, seen = [], 0, 0
    for number, batch in enumerate(batches, start=1):
        state, (loss, correct) = step(state, batch)
        losses.append(float(loss))
        hits, seen = hits + int(correct), seen + len(batch[1])
        if not np.isfinite(losses[-1]):
            raise TrainingError(f"expected a finite loss, got {losses[-1]} at step {number}: try a lower learning_rate")
        report(number, float(np.mean(losses[-100:])), hits / seen)
    return state, float(np.mean(losses)), hits / seen


def _step(
    module: nn.Module,
    optimizer: optax.GradientTransformation,
    config: TrainConfig,
    state: _State,
    batch: _Batch,
) -> tuple[_State, tuple[jax.Array, jax.Array]]:
    images, labels, weight = batch
    dropout, augmentation = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), state.step))
    images = as_floats(images)
    if config.augment is not None:
        images = config.augment(augmentation, images)

    def loss_of(params: Any) -> tuple[jax.Array, tuple[Any, jax.Array]]:
        outputs, updated = module.apply(
            {"params": params, **state.statistics},
            images,
            train=True,
            rngs={"dropout": dropout},
            mutable=list(state.statistics),
        )
        logits = scores_of(outputs)
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), config.label_smoothing)
        loss = (weight * optax.softmax_cross_entropy(logits, targets)).mean()
        return loss, (updated, (logits.argmax(-1) == labels).sum())

    (loss, (statistics, correct)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    return _State(params, dict(statistics), optimizer_state, state.step + 1), (loss, correct)


def _optimizer(config: TrainConfig, steps: int) -> optax.GradientTransformation:
    if config.decay == "cosine":
        return optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.epochs * steps))
    return optax.adam(config.learning_rate)


def _initial_state(
    module: nn.Module,
    image: np.ndarray,
    labels: np.ndarray,
    config: TrainConfig,
    optimizer: optax.GradientTransformation,
) -> _State:
    example = as_floats(image)
    variables = dict(jax.jit(module.init)(jax.random.key(config.seed), example))
    classes = jax.eval_shape(module.apply, variables, example).shape[-1]
    _check_classes(labels, classes)
    params = variables.pop("params")
    return _State(params, variables, optimizer.init(params), jnp.zeros((), jnp.int32))


def _variables(state: _State) -> dict[str, Any]:
    return {"params": state.params, **state.statistics}


def _check_images(images: np.ndarray) -> None:
    if images.ndim < 3 or len(images) == 0:
        raise TrainingError(f"expected images (N, *spatial, C) with N >= 1, got shape {images.shape}")
    if images.dtype not in (np.float32, np.uint8):
        raise TrainingError(f"expected images of dtype float32 or uint8, got {images.dtype}")


def _checked(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    _check_images(images)
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise TrainingError(f"expected {len(images)} whole class numbers as labels, got {labels.dtype}{labels.shape}")
    if labels.min() < 0:
        raise TrainingError(f"expected labels >= 0, got {labels.min()}")
    return labels.astype(np.int32)


def _check_classes(labels: np.ndarray, classes: int) -> None:
    if labels.max() >= classes:
        raise TrainingError(f"expected labels below the network's {classes} classes, got {labels.max()}")


def _normalised(sample_weights: np.ndarray | None, count: int) -> np.ndarray:
    if sample_weights is None:
        return np.ones(count, np.float32)
    weight = np.asarray(sample_weights, np.float64)
    if weight.shape != (count,) or not np.isfinite(weight).all() or weight.min() < 0 or weight.sum() == 0:
        raise TrainingError(f"expected {count} finite sample_weights >= 0, not all zero, got shape {weight.shape}")
    return (weight / weight.mean()).astype(np.float32)


def _run_fingerprint(images: np.ndarray, labels: np.ndarray, weight: np.ndarray, config: TrainConfig) -> str:
    # Epochs count only where the learning rate depends on them: a constant one may be trained for longer.
    ignored = {"augment", "epochs"} if config.decay == "constant" else {"augment"}
    settings = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in ignored}
    sums = [float(images.sum(dtype=np.float64)), int(labels.sum()), float(weight.sum()), list(images.shape)]
    return json.dumps([settings, sums], sort_keys=True)


def _save_state(
    checkpoint: str | os.PathLike[str], state: _State, history: tuple[EpochRecord, ...], fingerprint: str
) -> None:
    leaves = {f"{index:04d}": leaf for index, leaf in enumerate(jax.tree.leaves(state))}
    weights.save(checkpoint, {"state": leaves}, {"history": json.dumps(history), "run": fingerprint})


def _resumed(
    checkpoint: str | os.PathLike[str] | None, state: _State, fingerprint: str
) -> tuple[_State, tuple[EpochRecord, ...]]:
    if checkpoint is None or not Path(checkpoint).exists():
        return state, ()
    leaves, structure = jax.tree.flatten(state)
    named = {f"{index:04d}": leaf for index, leaf in enumerate(leaves)}
    saved = weights.load(checkpoint, {"state": named})
    if saved.metadata.get("run") != fingerprint:
        found = saved.metadata.get("run")
        raise TrainingError(
            f"expected a checkpoint of this run {fingerprint}, got {found} in {os.fspath(checkpoint)!r}"
        )
    state = jax.tree.unflatten(structure, [jnp.asarray(saved.variables["state"][name]) for name in named])
    return state, tuple(EpochRecord(*record) for record in json.loads(saved.metadata["history"]))
