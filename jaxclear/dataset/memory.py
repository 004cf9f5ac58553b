"""How many items a device should work on at once: what fills it, and what its memory holds."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from jaxclear.dataset.program import REMEDY, is_exhaustion

__all__ = ["choose_batch", "memory_limit"]

# Pixels of a batch: on a CPU they have to fit the cache, an accelerator they have to fill; see
# benchmarks/bench_dataset.py.
_PIXELS = {"cpu": 2**13}
_ACCELERATOR_PIXELS = 2**22
_MOST = 1024
_SHARE = 0.8
"""Of a device's free memory that a batch may take: two are in flight, and results of the last one wait."""

_UNITS_WAITING = 6
"""Units whose results are on the host at once: being filled (three, or more where a unit has fewer parts than there are
devices), waiting for the writer (two), being written.
"""


def choose_batch(needs: Callable[[int], int], pixels: int, unit: int, device: Any, *, rows: int = 0) -> int:
    """Returns items a device, a power of two and at most a unit.

    Args:
        needs: bytes that the compiled program for a batch takes on a device.
        pixels: of one item.
        unit: items a unit.
        device: one of the devices.
        rows: bytes of a unit's results on the host, which on a CPU share the memory with the device.

    Raises:
        ValueError: not even one item fits.
    """
    wanted = _PIXELS.get(device.platform, _ACCELERATOR_PIXELS) // max(pixels, 1)
    batch = max(1, min(_MOST, unit, wanted))
    batch = 1 << (batch.bit_length() - 1)
    free = memory_limit(device)
    waiting = min(_UNITS_WAITING * rows / jax.local_device_count(), free / 2) if device.platform == "cpu" else 0
    limit = _SHARE * (free - waiting) / 2
    while True:
        try:
            taken = needs(batch)
        except Exception as error:
            if not is_exhaustion(error):
                raise
            taken = int(2 * limit) + 1
        if taken <= limit:
            return batch
        if batch == 1:
            raise ValueError(
                f"expected a device with room for one item, got {taken / 2**20:.0f} MiB needed and "
                f"{limit / 2**20:.0f} MiB to use; {REMEDY}"
            )
        batch //= 2


def memory_limit(device: Any) -> float:
    """Returns the bytes that are free for a device; the host's free memory is shared by its devices."""
    statistics = device.memory_stats() if device.platform != "cpu" else None
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)
    return _host_memory() / jax.local_device_count()


def _host_memory() -> float:
    """Free memory: of the machine, of the control groups and of the address space, whichever is least."""
    return min([float("inf"), *_machine(), *_control_groups(), *_address_space()])


def _machine() -> Iterator[float]:
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        yield 1024 * float(lines["MemAvailable"].split()[0])


def _control_groups(root: Path = Path("/")) -> Iterator[float]:
    """What is left of the limits of this process's groups, of both versions; files in the page cache can go."""
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers not in ("", "memory"):
                continue
            base = root / "sys/fs/cgroup" / controllers
            names = (
                ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
            )
            own = base / path.lstrip("/")
            for group in (own, *(parent for parent in own.parents if parent.is_relative_to(base))):
                # A limit of "max" is none, and what belongs to another container is not there.
                with contextlib.suppress(OSError, ValueError, KeyError):
                    limit, used = (float((group / name).read_text()) for name in names)
                    counts = dict(row.split() for row in (group / "memory.stat").read_text().splitlines())
                    yield limit - used + float(counts["inactive_file"])


def _address_space() -> Iterator[float]:
    """What is left of `ulimit -v`."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            yield limit - float(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
