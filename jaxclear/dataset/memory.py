"""How many items a device should work on at once: what fills it, and what its memory holds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxclear.dataset.program import is_exhaustion

__all__ = ["choose_batch", "memory_limit"]

# Pixels of a batch: on a CPU they have to fit the cache, an accelerator they have to fill; see
# benchmarks/bench_dataset.py.
_PIXELS = {"cpu": 2**13}
_ACCELERATOR_PIXELS = 2**22
_MOST = 1024
_SHARE = 0.8
"""Of a device's free memory that a batch may take: two are in flight, and results of the last one wait."""


def choose_batch(needs: Callable[[int], int], pixels: int, unit: int, device: Any) -> int:
    """Returns items a device, a power of two and at most a unit.

    Args:
        needs: bytes that the compiled program for a batch takes on a device.
        pixels: of one item.
        unit: items a unit.
        device: one of the devices.

    Raises:
        ValueError: not even one item fits.
    """
    wanted = _PIXELS.get(device.platform, _ACCELERATOR_PIXELS) // max(pixels, 1)
    batch = max(1, min(_MOST, unit, wanted))
    batch = 1 << (batch.bit_length() - 1)
    limit = _SHARE * memory_limit(device) / 2
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
                f"{limit / 2**20:.0f} MiB to use; explain smaller images, or fewer classes at once (class_block)"
            )
        batch //= 2


def memory_limit(device: Any) -> float:
    """Returns the bytes that are free for a device; the host's free memory is shared by its devices."""
    statistics = device.memory_stats() if device.platform != "cpu" else None
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)
    return _host_memory() / jax.local_device_count()


def _host_memory() -> float:
    """Free memory of the machine or of the control group, whichever is less; without limit where neither is known."""
    found = [float("inf")]
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(1024 * float(lines["MemAvailable"].split()[0]))
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            found.append(float(limit) - float((group / "memory.current").read_text()))
    except (OSError, ValueError, KeyError):
        pass
    return min(found)
