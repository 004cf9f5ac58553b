"""The commands explain-dataset, verify and report: what they print, their exit codes, and the same call under Slurm."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import jaxclear
from effort import few_of
from jaxclear import cli
from jaxclear.commands import explain_dataset as command
from jaxclear.worker_processes import cores

NETWORK = """
    import jax.numpy as jnp
    import numpy as np

    def apply(variables, images):
        kernel = jnp.array([[1.0, -1, 0.5], [-1, 1, 0.2], [0.3, 0.4, 1]])
        return jnp.maximum(images @ kernel, 0)

    def flat(variables, images):
        return images.reshape(len(images), -1)[:, :3]

    class Squares:
        def __len__(self):
            return 10

        def __getitem__(self, index):
            return np.full((8, 8, 3), index / 10, np.float32), index % 3

    squares = Squares()
    nothing = None

    class Deadly:
        reading = "processes"

        def __len__(self):
            return 3

        def __getitem__(self, index):
            import multiprocessing
            import os

            if multiprocessing.parent_process() is not None:
                os._exit(3)
            return np.ones((8, 8, 3), np.float32)

    deadly = Deadly()

    class Mistaken(Squares):
        def identity(self):
            return 1 / 0

    mistaken = Mistaken()
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for k in range(14):
        folder = tmp_path / "pictures" / ("red", "green", "blue")[k % 3]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 100, (10, 12, 3))
        pixels[2:6, 3:7, k % 3] += 150
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{k:02d}.png")
    (tmp_path / "squares_of_hers.py").write_text(textwrap.dedent(NETWORK))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "squares_of_hers", raising=False)
    monkeypatch.setattr(command, "keep_compiled_programs", lambda: None)
    monkeypatch.setattr(command, "processors_as_devices", lambda number: None)
    return tmp_path


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


CALL = ("explain-dataset", "pictures", "store", "--model", "squares_of_hers:apply", "--classes", "red,green,blue")


def test_a_folder_from_the_first_image_to_the_report(capsys, here):
    code, out, err = run(capsys, *CALL, "--unit", 4, "--batch", 2, "--log", "log.jsonl")
    assert code == 0
    assert "store: 14 items in " in out
    assert "devices without work" in out
    events = [json.loads(line) for line in err.splitlines()]
    assert [event["event"] for event in events] == ["start", *["unit"] * 4, "end"]
    assert events == [json.loads(line) for line in (here / "log.jsonl").read_text().splitlines()]
    assert events[-2]["units_done"] == events[-2]["units"] == 4
    assert {"time", "rank", "world", "items_per_second", "seconds_left", "waiting"} <= events[-2].keys()
    store = jaxclear.open_store("store")
    assert store.class_names == ("red", "green", "blue")
    assert store.index(label=2).tolist() == [0, 1, 2, 3]
    code, out, _ = run(capsys, "verify", "store")
    assert (code, out) == (
        0,
        "store: complete and undamaged: 14 items in 4 units, 14 explained, 0 recorded as failures\n",
    )
    code, out, err = run(capsys, "report", "store")
    assert (code, err) == (0, "")
    assert out.startswith("store.html: 14 items, ")
    meta = json.loads((here / "store.html").read_text().split('id="meta">')[1].split("</script>")[0])
    assert (meta["channels"], meta["maps"], len(meta["items"])) == (3, 3, 14)
    code, out, _ = run(capsys, *CALL)
    assert code == 0
    assert "4 units were there already" in out


def test_files_that_cannot_be_read_make_the_exit_code_1(capsys, here):
    (here / "pictures" / "red" / "cut.png").write_bytes((here / "pictures" / "red" / "00.png").read_bytes()[:50])
    Image.new("RGB", (5, 5)).save(here / "pictures" / "red" / "small.png")
    code, _, err = run(capsys, *CALL)
    assert code == 1
    assert "jaxclear: error: 2 of the items could not be used" in err
    code, out, _ = run(capsys, "verify", "store")
    assert code == 0
    assert "red/cut.png: expected an image" in out
    assert "2 recorded as failures" in out
    code, _, err = run(capsys, *CALL, "--retry-failed", "--fail-fast")
    assert code == 2
    assert err.splitlines()[-1].startswith("jaxclear: error: red/cut.png")
    code, out, err = run(capsys, "report", "store", "--out", "page.html")
    assert (code, err) == (0, "")


def test_the_same_command_under_a_scheduler(capsys, here, monkeypatch):
    run(capsys, "explain-dataset", *CALL[1:2], "alone", *CALL[3:], "--unit", 4, "--batch", 2)
    for name, total, index in (("SLURM_PROCID", "SLURM_NTASKS", 1), ("SLURM_PROCID", "SLURM_NTASKS", 0)):
        monkeypatch.setenv(name, str(index))
        monkeypatch.setenv(total, "2")
        code, out, err = run(capsys, *CALL, "--unit", 4, "--batch", 2)
        assert code == 0
        assert json.loads(err.splitlines()[0])["told_by"] == "Slurm"
        assert ("2 units of other processes are not there yet" in out) == (index == 1)
    np.testing.assert_array_equal(
        jaxclear.open_store("store")["dominant_response"][:], jaxclear.open_store("alone")["dominant_response"][:]
    )


@pytest.mark.parametrize(
    ("options", "environment", "devices"),
    few_of(
        [
            ((), {}, cores()),
            (("--cpu-devices", "3"), {}, 3),
            ((), {"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}, 5),
            ((), {"JAX_NUM_CPU_DEVICES": "4"}, 4),
        ],
        ((), {}, cores()),
        ((), {"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}, 5),
    ),
)
def test_the_processor_is_as_many_devices_as_it_has_cores(here, options, environment, devices):
    inherited = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    call = [sys.executable, "-m", "jaxclear", *CALL, *options, "--no-cache"]
    places = os.pathsep.join([str(Path(cli.__file__).parents[1]), str(here)])
    settings = {**inherited, "JAX_PLATFORMS": "cpu", "PYTHONPATH": places, **environment}
    done = subprocess.run(call, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    start = next(event for event in map(json.loads, done.stderr.splitlines()) if event["event"] == "start")
    assert start["devices"] == devices


def test_damage_is_found_and_repaired(capsys, here):
    run(capsys, *CALL, "--unit", 4)
    shard = here / "store" / "dominant_class" / "c" / "1" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:-1])
    code, _, err = run(capsys, "verify", "store")
    assert code == 1
    assert "unit 1 is damaged: dominant_class/c/1/0/0: its SHA-256 differs" in err
    assert run(capsys, "verify", "store", "--repair")[0] == 1
    code, _, err = run(capsys, "verify", "store")
    assert code == 1
    assert "1 of 4 units are missing" in err
    assert run(capsys, *CALL)[0] == 0
    assert run(capsys, "verify", "store")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("explain-dataset", "pictures", "store", "--model", "nothing"), "one of mnist, svhn, crystal"),
        ((*CALL, "--batch", "many"), "expected a whole number of at least 1, got 'many'"),
        ((*CALL, "--size", "0", "0"), "expected a whole number of at least 1, got '0'"),
        (("report", "store", "--items", "-3"), "expected a whole number of at least 1, got '-3'"),
        ((*CALL[:6], "red,green"), "expected 3 class names, one a class of the network, got 2"),
        (("explain-dataset", "bad.npz", *CALL[2:]), "expected arrays that NumPy wrote"),
        (("explain-dataset", "one.npy", *CALL[2:]), "expected images (N, ...), got a single number"),
        (("explain-dataset", "bad.db", "store", "--model", "crystal"), "expected a data base of ASE"),
        (("explain-dataset", "squares_of_hers:nothing", *CALL[2:]), "got NoneType"),
        (("explain-dataset", "nowhere", "store", "--model", "squares_of_hers:apply"), "got no such file"),
        (("explain-dataset", "pictures", "pictures", "--model", "squares_of_hers:apply"), "with other files"),
        ((*CALL, "--kind", "structures"), "--model crystal for structures"),
        ((*CALL, "--batch", "few"), "--batch"),
        ((*CALL, "--rank", "1"), "rank and world together"),
        (("verify", "nowhere"), "expected a store"),
        (("report", "nowhere"), "expected a store"),
    ],
)
def test_mistakes_in_the_call(capsys, here, arguments, words):
    for name in ("bad.npz", "bad.db"):
        (here / name).write_bytes(b"neither arrays nor a data base, but long enough to be looked at" * 20)
    np.save(here / "one.npy", np.float32(1))
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) <= 2
    assert words in err


def test_a_reader_that_dies_ends_the_run_in_one_line(capsys, here):
    code, _, err = run(capsys, "explain-dataset", "squares_of_hers:deadly", "store", *CALL[3:])
    assert code == 75
    assert "a worker process ended by itself" in err.splitlines()[-1]


@pytest.mark.parametrize("error", [OSError("no space left on device"), jax.errors.JaxRuntimeError("ECC error")])
def test_what_may_succeed_another_time_has_a_code_of_its_own(capsys, here, monkeypatch, error):
    place = "store.Store.write" if isinstance(error, OSError) else "program.Running.results"
    monkeypatch.setattr(f"jaxclear.dataset.{place}", lambda *_: (_ for _ in ()).throw(error))
    code, _, err = run(capsys, *CALL)
    assert code == 75
    assert str(error) in err.splitlines()[-1]


def test_mistakes_in_code_have_a_code_of_their_own(capsys, here):
    code, _, err = run(capsys, "explain-dataset", "squares_of_hers:mistaken", "store", *CALL[3:])
    assert code == 70
    assert err.splitlines()[-1] == "ZeroDivisionError: division by zero"


def test_another_rule_is_refused_and_overwritten_on_request(capsys, here):
    run(capsys, *CALL)
    code, _, err = run(capsys, *CALL, "--rule", "linear")
    assert code == 2
    assert "explanation.rule: stored deconvnet, now linear" in err
    code, out, _ = run(capsys, *CALL, "--rule", "linear", "--overwrite")
    assert code == 0
    assert "already" not in out


def test_arrays_and_objects_as_sources(capsys, here):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    np.savez(here / "x.npz", images=images, labels=np.arange(5) % 3, ids=np.array(list("abcde")))
    code, *_ = run(capsys, "explain-dataset", "x.npz", "arrays", "--model", "squares_of_hers:apply")
    assert code == 0
    store = jaxclear.open_store("arrays")
    assert store["item_id"][:] == list("abcde")
    assert store.class_names == ("0", "1", "2")
    call = ("explain-dataset", "squares_of_hers:squares", "object", "--model", "squares_of_hers:apply")
    assert run(capsys, *call)[0] == 0
    assert jaxclear.open_store("object")["label"][:].tolist() == [k % 3 for k in range(10)]
    assert run(capsys, "report", "arrays", "--title", "Five <squares>")[0] == 0
    assert "Five &lt;squares&gt;" in (here / "arrays.html").read_text()


def test_a_report_without_its_source_says_so(capsys, here):
    run(capsys, *CALL)
    (here / "pictures" / "red" / "00.png").unlink()
    code, _, err = run(capsys, "report", "store")
    assert code == 0
    assert "no images and maps of single classes in the report: expected the source" in err
    assert run(capsys, "report", "store", "--no-source", "--items", 3)[2] == ""


def test_compiled_programs_are_kept_in_the_users_cache(tmp_path, monkeypatch):
    before = {
        name: getattr(jax.config, name)
        for name in ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    }
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        command.keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir == os.path.join(tmp_path, "jaxclear", "compiled")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
        (tmp_path / "a file").write_text("no folder")
        jax.config.update("jax_compilation_cache_dir", None)
        command.keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir is None
        jax.config.update("jax_compilation_cache_dir", "elsewhere")
        command.keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir == "elsewhere"
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
