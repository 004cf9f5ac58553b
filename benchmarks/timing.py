"""What all benchmarks share: contenders timed in turn, agreement before timing, tables, and what a run was made on.

A benchmark is a function `measure(options) -> rows`, a list of flat dictionaries, and the columns that a person reads.
`command` makes a program of it: `--quick`, `--json`, and what the benchmark adds.
"""

import argparse
import functools
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from experiments.records import provenance
from jaxclear.worker_processes import cores

Row = dict[str, Any]

PEERS = ("torch", "captum", "zennit", "pymatgen", "matid", "moyopy", "ovito", "freud-analysis")
"""Packages of the extra `bench` whose versions are recorded where they are installed."""
MATRIX = "matrix product"
"""The contender of `matrix_product`, for `alternate`."""


class Disagreement(RuntimeError):
    """Contenders that should give the same result do not; nothing was timed."""


class Timing(NamedTuple):
    """Seconds a call over the rounds: the median, the quartiles, and the median of the processor's time.

    The processor's time is the sum over all threads of this process. On a machine that others use too it says more
    than the clock, but for contenders whose threads spin while they wait for each other, as PyTorch's do: against those
    nothing that is measured on a busy machine counts, unless all run on one core (`taskset -c 0 python …`). Of work on
    an accelerator it says nothing.
    """

    median: float
    low: float
    high: float
    processor: float
    rounds: int

    @property
    def spread(self) -> float:
        """Interquartile range over the median."""
        return (self.high - self.low) / self.median


def alternate(
    contenders: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    budget: float = float("inf"),
    called_before: bool = False,
) -> dict[str, Timing]:
    """Times contenders in turn, so that a change in the machine's load meets all of them.

    Each is called once before, and each call is waited for: a result that lives on a device counts when it is there.

    Args:
        contenders: calls by name; what torch computes on a GPU must wait for itself.
        rounds: how often each is called.
        budget: seconds after which no further round is begun; two are always done.
        called_before: whether the caller has called each of them already.
    """
    if not called_before:
        for call in contenders.values():
            jax.block_until_ready(call())
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    started = time.perf_counter()
    for number in range(rounds):
        if number >= 2 and time.perf_counter() - started > budget:
            break
        for name, call in contenders.items():
            begun, busy = time.perf_counter(), time.process_time()
            jax.block_until_ready(call())
            times[name].append((time.perf_counter() - begun, time.process_time() - busy))
    return {name: summary(np.array(values)) for name, values in times.items()}


def summary(values: Float[np.ndarray, "rounds 2"]) -> Timing:
    """Returns the figures of rounds that took so many seconds, and so many of the processor's."""
    median, low, high = np.percentile(values[:, 0], [50, 25, 75]).tolist()
    return Timing(median, low, high, float(np.median(values[:, 1])), len(values))


def compiled(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Returns a function compiled for its arguments, and the seconds that tracing and compiling took."""
    started = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    return program, time.perf_counter() - started


def assert_agreement(name: str, found: Any, expected: Any, *, tolerance: float) -> float:
    """Returns the largest difference over the largest expected magnitude.

    Raises:
        Disagreement: it is above the tolerance, or not a number.
    """
    expected = np.asarray(expected, np.float64)
    difference = float(np.abs(np.asarray(found, np.float64) - expected).max() / np.abs(expected).max())
    if not difference <= tolerance:
        raise Disagreement(f"{name}: expected agreement to {tolerance:g}, got {difference:g}; nothing was timed")
    return difference


def assert_most_agree(name: str, found: Any, expected: Any, *, tolerance: float, exceptions: float) -> int:
    """Returns how many items of a batch differ by more than the tolerance, in units of the largest expected magnitude.

    Of a batch too small to have a share of exceptions one item may differ, in as small a share of its numbers.

    Args:
        name: of what is compared.
        found: (B, ...).
        expected: (B, ...).
        tolerance: of an item's largest difference.
        exceptions: the share of items that may differ.

    Raises:
        Disagreement: more items differ.
    """
    expected = np.asarray(expected, np.float64)
    away = np.abs(np.asarray(found, np.float64) - expected).reshape(len(expected), -1)
    shares = (~(away <= tolerance * np.abs(expected).max())).mean(axis=1)
    differing = int(np.count_nonzero(shares))
    one_of_few = differing == 1 and exceptions * len(expected) < 1 and shares.max() <= exceptions
    if differing > exceptions * len(expected) and not one_of_few:
        raise Disagreement(
            f"{name}: expected agreement to {tolerance:g} in all but {exceptions:.0%} of {len(expected)}, got "
            f"{differing} that differ; nothing was timed"
        )
    return differing


@functools.cache
def _matrices() -> tuple[Any, Any, int]:
    side = 1536 if jax.default_backend() == "cpu" else 8192
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (side, side), jnp.float32) for key in keys)
    return compiled(jnp.dot, a, b)[0], (a, b), side


def matrix_product() -> Any:
    """Multiplies two float32 matrices on the default device: the machine's own measure, to be timed in each run."""
    program, matrices, _ = _matrices()
    return program(*matrices)


def matrix_rate(seconds: float) -> float:
    """Returns multiply-adds a second of `matrix_product`."""
    return _matrices()[2] ** 3 / seconds


def machine() -> Row:
    """Returns the commit, the device, the versions and the load behind a run."""
    made_by = provenance()
    for name in ("jaxlib", *PEERS):
        try:
            made_by["versions"][name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        **made_by,
        "processor": _processor(),
        "cores": cores(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def _processor() -> str | None:
    """The name that Linux gives the processor."""
    file = pathlib.Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def fits(program: Any) -> bool:
    """Returns whether a compiled program takes at most half of the memory that is free."""
    return program.memory_analysis().temp_size_in_bytes <= 0.5 * available_bytes()


def available_bytes() -> int:
    """Returns the memory that programs may still take: the device's own, or the host's where it has none."""
    statistics = jax.devices()[0].memory_stats()
    if statistics:
        return statistics["bytes_limit"] - statistics["bytes_in_use"]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def table(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """Returns rows as a Markdown table, which reads well in a terminal too.

    Args:
        rows: flat dictionaries; what a row lacks stays empty.
        columns: the keys to show, with the format of their values.
    """
    cells = [[_cell(row.get(key), form) for key, form in columns.items()] for row in rows]
    heads = [key.replace("_", " ") for key in columns]
    widths = [max(len(cell) for cell in column) for column in zip(heads, *cells, strict=True)]
    right = [all(not isinstance(row.get(key), str) for row in rows) for key in columns]
    lines = [heads, ["-" * (width - side) + ":" * side for width, side in zip(widths, right, strict=True)], *cells]
    return "\n".join(
        "| "
        + " | ".join(
            cell.rjust(width) if side else cell.ljust(width)
            for cell, width, side in zip(line, widths, right, strict=True)
        )
        + " |"
        for line in lines
    )


def _cell(value: Any, form: str) -> str:
    return "" if value is None else format(value, form)


def command(
    doc: str | None,
    measure: Callable[[argparse.Namespace], Iterable[Row]],
    columns: Mapping[str, str],
    *,
    add: Callable[[argparse.ArgumentParser], Any] = lambda parser: None,
    arguments: Sequence[str] | None = None,
) -> None:
    """Runs a benchmark from the command line and prints its table, or with --json one document.

    Where contenders disagree it prints what was measured before, and ends with exit code 1.

    Args:
        doc: what --help prints.
        measure: the benchmark, its rows one after another; `options.quick` asks for a run of a minute or two.
        columns: as `table` takes them.
        add: adds the benchmark's own options.
        arguments: of the command line; those of the process by default.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer sizes and rounds")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    add(parser)
    options = parser.parse_args(arguments)
    where = machine()
    started = time.perf_counter()
    rows: list[Row] = []
    failed: dict[str, str] = {}
    try:
        for row in measure(options):
            rows.append(row)
    except Disagreement as error:
        failed = {"error": str(error)}
    where["seconds"] = round(time.perf_counter() - started, 1)
    _print(where, rows, columns, failed, as_json=options.json)
    if failed:
        sys.exit(1)


def _print(
    where: Row, rows: Sequence[Row], columns: Mapping[str, str], failed: Mapping[str, str], *, as_json: bool
) -> None:
    if as_json:
        print(json.dumps({"machine": where, "rows": rows, **failed}, indent=1))
        return
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    busy = "; others use this machine: ratios to PyTorch are void, see Timing" if where["load_average"] > 0.5 else ""
    print(f"{where['device']}, {where['processor']}, {where['cores']} cores, load {where['load_average']}{busy}")
    print(f"{versions}\n")
    print(table(rows, columns))
    if failed:
        print(failed["error"], file=sys.stderr)
