"""What a rule replaced in a network and what it did not, as a report."""

import collections
import dataclasses
import warnings
from typing import Literal, NamedTuple

from jaxclear.trace.graph import Graph

OnUnmatched = Literal["ignore", "warn", "error"]
"""What to do about non-linearities that a rule does not know."""


class UnmatchedNonlinearityWarning(UserWarning):
    """A network has non-linearities that keep their true gradient because no rule is written for them."""


class UnmatchedNonlinearity(ValueError):
    """A network has non-linearities that no rule is written for, and that was asked to be an error."""


@dataclasses.dataclass(frozen=True)
class CoverageEntry:
    """One kind of operation at one line of the user's source.

    Attributes:
        name: "relu", "relu6", "max_pool", or the function or primitive that keeps its gradient ("silu", "softmax").
        count: how many times the trace has it there.
        source: file, line and function.
    """

    name: str
    count: int
    source: str


class Coverage(NamedTuple):
    """What a rule replaced in a network (`replaced`) and what keeps its true gradient (`kept`)."""

    rule: str
    replaced: tuple[CoverageEntry, ...]
    kept: tuple[CoverageEntry, ...]

    @property
    def complete(self) -> bool:
        """Returns whether everything that is not linear was replaced."""
        return not self.kept

    def __str__(self) -> str:
        lines = [f"rule {self.rule!r}"]
        for title, entries in (("replaced", self.replaced), ("kept its true gradient", self.kept)):
            lines.append(f"{title}: {sum(entry.count for entry in entries)}")
            lines.extend(f"  {entry.count:4d} x {entry.name:<20s} {entry.source}" for entry in entries)
        return "\n".join(lines)


# Primitives by the name their users write.
_USUAL_NAMES = {"logistic": "sigmoid", "while": "while_loop"}


def coverage_of(graph: Graph, rule: str) -> Coverage:
    """Returns the report on a graph."""
    capped = {site.capped.path for site in graph.sites.values() if site.capped is not None}
    replaced = collections.Counter(
        (site.name, graph.sources[path]) for path, site in graph.sites.items() if path not in capped
    )
    # A function such as `gelu` is several equations, each at least once a call.
    primitives = collections.Counter(
        (_USUAL_NAMES.get(kept.name, kept.name), kept.source, kept.primitive) for kept in graph.kept
    )
    kept: dict[tuple[str, str], int] = {}
    for (name, source, _), count in primitives.items():
        kept[name, source] = min(count, kept.get((name, source), count))
    return Coverage(
        rule,
        tuple(CoverageEntry(name, count, source) for (name, source), count in replaced.items()),
        tuple(CoverageEntry(name, count, source) for (name, source), count in kept.items()),
    )


def act_on(report: Coverage, on_unmatched: OnUnmatched) -> None:
    """Warns about or refuses what a rule did not replace.

    Raises:
        UnmatchedNonlinearity: something was kept and `on_unmatched` is "error".
    """
    if report.complete or on_unmatched == "ignore":
        return
    listed = "; ".join(f"{entry.count} x {entry.name} at {entry.source}" for entry in report.kept)
    message = f"rule {report.rule!r} does not cover, and leaves the true gradient of: {listed}"
    if on_unmatched == "error":
        raise UnmatchedNonlinearity(f"expected rectifiers and max-poolings as the only non-linearities: {message}")
    warnings.warn(message, UnmatchedNonlinearityWarning, stacklevel=2)
