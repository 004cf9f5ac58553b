"""The compiled explanation of a batch on all local devices, and how large that batch may be.

Each device works on a batch of its own with the same program: `jit(shard_map(...))` over a mesh of the process's
devices, variables replicated, no communication. (`jit` alone with a sharded batch gathers it.) Where the memory does
not suffice after all, the batch is halved.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxclear.cpu_threads import threads_for, too_few_threads
from jaxclear.dataset.encoding import encoded
from jaxclear.dataset.sources import signature
from jaxclear.devices import process_devices
from jaxclear.trace import FixedLeaves, split_leaves

__all__ = ["Program", "describe", "digest_of", "local_mesh"]

AXIS = "items"
REMEDY = "explain smaller images, or fewer classes at once (class_block)"
"""Where one item is too much for a device."""
Tell = Callable[..., None]
"""Called with an event's name and its values."""


def local_mesh(mesh: Mesh | None) -> Mesh:
    """Returns a mesh of one axis over this process's devices, or over those of `mesh`.

    Raises:
        ValueError: no mesh, or one that has devices of other processes.
    """
    devices = process_devices(mesh)
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def describe(explain: Callable[[Any, Any], Any], variables: Any, value: Any, batch: int) -> dict[str, str]:
    """Returns digests of the variables and of the program: what changes when model, rule or code change.

    Args:
        explain: the explanation.
        variables: its variables.
        value: one item's value, or its shapes.
        batch: items a device works on at once.
    """
    arrays, fixed = split_leaves(variables)
    lowered = jax.jit(_with_fixed(explain, fixed)).lower(arrays, _stacked_shapes(value, batch))
    # Addresses of Python objects are in the names of some calls; constants look like them and stay.
    text = re.sub(r'(dense<"0x[^"]*">)|0x[0-9a-f]{9,}', lambda found: found[1] or "", lowered.as_text())
    return {"variables": digest_of(variables), "program": hashlib.sha256(text.encode()).hexdigest()}


def digest_of(variables: Any) -> str:
    """Returns the SHA-256 of a tree of arrays: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        digest.update(jax.tree_util.keystr(path).encode())
        if isinstance(leaf, jax.Array | np.ndarray):
            array = np.asarray(leaf)
            digest.update(f"{array.dtype.name}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


class Program:
    """Explains batches on all devices of a mesh.

    Attributes:
        mesh: the devices.
        devices: how many there are.
        batch: items a device works on at once; smaller after an exhaustion.
    """

    def __init__(
        self, explain: Callable[[Any, Any], Any], variables: Any, mesh: Mesh, batch: int, tell: Tell | None = None
    ) -> None:
        self.mesh = mesh
        self.devices = mesh.devices.size
        self.batch = batch
        self._tell = tell or (lambda event, **values: None)
        if self.devices > 1 and too_few_threads():
            self._tell(
                "warning",
                reason=f"XLA may compute wrong convolutions on {self.devices} busy CPU devices of too few threads; "
                f"start Python with the environment variable NPROC={threads_for(self.devices)}",
            )
        arrays, fixed = split_leaves(variables)
        self._sharding = NamedSharding(mesh, PartitionSpec(AXIS))
        self._variables = jax.device_put(arrays, NamedSharding(mesh, PartitionSpec()))
        mapped = jax.shard_map(
            _with_fixed(explain, fixed),
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
            out_specs=PartitionSpec(AXIS),
            check_vma=False,
        )
        self._function = jax.jit(mapped)
        self._compiled: dict[Any, Any] = {}

    def compile(self, value: Any, batch: int) -> Any:
        """Returns the compiled program for one item's value and a batch a device."""
        key = signature(value)[1], jax.tree.structure(value), batch
        if key not in self._compiled:
            shapes = _stacked_shapes(value, batch * self.devices, self._sharding)
            self._compiled[key] = self._function.lower(self._variables, shapes).compile()
        return self._compiled[key]

    def memory(self, value: Any, batch: int) -> int:
        """Returns the bytes that a device needs for a batch, variables included."""
        found = self.compile(value, batch).memory_analysis()
        if found is None:
            return 0
        return found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes

    def start(self, parts: Sequence[Any]) -> "Running":
        """Starts work on as many parts as there are devices, (B, ...) each with B the layout's batch."""
        return Running(self, parts)

    def call(self, parts: Sequence[Any], start: int, stop: int) -> dict[str, Any]:
        """Starts work on some rows of each part; returns arrays on the devices, each device's rows after another's."""
        # A fresh array every time: on a CPU the device may use the host's buffer itself.
        batch = jax.tree.map(lambda *leaves: np.concatenate([leaf[start:stop] for leaf in leaves]), *parts)
        one = jax.tree.map(lambda leaf: leaf[0], parts[0])
        compiled = self.compile(one, stop - start)
        return compiled(self._variables, jax.device_put(batch, self._sharding))

    def halve(self, error: Exception) -> None:
        """Halves the batch after an exhaustion.

        Raises:
            ValueError: one item is too much.
            Exception: the error itself, where it is another one.
        """
        if not is_exhaustion(error):
            raise error
        if self.batch == 1:
            raise ValueError(
                f"expected a device with room for one item, got {str(error).partition(chr(10))[0][:200]}; {REMEDY}"
            ) from error
        self.batch = -(-self.batch // 2)
        self._tell("exhausted", batch=self.batch, reason=str(error).partition("\n")[0][:200])


class Running:
    """Work that was started; the parts are kept until its results are there."""

    def __init__(self, program: Program, parts: Sequence[Any]) -> None:
        self._program, self._parts = program, parts
        self._rows = len(jax.tree.leaves(parts[0])[0])
        self._started: list[dict[str, Any]] | Exception
        self._batch = program.batch
        try:
            self._started = self._start()
        except Exception as error:
            self._started = error

    def _start(self) -> list[dict[str, Any]]:
        step = min(self._program.batch, self._rows)
        # The last piece overlaps the one before, so that all have one shape.
        self._places = [min(place, self._rows - step) for place in range(0, self._rows, step)]
        return [self._program.call(self._parts, place, place + step) for place in self._places]

    def results(self) -> list[dict[str, np.ndarray]]:
        """Waits for the results; returns one set of host arrays a part."""
        while True:
            try:
                if isinstance(self._started, Exception):
                    raise self._started
                return self._collect(self._started)
            except Exception as error:
                if self._batch == self._program.batch or not is_exhaustion(error):
                    self._program.halve(error)
                self._batch = self._program.batch
                try:
                    self._started = self._start()
                except Exception as again:
                    self._started = again

    def _collect(self, started: list[dict[str, Any]]) -> list[dict[str, np.ndarray]]:
        pieces = [{name: np.asarray(array) for name, array in piece.items()} for piece in started]
        found = []
        for part in range(len(self._parts)):
            rows: dict[str, np.ndarray] = {}
            for place, piece in zip(self._places, pieces, strict=True):
                for name, array in piece.items():
                    step = len(array) // len(self._parts)
                    values = array[part * step : (part + 1) * step]
                    rows.setdefault(name, np.empty((self._rows, *values.shape[1:]), values.dtype))
                    rows[name][place : place + step] = values
            found.append(rows)
        return found


def is_exhaustion(error: BaseException) -> bool:
    """Returns whether an error says that a device's memory does not suffice."""
    words = str(error)
    return "RESOURCE_EXHAUSTED" in words or "Out of memory" in words or isinstance(error, MemoryError)


def _with_fixed(explain: Callable[[Any, Any], Any], fixed: FixedLeaves) -> Callable[[Any, Any], Any]:
    stored = encoded(explain)
    return lambda arrays, batch: stored(fixed.join(arrays), batch)


def _stacked_shapes(value: Any, batch: int, sharding: Any = None) -> Any:
    """The shapes of a batch of items like one."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((batch, *leaf.shape), leaf.dtype, sharding=sharding), value)
