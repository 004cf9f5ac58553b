"""Devices: 1, 2 and 8 give the same bytes, nothing is communicated, memory decides the batch and is never exceeded."""

import os
import re
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxclear
from jaxclear.cpu_threads import threads_for
from jaxclear.dataset import memory, open_store, program
from jaxclear.dataset.loading import Groups, Part, UnitItems
from jaxclear.dataset.program import Program, local_mesh
from networks import small_network
from tests.dataset.common import SIZE, WEIGHTS, Images, explain, files, run

COLLECTIVE = re.compile(r"all-gather|all-reduce|all-to-all|collective|reduce-scatter|partition-id|\bsend\b|\brecv\b")
ROOT = Path(__file__).parents[2]


def python(code, *arguments, devices, wait=True):
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "NPROC": str(threads_for(devices)),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    }
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    if not wait:
        return process
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out


def test_one_two_and_eight_devices_give_the_same_bytes(tmp_path):
    code = """
        import sys, jax, numpy as np, jaxclear
        from jaxclear.dataset import explain_dataset
        from networks import small_network
        apply, variables, images = small_network(batch=45, size=8)
        clear = jaxclear.clear_map(apply)
        for count in (1, 2, 8):
            mesh = jax.make_mesh((count,), ("any",), devices=jax.devices()[:count])
            out = f"{sys.argv[1]}/store-{count}"
            options = {"unit": 16, "batch": 4, "log": lambda event: None, "mesh": mesh}
            done = explain_dataset(clear, variables, np.asarray(images), out, **options)
            assert (done.devices, done.items, done.missing) == (count, 45, 0), done
    """
    python(code, tmp_path, devices=8)
    reference = files(tmp_path / "store-1")
    assert len(reference) > 30
    assert files(tmp_path / "store-2") == reference
    assert files(tmp_path / "store-8") == reference


def test_items_of_several_shapes_give_the_same_bytes_on_one_and_many_devices(tmp_path):
    code = """
        import sys, jax, numpy as np
        from jaxclear.dataset import Item, explain_dataset
        class Mixed:
            def __len__(self):
                return 45
            def __getitem__(self, index):
                rng = np.random.default_rng(index)
                return Item(rng.uniform(size=(rng.integers(2, 5), 3)).astype(np.float32), index % 3, str(index))
        means = lambda weights, batch: {"mean": batch.mean(1), "most": batch.max((1, 2))}
        for count in (1, 2, 8):
            mesh = jax.make_mesh((count,), ("any",), devices=jax.devices()[:count])
            options = {"unit": 16, "batch": 2, "log": lambda event: None, "mesh": mesh}
            done = explain_dataset(means, {}, Mixed(), f"{sys.argv[1]}/store-{count}", **options)
            assert (done.devices, done.items, done.failed) == (count, 45, 0), done
    """
    python(code, tmp_path, devices=8)
    reference = files(tmp_path / "store-1")
    assert files(tmp_path / "store-2") == reference
    assert files(tmp_path / "store-8") == reference
    for index, mean in enumerate(open_store(tmp_path / "store-8")["mean"][:]):
        rng = np.random.default_rng(index)
        np.testing.assert_allclose(mean, rng.uniform(size=(rng.integers(2, 5), 3)).mean(0), rtol=1e-5)


@given(
    devices=st.integers(1, 5),
    units=st.lists(st.lists(st.integers(1, 3), max_size=12), max_size=6),
)
def test_groups_hold_every_part_once_and_wait_only_while_units_add_to_them(devices, units):
    groups, started = Groups(devices), []
    for number, sizes in enumerate(units):
        owner = UnitItems(unit=number, count=len(sizes))
        found = [Part(owner, [row], np.zeros((1, size))) for row, size in enumerate(sizes)]
        full = [group for part in found for group in groups.add(part)]
        assert all(len(group) == devices for group in full)
        late = groups.end(owner)
        assert not {part.value.shape[1] for group in late for part in group} & set(sizes)
        started += full + late
        assert {group[0].value.shape[1] for group in groups.rest()} <= set(sizes)
    started += groups.rest()
    there = [(part.owner.unit, part.rows[0]) for group in started for part in group]
    assert sorted(there) == [(k, row) for k, sizes in enumerate(units) for row in range(len(sizes))]
    assert all(len({part.value.shape for part in group}) == 1 and len(group) <= devices for group in started)


@pytest.mark.parametrize(("parts_a_unit", "launches"), [(1, 4), (2, 8), (3, 12)])
def test_parts_of_one_shape_fill_all_devices_however_small_a_unit_is(parts_a_unit, launches):
    groups, started = Groups(8), []
    for number in range(32):
        owner = UnitItems(unit=number, count=parts_a_unit)
        for row in range(parts_a_unit):
            started += groups.add(Part(owner, [row], np.zeros((1, 2))))
        started += groups.end(owner)
    assert [len(group) for group in started + groups.rest()] == [8] * launches


def test_nothing_is_communicated():
    apply, variables, images = small_network(batch=4, size=8)
    clear = jaxclear.clear_map(apply, class_block=5)
    mapped = Program(clear, variables, local_mesh(None), 2)
    assert mapped.devices == jax.device_count()
    compiled = mapped.compile(np.asarray(images[0]), 2).as_text()
    assert "convolution" in compiled
    assert not COLLECTIVE.search(compiled)
    # The same function with plain jit: its batch is gathered, so the search above is able to find something.
    mesh = jax.make_mesh((2,), ("items",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(images, NamedSharding(mesh, PartitionSpec("items")))
    replicated = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
    plain = jax.jit(jaxclear.class_responses(apply, class_block=5)).lower(replicated, sharded).compile().as_text()
    assert COLLECTIVE.search(plain)


def test_an_initialised_jax_distributed_is_left_alone(tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    code = """
        import sys, jax
        jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]))
        from tests.dataset.common import Images, run
        assert (len(jax.devices()), len(jax.local_devices())) == (2, 1)
        done = run(sys.argv[1], Images(21))
        assert (done.devices, done.units) == (1, 3), done
    """
    processes = [python(code, tmp_path / "store", address, rank, devices=1, wait=False) for rank in range(2)]
    for process in processes:
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    run(tmp_path / "alone", Images(21))
    assert files(tmp_path / "store") == files(tmp_path / "alone")


class Device:
    platform = "gpu"

    def __init__(self, limit):
        self.limit = limit

    def memory_stats(self):
        return {"bytes_limit": self.limit, "bytes_in_use": 0}


@pytest.mark.parametrize(
    ("limit", "pixels", "unit", "expected"),
    [
        (80e9, 28 * 28, 4096, 1024),  # no more than fills the device
        (80e9, 224 * 224, 512, 64),
        (80e9, 28 * 28, 100, 64),  # no more than a unit
        (1e9, 28 * 28, 4096, 256),  # 1.5 MB an item, 0.4 GB to use
        (1e6, 28 * 28, 4096, None),
    ],
)
def test_the_batch_follows_from_memory(limit, pixels, unit, expected):
    asked = []

    def needs(batch):
        asked.append(batch)
        return 1_500_000 * batch

    if expected is None:
        with pytest.raises(ValueError, match="room for one item, got 1 MiB needed"):
            memory.choose_batch(needs, pixels, unit, Device(limit))
        assert asked[-1] == 1
    else:
        assert memory.choose_batch(needs, pixels, unit, Device(limit)) == expected


def test_an_exhausted_compiler_halves_the_batch_and_other_errors_do_not():
    def needs(batch):
        if batch > 4:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.")
        return batch

    assert memory.choose_batch(needs, 28 * 28, 4096, Device(80e9)) == 4
    with pytest.raises(RuntimeError, match="bug"):
        memory.choose_batch(lambda batch: exec('raise RuntimeError("bug")'), 1, 1, Device(80e9))


def test_the_memory_of_the_host_is_shared_by_its_devices():
    limit = memory.memory_limit(jax.devices()[0])
    assert 1e6 < limit < 1e13
    assert memory.memory_limit(jax.devices()[0]) == pytest.approx(limit, rel=0.5)


def test_automatic_batches_on_this_machine(tmp_path):
    log = []
    done = run(tmp_path / "store", Images(30), unit=16, batch="auto", log=log.append)
    assert done.batch == 16
    chosen = next(event for event in log if event["event"] == "batch")
    assert chosen["batch"] == 16
    assert chosen["bytes"] > 16 * SIZE * SIZE * 4
    # What was chosen is kept, whatever another machine would choose.
    assert run(tmp_path / "store", Images(30), unit=16, batch="auto").resumed == 2


def test_exhaustion_in_the_middle_halves_the_batch_and_is_told(tmp_path, monkeypatch):
    run(tmp_path / "unbroken", Images(21), batch=4)
    call = Program.call
    calls = []

    def exhausted(self, parts, start, stop):
        calls.append(stop - start)
        if stop - start > 1 and len(calls) > 1:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
        return call(self, parts, start, stop)

    monkeypatch.setattr(Program, "call", exhausted)
    log = []
    done = run(tmp_path / "store", Images(21), batch=4, log=log.append)
    assert (done.batch, done.missing, done.failed) == (1, 0, 0)
    assert [event["batch"] for event in log if event["event"] == "exhausted"] == [2, 1]
    found, reference = (files(tmp_path / name) for name in ("store", "unbroken"))
    assert found.keys() == reference.keys()
    for name in ("dominant_class/c/4/0/0", "label/c/4", "item_id/c/4"):
        assert found[name] == reference[name]


def test_one_item_too_much_is_an_error(tmp_path, monkeypatch):
    def exhausted(self, parts, start, stop):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")

    monkeypatch.setattr(Program, "call", exhausted)
    with pytest.raises(ValueError, match="room for one item, got RESOURCE_EXHAUSTED: .*; explain smaller images"):
        run(tmp_path / "store", Images(21))


def test_devices_of_other_processes_are_refused(monkeypatch):
    mesh = local_mesh(None)
    monkeypatch.setattr(program.jax, "process_index", lambda: 1)
    with pytest.raises(ValueError, match=f"of this process's devices, got {jax.device_count()} of other"):
        local_mesh(mesh)


def test_buffers_handed_to_the_device_are_never_used_again(tmp_path, monkeypatch):
    seen = []
    put = jax.device_put

    def watched(value, *others):
        if isinstance(value, np.ndarray):
            seen.append((value, value.copy()))
        return put(value, *others)

    monkeypatch.setattr(program.jax, "device_put", watched)
    run(tmp_path / "store", Images(21))
    assert len(seen) > 3
    for value, before in seen:
        np.testing.assert_array_equal(value, before)
    assert len({value.ctypes.data for value, _ in seen}) == len(seen)


def test_the_description_is_the_same_in_another_process():
    here = program.describe(explain, WEIGHTS, np.zeros((SIZE, SIZE, 1), np.float32), 2)
    code = """
        import numpy as np
        from jaxclear.dataset.program import describe
        from tests.dataset.common import SIZE, WEIGHTS, explain
        print(describe(explain, WEIGHTS, np.zeros((SIZE, SIZE, 1), np.float32), 2))
    """
    assert python(code, devices=1).strip() == str(here)


def group(folder, limit, used, cached, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip((*names, "memory.stat"), (limit, used, f"anon 5\ninactive_file {cached}"), strict=True):
        (folder / name).write_text(f"{value}\n")


def test_limits_of_control_groups_and_of_their_parents(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("5:cpu:/x\n4:memory:/jobs/7\n0::/slice/job\n")
    one, two = ("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current")
    group(tmp_path / "sys/fs/cgroup/memory/jobs", 100, 60, 20, one)
    group(tmp_path / "sys/fs/cgroup/memory/jobs/7", 2**63, 50, 0, one)
    group(tmp_path / "sys/fs/cgroup/slice", 500, 100, 30, two)
    group(tmp_path / "sys/fs/cgroup/slice/job", "max", 90, 0, two)
    assert sorted(memory._control_groups(tmp_path)) == [60, 430, 2.0**63 - 50]
    assert list(memory._control_groups(tmp_path / "nothing")) == []


def test_results_that_wait_on_the_host_take_part_of_a_cpus_memory(monkeypatch):
    monkeypatch.setattr(memory, "_host_memory", lambda: 1e9 * jax.device_count())
    device = jax.devices()[0]
    assert memory.choose_batch(lambda batch: batch * 1_000_000, 1, 4096, device) == 256
    assert memory.choose_batch(lambda batch: batch * 1_000_000, 1, 4096, device, rows=10**9) == 128


def test_an_address_space_that_ends_is_never_exceeded(tmp_path):
    code = """
        import pathlib, resource, sys, jax, jax.numpy as jnp, numpy as np
        from jaxclear.dataset import explain_dataset, open_store

        def hungry(weights, images):  # 20 MB an item, which no fusion saves
            many = images.reshape(len(images), 64)[:, :, None] * weights
            return {"spectrum": jnp.abs(jnp.fft.rfft(many.reshape(len(images), -1), axis=1))[:, ::100_000]}

        images = np.random.default_rng(0).random((70, 8, 8, 1), np.float32)
        weights = jnp.linspace(0, 1, 40_000)
        jax.jit(hungry)(weights, images[:1])["spectrum"].block_until_ready()
        size = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 3 * 2**29, size + 3 * 2**29))
        done = explain_dataset(hungry, weights, images, sys.argv[1], unit=64, log=print)
        assert (done.items, done.failed, done.missing) == (70, 0, 0), done
        assert 1 < done.batch < 64, done
        assert open_store(sys.argv[1])["spectrum"][:].all()
    """
    print(python(code, tmp_path / "store", devices=1))
