"""How fast is the fingerprint, against NumPy, the obvious JAX, other packages, and the arithmetic that it needs?

    python benchmarks/bench_fingerprint.py [--quick] [--json]

Contenders, on the same atoms (aluminium, fcc, rattled by 0.05 Å, as many as named):

- numpy: float64, all kept pixels at once, one rotation after the other; timed on one structure;
- obvious: what one writes first in JAX: float32, six shots, `jnp.cos` and `jnp.sin` of a phase matrix, jit, vmap;
- jaxclear: `jaxclear.crystals.fingerprint_kernel` under jit, on atoms padded as the library pads them; 10,240
  structures alone, since the obvious one takes minutes for them. Long batches go through calls of 256.

Both JAX versions must agree with NumPy to 1e-5 of the image's maximum before anything is timed. Beside them, because
they compute something else and cannot agree:

- freud: `DiffractionPattern`, the Fourier transform of a *histogram* of the projected positions: a flat Ewald sphere,
  no form factors, positions rounded to the histogram's cells, periodic boxes only. The six views, 64² pixels, of a
  cubic cell of as many atoms as the cluster, rounded up to whole cells;
- pymatgen: `TEMCalculator`, which lists the reflections of an undamaged periodic cell in one zone: no finite cluster,
  no shape of peaks, no background. The six zones of the conventional cell, whatever the number of atoms.

How to read the table: `ms` is a structure; `times_numpy` and `times_obvious` say how much slower those are; `ops_cost`
is the kernel's time over the measured time of as many multiply-adds in a polynomial of numbers in the cache, counted on
the program traced for as many atoms as named (a multiplication and an addition are one): 1 would be a kernel of nothing
but multiply-adds at the machine's rate; `_cpu` by the processor's time.

The last rows go all the way from files: read, find the standard cell, cut the cluster, pad, and compute; `structures_s`
is what a user sees. They are elements of all classes, four of seven of them cubic: of those spglib is asked a few times
in all (:mod:`jaxclear.crystals.spglib_datasets`), of the others for each structure.
"""

import argparse
import functools
import pathlib
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase.build import bulk
from jaxtyping import Array, Float

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import timing
from benchmarks.counting import operations
from jaxclear.crystals import PaddedAtoms, fingerprint, fingerprint_kernel, members, pad, read, spglib_datasets, to_ase
from jaxclear.crystals.cells import clusters_of
from jaxclear.crystals.fingerprint import fingerprint_clusters
from jaxclear.crystals.form_factors import form_factors

TOLERANCE = 1e-5
SIZES = (32, 128, 256, 2000)
CHUNK = 256
"""Structures in a call of the long batches."""
BATCHES = (1, 32, 1024, 10_240)
LONGEST_OBVIOUS = 1024
"""The longest batch that the obvious JAX is given."""
COLUMNS = {
    **{"atoms": "d", "batch": "d", "contender": "s", "ms": ".3f", "spread": ".0%", "structures_s": ".0f"},
    **{"times_numpy": ".0f", "times_obvious": ".1f", "times_obvious_cpu": ".1f", "ops_cost": ".2f"},
    **{"ops_cost_cpu": ".2f", "error": ".0e", "compile_s": ".1f"},
}


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


PIXEL_X, PIXEL_Y, WAVE_VECTORS, SOLID_ANGLE = geometry()
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
                images[row, PIXEL_X, PIXEL_Y, axis] += np.abs(factor) ** 2 * SOLID_ANGLE
        images[row] /= images[row].max()
    return images


@jax.jit
@jax.vmap
def obvious(positions: Array, species: Array, occupancies: Array) -> Float[Array, "64 64 3"]:
    """Fingerprints as one writes them first in JAX."""
    weights = jnp.asarray(FORM_FACTORS, jnp.float32)[species] * occupancies[:, None]
    channels = []
    for axis in range(3):
        total = jnp.zeros(len(PIXEL_X))
        for matrix in ROTATIONS[axis]:
            turned = positions @ jnp.asarray(matrix.T, jnp.float32)
            phase = 2 * jnp.pi * (turned @ jnp.asarray(WAVE_VECTORS.T, jnp.float32))
            total += jnp.sum(weights * jnp.cos(phase), axis=0) ** 2 + jnp.sum(weights * jnp.sin(phase), axis=0) ** 2
        channels.append(total * jnp.asarray(SOLID_ANGLE, jnp.float32))
    image = jnp.zeros((64, 64, 3)).at[PIXEL_X, PIXEL_Y].set(jnp.stack(channels, axis=-1))
    return image / image.max()


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


def polynomial(x: Float[Array, " n"]) -> Float[Array, " n"]:
    """As many multiply-adds a number as `_STEPS`, one after the other, as in Horner's scheme."""
    value = x
    for _ in range(_STEPS):
        value = value * x + 0.5
    return value


_STEPS = 256


def multiply_adds(count: int) -> int:
    """Returns how many multiply-adds one fingerprint of so many atoms takes, from the traced program.

    Of a CPU's and an accelerator's way the dearer one is counted: the arithmetic is the same, up to what fills chunks.
    """
    shapes = [jax.ShapeDtypeStruct((count, 3), jnp.float32), jax.ShapeDtypeStruct((count,), jnp.int32)]
    found = operations(fingerprint_kernel, *shapes, jax.ShapeDtypeStruct((count,), jnp.float32))
    return found.multiply_adds + found.elementwise // 2


def others(count: int) -> dict[str, Callable[[], Any]]:
    """Returns what other packages compute of a structure like ours, where they are installed."""
    found: dict[str, Callable[[], Any]] = {}
    side = int(np.ceil((count / 4) ** (1 / 3)))
    cell = bulk("Al", cubic=True).repeat(side)
    cell.rattle(0.05, seed=0)
    try:
        import freud  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        print(f"freud is left out: {error}", file=sys.stderr)
    else:
        from scipy.spatial.transform import Rotation

        views = [Rotation.from_matrix(matrix).as_quat(scalar_first=True) for matrix in ROTATIONS.reshape(-1, 3, 3)]
        box = freud.box.Box.cube(cell.cell.lengths()[0])
        points = cell.positions - cell.cell.lengths() / 2

        def patterns() -> None:
            for view in views:
                pattern = freud.diffraction.DiffractionPattern(grid_size=64, output_size=64)
                pattern.compute((box, points), view_orientation=view).diffraction  # noqa: B018

        found["freud"] = patterns
    found["pymatgen"] = _pymatgen()
    return found


def _pymatgen() -> Callable[[], Any]:
    from pymatgen.analysis.diffraction.tem import TEMCalculator
    from pymatgen.io.ase import AseAtomsAdaptor

    structure: Any = AseAtomsAdaptor.get_structure(bulk("Al", cubic=True))  # pyright: ignore[reportArgumentType]
    zones = ((0, 1, 1), (0, 1, -1), (1, 0, 1), (1, 0, -1), (0, 0, 1), (0, 0, 1))
    calculators = [TEMCalculator(beam_direction=zone) for zone in zones]

    def reflections() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for calculator in calculators:
                calculator.get_pattern(structure)

    return reflections


def _kernels(
    atoms: PaddedAtoms, count: int, batch: int
) -> tuple[dict[str, Callable[[], Any]], dict[str, float], dict[str, float]]:
    """The compiled calls of both JAX versions by name, the seconds of their compilation, and their errors."""
    padded = tuple(map(jnp.asarray, atoms))
    expected = closed_form(PaddedAtoms(*(v[:2] for v in atoms)))
    kernels, seconds, errors = {}, {}, {}
    versions: dict[str, Any] = {"jaxclear": (fingerprint_kernel, padded)}
    if batch <= LONGEST_OBVIOUS:
        versions["obvious"] = obvious, tuple(v[:, :count] for v in padded)
    for name, (function, given) in versions.items():
        kernel, seconds[name] = timing.compiled(function, *given)
        if not timing.fits(kernel):
            print(f"{name} is left out at {count} atoms, batch {batch}: too big for the memory", file=sys.stderr)
            continue
        kernels[name] = functools.partial(kernel, *given)
        found = np.asarray(kernels[name]())[:2]
        errors[name] = timing.assert_agreement(f"{name}, {count} atoms", found, expected, tolerance=TOLERANCE)
    return kernels, seconds, errors


def bench_kernel(count: int, batch: int, *, rounds: int, budget: float) -> list[timing.Row]:
    """Returns one row a contender: so many atoms a structure, so many structures in a row.

    Raises:
        Disagreement: a kernel differs from NumPy; nothing was timed.
    """
    atoms = atoms_of(count, min(batch, CHUNK))
    calls = -(-batch // CHUNK)
    kernels, seconds, errors = _kernels(atoms, count, batch)
    numbers = jnp.linspace(0, 0.5, 2**16)
    arithmetic, _ = timing.compiled(polynomial, numbers)
    single = PaddedAtoms(*(v[:1] for v in atoms))
    contenders: dict[str, Callable[[], Any]] = {
        name: lambda kernel=kernel: [kernel() for _ in range(calls)] for name, kernel in kernels.items()
    }
    contenders |= {"arithmetic": lambda: arithmetic(numbers), "numpy": lambda: closed_form(single)}
    if batch == 1:
        contenders |= others(count)
    jax.block_until_ready(arithmetic(numbers))
    times = timing.alternate(contenders, rounds=rounds, budget=budget, called_before=batch > 1)
    needed = multiply_adds(count) / (len(numbers) * _STEPS)
    arithmetic_time = times.pop("arithmetic")
    made = {name: calls * len(atoms.species) if name in kernels else 1 for name in times}
    rows = []
    for name, took in times.items():
        row: timing.Row = {"atoms": count, "batch": made[name], "contender": name, "rounds": took.rounds}
        row |= {"ms": 1e3 * took.median / made[name], "spread": took.spread, "structures_s": made[name] / took.median}
        if name == "jaxclear":
            row["times_numpy"] = times["numpy"].median / (took.median / made[name])
            slower = times.get("obvious")
            row["times_obvious"] = slower and slower.median / took.median
            row["times_obvious_cpu"] = slower and slower.processor / took.processor
            row["ops_cost"] = took.median / made[name] / (needed * arithmetic_time.median)
            row["ops_cost_cpu"] = took.processor / made[name] / (needed * arithmetic_time.processor)
        rows.append(row | {"error": errors.get(name), "compile_s": seconds.get(name)})
    return rows


def bench_files(count: int, *, rounds: int) -> list[timing.Row]:
    """Returns structures a second from CIF files to fingerprints, and of each step alone."""
    from ase.io import write

    with tempfile.TemporaryDirectory() as folder:
        files = [pathlib.Path(folder) / f"{number}.cif" for number in range(count)]
        for file, crystal in zip(files, members(count).crystals, strict=True):
            write(file, to_ase(crystal))
        crystals = read(files)
        clusters = clusters_of(crystals)
        steps = {
            "from files": lambda: fingerprint(files),
            "reading": lambda: read(files),
            "standard cells and clusters": lambda: clusters_of(crystals),
            "padding and kernel": lambda: fingerprint_clusters(clusters),
        }
        times = timing.alternate({name: _as_if_new(step) for name, step in steps.items()}, rounds=rounds)
    return [
        {"batch": count, "contender": name, "ms": 1e3 * took.median / count, "spread": took.spread}
        | {"structures_s": count / took.median, "rounds": took.rounds}
        for name, took in times.items()
    ]


def _as_if_new(step: Callable[[], Any]) -> Callable[[], Any]:
    """The step without the answers of spglib that an earlier round left."""

    def forgetful() -> Any:
        spglib_datasets.forget()
        return step()

    return forgetful


def measure(options: argparse.Namespace) -> Iterator[timing.Row]:
    """Yields the rows of all sizes and batches, then those from files."""
    for count in (32, 128) if options.quick else SIZES:
        for batch in BATCHES[:2] if options.quick else BATCHES:
            slow = count * batch > 10_000
            yield from bench_kernel(count, batch, rounds=3 if slow or options.quick else 12, budget=20)
            print(f"{count} atoms, batch {batch}: done", file=sys.stderr)
    yield from bench_files(64 if options.quick else 512, rounds=3 if options.quick else 7)


if __name__ == "__main__":
    timing.command(__doc__, measure, COLUMNS)
