"""How much faster is the fingerprint kernel than NumPy in closed form, and than the obvious jitted JAX?

    python benchmarks/bench_fingerprint.py [--quick] [--json]

Contenders, on the same padded atoms (aluminium, fcc, rattled by 0.05 Å, as many atoms as named):

- numpy: float64, all kept pixels at once, one rotation after the other;
- obvious: what one writes first in JAX: float32, six shots, ``jnp.cos`` and ``jnp.sin`` of a phase matrix, jit, vmap;
- ours: ``jaxclear.crystals.fingerprint_kernel`` under jit.

Before anything is timed both JAX versions must agree with NumPy to 1e-5 of the image's maximum. Contenders are timed in
turn, so that a change in the machine's load meets both; the median and the spread (interquartile range over median) are
printed, compile time apart. The last line is the whole way from ``Crystal`` objects: standard cell, cluster, padding
and kernel.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase.build import bulk
from jaxtyping import Array, Float

from jaxclear.crystals import PaddedAtoms, fingerprint, fingerprint_kernel, pad, prepare, read
from jaxclear.crystals.form_factors import form_factors

TOLERANCE = 1e-5
SIZES = (32, 128, 256, 2000)
BATCHES = (1, 32)


def geometry() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the kept pixels, their wave vectors and their relative solid angles, float64."""
    k = np.arange(64) - 31.5
    kx, ky = np.meshgrid(k, k, indexing="ij")
    kept = (np.hypot(kx, ky) > 10) & (np.hypot(kx, ky) < 30)
    points = np.stack([kx * 4e-4, ky * 4e-4, np.full_like(kx, 0.1)], axis=-1)
    length = np.linalg.norm(points, axis=-1)
    s = (points / length[..., None] - [0, 0, 1]) / 0.05
    rows, columns = np.nonzero(kept)
    return rows, columns, s[kept], (0.1 / length[kept]) ** 3


ROWS, COLUMNS, WAVE_VECTORS, SOLID_ANGLE = geometry()
FORM_FACTORS = form_factors(np.arange(99), np.linalg.norm(WAVE_VECTORS, axis=-1))


def rotations() -> np.ndarray:
    """The matrices of ±45° about x, y and z, (3, 2, 3, 3)."""
    result = np.zeros((3, 2, 3, 3))
    for axis in range(3):
        for turn, sign in enumerate((1, -1)):
            i, j = (axis + 1) % 3, (axis + 2) % 3
            result[axis, turn, axis, axis] = 1
            result[axis, turn, [i, j], [i, j]] = np.sqrt(0.5)
            result[axis, turn, i, j], result[axis, turn, j, i] = -sign * np.sqrt(0.5), sign * np.sqrt(0.5)
    return result


ROTATIONS = rotations()


def closed_form(atoms: PaddedAtoms) -> np.ndarray:
    """Fingerprints in NumPy float64."""
    images = np.zeros((len(atoms.positions), 64, 64, 3))
    for row, (padded, species, occupancies) in enumerate(zip(*atoms, strict=True)):
        real = occupancies > 0
        positions = padded[real].astype(np.float64)
        weights = FORM_FACTORS[species[real]] * occupancies[real, None]
        for axis in range(3):
            for matrix in ROTATIONS[axis]:
                factor = np.sum(weights * np.exp(-2j * np.pi * (positions @ matrix.T @ WAVE_VECTORS.T)), axis=0)
                images[row, ROWS, COLUMNS, axis] += np.abs(factor) ** 2 * SOLID_ANGLE
        images[row] /= images[row].max()
    return images


@jax.jit
@jax.vmap
def obvious(positions: Array, species: Array, occupancies: Array) -> Float[Array, "64 64 3"]:
    """Fingerprints as one writes them first in JAX."""
    weights = jnp.asarray(FORM_FACTORS, jnp.float32)[species] * occupancies[:, None]
    channels = []
    for axis in range(3):
        total = jnp.zeros(len(ROWS))
        for matrix in ROTATIONS[axis]:
            turned = positions @ jnp.asarray(matrix.T, jnp.float32)
            phase = 2 * jnp.pi * (turned @ jnp.asarray(WAVE_VECTORS.T, jnp.float32))
            total += jnp.sum(weights * jnp.cos(phase), axis=0) ** 2 + jnp.sum(weights * jnp.sin(phase), axis=0) ** 2
        channels.append(total * jnp.asarray(SOLID_ANGLE, jnp.float32))
    image = jnp.zeros((64, 64, 3)).at[ROWS, COLUMNS].set(jnp.stack(channels, axis=-1))
    return image / image.max()


ours = jax.jit(fingerprint_kernel)


def atoms_of(count: int, batch: int) -> PaddedAtoms:
    """A batch of rattled fcc clusters of so many atoms, padded as the library pads them."""
    clusters = []
    for seed in range(batch):
        side = int(np.ceil((count / 4) ** (1 / 3)))
        cell = bulk("Al", cubic=True).repeat(side)
        cell.rattle(0.05, seed=seed)
        order = np.argsort(np.abs(cell.positions - cell.positions.mean(axis=0)).max(axis=1), kind="stable")[:count]
        clusters.append(
            read(cell)[0]
            ._replace(positions=cell.positions[order], numbers=cell.numbers[order])
            ._replace(occupancies=np.ones(count))
        )
    return pad(clusters)


def measure(contenders: dict[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, float]]:
    """Median and spread in seconds of each contender, called in turn and waited for."""
    times = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, call in contenders.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - start)
    quartiles = {name: np.percentile(values, [25, 50, 75]) for name, values in times.items()}
    return {name: {"median": q[1], "spread": (q[2] - q[0]) / q[1]} for name, q in quartiles.items()}


def compiled_in(function: Any, atoms: PaddedAtoms) -> float:
    """Seconds to trace and compile."""
    function.clear_cache()
    start = time.perf_counter()
    function.lower(*map(jnp.asarray, atoms)).compile()
    return time.perf_counter() - start


def bench_kernel(count: int, batch: int, repeats: int) -> dict[str, Any]:
    """One row: so many atoms a structure, so many structures a call."""
    atoms = atoms_of(count, batch)
    device = tuple(map(jnp.asarray, atoms))
    few = PaddedAtoms(*(v[:2] for v in atoms))
    expected = closed_form(few)
    errors = {}
    for name, function in (("obvious", obvious), ("ours", ours)):
        errors[name] = float(np.abs(np.asarray(function(*device))[:2] - expected).max())
        if errors[name] > TOLERANCE:
            raise RuntimeError(f"{name}: expected agreement to {TOLERANCE}, got {errors[name]}; nothing was timed")
    result = measure({"obvious": lambda: obvious(*device), "ours": lambda: ours(*device)}, repeats)
    result |= measure({"numpy": lambda: closed_form(PaddedAtoms(*(v[:1] for v in atoms)))}, max(2, repeats // 4))
    per_structure = {name: value["median"] / (1 if name == "numpy" else batch) for name, value in result.items()}
    return {
        "atoms": count,
        "padded": atoms.positions.shape[1],
        "batch": batch,
        "ms": {name: 1e3 * seconds for name, seconds in per_structure.items()},
        "spread": {name: value["spread"] for name, value in result.items()},
        "ratio": {name: per_structure[name] / per_structure["ours"] for name in ("numpy", "obvious")},
        "error": errors,
        "compile_s": {"obvious": compiled_in(obvious, atoms), "ours": compiled_in(ours, atoms)},
    }


def bench_end_to_end(repeats: int) -> dict[str, Any]:
    """Structures a second from ``Crystal`` objects to images, and the share of the preparation."""
    crystals = read([bulk(symbol).repeat(2) for symbol in ("Cu", "Fe", "Si", "Ti", "Po", "In", "Bi", "Al") * 8])
    fingerprint(crystals)
    result = measure({"all": lambda: fingerprint(crystals), "preparation": lambda: prepare(crystals)}, repeats)
    return {
        "structures": len(crystals),
        "ms": {name: 1e3 * value["median"] / len(crystals) for name, value in result.items()},
        "per_second": len(crystals) / result["all"]["median"],
    }


def main() -> None:
    """Run all rows and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repeats")
    arguments = parser.parse_args()
    sizes, repeats = ((32, 128), 4) if arguments.quick else (SIZES, 12)
    rows = []
    for count in sizes:
        for batch in BATCHES:
            slow = count * batch > 10_000
            rows.append(bench_kernel(count, 8 if slow and batch > 8 else batch, 3 if slow else repeats))
    total = bench_end_to_end(max(3, repeats // 3))
    device = jax.devices()[0]
    where = {"device": f"{device.platform}: {device.device_kind}", "jax": jax.__version__, "host": platform.machine()}
    if arguments.json:
        print(json.dumps({"where": where, "kernel": rows, "end_to_end": total}, indent=1))
        return
    print(where)
    print("atoms batch |  ms a structure: numpy  obvious    ours (spread) | numpy/ours obvious/ours | error  compile s")
    for row in rows:
        ms, ratio = row["ms"], row["ratio"]
        print(
            f"{row['atoms']:5d} {row['batch']:5d} | {ms['numpy']:22.1f} {ms['obvious']:8.2f} {ms['ours']:7.3f} "
            f"({row['spread']['ours']:4.0%})  | {ratio['numpy']:10.0f} {ratio['obvious']:12.1f} | "
            f"{row['error']['ours']:.0e} {row['compile_s']['ours']:5.2f}"
        )
    print(
        f"end to end: {total['per_second']:.0f} structures a second, {total['ms']['all']:.2f} ms each, "
        f"of which preparation {total['ms']['preparation']:.2f} ms"
    )


if __name__ == "__main__":
    main()
