"""How a rectifier and a max-pooling pass a response back to their input: one frozen `Rule` a rule.

With `x` the input of a ReLU, `f` its output and `R` the response that arrives from above, the published rules differ
in the ReLU alone (D. Kumar, "Class Based Strategies for Understanding Neural Networks", eqs. 2.11–2.13 and 5.2):

    backprop    1[f > 0] * R            the gradient (Simonyan et al., arXiv:1312.6034)
    deconvnet   max(R, 0)               Zeiler & Fergus, ECCV 2014
    guided      1[f > 0] * max(R, 0)    Springenberg et al., arXiv:1412.6806
    linear      R                       eq. 5.2 as printed: no ReLU appears in it

A response starts as the seed: the class map, logit or activation itself. `deconvnet` and `guided` pass back positive
responses only, and a seed is one: its negative values vanish at once, so a class that is ruled out responds
nowhere. Under `backprop` and `linear` they count.

Max-pooling is undone by the switches of the forward pass. At `x = 0` exactly `1[f > 0]` is 0, while `jax.grad` of
`jnp.maximum(x, 0)` is one half.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxclear.pooling import MaxPool

ReluRule = Callable[[Float[Array, "*s"], Bool[Array, "*s"], Float[Array, "*s"]], Float[Array, "*s"]]
"""`(x, active, response) -> response`: the ReLU's input, where its derivative is 1, and what arrives from above."""

SeedRule = Callable[[Float[Array, "*s"]], Float[Array, "*s"]]
"""`value -> response`: from a class map, logit or activation to the response that starts there."""

PoolRule = Callable[[MaxPool, Int[Array, "*o"], Float[Array, "*o"]], Float[Array, "*i"]]
"""`(pool, switches, response) -> response` of the shape of the pooling's input, `pool.shape`."""


def _unchanged(value: Array) -> Array:
    return value


def _positive(value: Array) -> Array:
    return jnp.maximum(value, 0)


@dataclasses.dataclass(frozen=True)
class Rule:
    """A way to pass a response back through rectifiers and max-poolings; everything else keeps its own gradient.

    Attributes:
        name: what reports call it.
        relu: `(x, active, response) -> response`, all of one shape. `active` is true where the rectifier's
            derivative is 1 (`x > 0`, and below the cap of a capped one such as ReLU6).
        max_pool: `(pool, switches, response) -> response` of shape `pool.shape`; by switches by default.
        seed: `value -> response`, where a response starts; the value itself by default.

    Example:
        A rule that takes the response's magnitude where the unit was active:

        >>> import jax.numpy as jnp
        >>> magnitude = Rule("magnitude", relu=lambda x, active, response: jnp.abs(response) * active)
        >>> magnitude.relu(jnp.array([2.0, -1.0]), jnp.array([True, False]), jnp.array([-3.0, 4.0])).tolist()
        [3.0, 0.0]
    """

    name: str
    relu: ReluRule
    max_pool: PoolRule = MaxPool.unpool
    seed: SeedRule = _unchanged


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("backprop", relu=lambda x, active, response: jnp.where(active, response, 0)),
        Rule("deconvnet", relu=lambda x, active, response: jnp.maximum(response, 0), seed=_positive),
        Rule("guided", relu=lambda x, active, response: jnp.where(active, jnp.maximum(response, 0), 0), seed=_positive),
        Rule("linear", relu=lambda x, active, response: response),
    )
}


def resolve(rule: str | Rule) -> Rule:
    """Returns the rule of that name, or the rule itself.

    Raises:
        ValueError: no rule has that name.
    """
    if isinstance(rule, Rule):
        return rule
    if not isinstance(rule, str) or rule not in RULES:
        raise ValueError(f"expected rule to be one of {', '.join(map(repr, RULES))} or a jaxclear.Rule, got {rule!r}")
    return RULES[rule]


RectifierForm = Literal["max", "max_swapped", "select", "select_or_equal", "multiply", "clamp", "cap"]


class Rectifier(NamedTuple):
    """One way to write `min(max(x, 0), cap)`: by its own form the forward values stay the network's, bit by bit."""

    form: RectifierForm
    cap: float | None = None

    def forward(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Returns the rectified `x` by the operations the network itself uses."""
        zero = jnp.zeros((), x.dtype)
        match self.form:
            case "max":
                return lax.max(x, jnp.broadcast_to(zero, x.shape))
            case "max_swapped":
                return lax.max(jnp.broadcast_to(zero, x.shape), x)
            case "select":
                return jnp.where(x > 0, x, zero)
            case "select_or_equal":
                return jnp.where(x >= 0, x, zero)
            case "multiply":
                return x * (x > 0).astype(x.dtype)
            case "clamp":
                return lax.clamp(zero, x, jnp.asarray(self._limit, x.dtype))
            case "cap":
                return lax.min(x, jnp.full_like(x, self._limit))

    def active(self, x: Float[Array, "*s"]) -> Bool[Array, "*s"]:
        """Returns where the rectifier's derivative is 1."""
        if self.form == "cap":
            return x < self._limit
        return (x > 0) if self.cap is None else (x > 0) & (x < self._limit)

    @property
    def _limit(self) -> float:
        return math.inf if self.cap is None else self.cap


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def rectify(rule: Rule, rectifier: Rectifier, x: Float[Array, "*s"]) -> Any:
    """Forward: the rectified `x`. Backward: `rule.relu(x, active, response)`."""
    return rectifier.forward(x)


def _rectify_forward(rule: Rule, rectifier: Rectifier, x: Array) -> tuple[Array, tuple[Array, Array]]:
    return rectifier.forward(x), (x, rectifier.active(x))


def _rectify_backward(rule: Rule, rectifier: Rectifier, residuals: tuple[Array, Array], response: Array):
    x, active = residuals
    return (rule.relu(x, active, response).astype(response.dtype),)


rectify.defvjp(_rectify_forward, _rectify_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def max_pool(rule: Rule, pool: MaxPool, x: Float[Array, "*in"]) -> Any:
    """Forward: the maximum of every window. Backward: `rule.max_pool(pool, switches, response)`."""
    return pool.forward(x)


def _max_pool_forward(rule: Rule, pool: MaxPool, x: Array) -> tuple[Array, Array]:
    return pool.forward(x), pool.switches(x)


def _max_pool_backward(rule: Rule, pool: MaxPool, switches: Array, response: Array):
    return (rule.max_pool(pool, switches, response).astype(response.dtype),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)
