"""Data sets of structure files: labels, the account of what has none, splits and the cache of fingerprints."""

import tarfile
import zipfile

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.spacegroup import crystal
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxclear.crystals import datasets, from_ase
from jaxclear.crystals.datasets import DatasetError, LabelledStructures
from jaxclear.crystals.symmetry import CLASS_NAMES

SOLIDS = {
    "al.vasp": (bulk("Al", "fcc", a=4.05), "fcc"),
    "deep/fe.cif": (bulk("Fe", "bcc", a=2.87), "bcc"),
    "deep/mg.xyz": (bulk("Mg", "hcp", a=3.21, c=5.21), "hex/rh"),
    "po.json": (bulk("Po", "sc", a=3.35), "sc"),
    "si.vasp": (bulk("Si", "diamond", a=5.43), "diamond"),
    "sn.cif": (crystal("Sn", [(0, 0, 0)], spacegroup=141, cellpar=[5.83, 5.83, 3.18, 90, 90, 90]), "bct141"),
}


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "solids"
    (root / "deep").mkdir(parents=True)
    for name, (atoms, _) in SOLIDS.items():
        ase.io.write(root / name, atoms)
    (root / "broken.cif").write_text("not a structure\n")
    (root / ".hidden").write_text("not looked at\n")
    ase.io.write(
        root / "rutile.vasp",
        crystal(["Ti", "O"], [(0, 0, 0), (0.3, 0.3, 0)], spacegroup=136, cellpar=[4.6, 4.6, 2.95, 90, 90, 90]),
    )
    return root


def _archived(folder, kind):
    path = folder.with_suffix(f".{kind}")
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in folder.rglob("*"):
                archive.write(file, file.relative_to(folder))
    else:
        with tarfile.open(path, "w:gz") as archive:
            archive.add(folder, ".")
    return path


@pytest.mark.parametrize("kind", ["folder", "zip", "tgz"])
def test_folders_and_archives(kind, folder):
    dataset = datasets.load(folder if kind == "folder" else _archived(folder, kind))
    assert {c.name: CLASS_NAMES[k] for c, k in zip(dataset.crystals, dataset.labels, strict=True)} == {
        name: label for name, (_, label) in SOLIDS.items()
    }
    assert [c.name for c in dataset.crystals] == sorted(SOLIDS)
    assert dataset.elements == ("Al", "Fe", "Mg", "Po", "Si", "Sn")
    assert dataset.dropped == {"of another space group": 1}
    ((name, message),) = dataset.failures
    assert name == "broken.cif"
    assert message.startswith("broken.cif: expected ")


def test_files_with_many_frames(tmp_path):
    from ase.db import connect

    with connect(tmp_path / "solids.db") as data_base:
        for atoms, _ in SOLIDS.values():
            data_base.write(atoms)
    ase.io.write(tmp_path / "solids.extxyz", [atoms for atoms, _ in SOLIDS.values()])
    for name in ("solids.db", "solids.extxyz"):
        dataset = datasets.load(tmp_path / name)
        assert [CLASS_NAMES[k] for k in dataset.labels] == [label for _, label in SOLIDS.values()]
        assert dataset.crystals[3].name == f"{name}@3"


def test_structures_on_the_edge_have_no_label():
    nearly_cubic = crystal("In", [(0, 0, 0)], spacegroup=139, cellpar=[3.0, 3.0, 3.02, 90, 90, 90])
    source = [from_ase(nearly_cubic), from_ase(bulk("Cu"))]
    strict = datasets.load(source)
    assert strict.labels.tolist() == [CLASS_NAMES.index("bct139"), CLASS_NAMES.index("fcc")]
    assert strict.near_degenerate.tolist() == [True, False]
    loose = datasets.load(source, tolerances=(1e-3, 0.1))
    assert loose.labels.tolist() == [CLASS_NAMES.index("fcc")]
    assert loose.dropped == {"tolerances disagree": 1}


def _overlapping():
    atoms = bulk("Cu") * (2, 1, 1)
    atoms.positions[1] = atoms.positions[0]
    return atoms


def test_a_bad_row_of_a_data_base_costs_only_itself(tmp_path):
    from ase.db import connect

    with connect(tmp_path / "solids.db") as data_base:
        for atoms in (bulk("Cu"), _overlapping(), bulk("Al"), bulk("Fe")):
            data_base.write(atoms)
    dataset = datasets.load(tmp_path / "solids.db")
    assert [c.name for c in dataset.crystals] == [f"solids.db@{frame}" for frame in (0, 2, 3)]
    assert dataset.elements == ("Cu", "Al", "Fe")
    ((name, message),) = dataset.failures
    assert name == "solids.db@1"
    assert message.startswith("solids.db@1: expected atoms apart")


def test_bad_frames_of_a_trajectory_cost_only_themselves(folder):
    path = folder / "many.extxyz"
    frames = [bulk("Cu"), bulk("Al"), _overlapping(), bulk("Ag"), bulk("Au"), bulk("Ni"), bulk("Pd")]
    ase.io.write(path, frames)
    lines = path.read_text().splitlines()
    lines[lines.index(next(line for line in lines if line.startswith("Ag")))] = "Ag 0.0 what 0.0"
    lines[lines.index(next(line for line in lines if line.startswith("Au")))] = "Au 0.0 is 0.0"
    path.write_text("\n".join(lines) + "\n")
    dataset = datasets.load(_archived(folder, "zip"))
    ours = [c.name for c in dataset.crystals if c.name.startswith("many")]
    assert ours == [f"many.extxyz@{frame}" for frame in (0, 1, 5, 6)]
    assert len(dataset.crystals) == len(SOLIDS) + 4
    failed = {name: message for name, message in dataset.failures if name.startswith("many")}
    assert list(failed) == [f"many.extxyz@{frame}" for frame in (2, 3, 4)]
    assert all(message.startswith(f"{name}: expected ") for name, message in failed.items())


def test_a_file_of_which_nothing_can_be_read_fails_once(folder):
    (folder / "many.extxyz").write_text("1\nnothing\nAg what\n" * 5)
    dataset = datasets.load(folder)
    assert [name for name, _ in dataset.failures] == ["broken.cif", "many.extxyz"]


def test_duplicates_are_counted_and_kept():
    source = [from_ase(bulk("Cu", a=a)) for a in (3.6, 3.6, 3.7)] + [from_ase(bulk("Cu", a=3.6) * (2, 2, 2))]
    dataset = datasets.load(source)
    assert len(dataset.crystals) == 4
    assert dataset.duplicates == 2
    assert dataset.duplicate_of.tolist() == [0, 0, 2, 0]
    assert datasets.load(source, duplicate_tolerance=0.03).duplicates == 3


def test_distinct_structures():
    source = [from_ase(bulk(symbol, "fcc", a=a)) for symbol, a in (("Cu", 3.6), ("Al", 4.0), ("Cu", 3.6), ("Al", 4.1))]
    dataset = datasets.distinct(datasets.load(source))
    assert dataset.elements == ("Cu", "Al", "Al")
    assert [float(c.cell.max()) for c in dataset.crystals] == [1.8, 2.0, 2.05]
    assert dataset.duplicates == 0
    part = datasets.take(datasets.load(source), np.array([2, 0, 1]))
    assert part.duplicate_of.tolist() == [0, 0, 2]


def test_progress_is_reported():
    seen = []
    datasets.load([from_ase(bulk("Cu")), from_ase(bulk("Fe"))], progress=lambda *counts: seen.append(counts))
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "expected structures, got none out of 0 files"),
        (lambda path: path.write_text("nothing"), "expected structures, got none out of 1 files"),
        (lambda path: ase.io.write(path, molecule("H2O"), "xyz"), "expected structures of the groups of"),
    ],
)
def test_sources_without_structures(make, message, tmp_path):
    make(tmp_path / "source")
    with pytest.raises(DatasetError, match=message):
        datasets.load(tmp_path / "source")


def test_damaged_archives(folder):
    path = _archived(folder, "zip")
    content = bytearray(path.read_bytes())
    start = content.find(b"not a structure")
    start = start if start >= 0 else 60
    content[start : start + 8] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="which is damaged"):
        datasets.load(path)
    path = _archived(folder, "tgz")
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DatasetError, match="which is damaged|expected structures, got none"):
        datasets.load(path)


@pytest.mark.parametrize("options", [{"label": "guess"}, {"tolerances": ()}, {"tolerances": (1e-2, 0.0)}])
def test_options_that_do_not_exist(options):
    with pytest.raises(DatasetError, match="expected"):
        datasets.load([from_ase(bulk("Cu"))], **options)


def _labelled(systems, labels, near=None):
    count = len(systems)
    return LabelledStructures(
        crystals=(from_ase(bulk("Cu")),) * count,
        labels=np.array(labels),
        space_groups=np.zeros(count, int),
        elements=tuple(systems),
        near_degenerate=np.zeros(count, bool) if near is None else np.array(near),
        dropped={},
        failures=(),
        duplicate_of=np.arange(count),
    )


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), count=st.integers(1, 5))
def test_no_element_is_on_both_sides_and_every_class_is(seed, count):
    rng = np.random.default_rng(seed)
    systems = np.repeat(["Al", "Fe", "Cu", "Si", "Mg", "Sn"], 9)
    labels = np.tile([0, 1, 2], 18)
    order = rng.permutation(len(systems))
    dataset = _labelled(systems[order], labels[order])
    split = datasets.split_by_element(dataset, count, seed=seed)
    sides = [{dataset.elements[i] for i in side} for side in (split.training, split.validation)]
    assert not sides[0] & sides[1]
    assert sides[1] == set(split.elements)
    assert len(split.elements) == count
    assert sorted([*split.training, *split.validation]) == list(range(len(systems)))
    assert all(set(dataset.labels[side]) == {0, 1, 2} for side in (split.training, split.validation))
    again = datasets.split_by_element(dataset, count, seed=seed)
    assert again.elements == split.elements


def test_named_elements_and_compounds():
    dataset = _labelled(["Al", "Cl-Na", "Na", "Fe"], [0, 1, 1, 0])
    split = datasets.split_by_element(dataset, ["Na"])
    assert split.validation.tolist() == [1, 2]
    assert split.training.tolist() == [0, 3]


def test_a_class_is_present_only_with_a_member_outside_the_band():
    dataset = _labelled(["Al", "Al", "Fe", "Cu", "Cu"], [0, 1, 1, 0, 1], [False, False, True, False, False])
    assert datasets.split_by_element(dataset, 1).elements in {("Al",), ("Cu",)}


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        (0, "expected 1 to 1 validation elements, got 0"),
        (2, "expected 1 to 1 validation elements, got 2"),
        (1, "every class on both sides"),
        (["Xx"], "expected elements out of Al, Fe, got Xx"),
        (["Al", "Fe"], "on both sides"),
    ],
)
def test_splits_that_cannot_be_made(validation, message):
    with pytest.raises(DatasetError, match=message):
        datasets.split_by_element(_labelled(["Al", "Fe"], [0, 1]), validation)


def test_taking_keeps_what_belongs_together():
    dataset = _labelled(["Al", "Fe", "Cu"], [0, 1, 2], [False, True, False])
    part = datasets.take(dataset, np.array([2, 1]))
    assert part.elements == ("Cu", "Fe")
    assert part.labels.tolist() == [2, 1]
    assert part.near_degenerate.tolist() == [False, True]


def test_fingerprints_are_computed_once(tmp_path, monkeypatch):
    dataset = datasets.load([from_ase(atoms) for atoms, _ in SOLIDS.values()])
    first = datasets.fingerprints(dataset, cache_dir=tmp_path / "cache")
    assert first.shape == (6, 64, 64, 3)
    assert first.dtype == np.float32
    (file,) = (tmp_path / "cache").iterdir()

    def refuse(*_, **__):
        raise RuntimeError("computed again")

    with monkeypatch.context() as patched:
        patched.setattr(datasets, "fingerprint", refuse)
        np.testing.assert_array_equal(datasets.fingerprints(dataset, cache_dir=tmp_path / "cache"), first)
        with pytest.raises(RuntimeError):
            datasets.fingerprints(datasets.take(dataset, np.array([0, 1])), cache_dir=tmp_path / "cache")
        with pytest.raises(RuntimeError):
            datasets.fingerprints(dataset)
    file.write_bytes(file.read_bytes()[:1000])
    np.testing.assert_array_equal(datasets.fingerprints(dataset, cache_dir=tmp_path / "cache"), first)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [file.name]
