"""What a store was made from and with, and the refusal to go on with something else."""

from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax

from jaxclear.dataset.store import StoreError

__all__ = ["check", "differences", "versions"]

FORMAT = 1
_COMPARED = ("format", "versions", "platform", "explanation", "source", "batch", "unit")
_SHOWN = 60


def versions() -> dict[str, str]:
    """Returns the versions of the packages that decide the results."""
    from jaxclear import __version__

    return {"jaxclear": __version__, "jax": jax.__version__, "jaxlib": metadata.version("jaxlib")}


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any], *, ignored: tuple[str, ...] = ()) -> list[str]:
    """Returns in words what differs between a store's manifest and what is asked for now.

    Args:
        stored: the manifest of the store.
        wanted: the manifest that a new store would get; what it lacks is not compared.
        ignored: names that may differ, as "source.sizes".
    """
    found = []
    for part in _COMPARED:
        if part in wanted:
            found += _compare(part, stored.get(part), wanted[part], ignored)
    return found


def check(stored: Mapping[str, Any], wanted: Mapping[str, Any], path: Any, *, ignored: tuple[str, ...] = ()) -> None:
    """Raises for a store that was made from or with something else.

    Raises:
        StoreError: it was; the message says what differs.
    """
    found = differences(stored, wanted, ignored=ignored)
    if found:
        raise StoreError(
            f"expected the store {str(path)!r} to be of the same model, rule, source and versions, got others: "
            f"{'; '.join(found)}; give another folder, or overwrite the store"
        )


def _compare(name: str, stored: Any, wanted: Any, ignored: tuple[str, ...]) -> list[str]:
    if name in ignored or stored == wanted:
        return []
    if name == "source.samples" and isinstance(stored, Mapping) and isinstance(wanted, Mapping):
        # None is an item that could not be read at the time.
        changed = [key for key in stored if None not in (stored[key], wanted.get(key)) and stored[key] != wanted[key]]
        return [f"{name}: item {', '.join(changed[:5])} changed"] if changed or set(stored) != set(wanted) else []
    if isinstance(stored, Mapping) and isinstance(wanted, Mapping):
        keys = dict.fromkeys([*stored, *wanted])
        return [words for key in keys for words in _compare(f"{name}.{key}", stored.get(key), wanted.get(key), ignored)]
    return [f"{name}: stored {_short(stored)}, now {_short(wanted)}"]


def _short(value: Any) -> str:
    words = "nothing" if value is None else str(value)
    return words if len(words) <= _SHOWN else f"{words[:_SHOWN]}…"
