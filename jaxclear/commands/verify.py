"""`jaxclear verify`: proof that a store is complete and undamaged."""

import argparse

from jaxclear.commands.terminal import Progress, complain
from jaxclear.dataset import verify

_SHOWN = 20


def run(options: argparse.Namespace) -> int:
    """Verifies a store; returns the exit code: 1 where something is missing or damaged."""
    progress = Progress()
    try:
        found = verify(
            options.store,
            repair=options.repair,
            progress=lambda done, total: progress.show(f"{done}/{total} units"),
        )
    finally:
        progress.clear()
    for index, name, reason in found.failures[:_SHOWN]:
        print(f"not explained: item {index}, {reason if name in reason else f'{name}: {reason}'}")
    if len(found.failures) > _SHOWN:
        print(f"and {len(found.failures) - _SHOWN} more that could not be explained")
    for words in found.metadata:
        complain(f"{options.store}: {words}")
    for unit, reason in list(found.damaged.items())[:_SHOWN]:
        complain(f"{options.store}: unit {unit} is damaged: {reason}")
    if found.missing:
        complain(
            f"{options.store}: {len(found.missing)} of {found.units} units are missing, the first is {found.missing[0]}"
        )
    if not found.whole:
        then = "was taken back: run explain-dataset again" if options.repair else "can be taken back with --repair"
        if found.damaged:
            complain(f"{options.store}: {len(found.damaged)} of {found.units} units damaged; what is damaged {then}")
        return 1
    print(
        f"{options.store}: complete and undamaged: {found.items:,} items in {found.units:,} units, "
        f"{found.items - len(found.failures):,} explained, {len(found.failures):,} recorded as failures"
    )
    return 0
