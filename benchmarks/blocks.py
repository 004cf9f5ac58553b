"""CLEAR maps of one network by the sizes of blocks that they are worked on in."""

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import timing
from benchmarks.networks import Network

COLUMNS = {
    **{"network": "s", "batch": "d", "block": "s", "ms": ".1f", "spread": ".0%", "ratio": ".2f", "ratio_cpu": ".2f"},
    **{"compile_s": ".2f", "mib": ".0f"},
}


class Blocks:
    """Explanations of one batch, which differ only in how much of it they work on at a time.

    `programs` and `seconds` have what was compiled by its name, and how long that took. `whole` is the name of the one
    that the others are compared with.
    """

    def __init__(self, name: str, network: Network, images: Any, whole: str):
        self.programs: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self._name, self._network, self._images, self._whole = name, network, images, whole

    def add(self, words: str, explain: Callable[..., Any]) -> None:
        """Compiles one explanation."""
        self.programs[words], self.seconds[words] = timing.compiled(explain, self._network.variables, self._images)

    def rows(self, rounds: int) -> list[timing.Row]:
        """Returns one row an explanation, timed in turn.

        Raises:
            Disagreement: one gives another map (relative difference above 1e-4).
        """
        variables, images, whole = self._network.variables, self._images, self._whole
        expected = self.programs[whole](variables, images).dominant_response
        for words, program in self.programs.items():
            found = program(variables, images).dominant_response
            timing.assert_agreement(f"blocks of {words}, {self._name}", found, expected, tolerance=1e-4)
        calls = {words: lambda p=program: p(variables, images) for words, program in self.programs.items()}
        times = timing.alternate(calls, rounds=rounds)
        return [self._row(words, times) for words in times]

    def _row(self, words: str, times: Mapping[str, Any]) -> timing.Row:
        took, reference = times[words], times[self._whole]
        return {
            "network": self._name,
            "batch": len(self._images),
            "block": words,
            "ms": 1e3 * took.median,
            "spread": took.spread,
            "ratio": took.median / reference.median,
            "ratio_cpu": took.processor / reference.processor,
            "compile_s": self.seconds[words],
            "mib": self.programs[words].memory_analysis().temp_size_in_bytes / 2**20,
        }
