"""How weights are updated: Adam, or Muon for the kernels of hidden layers with Adam for the rest; schedules of both."""

import functools
from typing import Any

import jax
import optax

__all__ = ["optimizer_of"]


def optimizer_of(
    learning_rate: float,
    muon_learning_rate: float | None = None,
    *,
    steps: int,
    classes: int,
    decay: str = "constant",
    warmup: float = 0.0,
) -> optax.GradientTransformation:
    """The optimizer of a training.

    Muon takes the kernels of hidden layers, each as a matrix (inputs and positions by outputs), and replaces their
    momentum by the nearest matrix with orthogonal columns. The class layer, biases and all else have Adam, then with
    Nesterov's momentum.

    Args:
        learning_rate: Adam's, at its highest.
        muon_learning_rate: Muon's, at its highest; None gives everything to Adam.
        steps: Of the whole training.
        classes: Outputs of the class layer; a kernel with as many outputs is taken to be that layer's.
        decay: `"constant"`, or `"cosine"`: to zero at the last step.
        warmup: Share of the steps over which the rates rise from zero.

    Returns:
        The optimizer.

    Source: D. Kingma and J. Ba, arXiv:1412.6980; T. Dozat, ICLR workshop 2016; K. Jordan et al., "Muon: an optimizer
        for hidden layers in neural networks" (2024).
    """
    rising = round(warmup * steps)
    scheduled = functools.partial(_schedule, steps=steps, rising=rising, decay=decay)
    if muon_learning_rate is None:
        return optax.adam(scheduled(learning_rate))
    from optax import contrib

    def matrices(params: Any) -> Any:
        def of(leaf: jax.Array) -> Any:
            hidden = leaf.ndim >= 2 and leaf.shape[-1] != classes
            return contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1) if hidden else None

        return jax.tree.map(of, params)

    return contrib.muon(
        scheduled(muon_learning_rate),
        adam_learning_rate=scheduled(learning_rate),
        muon_weight_dimension_numbers=matrices,
    )


def _schedule(peak: float, *, steps: int, rising: int, decay: str) -> Any:
    if rising == 0:
        return optax.cosine_decay_schedule(peak, steps) if decay == "cosine" else peak
    rise = optax.linear_schedule(0.0, peak, rising)
    rest = optax.cosine_decay_schedule(peak, steps - rising) if decay == "cosine" else optax.constant_schedule(peak)
    return optax.join_schedules([rise, rest], [rising])
