"""A network of others: its file read without its framework, the same logits, and explanations that miss nothing."""

import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxclear
import reference
from effort import few_of
from experiments import ccexam_network
from experiments.ccexam_network import DEVIATION, MEAN, CcexamError, load, packaged, read_state, samples
from foreign_digits import sibling_state, write_state
from jaxclear.training import predict


def installed():
    try:
        return packaged("ccexam", ccexam_network.VERSION, "ccexam/weights/svhn.pth")
    except CcexamError as error:
        pytest.skip(str(error))


@pytest.fixture
def sibling(tmp_path, monkeypatch):
    state = sibling_state()
    return load(write_state(tmp_path / "sibling.pth", state, monkeypatch)), state


def logits_of(state, image):
    """SVHNNet in NumPy as PyTorch has it: channels first, one tap of a kernel after the other, float64."""
    x = ((np.asarray(image, np.float64) - MEAN) / DEVIATION).transpose(2, 0, 1)
    for block in range(3):
        for place in (0, 3):
            kernel = state[f"features.{block}.{place}.weight"].astype(np.float64)
            padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
            rows, columns = x.shape[1:]
            x = np.zeros((len(kernel), rows, columns)) + state[f"features.{block}.{place}.bias"][:, None, None]
            for u in range(3):
                for v in range(3):
                    window = padded[:, u : u + rows, v : v + columns]
                    for unit in range(len(kernel)):
                        x[unit] += (kernel[unit, :, u, v, None, None] * window).sum(axis=0)
            norm = {
                key: state[f"features.{block}.{place + 1}.{key}"][:, None, None]
                for key in ("weight", "bias", "running_mean", "running_var")
            }
            x = (x - norm["running_mean"]) / np.sqrt(norm["running_var"] + 1e-5) * norm["weight"] + norm["bias"]
            x = np.maximum(x, 0)
        x = np.maximum(np.maximum(x[:, ::2, ::2], x[:, ::2, 1::2]), np.maximum(x[:, 1::2, ::2], x[:, 1::2, 1::2]))
    hidden = np.maximum(state["classifier.1.weight"] @ x.reshape(-1) + state["classifier.1.bias"], 0)
    return state["classifier.4.weight"] @ hidden + state["classifier.4.bias"]


def reference_layers(state, classes):
    """The sibling as the plain loops of tests/reference.py take it, on normalised images."""
    layers = []
    for block in range(3):
        for place in (0, 3):
            get = lambda key, at=f"features.{block}.{place}": state[f"{at}.{key}"].astype(np.float64)
            norm = lambda key, at=f"features.{block}.{place + 1}": state[f"{at}.{key}"].astype(np.float64)
            layers += [
                reference.Conv(get("weight").transpose(2, 3, 1, 0), get("bias"), padding=((1, 1), (1, 1))),
                reference.BatchNorm(norm("running_mean"), norm("running_var"), norm("weight"), norm("bias")),
                reference.Relu(),
            ]
        layers.append(reference.MaxPool((2, 2), (2, 2)))
    first = state["classifier.1.weight"]
    spatial = np.stack([row.reshape(-1, 4, 4).transpose(1, 2, 0).reshape(-1) for row in first], axis=1)
    return [
        *layers,
        reference.Dense(spatial, state["classifier.1.bias"]),
        reference.Relu(),
        reference.Dense(state["classifier.4.weight"][classes].T, state["classifier.4.bias"][classes]),
    ]


def test_a_file_of_pytorch_is_read_without_it(tmp_path, monkeypatch):
    state = sibling_state(3)
    found = read_state(write_state(tmp_path / "state.pth", state, monkeypatch))
    assert list(found) == list(state)
    for name, values in state.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)


def test_logits_are_those_of_the_architecture_it_comes_from(sibling):
    model, state = sibling
    images = np.random.default_rng(1).uniform(size=(3, 32, 32, 3)).astype(np.float32)
    expected = np.stack([logits_of(state, image) for image in images])
    np.testing.assert_allclose(jax.jit(model.apply)(model.variables, images), expected, rtol=1e-4, atol=1e-5)
    assert model.variables["params"]["Dense_0"]["kernel"].shape == (32, 5)


def test_no_rule_misses_anything(sibling):
    model, _ = sibling
    found = jaxclear.coverage(model.apply, model.variables, jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    assert not found.kept
    counts = {}
    for entry in found.replaced:
        counts[entry.name] = counts.get(entry.name, 0) + entry.count
    assert counts == {"relu": 7, "max_pool": 3}


@pytest.mark.parametrize("rule", few_of(jaxclear.RULES, "backprop", "guided"))
def test_responses_are_those_of_plain_loops(sibling, rule):
    model, state = sibling
    image = np.random.default_rng(2).uniform(size=(32, 32, 3)).astype(np.float32)
    classes = [0, 7]
    found = jaxclear.class_responses(model.apply, rule=rule, classes=classes)(model.variables, image[None])[:, 0]
    normalised = (image.astype(np.float64) - MEAN) / DEVIATION
    expected = reference.class_responses(reference_layers(state, classes), normalised, rule) / np.array(DEVIATION)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_no_code_of_a_file_is_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return pathlib_touch, (str(tmp_path / "hit"),)

    with zipfile.ZipFile(tmp_path / "bad.pth", "w") as archive:
        archive.writestr("net/data.pkl", pickle.dumps(Attack()))
    with pytest.raises(CcexamError, match=r"pathlib_touch, which no file of plain tensors needs"):
        read_state(tmp_path / "bad.pth")
    assert not (tmp_path / "hit").exists()


def pathlib_touch(path):
    with open(path, "w"):
        pass


def test_other_files_are_named(tmp_path, monkeypatch):
    with pytest.raises(CcexamError, match="expected a whole state file of PyTorch"):
        load(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("no archive")
    with pytest.raises(CcexamError, match="expected a whole state file of PyTorch"):
        load(tmp_path / "text.pth")
    state = sibling_state()
    del state["features.1.3.weight"]
    with pytest.raises(CcexamError, match=r"expected the three blocks .* got 45 tensors .*features.1.3.weight"):
        load(write_state(tmp_path / "other.pth", state, monkeypatch))


def test_a_package_that_is_not_there():
    with pytest.raises(CcexamError, match=r"expected the package nothing-here==2.0, got none: pip install --no-deps"):
        packaged("nothing-here", "2.0", "a.txt")
    with pytest.raises(CcexamError, match=r"expected the package jax==0.0, got "):
        packaged("jax", "0.0", "jax/version.py")
    with pytest.raises(CcexamError, match=r"expected the file jax/none.py in jax"):
        packaged("jax", None, "jax/none.py")


def test_the_network_of_ccexam_on_its_four_images():
    state = read_state(installed())
    model, found = load(), samples()
    images = found.images.astype(np.float32) / 255
    expected = np.stack([logits_of(state, image) for image in images])
    np.testing.assert_allclose(jax.jit(model.apply)(model.variables, images), expected, rtol=1e-3, atol=1e-3)
    predicted = predict(model.apply, model.variables, found.images).argmax(axis=1)
    assert predicted.tolist() == found.labels.tolist() == [0, 1, 2, 5]
    assert not jaxclear.coverage(model.apply, model.variables, images).kept


def test_the_network_of_ccexam_against_its_own_code():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; the same is tested in NumPy")
    file = installed()
    from ccexam.models import SVHNNet

    network = SVHNNet(32)
    network.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"))
    images = samples().images.astype(np.float32) / 255
    with torch.no_grad():
        normalised = ((images - np.array(MEAN)) / np.array(DEVIATION)).transpose(0, 3, 1, 2).astype(np.float32)
        expected = network.eval()(torch.from_numpy(normalised)).numpy()
    model = load()
    np.testing.assert_allclose(model.apply(model.variables, images), expected, rtol=1e-4, atol=1e-4)
