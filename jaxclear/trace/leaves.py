"""The leaves of an argument tree: arrays to trace, and everything else held fixed."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np


def is_array(leaf: Any) -> bool:
    """Returns whether a leaf is data to trace rather than, say, an activation function kept in a model's tree."""
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct)


class FixedLeaves(NamedTuple):
    """A tree without its arrays; hashable where the fixed leaves are.

    Attributes:
        treedef: the structure of the whole tree.
        leaves: for every leaf None where it is an array, or else a tuple that holds it.
    """

    treedef: Any
    leaves: tuple[tuple[Any] | None, ...]

    def join(self, arrays: Sequence[Any]) -> Any:
        """Returns the tree with these arrays in their places."""
        remaining = iter(arrays)
        return self.treedef.unflatten([next(remaining) if leaf is None else leaf[0] for leaf in self.leaves])


def split_leaves(tree: Any) -> tuple[list[Any], FixedLeaves]:
    """Returns the arrays of a tree, in order, and the tree without them."""
    leaves, treedef = jax.tree_util.tree_flatten(tree)
    fixed = tuple(None if is_array(leaf) else (leaf,) for leaf in leaves)
    return [leaf for leaf in leaves if is_array(leaf)], FixedLeaves(treedef, fixed)


def array_paths(tree: Any) -> list[Any]:
    """Returns the path of each array of a tree, in order."""
    return [path for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0] if is_array(leaf)]
