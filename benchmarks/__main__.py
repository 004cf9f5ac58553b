"""Asks every question of speed and writes one summary: `python -m benchmarks [--quick] [--only NAME …]`.

Each benchmark is a process of its own, so that none finds programs that another compiled. The summary goes to
benchmarks/results/summary.json (or --out FILE) and beside it, with the same name, as Markdown: device, versions and
commit, then a table a question. With --quick all of it takes some ten minutes on two cores; without, `all_classes_vgg`
alone takes half an hour. A question that fails is recorded with its error and what was measured before, the others go
on, and the exit code is 1. What was asked before stays, so that the questions can be asked one by one (--only); each
has the commit, and the load of the machine when it was asked.
"""

import argparse
import importlib
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import timing

ALL_CLASSES = ("--batch", "1", "--contenders", "captum")
"""Who explains all of the 1,000 classes at 224²: others take hours."""
QUESTIONS: dict[str, tuple[str, ...]] = {
    "clear": ("clear",),
    "all_classes_resnet": ("clear", "--full", "--network", "resnet", *ALL_CLASSES),
    "all_classes_vgg": ("clear", "--full", "--network", "vgg", *ALL_CLASSES),
    "class_blocks": ("class_blocks",),
    "image_blocks": ("image_blocks",),
    "winograd": ("winograd",),
    "kernel_gradient": ("kernel_gradient",),
    "bfloat16": ("bfloat16",),
    "fingerprint": ("fingerprint",),
    "classify": ("classify",),
    "spglib": ("spglib",),
    "memory": ("memory",),
    "first_answer": ("first_answer",),
    "training": ("training",),
    "dataset": ("dataset",),
}
"""Which benchmark answers a question, and with which arguments."""
RESULTS = pathlib.Path(__file__).parent / "results" / "summary.json"


def ask(name: str, quick: bool) -> dict[str, Any]:
    """Returns what one benchmark found, or its error."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        benchmark, *arguments = QUESTIONS[name]
        command = [sys.executable, "-m", f"benchmarks.bench_{benchmark}", *arguments]
        file = pathlib.Path(folder) / "found.json"
        if name == "dataset":  # it has several tables and writes a file
            command += ["--json", str(file), *(["--network", "mnist", "--items", "128"] if quick else [])]
        else:
            command += ["--json", *(["--quick"] if quick else [])]
        done = subprocess.run(command, cwd=pathlib.Path(__file__).parents[1], stdout=subprocess.PIPE, check=False)
        written = file.read_text() if file.is_file() else done.stdout
        found = json.loads(written) if written else {}
        if done.returncode:
            found = {"error": f"exit code {done.returncode}", **found}
    return {"command": " ".join(command[1:]), "seconds": round(time.perf_counter() - started, 1), **found}


def markdown(summary: dict[str, Any]) -> str:
    """Returns the summary as a person reads it."""
    where = summary["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    lines = [f"{where['processor']}, {where['cores']} cores, {where['device']}; {versions}"]
    for name, found in summary["questions"].items():
        benchmark, *arguments = QUESTIONS[name]
        module = importlib.import_module(f"benchmarks.bench_{benchmark}")
        question = (module.__doc__ or name).splitlines()[0]
        named = "" if name == benchmark else f" ({name.replace('_', ' ')})"
        command = " ".join(["python", f"benchmarks/bench_{benchmark}.py", *arguments])
        lines += ["", f"## {question}{named}", "", f"    {command}", ""]
        if "machine" in found:
            asked = found["machine"]
            lines += [
                f"Commit {(asked['commit'] or 'none')[:10]}; load average {asked['load_average']} at the start.",
                "",
            ]
        if "error" in found:
            lines += [f"Failed: {found['error']}", ""]
        if "rows" in found:
            lines.append(timing.table(found["rows"], module.COLUMNS))
        elif "runs" in found:
            columns = {"network": "s", "items_per_second": ".1f", "processor_ratio": ".2f", "waiting": ".1%"}
            lines.append(timing.table(found["runs"], columns))
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmarks; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer sizes and rounds")
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, default=list(QUESTIONS), metavar="NAME")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, metavar="FILE")
    options = parser.parse_args(arguments)
    summary: dict[str, Any] = {"machine": timing.machine(), "quick": options.quick, "questions": {}}
    if options.out.is_file():
        before = json.loads(options.out.read_text())
        if before["quick"] == options.quick:
            summary["questions"] = before["questions"]
    for name in options.only:
        print(f"{name} …", file=sys.stderr, flush=True)
        summary["questions"][name] = ask(name, options.quick)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(summary, indent=1) + "\n")
        options.out.with_suffix(".md").write_text(markdown(summary))
    return int(any("error" in found for found in summary["questions"].values()))


if __name__ == "__main__":
    sys.exit(main())
