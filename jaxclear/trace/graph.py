"""The data-flow graph of a jaxpr, looking through calls: which value is computed from which, and where.

A `Path` names an equation by its position in every jaxpr on the way down to it, so one traced function used in many
places has as many paths. Calls that only pass values through (`jit`, `remat`) leave no node of their own: a comparison
outside and the `select` inside `jnp.where` meet in the same graph.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxclear.trace import all_threads, jaxprs, patterns
from jaxclear.trace.patterns import Node, Path, Site


@dataclasses.dataclass(frozen=True)
class Kept:
    """One equation that keeps its own gradient although it is not linear in the images."""

    name: str
    primitive: str
    source: str


@dataclasses.dataclass(eq=False)
class Graph:
    """What a walk over a jaxpr found.

    Attributes:
        outputs: the nodes of the jaxpr's results.
        sites: where a rule goes, by path.
        sources: the user's line of each site, by path.
        kept: the non-linear equations that keep their gradient.
        linear_layers: nodes of convolutions and of products with weights, in the order of the trace.
        consumers: the nodes computed directly from a node.
        scans, conditionals: the paths of such equations.
    """

    outputs: list[Node] = dataclasses.field(default_factory=list)
    sites: dict[Path, Site] = dataclasses.field(default_factory=dict)
    sources: dict[Path, str] = dataclasses.field(default_factory=dict)
    kept: list[Kept] = dataclasses.field(default_factory=list)
    linear_layers: list[Node] = dataclasses.field(default_factory=list)
    consumers: dict[Node, list[Node]] = dataclasses.field(default_factory=dict)
    scans: set[Path] = dataclasses.field(default_factory=set)
    conditionals: set[Path] = dataclasses.field(default_factory=set)

    @classmethod
    def of(cls, opened: jaxprs.OpenJaxpr, leaves: Sequence[Node]) -> "Graph":
        """Returns the graph of a jaxpr whose arguments are `leaves`."""
        graph = cls()
        graph.outputs = graph._walk(opened, leaves, (), _Caller())
        return graph

    def _walk(self, opened: jaxprs.OpenJaxpr, inputs: Sequence[Node], prefix: Path, caller: "_Caller") -> list[Node]:
        env: dict[Any, Node] = {}
        env.update(zip(opened.jaxpr.constvars, map(patterns.constant_node, opened.consts), strict=True))
        env.update(zip(opened.jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> Node:
            return patterns.constant_node(atom.val) if jaxprs.is_literal(atom) else env[atom]

        for number, eqn in enumerate(opened.jaxpr.eqns):
            operands = [read(atom) for atom in eqn.invars]
            outputs = self._equation(eqn, operands, (*prefix, number), caller)
            env.update(zip(eqn.outvars, outputs, strict=True))
        return [read(atom) for atom in opened.jaxpr.outvars]

    def _equation(self, eqn: Any, operands: list[Node], path: Path, caller: "_Caller") -> list[Node]:
        name = eqn.primitive.name
        is_call = name in jaxprs.JIT or name in jaxprs.REMAT or name in jaxprs.CUSTOM_DERIVATIVE
        if name in jaxprs.CUSTOM_DERIVATIVE and jaxprs.is_call_of(eqn, all_threads.shared.fun):
            return operands
        if is_call and not self._keeps_own_gradient(eqn, operands):
            return self._walk(jaxprs.inner_jaxpr(eqn), operands, path, caller.into(eqn))
        if name == "scan":
            self.scans.add(path)
            self._scan_body(eqn, operands, path, caller)
        elif name == "cond":
            self.conditionals.add(path)
            for branch, jaxpr in enumerate(eqn.params["branches"]):
                self._walk(jaxprs.open_jaxpr(jaxpr), operands[1:], (*path, branch), caller)
        outputs = self._nodes(eqn, operands, path)
        if not outputs or not any(operand.depends for operand in operands):
            return outputs
        self._record(eqn, outputs, path, caller)
        return outputs

    def _nodes(self, eqn: Any, operands: list[Node], path: Path) -> list[Node]:
        depends = any(operand.depends for operand in operands) and eqn.primitive.name != "stop_gradient"
        outputs = [
            Node(
                primitive=eqn.primitive.name,
                params=eqn.params,
                inputs=tuple(operands),
                shape=tuple(getattr(var.aval, "shape", ())),
                dtype=getattr(var.aval, "dtype", None),
                depends=depends,
                path=path,
                output=number,
                eqn=eqn,
            )
            for number, var in enumerate(eqn.outvars)
        ]
        for operand in operands:
            self.consumers.setdefault(operand, []).extend(outputs)
        return outputs

    def _record(self, eqn: Any, outputs: list[Node], path: Path, caller: "_Caller") -> None:
        name = eqn.primitive.name
        site = patterns.match(outputs[0]) if len(outputs) == 1 else None
        if site is not None:
            self.sites[path] = site
            self.sources[path] = caller.origin(eqn).source
            return
        if patterns.is_layer(outputs[0]):
            self.linear_layers.append(outputs[0])
        is_call = name in jaxprs.JIT or name in jaxprs.CUSTOM_DERIVATIVE
        floating = any(o.dtype is not None and jnp.issubdtype(o.dtype, jnp.inexact) for o in outputs)
        if floating and name not in ("scan", "cond") and not patterns.is_linear(outputs[0]):
            origin = caller.origin(eqn)
            label = jaxprs.call_name(eqn) if is_call else name
            self.kept.append(Kept(caller.function or origin.function or label, label, origin.source))

    def _scan_body(self, eqn: Any, operands: list[Node], path: Path, caller: "_Caller") -> None:
        num_consts, num_carry = jaxprs.scan_counts(eqn)
        depends = any(operand.depends for operand in operands)
        body = jaxprs.inner_jaxpr(eqn)
        inputs = list(operands[:num_consts])
        for operand, var in zip(operands[num_consts:], body.jaxpr.invars[num_consts:], strict=True):
            carried = len(inputs) < num_consts + num_carry
            inputs.append(
                Node(
                    primitive="carry" if carried else "element",
                    params={},
                    inputs=(operand,),
                    shape=tuple(var.aval.shape),
                    dtype=var.aval.dtype,
                    depends=depends if carried else operand.depends,
                )
            )
        self._walk(body, inputs, path, caller)

    def _keeps_own_gradient(self, eqn: Any, operands: list[Node]) -> bool:
        """Returns whether a call is opaque: a function with a gradient of its own that is more than a rectifier.

        That is a `custom_jvp` or `custom_vjp` other than a rectifier or max-pooling, or one of JAX's activation
        functions: the `max(x, 0)` inside a CELU or a softplus is no ReLU of the network.
        """
        custom = eqn.primitive.name in jaxprs.CUSTOM_DERIVATIVE
        if not custom and not jaxprs.is_activation_function(eqn):
            return False
        trial = Graph.of(jaxprs.inner_jaxpr(eqn), operands)
        if not custom:
            return bool(trial.sites and trial.kept)
        if len(trial.outputs) != 1 or trial.kept or not trial.sites:
            return True
        node = trial.outputs[0]
        while node not in operands and node.path in trial.sites:
            node = node.inputs[trial.sites[node.path].operand]
        return node not in operands


@dataclasses.dataclass(frozen=True)
class _Caller:
    """The calls around an equation: the outermost that a user wrote, and the library function it called."""

    eqn: Any = None
    function: str = ""

    def into(self, eqn: Any) -> "_Caller":
        if self.function or not jaxprs.is_library_function(eqn):
            return self
        # Bodies of library functions are traced once: only the call knows who called this time.
        return _Caller(eqn, jaxprs.call_name(eqn).strip("_"))

    def origin(self, eqn: Any) -> jaxprs.Origin:
        return jaxprs.origin(self.eqn if self.eqn is not None else eqn)


def leaf_nodes(avals: Sequence[Any], depends: Sequence[bool]) -> list[Node]:
    """Returns the nodes of a jaxpr's arguments; `depends` says which of them are images."""
    return [
        Node(
            primitive="input",
            params={},
            inputs=(),
            shape=tuple(aval.shape),
            dtype=aval.dtype,
            depends=flag,
            leaf=number,
        )
        for number, (aval, flag) in enumerate(zip(avals, depends, strict=True))
    ]
