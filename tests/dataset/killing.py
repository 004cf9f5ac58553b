"""Runs in processes that are killed at random moments, and what a power cut leaves behind.

The processes are forked from a server that has imported everything but started nothing, so that each begins at once.
"""

import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

from tests.dataset.common import Images, files, run

COUNT = 46
SETTINGS = {"unit": 4, "batch": 2}


def source():
    return Images(COUNT, pause=0.002, broken=(5, 30))


def context():
    """Processes that begin with the imports done."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["tests.dataset.killing"])
    return found


def child(out, rank, world, deadly, begun):
    """One process of a run. `deadly` counts down the calls of `os.replace` to one that kills instead."""
    if deadly is not None:
        import jaxclear.dataset.store as target

        left = [deadly]
        replace = os.replace

        def replace_or_die(*paths):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*paths)

        target.os.replace = replace_or_die
    begun.set()
    run(out, source(), rank=rank, world=world, **SETTINGS)


def attempt(processes, out, world=1, after=None, deadly=None):
    """Starts all processes of a run and kills them `after` seconds of work; returns their exit codes."""
    begun = [processes.Event() for _ in range(world)]
    children = [processes.Process(target=child, args=(out, rank, world, deadly, begun[rank])) for rank in range(world)]
    for process in children:
        process.start()
    for event in begun:
        event.wait(60)
    started = time.perf_counter()
    if after is not None:
        time.sleep(after)
        for process in children:
            process.kill()
    for process in children:
        process.join(120)
    return [process.exitcode for process in children], time.perf_counter() - started


def power_cut(out, rng):
    """Drops what no sync has made durable: temporary files, and shards of units without a marker, whole or in part."""
    committed = {int(file.stem) for file in (out / "commits").glob("[0-9]*.json")}
    for file in out.rglob("*"):
        temporary = ".__lock" in file.name or file.parent.name == ".tmp"
        parts = file.relative_to(out).parts
        uncommitted = len(parts) > 2 and parts[1] == "c" and parts[2].split(".")[0].isdigit()
        if not file.is_file() or not (temporary or uncommitted):
            continue
        if not temporary and int(parts[2].split(".")[0]) in committed:
            continue
        if rng.random() < 0.5:
            file.unlink()
        elif rng.random() < 0.5:
            os.truncate(file, rng.randrange(file.stat().st_size + 1))


NOTHING = {"kills": 0, "stores": 0, "power_cuts": 0, "at_a_rename": 0, "of_two_processes": 0, "too_late": 0}


def kill_often(folder, kills, seed, *, so_far=None, record=lambda counts: None):
    """Kills runs until there were `kills`; returns what happened.

    What happens to a store depends on the seed and its number alone, so that the counts `so_far` of an interrupted call
    can be gone on with; `record` gets them after each finished store.

    Raises:
        AssertionError: a run that was finished in the end differs from an unbroken one.
    """
    folder, processes = Path(folder), context()
    codes, duration = attempt(processes, folder / "unbroken")
    assert codes == [0]
    reference = files(folder / "unbroken")
    counts = {**NOTHING, "seconds": 0.0, **(so_far or {})}
    while counts["kills"] < kills:
        started, rng = time.perf_counter(), random.Random(f"{seed}, {counts['stores']}")
        out = folder / f"store-{counts['stores']}"
        deaths = 1
        while deaths:
            world = rng.choice((1, 2, 2))
            last = counts["kills"] >= kills
            deadly = rng.randrange(1, 40) if not last and rng.random() < 0.25 else None
            after = None if last or deadly else rng.uniform(0, duration)
            codes, _ = attempt(processes, out, world, after, deadly)
            deaths = codes.count(-signal.SIGKILL)
            assert set(codes) <= {0, -signal.SIGKILL}, codes
            counts["kills"] += deaths
            counts["at_a_rename"] += deaths if deadly else 0
            counts["of_two_processes"] += deaths if world == 2 else 0
            counts["too_late"] += 0 if deaths or last else 1
            if deaths and out.exists() and rng.random() < 0.5:
                power_cut(out, rng)
                counts["power_cuts"] += 1
        found = files(out)
        differing = {name for name in found | reference if found.get(name) != reference.get(name)}
        assert not differing, differing
        shutil.rmtree(out)
        counts["stores"] += 1
        counts["seconds"] = round(counts["seconds"] + time.perf_counter() - started, 1)
        record(counts)
    return {**counts, "seed": seed, "items": COUNT, "unbroken_seconds": round(duration, 2)}
