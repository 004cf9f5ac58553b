"""`jaxclear map`: classes over a big structure, as a table, an extended xyz file, and a picture of a slice."""

import argparse
import time
from pathlib import Path

import numpy as np

from jaxclear.commands.terminal import Progress, folder, table
from jaxclear.crystals.regions import RegionMap, map_regions, one_structure, write
from jaxclear.worker_processes import cores


def run(options: argparse.Namespace) -> int:
    """Maps one structure; returns the exit code."""
    out = folder(options.out or options.default_out, make=False)
    progress = Progress()
    progress.show(f"reading {Path(options.file).name}", force=True)
    try:
        frame = ":" if options.frame is None else options.frame
        structure = one_structure(options.file, index=frame)
        started = time.perf_counter()
        found = map_regions(
            structure,
            atoms=options.atoms,
            size=options.size,
            stride=options.stride,
            unit="d_nn" if options.unit == "d_nn" else "Å",
            shape=options.shape,
            orient="as given" if options.orient == "as-given" else "recover",
            workers=0 if options.orient == "as-given" else _workers(options),
            progress=lambda done, total: progress.show(f"{done}/{total} regions", force=True),
        )
        seconds = time.perf_counter() - started
    finally:
        progress.clear()
    count = len(structure.numbers)
    print(f"{options.file}: {count:,} atoms, {len(found.centres):,} regions of {found.size:.2f} Å, ", end="")
    print(f"{seconds:.1f} s ({count / seconds:,.0f} atoms/s)\n")
    print(_table(found))
    from jaxclear import crystal_plots, plot

    folder(out)
    name = Path(options.file).stem[-80:]
    write(out / f"{name}-classes.xyz", structure, found, source=options.file, index=frame)
    plot.save(crystal_plots.regions_figure(found, structure, axis=options.slice), out / f"{name}-slice.png")
    print(f"\nclass and confidence of each atom: {out / f'{name}-classes.xyz'}")
    print(f"picture: {out / f'{name}-slice.png'}")
    return 0


def _workers(options: argparse.Namespace) -> int:
    number = options.workers if options.workers is not None else cores()
    return 0 if number == 1 else number


def _table(found: RegionMap) -> str:
    """A line for each class that is there, and one for what has none."""
    rows = []
    for number, name in [*enumerate(found.class_names), (-1, "no class")]:
        atoms, regions = found.atom_class == number, found.predicted_class == number
        if atoms.any() or regions.any():
            sure = f"{found.atom_confidence[atoms].mean():.3f}" if atoms.any() and number >= 0 else "-"
            share = f"{100 * atoms.mean():.1f} %"
            rows.append((name, f"{np.count_nonzero(regions):,}", f"{np.count_nonzero(atoms):,}", share, sure))
    return table(("class", "regions", "atoms", "share", "mean confidence"), rows)
