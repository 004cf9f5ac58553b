"""Does a run that is killed again and again end with the same bytes? As tests/dataset/test_resume.py, but longer.

    python benchmarks/kill_dataset.py [--kills 200] [--seed 0] [--json FILE]

Runs of one and of two processes are killed with SIGKILL at random moments and at random renames, and started again,
with another number of processes; after half of the kills a power cut is simulated that drops or truncates all that was
not committed. Every finished store is compared byte by byte with an unbroken one. With --json the counts are kept
after each store, in FILE.partial, and the same call goes on from there if it was interrupted itself.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Prints what happened, or writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    from benchmarks.timing import machine
    from jaxclear.cpu_threads import threads_for
    from tests.dataset.killing import kill_often

    os.environ.setdefault("NPROC", str(threads_for(2)))

    partial = options.json and options.json.with_name(f"{options.json.name}.partial")
    kept = json.loads(partial.read_text()) if partial and partial.exists() else {}
    if kept.get("seed", options.seed) != options.seed:
        sys.exit(f"expected the seed {kept['seed']} of {partial}, got {options.seed}; remove the file to begin anew")

    def record(counts: dict[str, Any]) -> None:
        print(f"{counts['kills']} kills, {counts['stores']} stores whole", file=sys.stderr, flush=True)
        if partial:
            partial.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps({**counts, "seed": options.seed}))

    with tempfile.TemporaryDirectory() as folder:
        counts = kill_often(folder, options.kills, options.seed, so_far=kept, record=record)
    found = {**counts, "machine": machine()}  # a store that differed would have ended the run
    text = json.dumps(found, indent=1)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n")
        partial.unlink(missing_ok=True)
    print(text)


if __name__ == "__main__":
    main()
