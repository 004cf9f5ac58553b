"""Checkpoints: a training killed at any moment, inside a save as well, ends with the weights of an unbroken one."""

import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effort import examples
from jaxclear.checkpoints import Checkpoints, kept
from jaxclear.models import WeightsError
from jaxclear.models.layers import BatchNorm, Conv, ConvNet, Dense
from jaxclear.training import TrainConfig, fit

MODULE = ConvNet(layers=(Conv(3, 2), BatchNorm(), Dense(3, dropout=0.25)))
CONFIG = TrainConfig(epochs=4, batch_size=8, learning_rate=1e-2, decay="cosine", seed=3)
STATE = {"params": {"Conv_0": {"kernel": jnp.arange(12.0).reshape(3, 4)}}, "optimizer": {"0000": jnp.int32(5)}}

SCRIPT = """
import sys
sys.path[:0] = {path!r}
from test_checkpoints import CONFIG, MODULE, drawn
from jaxclear import checkpoints, training

save = checkpoints.Checkpoints.save
def announced(self, *arguments):
    print("saving", flush=True)
    save(self, *arguments)
checkpoints.Checkpoints.save = announced
training.fit(MODULE, *drawn(), CONFIG, checkpoint={folder!r}, checkpoint_steps=3, progress=False)
"""


def drawn():
    rng = np.random.default_rng(0)
    return rng.random((40, 6, 6, 1), np.float32), rng.integers(0, 3, 40)


def same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def killed(script, saves, delay):
    """Whether the training was still there to be killed, `delay` seconds after its n-th save began."""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        for _ in range(saves):
            process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    return process.returncode == -signal.SIGKILL


def test_a_training_killed_at_any_moment_ends_with_the_same_weights(tmp_path):
    root = pathlib.Path(__file__).parents[1]
    script = SCRIPT.format(path=[str(root), str(root / "tests")], folder=str(tmp_path / "c"))
    moments = random.Random(5)
    # In a later save, each takes some 0.1 s; in the first, before which there is nothing; and at any moment.
    kills = [(3, moments.uniform(0, 0.1)), (1, 0.02), (1, moments.random())][: examples(1)]
    assert sum(killed(script, *moment) for moment in kills) >= max(1, len(kills) - 1)
    ended = fit(MODULE, *drawn(), CONFIG, checkpoint=tmp_path / "c", checkpoint_steps=3, progress=False)
    whole = fit(MODULE, *drawn(), CONFIG, progress=False)
    same(ended.variables, whole.variables)
    assert [record[:5] for record in ended.history] == [record[:5] for record in whole.history]


def test_what_is_saved_is_loaded(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.steps() == []
        for step in (2, 7):
            checkpoints.save(step, STATE, {"history": [1.5, None, np.pi]})
        assert checkpoints.steps() == [7]
    with Checkpoints(tmp_path / "c") as checkpoints:
        saved = checkpoints.load(7, STATE)
    same(saved.state, STATE)
    assert saved.document == {"history": [1.5, None, np.pi]}


def test_all_states_of_a_run_can_be_kept(tmp_path):
    config = TrainConfig(epochs=2, batch_size=8)
    fitted = fit(
        MODULE,
        *drawn(),
        config,
        checkpoint=tmp_path / "c",
        checkpoint_steps=(1, 3),
        keep_checkpoints=True,
        progress=False,
    )
    states = list(kept(tmp_path / "c"))
    assert [state.step for state in states] == [0, 1, 3, 5, 10]
    start = MODULE.init(jax.random.key(0), jnp.zeros((1, 6, 6, 1)))
    np.testing.assert_array_equal(states[0].variables["params"]["Conv_0"]["bias"], start["params"]["Conv_0"]["bias"])
    same(states[-1].variables, fitted.variables)
    assert MODULE.apply(states[2].variables, drawn()[0]).shape == (40, 3)


@pytest.mark.parametrize("place", ["state", "document", "all"])
def test_a_damaged_checkpoint_is_named(place, tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(4, STATE, {})
    folder = tmp_path / "c" / "4"
    files = [file for file in (folder if place == "all" else folder / place).rglob("*") if file.is_file()]
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
    with Checkpoints(tmp_path / "c") as checkpoints, pytest.raises(WeightsError, match=r"expected .* got .*c/4'"):
        checkpoints.load(4, STATE)


def test_a_changed_document_is_noticed(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(4, STATE, {"history": [0.25]})
    file = tmp_path / "c" / "4" / "document" / "metadata"
    file.write_text(file.read_text().replace("0.25", "0.75"))
    with Checkpoints(tmp_path / "c") as checkpoints, pytest.raises(WeightsError, match="own SHA-256"):
        checkpoints.load(4)


def test_another_network(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(4, STATE, {})
        other = {"params": {"Conv_0": {"kernel": jnp.zeros((3, 5))}}}
        with pytest.raises(WeightsError, match=r"of the given network.*params/Conv_0/kernel: float32\(3, 5\), got"):
            checkpoints.load(4, other)


def test_places_that_are_no_folders_of_checkpoints(tmp_path):
    (tmp_path / "file").write_text("weights")
    with pytest.raises(WeightsError, match="got the file"):
        Checkpoints(tmp_path / "file")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.png").write_text("")
    with pytest.raises(WeightsError, match="got photo.png in"):
        Checkpoints(tmp_path / "mine")
    with pytest.raises(WeightsError, match="got none at"):
        list(kept(tmp_path / "none"))
