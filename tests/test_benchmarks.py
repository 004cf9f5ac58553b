"""The benchmarks count, compare and report rightly; each runs on a small case."""

import argparse
import dataclasses
import functools
import importlib.util
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxclear
from benchmarks import (
    __main__ as everything,
)
from benchmarks import (
    bench_bfloat16,
    bench_class_blocks,
    bench_classify,
    bench_clear,
    bench_fingerprint,
    bench_first_answer,
    bench_image_blocks,
    bench_kernel_gradient,
    bench_memory,
    bench_spglib,
    bench_training,
    bench_winograd,
    blocks,
    networks,
    timing,
)
from benchmarks.counting import Operations, operations
from effort import few_of
from jaxclear.models.layers import BatchNorm, Conv, Dense, MaxPool
from networks import noise

SMALL = (Conv(3, 4), Conv(3, 4), MaxPool(2, 2), networks.Residual((Conv(3, 6, 2), Conv(3, 6)), (Conv(1, 6, 2),)))
CLASS_LAYER = Conv(1, 5)


@pytest.fixture
def small(monkeypatch):
    """A network with every kind of layer that the big ones have, in place of `resnet`."""
    made = networks.from_layers((*SMALL, CLASS_LAYER), (12, 12, 3))
    monkeypatch.setattr(networks, "network", lambda name: made)
    return made


def dense_by_loops(layers, side, channels):
    """Multiply-adds of one forward pass, written from the shapes alone."""
    total = 0
    for layer in layers:
        if isinstance(layer, MaxPool):
            side //= layer.stride
        elif isinstance(layer, networks.Residual):
            total += dense_by_loops(layer.shortcut, side, channels)[0]
            more, side, channels = dense_by_loops(layer.body, side, channels)
            total += more
        else:
            side = -(-side // layer.stride)
            total += side * side * layer.kernel**2 * channels * layer.filters
            channels = layer.filters
    return total, side, channels


def test_multiply_adds_are_those_of_the_layers(small):
    images = jnp.zeros((2, 12, 12, 3))
    expected = 2 * dense_by_loops((*SMALL, CLASS_LAYER), 12, 3)[0]
    assert operations(small.apply, small.variables, images).multiply_adds == expected


def test_a_backward_pass_to_the_images_counts_like_the_forward_pass(small):
    images = jnp.zeros((1, 12, 12, 3))
    forward = operations(small.apply, small.variables, images).multiply_adds
    both = operations(
        lambda v, x: jax.vjp(lambda y: small.apply(v, y), x)[1](jnp.ones((1, 3, 3, 5))), small.variables, images
    )
    assert both.multiply_adds == 2 * forward  # strides leave zeros that are not counted


def test_loops_count_as_often_as_they_run_and_the_dearest_branch_counts():
    def looped(x):
        return jax.lax.scan(lambda c, _: (c @ c + 1, None), x, None, length=7)[0]

    def branched(x):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ x, lambda: x)

    x = jnp.ones((4, 4))
    assert operations(looped, x) == Operations(7 * 64, 7 * 16)
    assert operations(branched, x).multiply_adds == 64


def test_contenders_take_turns_and_quartiles_are_theirs():
    order = []
    found = timing.alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3)
    assert order == ["a", "b"] * 4  # the first round warms up
    timing.alternate({"a": lambda: order.append("c")}, rounds=2, called_before=True)
    assert order[8:] == ["c", "c"]
    assert found["a"].rounds == 3
    assert 0 <= found["b"].low <= found["b"].median <= found["b"].high
    timed = timing.summary(np.array([[1.0, 5.0], [3.0, 7.0], [2.0, 6.0]]))
    assert timed == timing.Timing(2.0, 1.5, 2.5, 6.0, 3)
    assert timed.spread == 0.5


def test_disagreement_stops_a_benchmark():
    assert timing.assert_agreement("x", [1.0, 2.001], [1.0, 2.0], tolerance=1e-3) == pytest.approx(5e-4)
    for wrong in ([1.0, 3.0], [1.0, np.nan]):
        with pytest.raises(timing.Disagreement, match=r"x: expected agreement to 0\.001"):
            timing.assert_agreement("x", wrong, [1.0, 2.0], tolerance=1e-3)


def test_a_batch_agrees_but_for_a_share_of_its_items():
    expected = np.ones((20, 3, 3))
    found = expected.copy()
    found[4, 1, 2] = 1.01
    assert timing.assert_most_agree("one off", found, expected, tolerance=1e-3, exceptions=0.05) == 1
    assert timing.assert_most_agree("near", found, expected, tolerance=0.02, exceptions=0) == 0
    found[7, 0, 0] = np.nan
    with pytest.raises(timing.Disagreement, match="in all but 5% of 20, got 2 that differ"):
        timing.assert_most_agree("two off", found, expected, tolerance=1e-3, exceptions=0.05)


@pytest.mark.parametrize(("images", "off", "agree"), [(1, 1, True), (1, 2, False), (19, 1, True), (20, 2, True)])
def test_one_image_of_few_may_differ_in_as_small_a_share_of_its_pixels(images, off, agree):
    expected = np.ones((images, 5, 6))
    found = expected.copy()
    found[-1, 0, :off] = 1.01
    if agree:
        assert timing.assert_most_agree("x", found, expected, tolerance=1e-3, exceptions=0.05) == 1
    else:
        with pytest.raises(timing.Disagreement, match="in all but 5% of 1, got 1 that differ"):
            timing.assert_most_agree("x", found, expected, tolerance=1e-3, exceptions=0.05)


@pytest.mark.parametrize("options", [["--json"], []])
def test_what_was_measured_before_a_disagreement_is_not_lost(options, capsys):
    def measure(_):
        yield {"ms": 1.5}
        timing.assert_agreement("x", [1.0, 3.0], [1.0, 2.0], tolerance=1e-3)

    with pytest.raises(SystemExit) as ended:
        timing.command("What it measures.", measure, {"ms": ".1f"}, arguments=options)
    assert ended.value.code == 1
    out, err = capsys.readouterr()
    if options:
        document = json.loads(out)
        assert document["rows"] == [{"ms": 1.5}]
        assert document["error"].startswith("x: expected agreement")
    else:
        assert out.rstrip().endswith("| 1.5 |")
        assert err.startswith("x: expected agreement")


def test_tables_are_markdown():
    rows = [{"name": "a", "ms": 1.25}, {"name": "long", "ms": None}]
    lines = timing.table(rows, {"name": "s", "ms": ".1f"}).splitlines()
    assert lines == ["| name |  ms |", "| ---- | --: |", "| a    | 1.2 |", "| long |     |"]


def test_the_whole_command_prints_a_document(capsys):
    timing.command("doc", lambda options: [{"n": int(options.quick)}], {"n": "d"}, arguments=["--quick", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == [{"n": 1}]
    assert {"commit", "device", "versions", "load_average", "cores"} <= set(found["machine"])


@pytest.mark.parametrize("rule", few_of(["guided", "deconvnet"], "guided"))
def test_clear_maps_agree_with_every_contender_and_are_timed(small, rule):
    rows = bench_clear.bench("resnet", 2, rule=rule, most_classes=None, rounds=2, budget=5)
    contenders = {row["contender"] for row in rows}
    assert {"jaxclear", bench_clear.ALL_DEVICES, "obvious", "class loop", "forward"} <= contenders
    if importlib.util.find_spec("torch"):
        assert "torch, one forward" in contenders
    assert all(row["ms"] > 0 and row["share"] > 0 for row in rows)


def test_contenders_can_be_chosen(small, capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    bench_clear.add_options(parser)
    asked = ["--quick", "--network", "resnet", "--contenders", "class loop"]
    rows = list(bench_clear.measure(parser.parse_args(asked)))
    assert [row["contender"] for row in rows] == ["jaxclear", "class loop", "forward"]
    assert [row["classes"] for row in rows] == [4] * 3
    assert rows[1]["faster"] == 1
    assert rows[2]["faster"] is None
    with pytest.raises(SystemExit):
        parser.parse_args(["--contenders", "nobody"])


def test_obvious_responses_of_one_layer_are_its_kernels_times_its_maps():
    network = networks.from_layers((Conv(1, 4),), (6, 6, 3))
    images = noise(1, 6, 6, 3)
    obvious = bench_clear.plain_explanations(network, "guided", range(4))["obvious"]
    response, dominant = obvious(network.parameters, images)
    kernel, bias = network.parameters[0]["kernel"][0, 0], network.parameters[0]["bias"]
    # R = max(z_c, 0) w_c, summed over the channels
    by_class = jnp.maximum(images @ kernel + bias, 0) * kernel.sum(axis=0)
    np.testing.assert_allclose(response, by_class.max(axis=-1), rtol=1e-4)
    np.testing.assert_array_equal(dominant, by_class.argmax(axis=-1))


def test_fingerprints_agree_and_are_timed(monkeypatch):
    rows = {row["contender"]: row for row in bench_fingerprint.bench_kernel(4, 2, rounds=2, budget=1)}
    assert set(rows) == {"jaxclear", "obvious", "numpy"}
    assert all(rows[name]["error"] < 1e-5 for name in ("jaxclear", "obvious"))
    assert all(rows["jaxclear"][column] > 0 for column in ("ops_cost", "times_numpy", "times_obvious"))
    monkeypatch.setattr(bench_fingerprint, "LONGEST_OBVIOUS", 1)
    [ours, theirs] = bench_fingerprint.bench_kernel(4, 2, rounds=2, budget=1)
    assert (ours["contender"], ours["times_obvious"], theirs["contender"]) == ("jaxclear", None, "numpy")
    [files] = [row for row in bench_fingerprint.bench_files(2, rounds=2) if row["contender"] == "from files"]
    assert files["structures_s"] > 0


def test_symmetry_finders_name_undamaged_crystals():
    crystals, labels = bench_spglib.supercells(None, 7)
    rows = bench_spglib.bench("pristine", crystals, labels, bench_spglib.contenders(True))
    accuracy = {row["contender"]: row["accuracy"] for row in rows}
    assert accuracy["network"] == accuracy["spglib, best"] == 100
    assert accuracy["pymatgen 0.1 Å"] == 100


def test_memory_of_a_point_grows_with_the_batch():
    small, big = (bench_memory.point("jaxclear", 3, batch, 16)["program_mib"] for batch in (2, 16))
    assert big > 2 * small > 0
    assert len(bench_memory.points(False)) == 12


@pytest.mark.parametrize("bench", few_of([bench_class_blocks, bench_image_blocks], bench_class_blocks))
def test_blocks_are_compared_with_the_whole(small, bench):
    rows = bench.bench("small", 4, rounds=1)
    assert {row["block"] for row in rows} >= {"1", "2", "4", "auto"}
    assert all(set(row) == set(bench.COLUMNS) and row["ms"] > 0 for row in rows)
    whole = "5" if bench is bench_class_blocks else "4"
    assert [row["ratio"] for row in rows if row["block"] == whole] == [1.0]


def test_blocks_that_give_another_map_are_not_timed(small):
    images = jnp.ones((2, 12, 12, 3))
    compared = blocks.Blocks("small", small, images, "right")
    compared.add("right", jaxclear.clear_map(small.apply, rule="guided"))
    compared.add("wrong", jaxclear.clear_map(small.apply, rule="deconvnet"))
    with pytest.raises(timing.Disagreement, match="blocks of wrong, small"):
        compared.rows(1)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="only a CPU convolves in tiles")
def test_tiles_are_compared_with_the_convolution_itself(monkeypatch):
    row = bench_winograd.bench(1, 6, 4, 3, rounds=1, budget=1)
    assert set(row) == set(bench_winograd.COLUMNS)
    assert row["taken"] == "no"
    assert row["times"] == pytest.approx(row["direct_ms"] / row["tiles_ms"])
    monkeypatch.setattr(bench_winograd.winograd, "kernels", lambda kernel: [jnp.zeros((3, 4))] * 16)
    with pytest.raises(timing.Disagreement, match="1 x 6², 3 to 4"):
        bench_winograd.bench(1, 6, 4, 3, rounds=1, budget=1)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="only a CPU multiplies matrices for it")
def test_gradients_of_kernels_are_compared_with_the_convolution_itself(monkeypatch):
    row = bench_kernel_gradient.bench(2, 6, 4, 3, 3, rounds=1, budget=1)
    assert set(row) == set(bench_kernel_gradient.COLUMNS)
    assert row["taken"] == "no"
    assert row["times"] == pytest.approx(row["direct_ms"] / row["product_ms"])
    wrong = jnp.zeros((4, 3, 3, 3))
    monkeypatch.setattr(bench_kernel_gradient.kernel_gradient, "convolve", lambda images, kernel, padding: wrong)
    with pytest.raises(timing.Disagreement, match="2 x 6², 4 to 3, 3²"):
        bench_kernel_gradient.bench(2, 6, 4, 3, 3, rounds=1, budget=1)


def test_changes_of_a_map_are_counted():
    scores = jnp.array([[1.0, 2.0], [2.0, 1.0]])
    classes = jnp.array([[[0, 1], [1, 0]], [[0, 0], [1, 1]]])
    one = jaxclear.ClearMap(classes, jnp.array([[[4.0, 4.0], [0.01, 0.0]], [[1.0, 1.0], [1.0, 1.0]]]), scores)
    assert bench_bfloat16.changes(one, one) == {"classes": 0, "pixels": 0, "responding": 0, "difference": 0}
    other = one._replace(
        dominant_class=classes.at[0, 0, 0].set(1).at[0, 1, 1].set(1), dominant_response=one.dominant_response * 1.5
    )._replace(class_scores=scores.at[1].set(jnp.array([0.0, 5.0])))
    found = bench_bfloat16.changes(other, one)
    assert found == pytest.approx({"classes": 0.5, "pixels": 0.25, "responding": 1 / 6, "difference": 0.5})


def test_training_steps_are_timed(monkeypatch):
    layers = (Conv(3, 4), MaxPool(2, 2), Dense(8, dropout=0.25), BatchNorm(), Dense(3))
    tiny = dataclasses.replace(
        bench_training.models.network("mnist"), input_shape=(8, 8, 1), class_names=("a", "b", "c"), layers=layers
    )
    monkeypatch.setattr(bench_training.models, "network", lambda name: tiny)
    rows = bench_training.bench("tiny", 4, rounds=1, steps=2)
    assert {row["contender"] for row in rows} >= {"jax step", "fit"}
    assert all(row["ms"] > 0 for row in rows)


def test_importing_loads_nothing_heavy():
    assert bench_first_answer.importing(1)["loaded"] == ""


def test_a_summary_has_a_table_a_question_and_records_failures(tmp_path, monkeypatch):
    asked = {"commit": "0123456789abcdef", "load_average": 0.25}
    answers = {
        "memory": {"machine": asked, "rows": [{"varied": "side", "classes": 2}]},
        "training": {"error": "exit code 1", "rows": [{"network": "half of them"}]},
    }
    monkeypatch.setattr(everything, "ask", lambda name, quick: answers[name])
    out = tmp_path / "summary.json"
    assert everything.main(["--quick", "--only", *answers, "--out", str(out)]) == 1
    found = json.loads(out.read_text())
    assert found["quick"] is True
    assert found["questions"] == answers
    written = out.with_suffix(".md").read_text()
    assert "## How much memory does a CLEAR map take" in written
    assert "Failed: exit code 1" in written
    assert "half of them" in written
    assert "Commit 0123456789; load average 0.25 at the start." in written
    answers["memory"] = {"rows": []}
    assert everything.main(["--quick", "--only", "memory", "--out", str(out)]) == 1  # what failed before is still there
    assert json.loads(out.read_text())["questions"] == answers


def test_a_benchmark_runs_by_itself(tmp_path):
    file = bench_memory.__file__
    done = subprocess.run([sys.executable, file, "--help"], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "How much memory" in done.stdout


@pytest.mark.parametrize(("name", "published"), [("vgg", 15.35e9), ("resnet", 1.81e9)])
def test_big_networks_have_a_thousand_classes_at_about_their_published_cost(name, published):
    layers, shape = networks._TABLES[name]
    parameters = jax.eval_shape(lambda: networks._initial(layers, 3, np.random.default_rng(0))[0])
    apply = functools.partial(networks.forward, layers, relu=jax.nn.relu)
    found = operations(apply, parameters, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    assert found.multiply_adds == pytest.approx(published, rel=0.03)
    assert layers[-1].filters == 1000


@pytest.mark.thorough
def test_classify_names_damaged_cells(monkeypatch):
    monkeypatch.setattr(bench_classify, "cores", lambda: 1)
    rows = bench_classify.measure(argparse.Namespace(structures=14, quick=True))
    assert [row["workers"] for row in rows] == [0, 1]
    for row in rows:
        assert set(row) == set(bench_classify.COLUMNS)
        assert row["structures"] == 14
        assert row["accuracy"] > 90
        assert np.isfinite([row["structures_s"], row["cpu_ms"]]).all()
