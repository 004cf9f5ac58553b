"""The study on radiographs in small: augmentation, attentive maps, focus areas and the landmark ablation."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxclear
from data import trees
from experiments import anatomy, phantoms_limbs
from experiments.anatomy_augment import Augment, stretched_crop
from networks import initial

IMAGES = phantoms_limbs.make(8, 32, seed=0).images.astype(np.float32) / 255


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("phantoms")
    return workdir, anatomy.run(anatomy.smoke_config(None), workdir, progress=False)


def test_anatomy_on_phantoms(phantoms):
    workdir, results = phantoms
    assert json.loads((workdir / "anatomy-phantoms.json").read_text()) == json.loads(json.dumps(results))
    assert results["measured_on"].startswith("phantoms")
    assert list(results["networks"]) == ["shallow"]  # the others' layers and the augmentation are tested by themselves
    for figures in results["networks"].values():
        assert np.sum(figures["confusion"]) == results["radiographs"]["test"]
        assert figures["published_percent"] is None
        columns = figures["ablation"]["focus_areas"]
        assert [column["area_percent"] for column in columns] == pytest.approx([10, 30], abs=0.1)
        numbers = [column[key] for column in columns for key in column]
        assert min(numbers) >= 0
        assert max(numbers) <= 100
        for kind in ("units", "class"):
            assert set(figures["maps"][kind]) == {"deconvnet"}
    for suffix in ("", "-focus", "-ablation"):
        assert (workdir / f"anatomy-phantoms{suffix}.png").stat().st_size > 10_000


@pytest.mark.thorough
def test_anatomy_on_the_tasks_folder(tmp_path):
    tree = trees.imageclef(tmp_path / "clef")
    (tree / "ImageCLEFmed2009_train.02" / "1880.png").write_bytes(b"no image")
    with (tree / "ImageCLEFmed2009_train_codes.02.csv").open("a") as table:
        table.write("1999;1121-127-700-500;0;0\r\n")
    results = anatomy.run(anatomy.smoke_config(str(tree)), tmp_path / "work", progress=False)
    assert results["classes"] == ("41", "70")
    assert results["left_out"] == {"missing": 1, "unreadable": 1, "first": ["1999", "1880"]}
    assert results["radiographs"] in ({"train": 5, "test": 3, "explained": 3}, {"train": 6, "test": 2, "explained": 2})
    figures = results["networks"]["shallow"]
    assert figures["published_percent"] == 71.1
    assert "maps" not in figures
    assert "true_landmarks" not in figures["ablation"]


def test_the_attentive_map_is_the_maximum_over_the_units():
    module, _ = anatomy.models.build("anatomy-shallow", classes=8)
    variables = initial(module, IMAGES[:1])
    found = anatomy.attention_maps(module.apply, variables, IMAGES, rule="guided", units=3)
    assert jaxclear.layers(module.apply, variables, IMAGES)[anatomy.LAST_CONVOLUTION] == "Conv_2"
    respond = jaxclear.unit_responses(module.apply, "Conv_2", top_n=3, rule="guided")
    expected = respond(variables, jnp.asarray(IMAGES)).responses[..., 0].max(axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_stretched_crop_is_a_part_of_the_image_at_full_size():
    rows, columns = np.mgrid[:16, :20].astype(np.float32)
    ramp = jnp.asarray(np.stack([rows, columns], axis=-1)[None])
    crop = jax.jit(stretched_crop)
    np.testing.assert_allclose(crop(jax.random.key(0), ramp, least=1.0), ramp, atol=1e-4)
    for seed in range(4):
        found = np.asarray(crop(jax.random.key(seed), ramp, least=0.5))[0, 2:-2, 2:-2]
        for axis, length in ((0, 16), (1, 20)):
            steps = np.diff(found[..., axis], axis=axis)
            assert np.ptp(steps) < 1e-3  # one stretch throughout
            assert 0.5 - 1e-3 <= steps.mean() <= 1 + 1e-3
            assert (
                not np.diff(found[..., axis], axis=1 - axis).any()
                or np.ptp(found[..., axis], axis=1 - axis).max() < 1e-3
            )
            assert 0 <= found[..., axis].min() < found[..., axis].max() <= length - 1


def test_augmentation_is_a_pure_function_of_its_key():
    images = jnp.asarray(IMAGES[:3])
    augment = jax.jit(Augment())
    found = augment(jax.random.key(1), images)
    np.testing.assert_array_equal(found, augment(jax.random.key(1), images))
    assert found.shape == images.shape
    assert -1e-6 <= float(found.min()) < float(found.max()) <= 1 + 1e-6
    assert not np.allclose(found, augment(jax.random.key(2), images), atol=0.05)
    still = jax.jit(Augment(least=1.0, degrees=0.0, shift=0.0, shear=0.0))(jax.random.key(1), images)
    for image, other in zip(IMAGES, np.asarray(still), strict=False):
        assert min(np.abs(image - other).max(), np.abs(image[:, ::-1] - other).max()) < 1e-4


def test_errors_are_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        anatomy.main([str(tmp_path / "none"), "--workdir", str(tmp_path)])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("anatomy: error: expected the folder of the ImageCLEF 2009 radiographs")
