"""One train loop for every network of the package: cross entropy, a jitted step, resumable after any kill.

Array contract: images NHWC in host memory, float32 in [0, 1] or uint8 (divided by 255 on the device); labels are class
numbers. Class maps `(B, H, W, K)` are averaged over space to logits, the global average pooling of the thesis.

All that is random follows from the seed and the step: the same seed gives the same weights on the same machine, and
a run that was stopped and resumed gives what it would have given in one go.
"""

import contextlib
import dataclasses
import functools
import json
import os
import re
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Shaped

from jaxclear._progress import Progress
from jaxclear.checkpoints import Checkpoints
from jaxclear.evaluation import Evaluation, TrainingError, checked_labels, evaluate, predict
from jaxclear.training_step import Batch, State, TrainConfig, start

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

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
"""Of a function among a network's settings, another in each process."""


class EpochRecord(NamedTuple):
    """One epoch: mean loss and accuracy over its steps, the same on the validation images, and its time in seconds.

    `made_by` is what `fit` was told of the code that ended it.
    """

    epoch: int
    loss: float
    accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    seconds: float
    made_by: str | None = None


class TrainResult(NamedTuple):
    """The trained variables, as `module.apply` takes them, and one record an epoch."""

    variables: dict[str, Any]
    history: tuple[EpochRecord, ...]


_History = tuple[EpochRecord, ...]


class _Sofar(NamedTuple):
    """What the current epoch has seen: the loss of each step, right answers, images, and seconds."""

    losses: list[float]
    hits: int = 0
    seen: int = 0
    seconds: float = 0.0


def fit(
    module: nn.Module,
    images: Shaped[np.ndarray, "N *spatial C"],
    labels: Shaped[np.ndarray, " N"],
    config: TrainConfig,
    *,
    sample_weights: Shaped[np.ndarray, " N"] | None = None,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_steps: int | Collection[int] | None = None,
    keep_checkpoints: bool = False,
    made_by: str | None = None,
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
        checkpoint: Folder that takes the whole state after each epoch. When one is there already, training goes on
            from it, and the result is that of an uninterrupted run, wherever it was killed.
        checkpoint_steps: Save also after every so many steps, or after these steps, counted from the training's start.
        keep_checkpoints: Whether older states stay, from the initial one on; `jaxclear.checkpoints.kept` reads them.
        made_by: What runs this training, such as a commit: stays with the epochs in history and checkpoint, however
            late and by whatever code the training is taken up again.
        progress: Whether to report on standard error: a live line on a terminal, one line an epoch elsewhere.

    Returns:
        Variables and history.

    Raises:
        TrainingError: Shapes, dtypes or labels that do not fit, a checkpoint of another run, or a loss that is not
            finite.
        WeightsError: A checkpoint that is damaged, of another network, or a place that is no folder of checkpoints.
    """
    labels = checked_labels(images, labels)
    weight = _normalised(sample_weights, len(labels))
    batch = min(config.batch_size, len(labels))
    steps = -(-len(labels) // batch)
    due = _due(checkpoint_steps)
    step, state = start(module, images[:1], labels, config, steps)
    run = {"run": _run_fingerprint(images, labels, weight, config), "network": _ADDRESS.sub("", repr(module))}
    with _Keeper.open(checkpoint, keep_checkpoints, run) as keeper:
        state, history, sofar = keeper.resume(state)
        report = Progress(config.epochs, steps, quiet=not progress)

        def after(epoch: int, started: float, history: _History, state: State, sofar: _Sofar) -> None:
            report.step(epoch, len(sofar.losses), float(np.mean(sofar.losses[-100:])), sofar.hits / sofar.seen)
            done = epoch * steps + len(sofar.losses)
            if due(done) and len(sofar.losses) < steps:
                keeper.save(done, state, history, sofar._replace(seconds=time.perf_counter() - started))

        for epoch in range(len(history), config.epochs):
            started = time.perf_counter() - sofar.seconds

            order = np.random.default_rng((config.seed, epoch)).permutation(len(labels))
            rows = np.resize(order, (steps, batch))[len(sofar.losses) :]
            batches = ((images[chosen], labels[chosen], weight[chosen]) for chosen in rows)
            state, sofar = _epoch(step, state, batches, sofar, functools.partial(after, epoch, started, history))
            checked = None if validation is None else evaluate(module.apply, _variables(state), *validation)
            record = _record(epoch, sofar, checked, time.perf_counter() - started)._replace(made_by=made_by)
            history, sofar = (*history, record), _Sofar([])
            report.epoch(epoch, record.loss, record.accuracy, record.validation_accuracy)
            keeper.save((epoch + 1) * steps, state, history, sofar)
    return TrainResult(_variables(state), history)


class _Keeper:
    """Saves and finds the states of one run; does nothing where no folder was named."""

    def __init__(self, checkpoints: Checkpoints | None, keep_all: bool, run: dict[str, str]) -> None:
        self._checkpoints, self._keep_all, self._run = checkpoints, keep_all, run

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: str | os.PathLike[str] | None, keep_all: bool, run: dict[str, str]) -> Any:
        if folder is None:
            yield cls(None, keep_all, run)
        else:
            with Checkpoints(folder, keep_all=keep_all) as checkpoints:
                yield cls(checkpoints, keep_all, run)

    def save(self, step: int, state: State, history: _History, sofar: _Sofar) -> None:
        if self._checkpoints is not None:
            document = {**self._run, "history": [list(record) for record in history], "sofar": list(sofar)}
            self._checkpoints.save(step, _tree(state), document)

    def resume(self, state: State) -> tuple[State, _History, _Sofar]:
        """The newest state, or the given one, saved first where all are kept."""
        found = self._checkpoints.steps() if self._checkpoints is not None else []
        if self._checkpoints is None or not found:
            if self._keep_all:
                self.save(0, state, (), _Sofar([]))
            return state, (), _Sofar([])
        saved = self._checkpoints.load(found[-1], _tree(state))
        for name, own in self._run.items():
            other = saved.document.get(name, own)  # older states do not say of which network they are
            if other != own:
                raise TrainingError(
                    f"expected a checkpoint of this {name} {' '.join(own.split())}, got {' '.join(other.split())} in "
                    f"{os.fspath(self._checkpoints.folder)!r}; name another folder"
                )
        structure = jax.tree.structure(state.optimizer)
        optimizer = jax.tree.unflatten(structure, list(dict(sorted(saved.state["optimizer"].items())).values()))
        resumed = State(saved.state["params"], saved.state.get("statistics", {}), optimizer, saved.state["step"])
        history = tuple(EpochRecord(*record) for record in saved.document["history"])
        return resumed, history, _Sofar(*saved.document["sofar"])


def _tree(state: State) -> dict[str, Any]:
    """The state as nested dictionaries, which need no class to be read again."""
    leaves = {f"{index:04d}": leaf for index, leaf in enumerate(jax.tree.leaves(state.optimizer))}
    tree = {"params": state.params, "statistics": state.statistics, "optimizer": leaves, "step": state.step}
    return {name: part for name, part in tree.items() if jax.tree.leaves(part)}


def _due(steps: int | Collection[int] | None) -> Callable[[int], bool]:
    if steps is None:
        return lambda _: False
    if not isinstance(steps, int):
        chosen = frozenset(steps)
        return lambda done: done in chosen
    if steps < 1:
        raise TrainingError(f"expected checkpoint_steps of at least 1, got {steps}")
    return lambda done: done % steps == 0


def _epoch(
    step: Callable[..., Any],
    state: State,
    batches: Iterable[Batch],
    sofar: _Sofar,
    after: Callable[[State, _Sofar], None],
) -> tuple[State, _Sofar]:
    for batch in batches:
        state, (loss, correct) = step(state, batch)
        losses = [*sofar.losses, float(loss)]
        if not np.isfinite(losses[-1]):
            raise TrainingError(
                f"expected a finite loss, got {losses[-1]} at step {len(losses)}: try a lower learning_rate"
            )
        sofar = sofar._replace(losses=losses, hits=sofar.hits + int(correct), seen=sofar.seen + len(batch[1]))
        after(state, sofar)
    return state, sofar


def _record(epoch: int, sofar: _Sofar, checked: Evaluation | None, seconds: float) -> EpochRecord:
    validated = (None, None) if checked is None else (checked.loss, checked.accuracy)
    return EpochRecord(epoch + 1, float(np.mean(sofar.losses)), sofar.hits / sofar.seen, *validated, seconds)


def _variables(state: State) -> dict[str, Any]:
    return {"params": state.params, **state.statistics}


def _normalised(sample_weights: np.ndarray | None, count: int) -> np.ndarray:
    if sample_weights is None:
        return np.ones(count, np.float32)
    weight = np.asarray(sample_weights, np.float64)
    if weight.shape != (count,) or not np.isfinite(weight).all() or weight.min() < 0 or weight.sum() == 0:
        raise TrainingError(f"expected {count} finite sample_weights >= 0, not all zero, got shape {weight.shape}")
    return (weight / weight.mean()).astype(np.float32)


def _run_fingerprint(images: np.ndarray, labels: np.ndarray, weight: np.ndarray, config: TrainConfig) -> str:
    # Epochs count only where the learning rate depends on them: a constant one may be trained for longer.
    ignored = {"augment"} | ({"epochs"} if config.decay == "constant" and config.warmup == 0 else set())
    settings = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in ignored}
    if dataclasses.is_dataclass(config.augment):  # any other function has no settings to compare
        settings["augment"] = repr(config.augment)
    sums = [float(images.sum(dtype=np.float64)), int(labels.sum()), float(weight.sum()), list(images.shape)]
    return json.dumps([settings, sums], sort_keys=True)
