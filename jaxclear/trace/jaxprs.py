"""The one door to JAX's jaxprs: what is named or laid out differently between versions is settled here."""

import functools
import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.core import Tracer
from jax.extend import core

JIT = frozenset({"jit", "pjit", "closed_call", "core_call"})
REMAT = frozenset({"remat2", "remat", "checkpoint"})
CUSTOM_DERIVATIVE = frozenset({"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"})

_LIBRARIES = ("jax", "flax", "equinox", "haiku", "keras", "optax")
# Files that only pass a call on; the function a user called stands in another file.
_MACHINERY = (
    "module.py",
    "traceback_util.py",
    "source_info_util.py",
    "api.py",
    "api_util.py",
    "pjit.py",
    "core.py",
    "partial_eval.py",
    "transforms.py",
    "transform.py",
    "custom_derivatives.py",
    "linear_util.py",
    "util.py",
    "ufuncs.py",
    "ufunc_api.py",
    "operation.py",
    "layer.py",
    "scope.py",
    "lift.py",
    "array_methods.py",
    "_module.py",
    "_better_abstract.py",
)


class OpenJaxpr(NamedTuple):
    """A jaxpr without its constants, and the constants."""

    jaxpr: Any
    consts: tuple[Any, ...]


def open_jaxpr(jaxpr: Any) -> OpenJaxpr:
    """Returns the jaxpr and its constants, whether they came as a `ClosedJaxpr` or as one object."""
    return OpenJaxpr(getattr(jaxpr, "jaxpr", jaxpr), tuple(getattr(jaxpr, "consts", ())))


def inner_jaxpr(eqn: Any) -> OpenJaxpr:
    """Returns the body of a call-like equation (`jit`, `remat`, `custom_jvp_call`, `scan`, …)."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if name in eqn.params:
            return open_jaxpr(eqn.params[name])
    raise KeyError(f"equation {eqn.primitive.name} carries no jaxpr")


def scan_counts(eqn: Any) -> tuple[int, int]:
    """Returns the numbers of constants and of carried values of a `scan`; the other operands are scanned over."""
    if "num_consts" in eqn.params:
        return eqn.params["num_consts"], eqn.params["num_carry"]
    consts, carry, _ = eqn.params["ft_in"].unpack()
    return len(list(consts)), len(list(carry))


def is_literal(atom: Any) -> bool:
    """Returns whether an operand is a literal value rather than a variable."""
    return isinstance(atom, core.Literal)


def is_tracer_free(values: Sequence[Any]) -> bool:
    """Returns whether no value is being traced, so that a jaxpr closed over them may be kept."""
    return not any(isinstance(value, Tracer) for value in values)


def trace(function: Callable[..., Any], arrays: Sequence[Any]) -> tuple[OpenJaxpr, Any]:
    """Returns the jaxpr of `function(*arrays)`, its results flattened, and the tree structure of the result."""
    trees = []

    def flat(*values: Any) -> list[Any]:
        out, tree = jax.tree_util.tree_flatten(function(*values))
        trees.append(tree)
        return out

    return open_jaxpr(jax.make_jaxpr(flat)(*arrays)), trees[0]


def trace_inlined(function: Callable[..., Any], arrays: Sequence[Any]) -> tuple[OpenJaxpr, Any]:
    """Returns what `trace` does, with what calls of `jit` consist of in their place."""
    opened, tree = trace(function, arrays)
    return trace(lambda *values: _inlined(opened, values), arrays)[0], tree


def _inlined(opened: OpenJaxpr, operands: Sequence[Any]) -> list[Any]:
    def evaluate(_: int, eqn: Any, operands: list[Any]) -> Sequence[Any]:
        return _inlined(inner_jaxpr(eqn), operands) if eqn.primitive.name in JIT else bind(eqn, operands)

    return interpret(opened, operands, evaluate)


def interpret(
    opened: OpenJaxpr, args: Sequence[Any], evaluate: Callable[[int, Any, list[Any]], Sequence[Any]]
) -> list[Any]:
    """Returns the results of a jaxpr, each equation by `evaluate(number, equation, operands)`."""
    env: dict[Any, Any] = dict(zip(opened.jaxpr.constvars, opened.consts, strict=True))
    env.update(zip(opened.jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if is_literal(atom) else env[atom]

    for number, eqn in enumerate(opened.jaxpr.eqns):
        env.update(zip(eqn.outvars, evaluate(number, eqn, [read(atom) for atom in eqn.invars]), strict=True))
    return [read(atom) for atom in opened.jaxpr.outvars]


def bind(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    """Evaluates one equation on `operands`, as JAX's own interpreter does."""
    with eqn.ctx.manager:
        out = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
    return list(out) if eqn.primitive.multiple_results else [out]


class Origin(NamedTuple):
    """Where an equation comes from: the user's line, and the library function called there ("" if none)."""

    source: str
    function: str


@functools.cache
def _library_folders() -> tuple[str, ...]:
    folders = []
    for name in _LIBRARIES:
        spec = importlib.util.find_spec(name)
        folders.extend(spec.submodule_search_locations or () if spec else ())
    return (*(os.path.join(folder, "") for folder in folders), os.path.dirname(__file__), os.path.dirname(os.__file__))


def _is_library(file_name: str) -> bool:
    return "site-packages" in file_name or file_name.startswith(_library_folders()) or file_name.startswith("<frozen")


def origin(eqn: Any) -> Origin:
    """Returns the innermost line of the user's own code that led to an equation, and what that line called."""
    function = ""
    traceback = eqn.source_info.traceback
    for frame in traceback.frames if traceback is not None else ():
        if not _is_library(frame.file_name):
            return Origin(f"{frame.file_name}:{frame.line_num} ({frame.function_name})", function)
        passes_on = frame.file_name.startswith(os.path.dirname(__file__))
        passes_on |= os.path.basename(frame.file_name) in _MACHINERY
        if not passes_on and not frame.function_name.startswith("<"):
            function = frame.function_name.removesuffix(".__call__").split(".<locals>")[0]
    return Origin("source unknown", function)


class _Definition(NamedTuple):
    """The name of a function and where it is defined; empty where JAX does not know."""

    name: str
    file: str


def _definition(eqn: Any) -> _Definition:
    debug_info = getattr(inner_jaxpr(eqn).jaxpr, "debug_info", None)
    name, _, file = str(getattr(debug_info, "func_src_info", "") or "").partition(" at ")
    return _Definition(name, file)


def is_activation_function(eqn: Any) -> bool:
    """Returns whether the function behind a call-like equation is one of `jax.nn`."""
    return _definition(eqn).file.startswith(os.path.join(_jax_folder(), "_src", "nn", ""))


def is_jax_function(eqn: Any) -> bool:
    """Returns whether the function behind a call-like equation is one of JAX's own."""
    return _definition(eqn).file.startswith(_jax_folder())


@functools.cache
def _jax_folder() -> str:
    (folder,) = importlib.util.find_spec("jax").submodule_search_locations  # pyright: ignore
    return os.path.join(folder, "")


def is_call_of(eqn: Any, function: Callable[..., Any]) -> bool:
    """Returns whether a call-like equation calls that function."""
    code = function.__code__
    name, file = _definition(eqn)
    return name == code.co_name and file.startswith(code.co_filename)


def is_library_function(eqn: Any) -> bool:
    """Returns whether the function behind a call-like equation is defined in a library rather than by the user."""
    return _is_library(_definition(eqn).file)


def call_name(eqn: Any) -> str:
    """Returns the name of the function behind a call-like equation."""
    return str(eqn.params.get("name") or _definition(eqn).name or eqn.primitive.name)
