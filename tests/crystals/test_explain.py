"""Explaining crystals: one compiled call, the same answers in any company, and what is said about orientation."""

import functools
import logging
import sys

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk, fcc111, molecule
from ase.collections import dcdft

import jaxclear
from jaxclear import crystals, models
from jaxclear.crystals.cells import pad
from jaxclear.crystals.classify import SPGLIB_SYMPREC, spglib_answer
from jaxclear.crystals.explain import class_probabilities, explain_oriented, orient, shipped_model
from jaxclear.palettes import legible
from optimisation import assert_same_at_both_levels


class Compilations(logging.Handler):
    """The names of what JAX compiles while this is in use."""

    def __enter__(self):
        self.names = []
        self._context = jax.log_compiles()
        self._context.__enter__()
        logging.getLogger("jax").addHandler(self)
        return self

    def __exit__(self, *failure):
        logging.getLogger("jax").removeHandler(self)
        self._context.__exit__(*failure)

    def emit(self, record):
        message = record.getMessage()
        if message.startswith("Finished XLA compilation of "):
            self.names.append(message.split()[4])


@pytest.fixture(scope="module")
def small():
    """A quick network of the crystal network's kind, in place of the shipped one."""

    def apply(variables, images):
        maps = jax.nn.relu(jax.lax.conv(images.transpose(0, 3, 1, 2), variables["first"], (4, 4), "SAME"))
        return maps.reshape(len(images), -1) @ variables["last"]

    first, last = jax.random.split(jax.random.key(0))
    variables = {
        "first": jax.random.normal(first, (4, 3, 5, 5)),
        "last": jax.random.normal(last, (16 * 16 * 4, 7)) / 30,
    }
    jax.block_until_ready(variables)
    return models.load("crystal")._replace(apply=apply, variables=variables, metadata={})


def test_one_executable_from_atoms_to_colours(small):
    structures = [bulk("Cu"), bulk("Fe"), bulk("Si")]
    with Compilations() as compiled:
        first = crystals.explain(structures, model=small)
    assert compiled.names == ["jit(kernel)"]
    with Compilations() as compiled:
        second = crystals.explain([bulk("Al"), bulk("W"), bulk("Ge")], model=small)
    assert compiled.names == []
    assert first.rgb.shape == second.rgb.shape == (3, 64, 64, 3)


def test_the_call_is_one_program_without_the_host(small):
    kernel = jax.jit(crystals.explain_kernel(small.apply))
    atoms = crystals.prepare([bulk("Cu"), bulk("Fe")])
    text = kernel.lower(small.variables, *atoms).compile().as_text()
    assert text.count("ENTRY") == 1
    assert not any(word in text for word in ("infeed", "outfeed", "callback"))
    with jax.transfer_guard("disallow"):
        found = kernel(small.variables, *jax.device_put(tuple(atoms)))
    assert found.rgb.shape == (2, 64, 64, 3)


def test_programs_optimised_as_users_have_them_give_what_those_of_the_tests_give():
    model = models.load("crystal")
    atoms = crystals.prepare([bulk("Cu"), bulk("Fe"), bulk("Si")])
    assert_same_at_both_levels(crystals.explain_kernel(model.apply), model.variables, *atoms)


def test_the_steps_one_by_one_give_the_same(small):
    structures = [bulk("Cu"), bulk("Mg")]
    found = crystals.explain(structures, model=small, rule="backprop")
    images = crystals.fingerprint(structures)
    np.testing.assert_allclose(found.fingerprint, images, atol=1e-6)
    clear = jaxclear.clear_map(small.apply, rule="backprop")(small.variables, jnp.asarray(images))
    np.testing.assert_allclose(found.class_scores, clear.class_scores, rtol=1e-4, atol=1e-4)
    assert np.mean(found.clear.dominant_class == clear.dominant_class) > 0.995
    np.testing.assert_allclose(found.probabilities, jax.nn.softmax(found.class_scores), rtol=1e-4, atol=1e-6)
    expected = jaxclear.to_rgb(jax.tree.map(jnp.asarray, found.clear), palette=legible(7))
    np.testing.assert_allclose(found.rgb, expected, atol=1e-5)
    np.testing.assert_array_equal(found.predicted_class, found.class_scores.argmax(1))


def test_answers_do_not_depend_on_company_or_order(small):
    large = crystals.amorphous("Zr", atoms=256)
    structures = [bulk("Cu"), large, bulk("Fe"), bulk("Po", "sc", a=3.35), bulk("Si")]
    together = crystals.explain(structures, model=small)
    assert [len(piece.numbers) for piece in together.clusters][1] == 256
    for row, structure in enumerate(structures):
        alone = crystals.explain(structure, model=small)
        np.testing.assert_allclose(together.fingerprint[row], alone.fingerprint[0], atol=2e-6)
        np.testing.assert_allclose(together.probabilities[row], alone.probabilities[0], atol=1e-5)
    quick = class_probabilities(list(together.clusters), model=small)
    np.testing.assert_allclose(quick, together.probabilities, atol=1e-5)


def test_more_structures_than_a_batch(small):
    seen = []
    pieces = [orient(crystal) for crystal in crystals.read([bulk("Cu"), bulk("Fe")] * 17)]
    found = explain_oriented(pieces, model=small, progress=seen.append)
    assert seen[-1] == 34
    assert len(seen) == 2
    np.testing.assert_allclose(found.probabilities[32], found.probabilities[0], atol=1e-5)


def test_the_kernel_can_be_exported_and_sharded(small):
    kernel = crystals.explain_kernel(small.apply, rule="linear")
    atoms = tuple(map(jnp.asarray, crystals.prepare([bulk("Cu"), bulk("Fe")])))
    expected = jax.jit(kernel)(small.variables, *atoms)
    exported = jax.export.export(jax.jit(functools.partial(kernel, small.variables)))(*atoms)
    np.testing.assert_allclose(exported.call(*atoms)[1], expected.probabilities, atol=1e-5)
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.PartitionSpec("batch")
    spread = jax.shard_map(
        functools.partial(kernel, small.variables), mesh=mesh, in_specs=(rows, rows, rows), out_specs=rows
    )
    np.testing.assert_allclose(jax.jit(spread)(*atoms).probabilities, expected.probabilities, atol=1e-5)


def test_what_is_known_of_the_orientation(small):
    shaken = bulk("Cu", cubic=True) * (3, 3, 3)
    shaken.rattle(0.05, seed=0)
    turned = bulk("Cu", cubic=True)
    turned.rotate(20, "z", rotate_cell=True)
    shaken.rotate(50, (1, 2, 3), rotate_cell=True)
    glass = crystals.amorphous("Zr")
    found = crystals.explain([shaken, turned, glass], model=small)
    assert found.orientations == ("recovered", "standard", "not found")
    assert found.space_groups == (225, 225, None)
    assert found.verdicts == ("unknown", "unknown", "no lattice")
    np.testing.assert_allclose(found.d_nn[:2], 3.61 / np.sqrt(2), rtol=5e-3)
    assert np.abs(found.fingerprint[0] - found.fingerprint[1]).max() < 0.15, "turned as the pristine one"
    kept = crystals.explain(turned, model=small, orientation="as given")
    assert kept.orientations == ("as given",)
    assert kept.space_groups == (None,)
    assert np.abs(kept.fingerprint - found.fingerprint[1]).max() > 0.1


def test_the_shipped_network_names_the_classes_and_responds():
    found = crystals.explain([dcdft[name] for name in ("In", "Mg", "Po", "Cu", "Si", "Fe")])
    assert [found.class_names[k] for k in found.predicted_class] == ["bct139", "hex/rh", "sc", "fcc", "diamond", "bcc"]
    assert np.all(found.rgb.max(axis=(1, 2, 3)) > 0.5)
    assert shipped_model() is shipped_model()


def test_a_glass_has_no_lattice():
    answer = crystals.classify([crystals.amorphous("Zr")], maps=False).results[0]
    assert answer.verdict == "no lattice"
    assert answer.notes[0].startswith("no lattice was found")


def test_classification_in_words():
    damaged = crystals.displacements(crystals.vacancies(bulk("Cu", cubic=True) * (3, 3, 3), 0.2, seed=0), 0.06, seed=1)
    damaged.rotate(33, (3, 1, 2), rotate_cell=True)
    slab = fcc111("Al", (1, 1, 3), vacuum=8)
    report = crystals.classify([bulk("Cu"), damaged, dcdft["Ga"], slab])
    copper, found, gallium, flat = report.results
    assert (copper.answer, copper.verdict, copper.orientation, copper.notes) == ("fcc", "member", "standard", ())
    assert copper.probability > 0.99 > copper.runner_up_probability
    assert str(copper.spglib) == "Fm-3m (225) = fcc"
    assert copper.spglib.symprec == SPGLIB_SYMPREC
    assert (found.answer, found.orientation, found.spglib.class_name) == ("fcc", "recovered", None)
    assert found.recovered.average.occupancies.mean() == pytest.approx(0.8, abs=0.02)
    assert gallium.spglib.class_name is None
    assert "averaged cell of space group 64, none of the network's classes" in " ".join(gallium.notes)
    assert (flat.answer, flat.verdict, flat.orientation) == ("no lattice", "no lattice", "not found")
    assert flat.notes[0].startswith("a structure with 2 of three periods")
    assert str(flat.spglib) == "no space group"
    assert report.version == jaxclear.__version__
    assert report.weights == shipped_model().metadata["sha256"]
    assert set(report.seconds) == {"orientation", "network", "spglib"}


def ordered_fcc(single, triple, edge):
    sites = [(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)]
    return ase.Atoms([single, *[triple] * 3], scaled_positions=sites, cell=[edge] * 3, pbc=True)


def test_a_compound_is_called_by_the_lattice_of_all_its_atoms():
    # Their form factors alone tell the atoms of different elements apart.
    edges = {
        ("rocksalt", "sc"): {"NaCl": 5.64, "MgO": 4.21, "PbS": 5.94, "LiI": 6.0},
        ("cesiumchloride", "bcc"): {"CsCl": 4.12, "NiAl": 2.88, "TlBr": 3.98},
        ("zincblende", "diamond"): {"ZnS": 5.41, "GaAs": 5.65, "SiC": 4.36},
    }
    compounds = [
        (bulk(formula, kind, a=edge), sites)
        for (kind, sites), found in edges.items()
        for formula, edge in found.items()
    ]
    compounds += [(ordered_fcc("Au", "Cu", 3.75), "fcc"), (ordered_fcc("Al", "Ni", 3.57), "fcc")]
    results = crystals.classify([atoms for atoms, _ in compounds]).results
    for result, (atoms, sites) in zip(results, compounds, strict=True):
        assert (str(atoms.symbols), result.answer) == (str(atoms.symbols), sites)
        assert "a compound" in " ".join(result.notes)


def test_many_structures_are_answered_in_order(monkeypatch):
    """The network is given some at a time: as many answers as structures, each its own."""
    monkeypatch.setattr(sys.modules["jaxclear.crystals.classify"], "_PART", 3)
    structures = [bulk(symbol) for symbol in ("Cu", "Fe", "Si", "Po", "Al", "W", "Ge")]
    report = crystals.classify(structures, maps=False)
    assert [result.answer for result in report.results] == ["fcc", "bcc", "diamond", "sc", "fcc", "bcc", "diamond"]
    assert set(report.seconds) == {"orientation", "spglib", "network"}
    assert min(report.seconds.values()) > 0


def test_answers_without_maps_and_by_several_processes_are_the_same():
    structures = [bulk("Cu"), bulk("Fe", cubic=True) * 4, bulk("Mg"), bulk("Ga", "sc", a=3.0)]
    whole = crystals.classify(structures)
    for options in ({"maps": False}, {"maps": False, "workers": 2}):
        found = crystals.classify(structures, **options)
        assert found.explanation is None
        for one, other in zip(whole.results, found.results, strict=True):
            assert (one.answer, one.orientation, one.notes) == (other.answer, other.orientation, other.notes)
            assert one.probability == pytest.approx(other.probability, abs=1e-5)
            assert one.outside_score == pytest.approx(other.outside_score, abs=1e-5)
    with pytest.raises(ValueError, match="workers of at least 0, got -1"):
        crystals.classify(structures, workers=-1)
    with pytest.raises(ValueError, match="expected rule"):
        crystals.classify(structures, maps=False, rule="nonsense")


def test_large_clusters_are_pointed_out(small):
    large = bulk("Cu", cubic=True) * (5, 5, 5)
    notes = crystals.classify(large, model=small, orientation="as given").results[0].notes
    assert "500 atoms in the beam" in notes[-1]


def test_spglib_at_its_default_tolerance():
    assert spglib_answer(crystals.read(bulk("Fe"))[0]).symbol == "Im-3m"
    moved = bulk("Fe", cubic=True)
    moved.positions[1, 0] += 1e-4
    assert spglib_answer(crystals.read(moved)[0]).class_name is None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: crystals.explain(bulk("Cu"), rule="other"), "expected rule to be one of"),
        (lambda: crystals.explain(bulk("Cu"), orientation="up"), 'expected orientation "standard" or "as given"'),
        (lambda: crystals.explain([]), "at least one structure"),
        (lambda: crystals.classify([]), "at least one structure"),
        (lambda: crystals.classify([], maps=False), "at least one structure"),
        (lambda: crystals.explain_clusters([]), "at least one structure"),
        (lambda: class_probabilities([]), "at least one structure"),
        (lambda: crystals.explain(molecule("H2O")), "give the lattice vectors"),
        (lambda: crystals.explain_kernel(lambda v, x: x, rule="other"), "expected rule"),
        (lambda: crystals.vacancies(crystals.read(bulk("Cu"))[0], 1.0, seed=0), "one atom to stay"),
        (lambda: crystals.displacements(crystals.read(bulk("Cu"))[0], -1.0, seed=0), "sigma"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_padding_changes_nothing(small):
    cluster = orient(crystals.read(bulk("Cu"))[0]).cluster
    atoms = pad([cluster])
    longer = [np.pad(v, [(0, 0), (0, 40)] + [(0, 0)] * (v.ndim - 2)) for v in atoms]
    kernel = jax.jit(crystals.explain_kernel(small.apply))
    short, long = kernel(small.variables, *atoms), kernel(small.variables, *longer)
    np.testing.assert_allclose(short.fingerprint, long.fingerprint, atol=1e-6)
