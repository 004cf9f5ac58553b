"""A small explanation and source for the tests, importable by other processes, and what a store's files are."""

import hashlib
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxclear.clear import ClearMap
from jaxclear.dataset import Item, explain_dataset

SIZE = 6
CLASSES = 3
WEIGHTS = np.random.default_rng(7).normal(size=(SIZE * SIZE, CLASSES)).astype(np.float32)


def explain(weights, images):
    """A linear network's CLEAR map, without the machinery: quick to compile."""
    flat = images.reshape(len(images), -1)
    responses = (weights.T[None] * flat[:, None]).reshape(-1, CLASSES, SIZE, SIZE)
    best = responses.max(axis=1)
    return ClearMap(jnp.where(best > 0, responses.argmax(axis=1), -1), best, flat @ weights)


def numpy_explain(images):
    """The twin in NumPy."""
    responses = np.einsum("pk,bp->bkp", WEIGHTS, images.reshape(len(images), -1)).reshape(-1, CLASSES, SIZE, SIZE)
    best = responses.max(axis=1)
    scores = images.reshape(len(images), -1) @ WEIGHTS
    return np.where(best > 0, responses.argmax(axis=1), -1), best, scores


class Images:
    """Random images by index, read slowly on request; some cannot be read."""

    def __init__(self, count, *, pause=0.0, broken=(), odd=()):
        self.count, self.pause, self.broken, self.odd = count, pause, set(broken), set(odd)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        time.sleep(self.pause)
        if index in self.broken:
            raise OSError(f"no such sector {index}")
        return Item(image(index, SIZE + (index in self.odd)), index % CLASSES, f"image-{index:03d}")

    def name(self, index):
        return f"image-{index:03d}"

    def identity(self):
        return {"kind": "tests", "names": str(self.count)}


def image(index, size=SIZE):
    return np.random.default_rng(index).uniform(-1, 1, (size, size, 1)).astype(np.float32)


def two_devices():
    """A mesh of two of this process's devices, so that a few items are several launches."""
    return Mesh(np.array(jax.local_devices()[:2]), ("items",))


def run(out, source, **options):
    """`explain_dataset` on the small network, without a log, on two devices."""
    settings = {"unit": 4, "batch": 2, "log": lambda event: None, "mesh": two_devices(), **options}
    return explain_dataset(explain, WEIGHTS, source, out, **settings)


def files(path):
    """The SHA-256 of every file of a store."""
    path = Path(path)
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.rglob("*")
        if file.is_file()
    }
