"""What would explaining ImageNet, or 14 million items, cost on 1, 8 and 64 devices? On paper, from measured rates.

    python benchmarks/scale_dataset.py [--measured FILE] [--rates 100 400 1600] [--devices-a-host 8]

Reads what bench_dataset.py has measured: bytes and items a second that one process can write and commit. Processes
share nothing, so compute time falls with the number of devices, and each host's writer is a limit of its own: the
slower of the two decides. The rate of a device is an assumption of the table (`--rates`, items a second of one device)
until `--measured` names a file that was made on such a device: its best rate is then added and marked.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

MEASURED = Path(__file__).parent / "results" / "bench_dataset.json"
JOBS = (("ImageNet, 224²", 1_281_167, 224), ("14 million, 224²", 14_000_000, 224), ("14 million, 28²", 14_000_000, 28))
DEVICES = (1, 8, 64)


class Cost(NamedTuple):
    """Hours of a run, what decides them, device hours, bytes written."""

    hours: float
    limit: str
    device_hours: float
    bytes: float


def cost(items: int, rate: float, devices: int, a_host: int, writer: dict[str, Any]) -> Cost:
    """Returns what a run costs.

    Args:
        items: of the source.
        rate: items a second of one device.
        devices: in all.
        a_host: devices of one host, which has one writer.
        writer: measured `items_per_second` and `bytes_per_second` of a writer.

    Example:
        >>> cost(3600, 1.0, 2, 8, {"items_per_second": 100.0, "bytes_per_second": 1000.0})
        Cost(hours=0.5, limit='device', device_hours=1.0, bytes=36000.0)
    """
    hosts = -(-devices // a_host)
    computing, writing = items / (rate * devices), items / (writer["items_per_second"] * hosts)
    hours = max(computing, writing) / 3600
    size = items * writer["bytes_per_second"] / writer["items_per_second"]
    return Cost(hours, "device" if computing >= writing else "writer", hours * devices, size)


def main() -> None:
    """Prints the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, default=MEASURED)
    parser.add_argument("--rates", type=float, nargs="+", default=[100, 400, 1600])
    parser.add_argument("--devices-a-host", type=int, default=8)
    options = parser.parse_args()
    measured = json.loads(options.measured.read_text())
    writers = {row["side"]: row for row in measured["writer"]}
    own = {run["network"]: run["items_per_second"] / measured["devices"] for run in measured["runs"]}
    print(
        f"measured on {measured['device']} ({measured['cores']} cores, load {measured['load_at_start']:.1f} when begun)"
    )
    for side, row in writers.items():
        rate, size = row["items_per_second"], row["bytes_per_second"] / row["items_per_second"]
        share = rate / options.devices_a_host
        print(f"- a writer commits {rate:,.0f} items/s of {side}² ({size:,.0f} bytes each): the limit of a host with")
        print(f"  {options.devices_a_host} devices from {share:,.0f} items/s a device on")
    for name, rate in own.items():
        print(f"- a device explains {rate:.1f} items/s ({name}, into a store)")
    print(
        "\n| run | items/s a device | devices | hours | limit | device hours | written |\n|---|---|---|---|---|---|---|"
    )
    for name, items, side in JOBS:
        rates = [(rate, "assumed") for rate in options.rates]
        rates += [(rate, "measured") for network, rate in own.items() if network == "mnist" and side == 28]
        for rate, how in rates:
            for devices in DEVICES:
                found = cost(items, rate, devices, options.devices_a_host, writers[side])
                print(
                    f"| {name} | {rate:,.0f} ({how}) | {devices} | {found.hours:,.2f} | {found.limit} "
                    f"| {found.device_hours:,.1f} | {found.bytes / 1e9:,.0f} GB |"
                )


if __name__ == "__main__":
    main()
