"""`jaxclear classify`: the class of each structure in files, beside spglib's answer, and a picture for each."""

import argparse
import contextlib
import functools
import json
import math
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxclear.commands.terminal import Progress, complain, fitted, folder, keep_compiled_programs, one_line
from jaxclear.crystals.cells import Orientation
from jaxclear.crystals.classify import (
    Classification,
    ClassificationReport,
    Prepared,
    annotated,
    classify_prepared,
    prepare,
)
from jaxclear.crystals.explain import CrystalExplanation, shipped_model
from jaxclear.crystals.recover import Recovered
from jaxclear.crystals.structures import Crystal, read
from jaxclear.worker_processes import cores, mapped

_CHUNK = 128
"""Structures that are read before they are classified, so that memory does not grow with the files."""


class _Work(NamedTuple):
    """A structure that can be classified."""

    file: str
    prepared: Prepared


def run(options: argparse.Namespace) -> int:
    """Classifies all files; returns the exit code."""
    orientation: Orientation = "standard" if options.orientation == "standard" else "as given"
    out = None if options.no_pictures or (options.json and options.out is None) else options.out or options.default_out
    if out is not None:
        folder(out, make=False)
    if options.xyz is not None and not options.xyz.absolute().parent.is_dir():
        raise ValueError(f"expected a file in a folder that is there, got {str(options.xyz)!r}; make the folder first")
    keep_compiled_programs()
    progress = Progress()
    model = shipped_model()
    failures: list[dict[str, str]] = []
    entries: list[dict[str, Any]] = []
    footnotes: dict[str, int] = {}
    annotations: list[Any] = []
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    for chunk in _chunks(options, orientation, failures, progress):
        progress.show(f"classifying {len(chunk)} structures", force=True)
        report = classify_prepared(
            [work.prepared for work in chunk],
            rule=options.rule,
            model=model,
            maps=out is not None,
            progress=lambda done: progress.show(f"{len(entries) + done} structures"),
        )
        seconds = {step: seconds.get(step, 0.0) + more for step, more in report.seconds.items()}
        pictures = [None] * len(chunk)
        if out is not None and report.explanation is not None:
            pictures = _draw(report.results, report.explanation, out, len(entries), progress)
        progress.clear()
        if not options.json:
            _print_rows(report, footnotes, first=not entries)
        for work, result, picture in zip(chunk, report.results, pictures, strict=True):
            entries.append(_entry(work, result, picture))
            if options.xyz is not None:
                annotations.append(annotated(work.prepared.crystal, result))
    progress.clear()
    if options.xyz is not None and annotations:
        import ase.io

        ase.io.write(options.xyz, annotations, format="extxyz")
    if options.json:
        from jaxclear import __version__

        weights = {"network": "crystal", "sha256": model.metadata["sha256"]}
        seconds["total"] = time.perf_counter() - started
        timings = {step: round(all_of_it, 3) for step, all_of_it in seconds.items()}
        document = {"jaxclear": __version__, "weights": weights, "rule": options.rule, "seconds": timings}
        print(json.dumps({**document, "structures": entries, "failed": failures}, indent=1, ensure_ascii=False))
    elif entries:
        for note, number in footnotes.items():
            print(f"[{number}] {note}")
        if out:
            print(f"pictures: {out}{'/' * (not str(out).endswith('/'))}")
    return (1 if entries else 2) if failures else 0


def _chunks(
    options: argparse.Namespace, orientation: Orientation, failures: list[dict[str, str]], progress: Progress
) -> Iterator[list[_Work]]:
    """The usable structures of the files, some at a time; what cannot be used is told and noted.

    The first are prepared by this process, and only more by processes of their own, which take seconds to start. They
    work on some while this process classifies those before.
    """
    number = cores() if options.workers is None else options.workers
    preparing = functools.partial(_prepared, orientation)
    prepared: Any = functools.partial(map, preparing)
    before: tuple[list[tuple[str, Crystal]], Iterator[Prepared | ValueError | OSError]] | None = None
    with contextlib.ExitStack() as stack:
        for place, read_ones in enumerate(_read(options.files, failures, progress)):
            if number > 1 and place == (1 if options.workers is None else 0):
                prepared = stack.enter_context(mapped(preparing, number))
            begun = prepared([crystal for _, crystal in read_ones])
            if before is not None:
                yield from _usable(*before, failures, progress)
            before = read_ones, begun
        if before is not None:
            yield from _usable(*before, failures, progress)


def _usable(
    read_ones: list[tuple[str, Crystal]],
    prepared: Iterator[Prepared | ValueError | OSError],
    failures: list[dict[str, str]],
    progress: Progress,
) -> Iterator[list[_Work]]:
    """Those of some structures that could be prepared, in one list, where there are any."""
    progress.show(f"finding the lattices of {len(read_ones)} structures", force=True)
    chunk = []
    for (file, _), one in zip(read_ones, prepared, strict=True):
        if isinstance(one, Prepared):
            chunk.append(_Work(file, one))
        else:
            _note(one, file, failures, progress)
    if chunk:
        yield chunk


def _prepared(orientation: Orientation, crystal: Crystal) -> Prepared | ValueError | OSError:
    """A structure made ready, or why it cannot be used."""
    try:
        return prepare(crystal, orientation=orientation)
    except (ValueError, OSError) as error:
        return error


def _read(files: list[str], failures: list[dict[str, str]], progress: Progress) -> Iterator[list[tuple[str, Crystal]]]:
    """The structures of the files, some at a time, each with its file."""
    chunk: list[tuple[str, Crystal]] = []
    for number, file in enumerate(files, start=1):
        progress.show(f"reading {number}/{len(files)}  {Path(file).name}")
        try:
            found = read(file)
        except (ValueError, OSError) as error:
            _note(error, file, failures, progress)
            continue
        for crystal in found:
            chunk.append((file, crystal))
            if len(chunk) == _CHUNK:
                yield chunk
                chunk = []
    if chunk:
        yield chunk


def _note(error: Exception, file: str, failures: list[dict[str, str]], progress: Progress) -> None:
    """Tells and keeps why a file or one of its structures cannot be used."""
    message = one_line(error)
    failures.append({"file": file, "error": message})
    progress.clear()
    complain(message if file in message else f"{file}: {message}")


def _print_rows(report: ClassificationReport, footnotes: dict[str, int], *, first: bool) -> None:
    if first:
        header = ("structure".ljust(30), "answer".ljust(10), "class".ljust(8), "prob.".rjust(8), "runner-up".ljust(9))
        print("  ".join((*header, "prob.".rjust(8), "spglib (1e-5 Å)".ljust(24), "orientation")))
    for result in report.results:
        marks = "".join(f"[{footnotes.setdefault(note, len(footnotes) + 1)}]" for note in result.notes)
        cells = (
            fitted(result.name, 30),
            result.answer.ljust(10),
            result.predicted.ljust(8),
            f"{result.probability:.5f}".rjust(8),
            result.runner_up.ljust(9),
            f"{result.runner_up_probability:.5f}".rjust(8),
            str(result.spglib).ljust(24),
            f"{result.orientation} {marks}".rstrip(),
        )
        print("  ".join(cells))
    sys.stdout.flush()


def _entry(work: _Work, result: Classification, picture: Path | None) -> dict[str, Any]:
    return {
        "file": work.file,
        "name": result.name,
        "answer": result.answer,
        "verdict": result.verdict,
        "outside_score": None if math.isnan(result.outside_score) else result.outside_score,
        "class": result.predicted,
        "probability": result.probability,
        "runner_up": result.runner_up,
        "runner_up_probability": result.runner_up_probability,
        "probabilities": result.probabilities,
        "spglib": result.spglib._asdict(),
        "orientation": result.orientation,
        "average_cell": None if result.recovered is None else _average(result.recovered),
        "notes": list(result.notes),
        "atoms": len(work.prepared.crystal.numbers),
        "picture": None if picture is None else str(picture),
    }


def _average(found: Recovered) -> dict[str, Any]:
    """What was found of the undamaged crystal, in plain lists."""
    average = found.average
    return {
        "space_group": average.space_group,
        "space_group_without_species": average.arrangement_group,
        "cell": average.crystal.cell.tolist(),
        "numbers": average.crystal.numbers.tolist(),
        "positions": average.crystal.positions.tolist(),
        "sites": average.sites.tolist(),
        "site_occupancies": average.occupancies.tolist(),
        "site_displacements": average.spreads.tolist(),
        "rotation": found.rotation.tolist(),
        "lattice": found.lattice.tolist(),
        "copies": average.copies,
        "nearest_neighbour_distance": found.d_nn,
    }


def _draw(
    results: Sequence[Classification], explanation: CrystalExplanation, out: Path, offset: int, progress: Progress
) -> list[Path]:
    """Writes one picture a structure and returns their files."""
    from jaxclear import plot

    folder(out)
    files = []
    for index, result in enumerate(results):
        progress.show(f"drawing {offset + index + 1}  {Path(result.name).name}")
        name = re.sub(r"[^\w.@+-]+", "_", Path(result.name).name)
        file = out / f"{offset + index + 1:04d}-{name[-80:]}.png"
        note = f"spglib at its default tolerance: {result.spglib}"
        if result.notes:
            note += f"   ·   {result.notes[0]}"
        plot.save(plot.crystal_figure(explanation, index, note=note), file)
        files.append(file)
    return files
