"""`jaxclear explain-dataset`: CLEAR maps of every item of a source into a zarr store, resumable, on many machines."""

import argparse
import contextlib
import datetime
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from jaxclear.commands.recipes import prepare, written_down
from jaxclear.commands.terminal import Progress, complain, keep_compiled_programs, processors_as_devices
from jaxclear.dataset import explain_dataset

_SHOWN_FAILURES = 20


def run(options: argparse.Namespace) -> int:
    """Explains the source; returns the exit code: 1 where items could not be used."""
    processors_as_devices(options.cpu_devices)
    if not options.no_cache:
        keep_compiled_programs()
    recipe = written_down(options)
    found = prepare(recipe)
    with _log(options.log) as log:
        done = explain_dataset(
            found.explain,
            found.variables,
            found.source,
            options.store,
            unit=options.unit,
            batch=options.batch,
            rank=options.rank,
            world=options.world,
            class_names=found.class_names,
            notes=found.notes,
            value_names=found.value_names,
            recipe=recipe,
            workers=options.workers,
            fail_fast=options.fail_fast,
            overwrite=options.overwrite,
            retry_failed=options.retry_failed,
            log=log,
        )
    words = f"{options.store}: {done.items:,} items in {done.seconds:.1f} s"
    if done.seconds > 0:
        words += f" ({done.items / done.seconds:,.1f} a second, compilation included)"
        words += f"; devices without work {100 * done.waiting:.1f} % of the time"
    print(words)
    if done.resumed:
        print(f"{done.resumed} units were there already")
    if done.missing:
        print(f"{done.missing} units of other processes are not there yet")
    if done.failed:
        complain(f"{done.failed:,} of the items could not be used; 'jaxclear verify {options.store}' lists them")
        return 1
    return 0


@contextlib.contextmanager
def _log(path: Path | None) -> Iterator[Any]:
    """Gives the function that every event goes to: a live line on a terminal, a JSON line elsewhere and in the file."""
    with contextlib.ExitStack() as stack:
        file = None if path is None else stack.enter_context(path.open("a", encoding="utf-8"))
        log = _Log(file)
        stack.callback(log.progress.clear)
        yield log


class _Log:
    def __init__(self, file: TextIO | None) -> None:
        self._file = file
        self._live = sys.stderr.isatty()
        self._told = 0
        self.progress = Progress()

    def __call__(self, event: dict[str, Any]) -> None:
        stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": stamp, **event}, ensure_ascii=False)
        if self._file is not None:
            print(line, file=self._file, flush=True)
        if not self._live:
            print(line, file=sys.stderr, flush=True)
            return
        for name, reason in event.get("failures", ()):
            if self._told < _SHOWN_FAILURES:
                self._told += 1
                self.progress.clear()
                complain(f"{name}: {reason}" if name not in reason else reason)
        if event["event"] in ("batch", "exhausted"):
            self.progress.clear()
            print(f"{event['event']}: {event['batch']} items a device", file=sys.stderr)
        if event["event"] == "start":
            done, units = event["units_done"], event["units"]
            self.progress.show(f"{done}/{units} units are there; compiling", force=True)
        if event["event"] == "unit":
            self.progress.show(_words(event), force=True)


def _words(event: dict[str, Any]) -> str:
    left = int(event["seconds_left"])
    clock = f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
    done = f"{event['units_done']}/{event['units']} units"
    return f"{done}  {event['items_per_second']:,.1f} items/s  {clock} left  waiting {100 * event['waiting']:.1f} %"
