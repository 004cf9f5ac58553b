"""`jaxclear fetch`: structures from a data base that speaks OPTIMADE, as files in a folder."""

import argparse

from jaxclear.commands.terminal import Progress, complain
from jaxclear.crystals.optimade import ACCOUNT, load_optimade

_TOLD = 10
"""Failures that are told one by one."""


def run(options: argparse.Namespace) -> int:
    """Fetches what is not there yet; returns the exit code."""
    progress = Progress()

    def show(written: int, available: int | None) -> None:
        progress.show(f"{written} structures" + (f" of {available} entries" if available is not None else ""))

    try:
        fetched = load_optimade(
            options.provider,
            out=options.out or options.default_out,
            filter=options.filter,
            max_structures=options.max,
            progress=show,
        )
    finally:
        progress.clear()
    for name, message in fetched.failures[:_TOLD]:
        complain(message if name in message else f"{name}: {message}")
    if len(fetched.failures) > _TOLD:
        complain(f"{len(fetched.failures) - _TOLD} more entries, listed in {fetched.folder / ACCOUNT}")
    structures = f"{fetched.written} structure{'s' * (fetched.written != 1)}"
    entries = "" if fetched.available is None else f" of {fetched.available} entries"
    print(f"{structures}{entries} in {fetched.folder}; {'that is all' if fetched.complete else 'there are more'}")
    return 1 if fetched.failures else 0
