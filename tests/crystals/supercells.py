"""Supercells, rotations and glasses as tests make them: plain loops, nothing of the package's own."""

import itertools

import numpy as np

from jaxclear.crystals import Crystal


def primitive(atoms):
    """A Crystal of an ase.Atoms, as it is."""
    ones = np.ones(len(atoms))
    numbers = np.array(atoms.numbers, dtype=np.int32)
    return Crystal(np.array(atoms.cell), np.array(atoms.positions), numbers, ones, np.ones(3, bool), str(atoms.symbols))


def supercell(crystal, matrix):
    """The supercell with lattice vectors ``matrix @ cell``: every translation that lies in it, once."""
    cell = np.array(matrix) @ crystal.cell
    inverse = np.linalg.inv(cell)
    reach = np.abs(matrix).sum(axis=0)
    steps = []
    for step in itertools.product(*(range(-n, n + 1) for n in reach)):
        fraction = np.array(step) @ crystal.cell @ inverse
        if np.all((fraction > -1e-9) & (fraction < 1 - 1e-9)):
            steps.append(np.array(step) @ crystal.cell)
    assert len(steps) == abs(round(np.linalg.det(matrix)))
    positions = np.concatenate([crystal.positions + step for step in steps])
    numbers = np.tile(crystal.numbers, len(steps))
    return Crystal(cell, positions, numbers, np.ones(len(numbers)), crystal.pbc, crystal.name)


def random_matrix(rng, fewest, most):
    """A random integer matrix with a determinant in a range."""
    while True:
        matrix = rng.integers(-4, 5, (3, 3))
        if fewest <= abs(round(np.linalg.det(matrix))) <= most:
            return matrix


def random_rotation(rng):
    """A proper rotation from a random quaternion."""
    w, x, y, z = (q := rng.normal(size=4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def turned(crystal, rng):
    """The same structure rotated, shifted, its axes and atoms in another order."""
    rotation = random_rotation(rng)
    order = rng.permutation(len(crystal.numbers))
    return crystal._replace(
        cell=(crystal.cell @ rotation.T)[rng.permutation(3)],
        positions=(crystal.positions @ rotation.T + rng.uniform(-9, 9, 3))[order],
        numbers=crystal.numbers[order],
    )


def kept(crystal, index):
    """Some of the atoms."""
    return crystal._replace(
        positions=crystal.positions[index], numbers=crystal.numbers[index], occupancies=crystal.occupancies[index]
    )


def glass(rng, count, core):
    """Random positions in a cube, none closer than a hard core, by random sequential addition."""
    edge = (count * 2.6**3) ** (1 / 3)
    positions = []
    while len(positions) < count:
        point = rng.uniform(0, edge, 3)
        gaps = np.array(positions).reshape(-1, 3) - point
        gaps -= edge * np.round(gaps / edge)
        if not len(gaps) or np.linalg.norm(gaps, axis=1).min() > core:
            positions.append(point)
    ones = np.ones(count)
    return Crystal(edge * np.eye(3), np.array(positions), np.full(count, 29, np.int32), ones, np.ones(3, bool), "glass")


def ball(crystal, count, rng):
    """The atoms nearest to a random point, turned, without periods."""
    steps = np.array(list(itertools.product(range(-8, 9), repeat=3)))
    positions = (steps[:, None] @ crystal.cell + crystal.positions).reshape(-1, 3) - rng.uniform(size=3) @ crystal.cell
    nearest = np.argsort((positions**2).sum(axis=1))[:count]
    numbers = np.tile(crystal.numbers, len(steps))[nearest]
    places = positions[nearest] @ random_rotation(rng).T
    return Crystal(np.zeros((3, 3)), places, numbers, np.ones(count), np.zeros(3, bool), crystal.name)
