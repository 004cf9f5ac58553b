"""Sources of files and arrays, readers at work at once, and the data sets of others."""

import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile

import grain
import numpy as np
import pytest
from PIL import Image

from jaxclear.dataset import ArraySource, ImageFiles, open_store
from jaxclear.dataset.loading import items
from jaxclear.dataset.sources import Failure, Item, identity, read
from jaxclear.worker_processes import TransientError
from tests.dataset.common import SIZE, Images, files, image, run


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    for k in range(9):
        place = root / ("cat", "dog", "other")[k % 3]
        place.mkdir(parents=True, exist_ok=True)
        grey = (255 * (image(k)[..., 0] + 1) / 2).astype(np.uint8)
        Image.fromarray(grey).save(place / f"{k}.png")
    (root / "cat" / "cut.png").write_bytes((root / "cat" / "0.png").read_bytes()[:40])
    (root / ".hidden").mkdir()
    (root / ".hidden" / "x.png").write_text("")
    return root


def test_image_files_with_labels_and_a_broken_one(folder, tmp_path):
    source = ImageFiles(folder, channels=1, class_names=["dog", "cat"])
    assert len(source) == 10
    done = run(tmp_path / "store", source)
    assert done.failed == 1
    store = open_store(tmp_path / "store")
    assert store["item_id"][:4] == ["cat/0.png", "cat/3.png", "cat/6.png", "cat/cut.png"]
    assert store["label"][:].tolist() == [1, 1, 1, -1, 0, 0, 0, -1, -1, -1]
    reason = store["failure"][3]
    assert reason.startswith("ValueError: cat/cut.png: expected an image")
    assert str(folder) not in reason  # the same on every machine
    grey = np.asarray(Image.open(folder / "dog" / "4.png"), np.float32) / 255
    item = source[5]
    np.testing.assert_array_equal(item.value[..., 0], grey)


def test_a_mended_file_is_tried_again_and_a_changed_source_refused(folder, tmp_path):
    run(tmp_path / "store", ImageFiles(folder, channels=1))
    (folder / "cat" / "cut.png").write_bytes((folder / "cat" / "0.png").read_bytes())
    with pytest.raises(ValueError, match=r"source.sizes: stored"):
        run(tmp_path / "store", ImageFiles(folder, channels=1))
    assert run(tmp_path / "store", ImageFiles(folder, channels=1), retry_failed=True).failed == 0
    assert run(tmp_path / "store", ImageFiles(folder, channels=1)).units == 0
    (folder / "new.png").write_bytes((folder / "cat" / "0.png").read_bytes())
    with pytest.raises(ValueError, match=r"source.items: stored 10, now 11"):
        run(tmp_path / "store", ImageFiles(folder, channels=1), retry_failed=True)


@pytest.mark.parametrize("kind", ["serial", "threads", "processes"])
def test_readers_of_every_kind_give_the_same_in_order(tmp_path, kind):
    source = Images(50, broken=(7, 33))
    source.reading = kind
    run(tmp_path / "plain", Images(50, broken=(7, 33)))
    run(tmp_path / "store", source, workers=2)
    assert files(tmp_path / "store") == files(tmp_path / "plain")


def test_threads_read_at_once_but_not_the_whole_source():
    started, together = [], threading.Barrier(2, timeout=20)

    class Waiting(Images):
        reading = "threads"

        def __getitem__(self, index):
            started.append(index)
            if index in (0, 16):
                together.wait()  # passes only when two threads read at once
            return super().__getitem__(index)

    with items(Waiting(1000), range(1000), 2) as found:
        assert next(found).id == "image-000"
        assert max(started) < 16 * 5
    with pytest.raises(ValueError, match="'serial', 'threads' or 'processes'"):
        source = Images(3)
        source.reading = "fibres"
        with items(source, range(3), None):
            pass


def outlived(folder):
    """Reads by two processes that tell their numbers, until it is killed."""
    with items(Numbered(folder), range(1000), 2) as found:
        for _ in found:
            pass


class Numbered(Images):
    reading = "processes"

    def __init__(self, folder):
        super().__init__(1000, pause=0.01)
        self.folder = folder

    def __getitem__(self, index):
        (self.folder / str(os.getpid())).touch()
        return super().__getitem__(index)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks at processes in /proc")
def test_readers_end_with_the_process_that_began_them_and_leave_interrupts_to_it(tmp_path):
    # A program of its own: a process of multiprocessing would share what this one's has begun, its resource tracker.
    program = f"import pathlib, {__name__} as here; here.outlived(pathlib.Path({str(tmp_path)!r}))"
    path = os.pathsep.join(entry for entry in sys.path if entry)
    reading = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path})
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    workers = [int(file.name) for file in tmp_path.iterdir()]
    assert len(workers) == 2
    for worker in workers:  # as a terminal does to all of a group
        os.kill(worker, signal.SIGINT)
    time.sleep(0.1)
    assert all(os.path.isdir(f"/proc/{worker}") for worker in workers)
    reading.kill()
    reading.wait()
    while time.monotonic() < deadline and any(os.path.isdir(f"/proc/{worker}") for worker in workers):
        time.sleep(0.02)
    assert not any(os.path.isdir(f"/proc/{worker}") for worker in workers)


def test_arrays_with_labels_and_names():
    images = np.arange(24, dtype=np.uint8).reshape(3, 2, 4, 1)
    source = ArraySource(images, [2, 0, 1], ["x", "y", "z"])
    item = read(source, 1)
    assert (item.label, item.id, item.value.dtype) == (0, "y", np.uint8)
    assert identity(source) == identity(ArraySource(images.copy(), np.array([2, 0, 1]), ["x", "y", "z"]))
    assert identity(source) != identity(ArraySource(images + 1, [2, 0, 1], ["x", "y", "z"]))
    with pytest.raises(ValueError, match="expected 3 labels, one an image, got 2"):
        ArraySource(images, [1, 2])


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"picture": 1}, "expected a mapping with 'image'"),
        (np.array(["a"]), "arrays of numbers"),
        (np.array([np.inf]), "finite"),
        (None, "arrays of numbers"),
        ((np.ones(3), "cat"), "invalid literal"),
    ],
)
def test_items_of_another_kind_are_failures(raw, words):
    found = read([raw], 0)
    assert isinstance(found, Failure)
    assert words in found.reason


def test_doubles_become_what_jax_takes():
    found = read([np.ones((2, 2), np.float64)], 0)
    assert isinstance(found, Item)
    assert found.value.dtype == np.float32


def test_grain_data_sets_are_sources(tmp_path):
    data = grain.MapDataset.source([image(k) for k in range(21)]).map(lambda one: {"image": one, "label": 1})
    threads = set()
    run(tmp_path / "store", data.map(lambda one: threads.add(threading.current_thread().name) or one))
    assert any(name.startswith("jaxclear-read") for name in threads)
    assert (open_store(tmp_path / "store")["label"][:] == 1).all()
    assert open_store(tmp_path / "store")["dominant_class"].shape == (21, SIZE, SIZE)


def test_a_folder_that_is_not_there():
    with pytest.raises(ValueError, match="got no such file"):
        ImageFiles("no such folder")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_of_images_is_the_folder_that_was_packed(tmp_path, kind):
    for number, name in enumerate(("cat/b.png", "dog/a.png", "cat/.hidden.png", "__MACOSX/c.png")):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 3), 40 * number).save(tmp_path / "pictures" / name)
    (tmp_path / "pictures" / "cat" / "cut.png").write_bytes(b"\x89PNG")
    packed = shutil.make_archive(tmp_path / "packed", kind.replace("tar.gz", "gztar"), tmp_path / "pictures")
    options = {"channels": 1, "class_names": ("dog", "cat")}
    folder, archive = (ImageFiles(path, **options) for path in (tmp_path / "pictures", packed))
    assert [folder.name(k) for k in range(len(folder))] == ["cat/b.png", "cat/cut.png", "dog/a.png"]
    assert identity(folder) == identity(archive)
    for source in (folder, archive, pickle.loads(pickle.dumps(archive))):
        found = [read(source, k) for k in range(3)]
        assert [(item.label, item.value.max()) for item in (found[0], found[2])] == [(1, 0), (0, np.float32(40 / 255))]
        assert found[1] == read(folder, 1)
        assert found[1].reason.startswith("ValueError: cat/cut.png: expected an image")


def test_one_file_and_a_damaged_archive(tmp_path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "red.png")
    assert len(ImageFiles(tmp_path / "red.png")) == 1
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_STORED) as packed:
        packed.write(tmp_path / "red.png", "a.png")
        packed.write(tmp_path / "red.png", "b.png")
    content = bytearray((tmp_path / "x.zip").read_bytes())
    content[60] ^= 1
    (tmp_path / "x.zip").write_bytes(content)
    source = ImageFiles(tmp_path / "x.zip")
    assert isinstance(read(source, 0), Failure)
    assert isinstance(read(source, 1), Item)


class Deadly(Images):
    reading = "processes"

    def __getitem__(self, index):
        if index == 100 and multiprocessing.parent_process() is not None:
            os._exit(9)
        return super().__getitem__(index)


@pytest.mark.parametrize("pause", [0.0, 0.02])
def test_a_killed_reader_is_told_however_slow_its_items_are_taken(pause):
    with (
        pytest.raises(TransientError, match="a worker process ended by itself"),
        items(Deadly(400), range(400), 2) as all_,
    ):
        for _ in all_:
            time.sleep(pause)
