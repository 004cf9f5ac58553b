"""The states of a training in a folder, through Orbax: whole or not there at all, whenever the process is killed.

A step of the folder holds the state's arrays and a JSON document beside them: the run they belong to, how far it had
come, name, shape and dtype of each array, and one SHA-256 over all of it.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxclear.models.weights import WeightsError

__all__ = ["Checkpoints", "Kept", "Saved", "kept"]

_SHOWN = 3


class Saved(NamedTuple):
    """What a step of the folder holds: nested dictionaries of arrays, and the document beside them."""

    state: dict[str, Any]
    document: dict[str, Any]


class Kept(NamedTuple):
    """The variables of a network after a number of steps of its training."""

    step: int
    variables: dict[str, Any]


class Checkpoints:
    """A folder of states, newest last.

    Attributes:
        folder: Made if it is not there.
    """

    def __init__(self, folder: str | os.PathLike[str], *, keep_all: bool = False, read_only: bool = False) -> None:
        """Opens the folder.

        Args:
            folder: The folder.
            keep_all: Whether older states stay when a new one is saved.
            read_only: Whether nothing is to be saved, nor cleared of what a kill left behind.

        Raises:
            WeightsError: The place is taken by something that is not a folder of states.
        """
        import orbax.checkpoint as ocp

        self.folder = Path(folder).absolute()
        if self.folder.exists() and not self.folder.is_dir():
            raise WeightsError(f"expected a folder of checkpoints, got the file {os.fspath(folder)!r}; name another")
        strangers = sorted(entry.name for entry in self.folder.iterdir()) if self.folder.exists() else []
        strangers = [name for name in strangers if not name.partition(".orbax-checkpoint-tmp")[0].isdigit()]
        if strangers:
            raise WeightsError(
                f"expected a folder of checkpoints, got {', '.join(strangers[:_SHOWN])} in {os.fspath(folder)!r}; "
                "name an empty or a new folder"
            )
        self._ocp = ocp
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if keep_all else 1,
            enable_async_checkpointing=False,
            cleanup_tmp_directories=not read_only,
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_names=("state", "document"))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        self._manager.close()

    def steps(self) -> list[int]:
        """The steps that are there, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Mapping[str, Any], document: Mapping[str, Any]) -> None:
        """Saves a state, on the disk when this returns; one that is there already stays."""
        args, leaves = self._ocp.args, _leaves(state)
        arrays = [[list(path), list(leaf.shape), str(leaf.dtype)] for path, leaf in leaves]
        content = {**document, "arrays": arrays}
        content["sha256"] = _digest(leaves, content)
        whole = args.Composite(state=args.StandardSave(dict(state)), document=args.JsonSave(content))
        if step not in self._manager.all_steps():
            self._manager.save(step, args=whole, force=True)

    def load(self, step: int, like: Mapping[str, Any] | None = None) -> Saved:
        """A state of the folder, verified.

        Args:
            step: One of `steps()`.
            like: A state whose names, shapes and dtypes it must have.

        Raises:
            WeightsError: It is damaged, or the state of another network than `like`.
        """
        args, place = self._ocp.args, str(self.folder / str(step))
        advice = "delete that folder to go on from the step before, or name another folder"
        try:
            document = self._manager.restore(step, args=args.Composite(document=args.JsonRestore()))["document"]
            expected = document.pop("sha256")
            target = _target(document["arrays"])
        except Exception as error:  # Orbax promises no type
            raise WeightsError(f"expected a whole checkpoint, got a damaged one at {place!r}; {advice}") from error
        if like is not None:
            _check_alike(document["arrays"], _leaves(like), place)
        try:
            restored = self._manager.restore(step, args=args.Composite(state=args.StandardRestore(target)))["state"]
        except Exception as error:
            raise WeightsError(f"expected a whole checkpoint, got a damaged one at {place!r}; {advice}") from error
        if _digest(_leaves(restored), document) != expected:
            raise WeightsError(f"expected the checkpoint's own SHA-256, got another at {place!r}; {advice}")
        return Saved(restored, {name: value for name, value in document.items() if name != "arrays"})


def kept(folder: str | os.PathLike[str]) -> Iterator[Kept]:
    """The variables at each step that a training kept in a folder, in order.

    Raises:
        WeightsError: No such folder, or a state that is damaged.
    """
    if not Path(folder).is_dir():
        raise WeightsError(f"expected a folder of checkpoints, got none at {os.fspath(folder)!r}")
    with Checkpoints(folder, keep_all=True, read_only=True) as checkpoints:
        for step in checkpoints.steps():
            state = checkpoints.load(step).state
            yield Kept(step, {"params": state["params"], **state.get("statistics", {})})


def _leaves(state: Any) -> list[tuple[tuple[str, ...], Any]]:
    flat = jax.tree_util.tree_flatten_with_path(state)[0]
    return sorted((tuple(str(key.key) for key in path), leaf) for path, leaf in flat)


def _digest(leaves: list[tuple[tuple[str, ...], Any]], document: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode())
    for _, leaf in leaves:  # names, shapes and dtypes are in the document
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _target(arrays: list[Any]) -> dict[str, Any]:
    """The tree of shapes, on the default device, that Orbax restores into."""
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    tree: dict[str, Any] = {}
    for path, shape, dtype in arrays:
        branch = tree
        for name in path[:-1]:
            branch = branch.setdefault(name, {})
        branch[path[-1]] = jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype), sharding=sharding)
    return tree


def _check_alike(arrays: list[Any], leaves: list[tuple[tuple[str, ...], Any]], place: str) -> None:
    found = {"/".join(path): f"{dtype}{tuple(shape)}" for path, shape, dtype in arrays}
    wanted = {"/".join(path): f"{leaf.dtype}{tuple(leaf.shape)}" for path, leaf in leaves}
    different = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if different:
        listed = "; ".join(f"{name}: {wanted.get(name)}, got {found.get(name)}" for name in different[:_SHOWN])
        raise WeightsError(f"expected the state of the given network, got another at {place!r}: {listed}")
