"""The command line: `jaxclear demo` and `jaxclear classify`. Nothing heavy is imported before a command needs it."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TOLERANCES = {"tight": 1e-4, "medium": 1e-2, "loose": 1e-1}
"""Tolerances of spglib, Å, that the demonstration compares."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; exits with 2 on a user's mistake, 1 where only some files could be used."""
    options = _parser().parse_args(arguments)
    try:
        status = options.run(options)
    except KeyboardInterrupt:
        status = 130
    except (ValueError, OSError) as error:
        print(f"jaxclear: error: {' '.join(str(error).split())}", file=sys.stderr)
        status = 2
    sys.exit(status)


def _parser() -> argparse.ArgumentParser:
    from jaxclear import __version__

    parser = argparse.ArgumentParser(prog="jaxclear", description="Which class a network sees where, and why.")
    parser.add_argument("--version", action="version", version=f"jaxclear {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="classify and explain real crystals, pristine and damaged")
    demo.add_argument("--out", type=Path, default=Path("jaxclear-demo"), help="folder for the pictures")
    demo.set_defaults(run=_demo)
    classify = commands.add_parser("classify", help="name the crystal class of structure files and show why")
    classify.add_argument("files", nargs="+", metavar="FILE", help="anything ASE or pymatgen reads")
    classify.add_argument("--out", type=Path, help="folder for pictures; none are made without it")
    classify.add_argument("--json", action="store_true", help="print one JSON document")
    classify.set_defaults(run=_classify)
    return parser


def _demo(options: argparse.Namespace) -> int:
    from jaxclear import demo

    options.out.mkdir(parents=True, exist_ok=True)
    demo.run(options.out, TOLERANCES)
    return 0


def _classify(options: argparse.Namespace) -> int:
    from jaxclear import crystals

    structures, failures = [], []
    for file in options.files:
        try:
            structures.extend(crystals.read(file))
        except ValueError as error:
            failures.append(file)
            print(f"jaxclear: {' '.join(str(error).split())}", file=sys.stderr)
    if not structures:
        raise ValueError(f"expected at least one usable structure, got none in {len(options.files)} files")
    found = crystals.explain(structures, rule="guided")
    rows = [_row(found, number) for number in range(len(structures))]
    if options.json:
        print(json.dumps({"structures": rows, "failed": failures}, indent=1))
    else:
        print(f"{'file':30s} {'class':8s} {'prob.':>7s}  {'runner-up':8s} {'prob.':>7s}  spglib  orientation")
        for row in rows:
            print(
                f"{row['name'][-30:]:30s} {row['class']:8s} {row['probability']:7.4f}  {row['runner_up']:8s} "
                f"{row['runner_up_probability']:7.4f}  {row['spglib'] or 'none':>6}  {row['orientation']}"
            )
    if options.out:
        from jaxclear import plot

        options.out.mkdir(parents=True, exist_ok=True)
        for number, row in enumerate(rows):
            file = options.out / f"{number:04d}-{Path(row['name']).name}.png"
            plot.save(plot.crystal_gallery(found, [number], [row["name"]]), file)
    return 1 if failures else 0


def _row(found: Any, number: int) -> dict[str, Any]:
    first, second = (-found.probabilities[number]).argsort()[:2].tolist()
    return {
        "name": found.names[number],
        "class": found.class_names[first],
        "probability": float(found.probabilities[number, first]),
        "runner_up": found.class_names[second],
        "runner_up_probability": float(found.probabilities[number, second]),
        "spglib": found.space_groups[number],
        "orientation": found.orientations[number],
    }
