"""Structures as a source: of folders, archives and data bases, as `jaxclear.crystals.explain` explains them."""

import zipfile
from types import SimpleNamespace

import ase.db
import ase.io
import jax
import numpy as np
import pytest
from ase.build import bulk
from ase.spacegroup import crystal

from jaxclear import crystals
from jaxclear.crystals.cells import cluster, nearest_neighbour_distance, pad
from jaxclear.crystals.explain import VERDICTS, shipped_model
from jaxclear.crystals.scale import length_scales, shipped_variables
from jaxclear.crystals.symmetry import CLASS_NAMES
from jaxclear.dataset import StructureFiles, explain_dataset, open_store, structure_explanation
from jaxclear.dataset.sources import Failure, read
from jaxclear.dataset.structure_files import _judged, _scaled


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("structures")
    for name, atoms in {"fcc/Cu.cif": bulk("Cu"), "bcc/Fe.vasp": bulk("Fe"), "hex_rh/Mg.cif": bulk("Mg")}.items():
        (root / name).parent.mkdir(exist_ok=True)
        atoms.write(root / name)
    ase.io.write(root / "many.xyz", [bulk("Al", cubic=True), bulk("W", cubic=True)])
    (root / "broken.cif").write_text("data_x\n_cell_length_a 3.0\n")
    (root / "two.cif").write_text((root / "fcc" / "Cu.cif").read_text() * 2)
    return root


NAMES = ["bcc/Fe.vasp", "broken.cif", "fcc/Cu.cif", "hex_rh/Mg.cif", "many.xyz@0", "many.xyz@1", "two.cif"]


@pytest.fixture(scope="module")
def archive(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / "structures.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for file in sorted(folder.rglob("*.*")):
            packed.write(file, file.relative_to(folder))
        packed.writestr("__MACOSX/._x.cif", "")
    return path


def test_folder_and_archive_have_the_same_items(folder, archive):
    sources = [StructureFiles(path, class_names=CLASS_NAMES) for path in (folder, archive)]
    for source in sources:
        assert [source.name(k) for k in range(len(source))] == NAMES
    for k, name in enumerate(NAMES):
        one, other = (read(source, k) for source in sources)
        assert one.id == other.id == name
        if name in ("broken.cif", "two.cif"):
            assert isinstance(one, Failure)
            assert one == other  # wherever the archive was unpacked to
            assert name in one.reason
            continue
        jax.tree.map(np.testing.assert_array_equal, one.value, other.value)
        expected = CLASS_NAMES.index(name.split("/")[0].replace("_", "/")) if "/" in name else -1
        assert one.label == other.label == expected
    assert sources[0].identity() == sources[1].identity()
    assert read(sources[0], 2).extra == {"space_group": 225, "lattice_found": True, "recovered": False}


def test_data_bases_and_trajectories(tmp_path):
    atoms = [bulk("Cu"), bulk("W"), bulk("Si")]
    with ase.db.connect(tmp_path / "x.db") as rows:
        for one in atoms:
            rows.write(one)
    ase.io.write(tmp_path / "x.traj", atoms)
    base, trajectory = StructureFiles(tmp_path / "x.db"), StructureFiles(tmp_path / "x.traj")
    assert len(base) == len(trajectory) == 3
    assert (base.name(1), trajectory.name(1)) == ("x.db@2", "x.traj@1")
    for k in range(3):
        jax.tree.map(np.testing.assert_array_equal, base[k].value, trajectory[k].value)
    with pytest.raises(ValueError, match="got no such file"):
        StructureFiles(tmp_path / "none.db")


def test_the_store_has_what_explaining_them_directly_gives(folder, tmp_path):
    model = shipped_model()
    explain, variables = structure_explanation(model)
    source = StructureFiles(folder, class_names=CLASS_NAMES)
    options = {"batch": 2, "unit": 4, "workers": 2, "log": lambda event: None, "value_names": {"verdict": VERDICTS}}
    done = explain_dataset(explain, variables, source, tmp_path / "store", **options)
    assert (done.items, done.failed, done.missing) == (7, 2, 0)
    store = open_store(tmp_path / "store")
    good = store.index()
    assert good.tolist() == [0, 2, 3, 4, 5]
    structures = [folder / "bcc/Fe.vasp", folder / "fcc/Cu.cif", folder / "hex_rh/Mg.cif", folder / "many.xyz"]
    direct = crystals.explain([str(path) for path in structures])
    np.testing.assert_array_equal(store["predicted_class"][good], direct.predicted_class)
    np.testing.assert_allclose(store["class_scores"][good], direct.class_scores, rtol=2e-3, atol=2e-3)
    found = store.clear_map(good)
    assert (found.dominant_class == direct.clear.dominant_class).mean() > 0.99
    scale = direct.clear.dominant_response.max()
    np.testing.assert_allclose(found.dominant_response, direct.clear.dominant_response, atol=5e-3 * scale)
    assert store["space_group"][good].tolist() == [229, 225, 194, 225, 229]
    assert store["lattice_found"][good].all()
    assert not store["recovered"][good].any()
    assert store.index(correct=True).tolist() == [0, 2, 3]
    np.testing.assert_allclose(store["probabilities"][good], direct.probabilities, atol=1e-3)
    np.testing.assert_allclose(store["outside_score"][good], direct.outside_scores, atol=1e-3)
    assert store.value_names == {"verdict": VERDICTS}
    assert [VERDICTS[number] for number in store["verdict"][good]] == list(direct.verdicts)
    assert store["verdict"][1] == 255  # neither member nor anything else: it could not be read
    assert store.index(verdict="member", space_group=(225, 229)).tolist() == [0, 2, 4, 5]
    assert store.index(verdict=["outside", "no lattice"]).tolist() == []
    with pytest.raises(ValueError, match=r"expected verdict as one of member, .*, got \['inside'\]"):
        store.index(verdict="inside")


def test_strangers_are_outside_and_what_has_no_lattice_says_so(tmp_path):
    glass = crystals.amorphous("Cu")
    rutile = crystal(
        ["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.59, 4.59, 2.96, 90, 90, 90]
    )
    atoms = [crystals.to_ase(glass), rutile, bulk("Cu")]
    ase.io.write(tmp_path / "x.traj", atoms)
    explain, variables = structure_explanation(shipped_model())
    source = StructureFiles(tmp_path / "x.traj")
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *(source[k].value for k in range(3)))
    found = jax.jit(explain)(variables, batch)
    direct = crystals.explain(atoms)
    assert [VERDICTS[number] for number in found["verdict"]] == list(direct.verdicts)
    assert direct.verdicts == ("no lattice", "outside", "member")
    np.testing.assert_allclose(found["probabilities"], direct.probabilities, atol=1e-3)
    without = _judged(None, SimpleNamespace(probabilities=direct.probabilities), batch.lost)
    assert [VERDICTS[number] for number in without["verdict"]] == ["no lattice", "unknown", "unknown"]
    assert "outside_score" not in without


def test_one_forward_pass_serves_map_and_verdict(folder):
    model = shipped_model()
    explain, variables = structure_explanation(model)
    batch = jax.tree.map(lambda leaf: leaf[None], StructureFiles(folder)[2].value)
    whole = jax.jit(explain).lower(variables, batch).compile().as_text()
    alone = jax.jit(crystals.explain_kernel(model.apply)).lower(variables["network"], *batch.atoms).compile().as_text()
    assert whole.count(" convolution(") == alone.count(" convolution(") > 6


def test_lengths_that_are_not_known_are_measured_or_learned_on_the_device(folder):
    positions = StructureFiles(folder, orientation="as given")[4].value
    assert not positions.scaled
    crystal = crystals.read(str(folder / "many.xyz"))[0]
    piece = cluster(crystal)
    batch = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), positions)
    batch = batch._replace(scaled=np.array([False, True]))
    measured = nearest_neighbour_distance(piece.positions)
    learned = _scaled({"scale": shipped_variables()}, batch).positions[0]
    np.testing.assert_allclose(learned, pad([piece], length_scales([piece]).tolist()).positions[0], atol=1e-5)
    for kept in (_scaled({"scale": shipped_variables()}, batch).positions[1], _scaled({}, batch).positions[0]):
        np.testing.assert_allclose(kept, pad([piece], measured).positions[0], atol=1e-6)
    assert np.abs(np.asarray(learned) - positions.atoms.positions).max() > 1e-5
