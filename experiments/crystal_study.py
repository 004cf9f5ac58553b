"""What the experiments on damaged crystals share: the split by element, random damage, and fingerprints of it.

The test elements are those of the shipped pristine network: none of them is in training, or in the choice of any
setting. The development elements are out of training too; what has to be chosen is chosen on them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Key

from jaxclear.crystals import datasets, defect_kernels
from jaxclear.crystals.cells import PaddedAtoms, cluster, nearest_neighbour_distance, standard_cell
from jaxclear.crystals.fingerprint import fingerprint_kernel
from jaxclear.crystals.scale import length_scale_kernel, shipped_variables
from jaxclear.crystals.strangers import Strangers, strangers
from jaxclear.crystals.structures import Crystal
from jaxclear.crystals.symmetry import CLASS_NAMES

TEST_ELEMENTS = ("Be", "Er", "Ga", "He", "I", "La", "O", "S", "Se", "Yb")
DEVELOPMENT_ELEMENTS = ("Cs", "Ge", "Nb", "Sn", "Zn")

FEWEST_ATOMS = 24
"""Vacancies never leave fewer atoms than this in training."""
BALLS = 0.2
"""Share of the training examples that are balls of atoms instead of parallelepipeds."""
SIZES = (160, 224)
"""Padded sizes in training: the atoms of a cluster and a tenth more."""
_CHUNK, _STEP = 256, 16
"""Structures in one call at most, and the step of their number below: each number is compiled by itself."""


class Roles(NamedTuple):
    """Indices of a data set's structures by what they may be used for."""

    training: Int[np.ndarray, " M"]
    development: Int[np.ndarray, " D"]
    test: Int[np.ndarray, " T"]


def roles(dataset: datasets.LabelledStructures) -> Roles:
    """The split by element; structures in the near-degenerate band are left out of training."""
    systems = [set(system.split("-")) for system in dataset.elements]
    test = np.array([not system.isdisjoint(TEST_ELEMENTS) for system in systems])
    development = np.array([not system.isdisjoint(DEVELOPMENT_ELEMENTS) for system in systems]) & ~test
    training = ~test & ~development & ~dataset.near_degenerate
    return Roles(*(np.flatnonzero(chosen) for chosen in (training, development, test)))


class Scaled(NamedTuple):
    """Pristine clusters of one padded size, in units of their nearest-neighbour distance, with room for more atoms."""

    rows: Int[np.ndarray, " n"]
    """Which clusters these are."""
    atoms: PaddedAtoms


def scaled(clusters: Sequence[Crystal]) -> list[Scaled]:
    """Clusters by padded size.

    Raises:
        ValueError: for a cluster too large for the largest of `SIZES`.
    """
    counts = np.array([len(crystal.numbers) for crystal in clusters])
    if counts.max() * 1.1 > SIZES[-1]:
        raise ValueError(f"expected at most {int(SIZES[-1] / 1.1)} atoms, got {counts.max()}")
    found = []
    for size, smaller in zip(SIZES, (0, *SIZES[:-1]), strict=True):
        rows = np.flatnonzero((counts * 1.1 <= size) & (counts * 1.1 > smaller))
        atoms = PaddedAtoms(
            np.zeros((len(rows), size, 3), np.float32),
            np.zeros((len(rows), size), np.int32),
            np.zeros((len(rows), size), np.float32),
        )
        for row, index in enumerate(rows.tolist()):
            crystal, count = clusters[index], counts[index]
            centred = crystal.positions - crystal.positions.mean(axis=0)
            atoms.positions[row, :count] = centred / nearest_neighbour_distance(crystal.positions)
            atoms.species[row, :count] = crystal.numbers
            atoms.occupancies[row, :count] = crystal.occupancies
        found.append(Scaled(rows, atoms))
    return found


def random_damage(
    key: Key[Array, ""], atoms: PaddedAtoms, species: Int[Array, " choices"], *, severity: ArrayLike = 1.0
) -> PaddedAtoms:
    """One structure with a random mixture of defects, now and then none.

    Displacements up to 0.2 d_nn, correlated ones up to 0.15 d_nn, vacancies up to 85 % (fewer with large
    displacements),
    substitutions up to 60 %, interstitials up to 10 %, strain up to 5 %, times `severity`.
    """
    kinds, amounts, *keys = jax.random.split(key, 8)
    on = jax.random.bernoulli(kinds, jnp.array([0.65, 0.2, 0.6, 0.35, 0.25, 0.35, 0.95]))
    on = on[:-1] & on[-1]
    most = severity * jnp.array([0.2, 0.15, 0.85, 0.6, 0.1, 0.05])
    sigma, wave, missing, changed, added, strained = jnp.where(on, most * jax.random.uniform(amounts, most.shape), 0.0)
    missing = jnp.minimum(missing, 0.85 - 2 * sigma)
    stay = (atoms.occupancies > 0).sum() - FEWEST_ATOMS
    atoms = PaddedAtoms(*(jnp.asarray(values) for values in atoms))
    atoms = defect_kernels.deform(atoms, defect_kernels.strain_tensor(keys[0], strained))
    room = len(atoms.species) // 11  # a tenth of the atoms that fill the rest
    atoms = jax.lax.cond(
        added > 0,
        lambda: defect_kernels.insert(keys[1], atoms, defect_kernels.count_of(atoms, added), most=room),
        lambda: atoms,
    )
    atoms = defect_kernels.displace(keys[2], atoms, wave, correlation=2.0)
    atoms = defect_kernels.displace(keys[3], atoms, sigma)
    atoms = defect_kernels.remove(keys[4], atoms, jnp.minimum(defect_kernels.count_of(atoms, missing), stay))
    return defect_kernels.substitute(keys[5], atoms, defect_kernels.count_of(atoms, changed), species)


def centred(atoms: PaddedAtoms, length: Float[Array, " batch"]) -> PaddedAtoms:
    """A batch of structures divided by a length each, their charge-weighted centres at the origin."""
    weights = (atoms.species * atoms.occupancies)[..., None]
    centre = (weights * atoms.positions).sum(axis=1, keepdims=True) / weights.sum(axis=1, keepdims=True)
    present = (jnp.asarray(atoms.occupancies) > 0)[..., None]
    return atoms._replace(positions=jnp.where(present, (atoms.positions - centre) / length[:, None, None], 0.0))


@jax.jit
def damaged_images(
    scale_variables: Any,
    keys: Key[Array, " batch"],
    atoms: PaddedAtoms,
    species: Int[Array, " choices"],
    *,
    severity: ArrayLike,
) -> Float[Array, "batch 64 64 3"]:
    """Fingerprints after :func:`random_damage`, scaled by what the scale network makes of the damaged atoms."""
    made = jax.lax.map(lambda pair: random_damage(pair[0], pair[1], species, severity=severity), (keys, atoms))
    length = length_scale_kernel(scale_variables, made.positions, made.occupancies)
    return fingerprint_kernel(*centred(made, length))


def batches(
    clusters: Sequence[Crystal], *, seed: int
) -> Iterator[tuple[Int[np.ndarray, " batch"], Key[Array, " batch"], PaddedAtoms]]:
    """Yields scaled clusters in batches of few sizes, with a key each, the same for a seed, and which ones they are.

    A batch is filled up with clusters that it has already, keys included.
    """
    for part in scaled(clusters):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), part.atoms.species.shape[1]), len(part.rows))
        size = min(_CHUNK, -(-len(part.rows) // _STEP) * _STEP)
        for start in range(0, len(part.rows), _CHUNK):
            chosen = np.resize(np.arange(start, min(start + _CHUNK, len(part.rows))), size)
            yield part.rows[chosen], keys[chosen], PaddedAtoms(*(values[chosen] for values in part.atoms))


def damaged_batches(
    clusters: Sequence[Crystal], species: Int[np.ndarray, " choices"], *, severity: float, seed: int
) -> Float[np.ndarray, "N 64 64 3"]:
    """Fingerprints of clusters after :func:`random_damage`, each with a key of its own; the same for the same seed."""
    images = np.zeros((len(clusters), 64, 64, 3), np.float32)
    for rows, keys, atoms in batches(clusters, seed=seed):
        made = damaged_images(shipped_variables(), keys, atoms, jnp.asarray(species), severity=severity)
        images[rows] = np.asarray(made)
    return images


class Labelled(NamedTuple):
    """A data set with the standard cells of its structures and the clusters cut from them."""

    dataset: datasets.LabelledStructures
    cells: list[Crystal]
    clusters: list[Crystal]


def labelled(source: str) -> Labelled:
    """The structures of a source with their labels, standard cells and clusters.

    Raises:
        DatasetError: as `datasets.load`.
    """
    dataset = datasets.load(source)
    cells = [standard_cell(crystal).crystal for crystal in dataset.crystals]
    return Labelled(dataset, cells, [cluster(cell) for cell in cells])


def training_species(study: Labelled) -> Int[np.ndarray, " species"]:
    """The atomic numbers in a data set other than those of development and test."""
    return np.setdiff1d(known_species(study), atomic_numbers(DEVELOPMENT_ELEMENTS + TEST_ELEMENTS))


def atomic_numbers(elements: Sequence[str]) -> Int[np.ndarray, " species"]:
    """The atomic numbers of elements by their symbols, in order of the numbers."""
    from ase.data import atomic_numbers as of_symbol

    return np.sort([of_symbol[symbol] for symbol in elements])


def known_species(study: Labelled) -> Int[np.ndarray, " species"]:
    """The atomic numbers that occur in a data set."""
    return np.unique(np.concatenate([crystal.numbers for crystal in study.dataset.crystals]))


def ball(cell: Crystal, count: int, rng: np.random.Generator) -> Crystal:
    """The `count` atoms of a crystal nearest to a random point: a piece without facets and without periods."""
    point = rng.uniform(0, 1, 3) @ cell.cell
    radius = (3 * count * abs(np.linalg.det(cell.cell)) / (4 * np.pi * len(cell.numbers))) ** (1 / 3)
    heights = 1 / np.linalg.norm(np.linalg.inv(cell.cell), axis=0)
    reach = np.ceil(1.3 * radius / heights).astype(int) + 1
    steps = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1).reshape(-1, 1, 3)
    positions = (cell.positions + steps @ cell.cell).reshape(-1, 3)
    nearest = np.argsort(((positions - point) ** 2).sum(axis=1), kind="stable")[:count]
    return Crystal(
        np.zeros((3, 3)),
        positions[nearest],
        np.tile(cell.numbers, len(steps))[nearest],
        np.tile(cell.occupancies, len(steps))[nearest],
        np.zeros(3, dtype=bool),
        cell.name,
    )


def piece(study: Labelled, row: int, rng: np.random.Generator) -> Crystal:
    """The published cluster of a structure, or now and then a ball of 100 to 190 atoms."""
    if rng.random() > BALLS:
        return study.clusters[row]
    return ball(study.cells[row], int(rng.integers(100, 190)), np.random.default_rng(int(rng.integers(2**31))))


def evenly(
    study: Labelled, rows: Int[np.ndarray, " n"], counts: Mapping[str, int], rng: np.random.Generator
) -> Int[np.ndarray, " count"]:
    """Rows drawn with replacement, so many of each class, every distinct structure of a class as often as any other."""
    drawn = []
    for label, name in enumerate(CLASS_NAMES):
        members = rows[study.dataset.labels[rows] == label]
        if len(members):
            _, group, sizes = np.unique(study.dataset.duplicate_of[members], return_inverse=True, return_counts=True)
            share = 1 / sizes[group]
            drawn.append(rng.choice(members, counts[name], p=share / share.sum()))
    return np.concatenate(drawn)


def damaged_examples(
    study: Labelled, rows: Int[np.ndarray, " n"], counts: Mapping[str, int], *, severity: float = 1.0, seed: int
) -> tuple[Float[np.ndarray, "N 64 64 3"], Int[np.ndarray, " N"]]:
    """Fingerprints of damaged pieces of so many structures of each class, and their labels; the same for a seed."""
    rng = np.random.default_rng(seed)
    drawn = evenly(study, rows, counts, rng)
    pieces = [piece(study, row, rng) for row in drawn.tolist()]
    return damaged_batches(pieces, known_species(study), severity=severity, seed=seed), study.dataset.labels[drawn]


_Sites = tuple[tuple[float, float, float], ...]
_ORIGIN: _Sites = ((0.0, 0.0, 0.0),)
_FACES: _Sites = ((0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0))


def _face_centred(*shifts: float) -> _Sites:
    """The sites of face-centred lattices, each moved by so much along the diagonal of the cubic cell."""
    return tuple((x + shift, y + shift, z + shift) for shift in shifts for x, y, z in _ORIGIN + _FACES)


COMPOUNDS: dict[str, tuple[float, _Sites, _Sites]] = {
    "rocksalt": (0.5, _face_centred(0.0), _face_centred(0.5)),
    "CsCl": (3**0.5 / 2, _ORIGIN, ((0.5, 0.5, 0.5),)),
    "zincblende": (3**0.5 / 4, _face_centred(0.0), _face_centred(0.25)),
    "L1_2": (0.5**0.5, _ORIGIN, _FACES),
    "D0_3": (3**0.5 / 4, _face_centred(0.0), _face_centred(0.5, 0.25, 0.75)),
}
"""Ordered compounds whose atoms sit on the lattice of a class: the nearest-neighbour distance in units of the cubic
cell's edge, and the sites of both elements in it."""


def ordered_compounds(elements: Int[np.ndarray, " choices"], count: int, *, seed: int) -> list[Crystal]:
    """Cubic cells of ordered compounds, in turn of each kind, of two random elements whose spheres touch.

    Raises:
        ValueError: for fewer than two elements.
    """
    from ase.data import covalent_radii

    if len(elements) < 2:
        raise ValueError(f"expected two elements or more, got {elements.tolist()}")
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        name = tuple(COMPOUNDS)[number % len(COMPOUNDS)]
        distance, first, second = COMPOUNDS[name]
        pair = rng.choice(elements, 2, replace=False)
        edge = float(covalent_radii[pair].sum()) / distance
        positions = edge * (np.array(first + second) % 1)
        numbers = np.repeat(pair, [len(first), len(second)]).astype(np.int32)
        found.append(Crystal(edge * np.eye(3), positions, numbers, np.ones(len(numbers)), np.ones(3, bool), name))
    return found


def halves_of_strangers(most: int) -> tuple[Strangers, Strangers]:
    """At most so many strangers, evenly from the list: half to adjust the verdict on, half to test it on."""
    found = strangers()
    count = len(found.names)
    chosen = np.unique(np.linspace(0, count - 1, min(most, count)).astype(int))
    return _some(found, chosen[::2]), _some(found, chosen[1::2])


def _some(found: Strangers, chosen: Int[np.ndarray, " n"]) -> Strangers:
    return Strangers(
        tuple(found.crystals[i] for i in chosen.tolist()),
        tuple(found.names[i] for i in chosen.tolist()),
        found.space_groups[chosen],
        found.member_lattice[chosen],
    )


def equal_counts(total: int) -> dict[str, int]:
    """A number of structures shared equally among the classes, at least one each."""
    return dict.fromkeys(CLASS_NAMES, max(1, total // len(CLASS_NAMES)))
