"""Weights files come back bit for bit, or not at all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxclear import models
from jaxclear.models import WeightsError, weights
from networks import initial, pictures

DTYPES = st.sampled_from([np.float32, np.float64, np.float16, np.int32, np.int64, np.uint8, np.bool_])
ARRAYS = DTYPES.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
NAMES = st.text(st.characters(blacklist_characters="/", blacklist_categories=["Cs"]), min_size=1, max_size=6)
TREES = st.dictionaries(
    NAMES, st.one_of(ARRAYS, st.dictionaries(NAMES, ARRAYS, min_size=1, max_size=3)), min_size=1, max_size=3
)
PATH_REUSED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture(scope="module")
def small():
    rng = np.random.default_rng(0)
    return {"params": {"Conv_0": {"kernel": rng.normal(size=(3, 3, 1, 2)).astype(np.float32), "bias": np.zeros(2)}}}


@pytest.fixture(scope="module")
def content(small, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    weights.save(path, small, {"network": "small", "commit": "0123"})
    return path.read_bytes()


@PATH_REUSED
@given(tree=TREES, notes=st.dictionaries(NAMES.filter(lambda name: name != "sha256"), st.text(max_size=9), max_size=3))
def test_round_trip(tree, notes, tmp_path):
    path = tmp_path / "any.safetensors"
    digest = weights.save(path, tree, notes)
    loaded = weights.load(path, tree)
    assert loaded.metadata == {**notes, "sha256": digest}
    assert jax.tree.structure(loaded.variables) == jax.tree.structure(tree)
    for got, expected in zip(jax.tree.leaves(loaded.variables), jax.tree.leaves(tree), strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


def test_strided_arrays_and_jax_arrays(tmp_path):
    array = np.arange(24.0).reshape(2, 3, 4)
    tree = {"view": array.transpose(2, 0, 1)[::2], "fortran": np.asfortranarray(array), "jax": jnp.arange(3)}
    weights.save(tmp_path / "w", tree)
    loaded = weights.load(tmp_path / "w").variables
    for name, expected in tree.items():
        np.testing.assert_array_equal(loaded[name], expected)


def test_names_are_paths_and_every_network_comes_back(tmp_path):
    module, table = models.build("crystal")
    variables = initial(module, jnp.zeros((1, *table.input_shape)))
    weights.save(tmp_path / "w", variables)
    assert b'"params/Conv_0/kernel"' in (tmp_path / "w").read_bytes()
    assert b'"batch_stats/BatchNorm_0/mean"' in (tmp_path / "w").read_bytes()
    jax.tree.map(np.testing.assert_array_equal, weights.load(tmp_path / "w", variables).variables, dict(variables))


@settings(deadline=None)
@given(data=st.data())
def test_truncated_anywhere(content, data):
    length = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(WeightsError, match="expected a whole safetensors file"):
        weights.from_bytes(content[:length])


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_one_flipped_bit_anywhere(content, data):
    position = data.draw(st.integers(0, 8 * len(content) - 1))
    damaged = bytearray(content)
    damaged[position // 8] ^= 1 << position % 8
    with pytest.raises(WeightsError):
        weights.from_bytes(bytes(damaged))


def test_flipped_kernel_bit_is_told_as_such(content):
    damaged = content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(WeightsError, match=r"expected SHA-256 [0-9a-f]{64}, got [0-9a-f]{64}: 'bytes' is damaged"):
        weights.from_bytes(damaged)


def test_weights_of_another_network(tmp_path):
    shapes = {}
    for name in ("mnist", "svhn"):
        module, table = models.build(name)
        shapes[name] = initial(module, jnp.zeros((1, *table.input_shape)))
    weights.save(tmp_path / "svhn", shapes["svhn"])
    with pytest.raises(WeightsError) as error:
        weights.load(tmp_path / "svhn", shapes["mnist"])
    message = str(error.value)
    assert "params/Conv_0/kernel: expected float32[3, 3, 1, 32], got float32[3, 3, 3, 32]" in message
    assert "params/Conv_5/bias: expected float32[10], got float32[64]; and 7 more" in message
    with pytest.raises(WeightsError, match="expected weights of the given network"):
        models.load("crystal", weights=tmp_path / "svhn")


def test_load_with_own_weights(tmp_path):
    module, table = models.build("mnist")
    images = pictures(2, *table.input_shape)
    variables = initial(module, images)
    weights.save(tmp_path / "own", variables, {"training": '{"accuracy": 0.5}'})
    first, second = (models.load("mnist", weights=tmp_path / "own") for _ in range(2))
    np.testing.assert_array_equal(first.apply(first.variables, images), module.apply(variables, images))
    assert first.apply is second.apply
    assert first.metadata["training"] == {"accuracy": 0.5}
    assert (first.class_names[3], first.input_shape) == ("3", (28, 28, 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "expected a weights file at .*, got No such file"),
        (lambda path: path.mkdir(), "expected a weights file at .*, got Is a directory"),
        (lambda path: path.write_bytes(b""), "expected a whole safetensors file, got 0 bytes"),
        (lambda path: path.write_text("not weights at all"), "expected a whole safetensors file"),
    ],
)
def test_not_a_weights_file(make, message, tmp_path):
    make(tmp_path / "w")
    with pytest.raises(WeightsError, match=message):
        weights.load(tmp_path / "w")


def test_safetensors_of_somebody_else(tmp_path):
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(3)}, tmp_path / "w")
    with pytest.raises(WeightsError, match="expected a 'sha256' entry"):
        weights.load(tmp_path / "w")


@pytest.mark.parametrize(
    ("tree", "notes", "message"),
    [
        ({}, {}, "at least one array"),
        ({"a/b": np.zeros(2)}, {}, "without '/'"),
        ({"a": object()}, {}, "expected an array of numbers at 'a'"),
        ({"a": np.zeros(2)}, {"sha256": "x"}, "without 'sha256'"),
        ({"a": np.zeros(2)}, {"n": 3}, "metadata of text"),
    ],
)
def test_what_cannot_be_saved(tree, notes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        weights.save(tmp_path / "w", tree, notes)
    assert list(tmp_path.iterdir()) == []
