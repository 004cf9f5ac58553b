import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import few_of
from jaxclear.crystals import Beam, StructureError, fingerprint, fingerprint_kernel, prepare
from jaxclear.crystals.beam import orbits_of, wave_vectors
from jaxclear.crystals.fingerprint import _compiled, _cosine
from jaxclear.crystals.form_factors import form_factors
from tests.crystals import reference

module = importlib.import_module("jaxclear.crystals.fingerprint")  # the package's name for it is the function
kernel = jax.jit(fingerprint_kernel, static_argnames="beam")
cosine_and_slope = jax.jit(lambda turns, steps: jax.jvp(_cosine, (turns,), (steps,)))


def random_atoms(seed, count, *, side=4.0):
    rng = np.random.default_rng(seed)
    positions = rng.uniform(-side / 2, side / 2, (count, 3)).astype(np.float32)
    return positions, rng.integers(1, 99, count), rng.uniform(0.1, 1, count).astype(np.float32)


@pytest.mark.parametrize(
    ("seed", "count", "side"),
    few_of([(0, 1, 1.0), (1, 7, 2.0), (2, 130, 5.0), (3, 300, 7.0)], (0, 1, 1.0), (2, 130, 5.0)),
)
def test_matches_the_direct_sum(seed, count, side):
    positions, species, occupancies = random_atoms(seed, count, side=side)
    expected = reference.fingerprint(positions.astype(float), species, occupancies.astype(float))
    np.testing.assert_allclose(kernel(positions, species, occupancies), expected, atol=3e-6, rtol=0)


@pytest.mark.parametrize("count", [20, 300])
def test_what_accelerators_compute(count, monkeypatch):
    """By their sums, on this machine's CPU."""
    positions, species, occupancies = random_atoms(2, count, side=6.0)
    expected = reference.fingerprint(positions.astype(float), species, occupancies.astype(float))
    assert "dot_general" not in kernel.lower(positions, species, occupancies).as_text()
    monkeypatch.setattr(module, "_CPU", module._ACCELERATOR)
    images = jax.jit(lambda *atoms: fingerprint_kernel(*atoms))
    assert "dot_general" in images.lower(positions, species, occupancies).as_text()
    np.testing.assert_allclose(images(positions, species, occupancies), expected, atol=3e-6, rtol=0)
    batch = [np.stack([v, v]) for v in (positions, species, occupancies)]
    np.testing.assert_allclose(images(*batch), np.stack([expected, expected]), atol=3e-6, rtol=0)


def test_matches_the_direct_sum_for_a_crystal():
    atoms = prepare(bulk("Ti"))
    expected = reference.fingerprint(atoms.positions[0].astype(float), atoms.species[0], atoms.occupancies[0])
    np.testing.assert_allclose(kernel(*atoms)[0], expected, atol=3e-6, rtol=0)


@pytest.mark.parametrize("shift", [(0.3, -0.2, 0.5), (2.0, 1.0, -3.0)])
def test_translation_changes_nothing(shift):
    positions, species, occupancies = random_atoms(4, 30)
    image = kernel(positions, species, occupancies)
    np.testing.assert_allclose(kernel(positions + np.float32(shift), species, occupancies), image, atol=1e-5)


def test_relabelling_changes_nothing():
    atoms = random_atoms(5, 30)
    order = np.random.default_rng(0).permutation(30)
    np.testing.assert_allclose(kernel(*(v[order] for v in atoms)), kernel(*atoms), atol=2e-6)


def test_inversion_changes_nothing():
    positions, species, occupancies = random_atoms(6, 30)  # Friedel's law
    np.testing.assert_allclose(
        kernel(-positions, species, occupancies), kernel(positions, species, occupancies), atol=2e-6
    )


def test_quarter_turn_about_the_beam_swaps_two_channels():
    # Rx(a) Rz(90) = Rz(90) Ry(-a) and Ry(a) Rz(90) = Rz(90) Rx(a), and +a and -a are added.
    positions, species, occupancies = random_atoms(7, 30)
    turned = positions @ reference.rotation(2, 90).T.astype(np.float32)
    expected = np.rot90(np.asarray(kernel(positions, species, occupancies)))[..., [1, 0, 2]]
    np.testing.assert_allclose(kernel(turned, species, occupancies), expected, atol=2e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_half_turn_across_the_beam_mirrors_the_image(axis):
    # Rx(180) sends s to (s_x, -s_y, -s_z); Friedel's law makes that (-s_x, s_y, s_z).
    positions, species, occupancies = random_atoms(8, 30)
    turned = positions @ reference.rotation(axis, 180).T.astype(np.float32)
    expected = np.flip(kernel(positions, species, occupancies), axis)
    np.testing.assert_allclose(kernel(turned, species, occupancies), expected, atol=2e-6)


PEAKS = [
    # A reflection shows where the turn brings it into the plane of the detector: (h, k, l) about x goes to
    # (h, (k - l)/√2, (k + l)/√2) or (h, (k + l)/√2, (l - k)/√2); lengths are in 1/d_nn.
    ("sc", 0, (1.0, 0.0), 1.0),
    ("sc", 2, (np.sqrt(0.5), np.sqrt(0.5)), 1.0),
    ("fcc", 0, (np.sqrt(1 / 3), np.sqrt(2 / 3)), np.sqrt(1.5)),
    ("fcc", 1, (np.sqrt(2 / 3), np.sqrt(1 / 3)), np.sqrt(1.5)),
    ("bcc", 0, (0.0, 1.0), np.sqrt(1.5)),
    ("diamond", 0, (np.sqrt(1 / 3), np.sqrt(2 / 3)), 0.75),
    ("diamond", 0, (0.0, 1.0), np.sqrt(1.5)),
]


@pytest.mark.parametrize(("lattice", "channel", "direction", "wave_number"), PEAKS)
def test_peaks(lattice, channel, direction, wave_number):
    atoms = bulk("Si" if lattice == "diamond" else "Cu", lattice, a=4.0)
    beam = Beam(inner_radius=6.0)  # the published one drops diamond's 111, 9.4 pixels from the beam
    image = np.asarray(kernel(*prepare(atoms, min_atoms=500), beam=beam))[0, ..., channel]
    angle = np.arcsin(wave_number * beam.wavelength / 2) * 2  # |s| = 2 sin(angle / 2) / wavelength
    distance = beam.detector_distance * np.tan(angle) / beam.pixel_size
    i, j = 31.5 + distance * np.array(direction)
    corner = round(i) - 3, round(j) - 3
    window = image[corner[0] : corner[0] + 7, corner[1] : corner[1] + 7]
    peak = np.add(np.unravel_index(window.argmax(), window.shape), corner)
    assert np.abs(peak - (i, j)).max() <= 1.0
    assert window.max() > 0.1


def test_the_published_ring_is_kept():
    image = np.asarray(kernel(*random_atoms(9, 30))).max(axis=-1)
    k = np.arange(64) - 31.5
    radius = np.hypot(*np.meshgrid(k, k))
    np.testing.assert_array_equal(image > 0, (radius > 10) & (radius < 30))
    assert image.max() == 1


def test_gradient_against_finite_differences_of_the_direct_sum():
    positions, species, occupancies = random_atoms(10, 6, side=2.0)
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(64, 64, 3))
    step = rng.normal(size=(6, 3)), rng.normal(size=6)

    def loss(positions, occupancies):
        return jnp.sum(fingerprint_kernel(positions, species, occupancies) * weights)

    def loss64(size):
        p, o = positions.astype(float) + size * step[0], occupancies.astype(float) + size * step[1]
        return np.sum(reference.fingerprint(p, species, o) * weights)

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(positions, occupancies)
    slope = sum(np.sum(np.asarray(g, float) * s) for g, s in zip(gradients, step, strict=True))
    h = 1e-5
    np.testing.assert_allclose(slope, (loss64(h) - loss64(-h)) / (2 * h), rtol=2e-4)


def test_gradients_of_a_batch_in_chunks_and_of_accelerators_agree(monkeypatch):
    positions, species, occupancies = (np.stack([v, v]) for v in random_atoms(11, 300, side=6.0))

    def slopes():
        return jax.jit(jax.grad(lambda p: fingerprint_kernel(p, species, occupancies)[..., 0].sum()))(positions)

    gradient = slopes()
    largest = np.abs(gradient).max()
    assert 0 < largest < np.inf
    np.testing.assert_allclose(gradient[0], gradient[1], atol=1e-6 * largest)
    monkeypatch.setattr(module, "_CPU", module._ACCELERATOR)
    np.testing.assert_allclose(slopes(), gradient, atol=1e-4 * largest)


def test_batch_vmap_and_single_agree():
    atoms = [np.stack(v) for v in zip(*(random_atoms(seed, 20) for seed in range(3)), strict=True)]
    batch = np.asarray(kernel(*atoms))
    for row in range(3):
        np.testing.assert_allclose(kernel(*(v[row] for v in atoms)), batch[row], atol=1e-6)
    np.testing.assert_allclose(jax.vmap(fingerprint_kernel)(*atoms), batch, atol=1e-6)


@pytest.mark.parametrize("missing", [12, 140])
def test_padding_changes_nothing(missing):
    atoms = random_atoms(12, 20)
    longer = [np.pad(v, [(0, missing)] + [(0, 0)] * (v.ndim - 1)) for v in atoms]
    np.testing.assert_allclose(kernel(*longer), kernel(*atoms), atol=1e-6)
    before = [np.pad(v, [(missing, 0)] + [(0, 0)] * (v.ndim - 1)) for v in atoms]
    np.testing.assert_allclose(kernel(*before), kernel(*atoms), atol=1e-6)
    assert not np.any(kernel(*(np.zeros_like(v) for v in longer)))


def test_no_atoms_scatter_nothing():
    assert not np.any(kernel(np.zeros((0, 3)), np.zeros(0, int), np.zeros(0)))


def test_slopes_of_absent_atoms():
    """Atoms of occupancy 0 far behind the others, in a chunk of their own: what one would add is not left out."""
    positions, species, occupancies = random_atoms(15, 40)
    occupancies[30:] = 0
    gaps = [np.insert(v, 30, np.zeros((70, *v.shape[1:]), v.dtype), axis=0) for v in (positions, species, occupancies)]

    def loss(occupancies, positions, species):
        return jnp.sum(fingerprint_kernel(positions, species, occupancies)[..., 0])

    slopes = jax.jit(jax.grad(loss))
    expected = slopes(occupancies, positions, species)
    assert np.abs(expected[30:]).min() > 0
    found = slopes(gaps[2], *gaps[:2])
    np.testing.assert_allclose(np.delete(found, slice(30, 100)), expected, rtol=1e-4)


@pytest.mark.parametrize("count", [20, 300])
def test_kernel_over_two_devices(count):
    atoms = [np.stack([v, v]) for v in random_atoms(13, count)]
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("batch")
    sharded = jax.jit(jax.shard_map(fingerprint_kernel, mesh=mesh, in_specs=spec, out_specs=spec))
    np.testing.assert_allclose(sharded(*atoms), kernel(*atoms), atol=1e-6)


def test_kernel_exports():
    atoms = [np.stack([v, v]) for v in random_atoms(14, 20)]
    exported = jax.export.export(kernel, platforms=["cpu", "cuda"])(*map(jnp.asarray, atoms))
    np.testing.assert_allclose(exported.call(*map(jnp.asarray, atoms)), kernel(*atoms), atol=1e-6)


def test_one_program_for_one_shape():
    structures = [bulk("Cu"), bulk("Fe"), bulk("Si")]
    images = fingerprint(structures, batch_size=4)
    programs = _compiled._cache_size()
    assert np.array_equal(fingerprint(structures[::-1], batch_size=4), images[::-1])
    fingerprint([*structures, bulk("Ti")], batch_size=4)  # 3 and 4 structures both make a batch of 4
    assert _compiled._cache_size() == programs


def test_order_survives_different_sizes():
    large = bulk("Al", cubic=True).repeat(5)
    large.rattle(0.05, seed=0)
    images = fingerprint([large, bulk("Fe"), bulk("Cu")], orientation="as given")
    for row, atoms in enumerate([large, bulk("Fe"), bulk("Cu")]):
        np.testing.assert_allclose(fingerprint(atoms, orientation="as given")[0], images[row], atol=1e-6)


def test_scale_and_orientation_of_the_input_do_not_matter():
    reference_image = fingerprint(bulk("Fe"))
    scaled = bulk("Fe", a=3.5)
    turned = bulk("Fe", cubic=True).repeat((2, 1, 1))
    turned.rotate(37, (1, 2, 3), rotate_cell=True)
    np.testing.assert_allclose(fingerprint([scaled, turned]), np.repeat(reference_image, 2, 0), atol=1e-5)


def test_no_structures_give_no_images():
    assert fingerprint([]).shape == (0, 64, 64, 3)


@pytest.mark.parametrize(
    "shapes", [((5, 2), (5,), (5,)), ((5, 3), (4,), (5,)), ((3,), (), ()), ((1, 1, 5, 3), (1, 1, 5), (1, 1, 5))]
)
def test_wrong_shapes(shapes):
    positions, species, occupancies = (np.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match="expected positions"):
        fingerprint_kernel(positions, species.astype(int), occupancies)


def test_other_wrong_arguments():
    with pytest.raises(ValueError, match="integer species"):
        fingerprint_kernel(np.zeros((2, 3)), np.ones(2), np.ones(2))
    with pytest.raises(ValueError, match="batch_size"):
        fingerprint(bulk("Cu"), batch_size=0)
    with pytest.raises(ValueError, match="orientation"):
        fingerprint(bulk("Cu"), orientation="upright")  # pyright: ignore
    with pytest.raises(ValueError, match="even number"):
        Beam(pixels=63)
    with pytest.raises(ValueError, match="inner_radius"):
        Beam(inner_radius=30.0)


def test_bad_structures_compile_nothing():
    bad = bulk("Cu")
    bad.positions[0, 0] = np.nan
    programs = _compiled._cache_size()
    with pytest.raises(StructureError, match="finite positions"):
        fingerprint([bulk("Ag"), bad], batch_size=2)
    assert _compiled._cache_size() == programs


def test_solid_angle_falls_by_two_percent_at_the_edge():
    angle = orbits_of(Beam()).solid_angle
    assert 0.978 < angle.min() < 0.98
    assert angle.max() < 1


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-200, 200, width=32), min_size=20, max_size=20))
def test_cosine_and_its_slope(turns):
    turns = jnp.asarray(turns, jnp.float32)
    cosine, slope = cosine_and_slope(turns, jnp.ones_like(turns))
    angle = 2 * np.pi * np.asarray(turns, np.float64)
    np.testing.assert_allclose(cosine, np.cos(angle), atol=5e-7)
    quarter = 2 * np.pi * np.spacing(200, dtype=np.float32)  # what a quarter turn more loses to rounding
    np.testing.assert_allclose(slope / (2 * np.pi), -np.sin(angle), atol=5e-7 + quarter)


def test_wave_vectors_are_those_of_the_pixels():
    positions, species, occupancies = random_atoms(5, 20)
    image = np.zeros((64, 64, 3))
    vectors = wave_vectors()
    dropped = np.isnan(vectors).all(axis=(2, 3, 4))
    for x, y in np.argwhere(~dropped)[::17]:
        for channel, rotation in np.ndindex(3, 2):
            s = vectors[x, y, channel, rotation]
            weights = form_factors(species, np.array([np.linalg.norm(s)]))[:, 0] * occupancies
            image[x, y, channel] += abs(np.sum(weights * np.exp(-2j * np.pi * (positions @ s)))) ** 2
    found = np.asarray(kernel(positions, species, occupancies))
    np.testing.assert_array_equal(dropped, ~found.any(axis=-1))
    asked = image > 0
    ratio = found[asked] / image[asked]
    np.testing.assert_allclose(ratio / ratio.mean(), 1, atol=0.02)  # the solid angle varies by 1.6 %
