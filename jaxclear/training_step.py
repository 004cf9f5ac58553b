"""What a training computes: its settings, the state that a step takes and gives back, the start and the step.

Trainings that are alike share their compiled programs: several folds in one process are compiled once.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxclear.class_backprop import scores_of
from jaxclear.evaluation import TrainingError, check_classes
from jaxclear.inputs import as_floats
from jaxclear.optimizers import optimizer_of
from jaxclear.trace import loop_body

Augment = Callable[[jax.Array, jax.Array], jax.Array]
Batch = tuple[Any, Any, Any]  # images, labels, weights


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train.

    Attributes:
        epochs: Passes over the images.
        batch_size: Images a step; the last batch of an epoch is filled up with images from its start.
        learning_rate: Adam's learning rate, at its highest.
        muon_learning_rate: Where given, the kernels of hidden layers are trained by Muon at this rate, and Adam has
            the rest: see `jaxclear.optimizers`.
        decay: `"constant"`, or `"cosine"`: to zero over all the steps.
        warmup: Share of all the steps over which the rates rise from zero.
        label_smoothing: Share of the target spread evenly over the classes.
        seed: Initial weights, order of the images, dropout, augmentation.
        augment: `(key, images) -> images`, pure, compiled into the step; see `jaxclear.augment`.
    """

    epochs: int
    batch_size: int = 32
    learning_rate: float = 1e-3
    muon_learning_rate: float | None = None
    decay: str = "constant"
    warmup: float = 0.0
    label_smoothing: float = 0.0
    seed: int = 0
    augment: Augment | None = None

    def __post_init__(self) -> None:
        """Raises TrainingError for settings that no training can have."""
        if self.epochs < 1 or self.batch_size < 1:
            raise TrainingError(f"expected epochs and batch_size >= 1, got {self.epochs} and {self.batch_size}")
        if not self.learning_rate > 0:
            raise TrainingError(f"expected learning_rate > 0, got {self.learning_rate}")
        if self.muon_learning_rate is not None and not self.muon_learning_rate > 0:
            raise TrainingError(f"expected muon_learning_rate > 0, got {self.muon_learning_rate}")
        if self.decay not in ("constant", "cosine"):
            raise TrainingError(f"expected decay 'constant' or 'cosine', got {self.decay!r}")
        if not 0 <= self.warmup < 1:
            raise TrainingError(f"expected warmup in [0, 1), got {self.warmup}")
        if not 0 <= self.label_smoothing < 1:
            raise TrainingError(f"expected label_smoothing in [0, 1), got {self.label_smoothing}")


class State(NamedTuple):
    """What a train step takes and gives back; its buffers are donated."""

    params: Any
    statistics: Any
    optimizer: Any
    step: Any


def _step(
    module: nn.Module,
    optimizer: optax.GradientTransformation,
    config: TrainConfig,
    state: State,
    batch: Batch,
) -> tuple[State, tuple[jax.Array, jax.Array]]:
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

    value_and_gradients = loop_body(jax.value_and_grad(loss_of, has_aux=True), state.params)
    (loss, (statistics, correct)), gradients = value_and_gradients(state.params)
    updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    return State(params, dict(statistics), optimizer_state, state.step + 1), (loss, correct)


def start(
    module: nn.Module, image: np.ndarray, labels: np.ndarray, config: TrainConfig, steps: int
) -> tuple[Callable[..., Any], State]:
    """The step of a training, and the state that it starts from.

    Args:
        module: the network.
        image: one of its images, with a batch axis.
        labels: of all images.
        config: settings.
        steps: in an epoch.

    Raises:
        TrainingError: there are labels that the network has no class for.
    """
    alike = _Alike.of(module, config)
    example = as_floats(image)
    variables = dict(_initialiser(alike)(jax.random.key(config.seed), example))
    classes = jax.eval_shape(module.apply, variables, example).shape[-1]
    check_classes(labels, classes)
    optimizer, step = _optimiser_and_step(alike, steps, classes)
    params = variables.pop("params")
    return step, State(params, variables, optimizer.init(params), jnp.zeros((), jnp.int32))


class _Alike(NamedTuple):
    """What trainings that share their compiled programs have in common.

    Modules and settings that are equal and read alike (1 and True are equal). Nothing is shared with a module whose
    fields cannot be hashed, nor where a function augments, since that may change or hold a data set.
    """

    module: nn.Module
    config: TrainConfig
    written: tuple[str, str] | None

    @classmethod
    def of(cls, module: nn.Module, config: TrainConfig) -> Self:
        try:
            hash((module, config))
        except TypeError:
            return cls(module, config, None)
        return cls(module, config, (repr(module), repr(config)) if config.augment is None else None)


def _kept(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function with its last few results kept, for trainings that may share them."""
    remembered = functools.lru_cache(maxsize=8)(function)

    @functools.wraps(function)
    def call(alike: _Alike, *numbers: int) -> Any:
        return (function if alike.written is None else remembered)(alike, *numbers)

    return call


@_kept
def _initialiser(alike: _Alike) -> Callable[..., Any]:
    # LLVM's own default level, below XLA's, compiles drawing random numbers in half the time; the numbers are the same.
    return jax.jit(alike.module.init, compiler_options={"xla_backend_optimization_level": 2})


@_kept
def _optimiser_and_step(
    alike: _Alike, steps: int, classes: int
) -> tuple[optax.GradientTransformation, Callable[..., Any]]:
    """The optimizer of a training of so many steps an epoch, and its step."""
    module, config, _ = alike
    optimizer = optimizer_of(
        config.learning_rate,
        config.muon_learning_rate,
        steps=config.epochs * steps,
        decay=config.decay,
        warmup=config.warmup,
        classes=classes,
    )
    return optimizer, jax.jit(functools.partial(_step, module, optimizer, config), donate_argnums=0)
