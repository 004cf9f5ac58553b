"""A digit classifier that others trained on SVHN, as a pure JAX function: the network of the package ccexam 1.0.0.

Three blocks of two 3x3 convolutions, each with batch normalisation and ReLU, and a max-pooling; two dense layers. It
was trained in PyTorch, and comes with four test images of SVHN. Its weights are read here without PyTorch, from its
own file in the installed package: none of it is copied into this project.

Install: pip install --no-deps ccexam==1.0.0  (its own requirements, torch and torchvision, are not needed for this)
Source: ccexam 1.0.0, S. Chen et al., "Collaborative Coding Exam", UiT The Arctic University of Norway; MIT licence.
"""

import functools
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from jaxclear.image_files import read_image
from jaxclear.models import LoadedModel, Network
from jaxclear.models.layers import BatchNorm, Conv, ConvNet, Dense, Layer, MaxPool, Relu

VERSION = "1.0.0"
SIZE = 32
SAMPLES = (0, 1, 2, 5)
"""Classes of the four images of SVHN's test split, which their file names tell."""

# The network was trained on images normalised so (ccexam.constants.DATASET_STATS).
MEAN = (0.4377, 0.4438, 0.4728)
DEVIATION = (0.1980, 0.2010, 0.1970)
_EPSILON = 1e-5  # PyTorch's default for batch normalisation

_STORAGES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


class CcexamError(ValueError):
    """The package is not there or another version, or its file holds another network."""


class Samples(NamedTuple):
    """Images (N, 32, 32, 3) and the class of each."""

    images: UInt8[np.ndarray, "N 32 32 3"]
    labels: Int[np.ndarray, " N"]


def load(weights: str | os.PathLike[str] | None = None) -> LoadedModel:
    """Returns the network of ccexam, whose images are in [0, 1] here: it normalises them itself.

    Args:
        weights: a state file of this architecture that PyTorch wrote, of any width; by default that of the installed
            package.

    Raises:
        CcexamError: ccexam is not installed, another version is, or the file holds another network.
    """
    file = packaged("ccexam", VERSION, "ccexam/weights/svhn.pth") if weights is None else Path(weights)
    state = read_state(file)
    try:
        layers, variables = _converted(state)
    except (KeyError, ValueError, IndexError) as error:
        raise CcexamError(
            f"expected the three blocks and two dense layers of SVHNNet, got {len(state)} tensors of another network "
            f"in {os.fspath(file)!r} ({error})"
        ) from error
    network = Network(
        name="ccexam-svhn",
        source=f"ccexam {VERSION}, SVHNNet",
        input_shape=(SIZE, SIZE, 3),
        class_names=tuple("0123456789"),
        layers=layers,
    )
    origin = {"source": network.source, "file": file.name}
    variables = jax.tree.map(jnp.asarray, variables)
    return LoadedModel(_apply(layers), variables, network.class_names, network.input_shape, network, origin)


def samples() -> Samples:
    """Returns the four images of SVHN's test split that ccexam carries.

    Raises:
        CcexamError: ccexam is not installed, or another version is.
    """
    files = [packaged("ccexam", VERSION, f"ccexam/samples/svhn_digit_{label}.png") for label in SAMPLES]
    images = [read_image(str(file), 3) for file in files]
    return Samples(np.round(255 * np.stack(images)).astype(np.uint8), np.array(SAMPLES))


def packaged(name: str, version: str | None, path: str) -> Path:
    """Returns the place of a file that an installed distribution carries, without importing anything of it.

    Args:
        name: of the distribution.
        version: that it has to be; None takes any.
        path: of the file, from the folder of installed packages.

    Raises:
        CcexamError: the distribution is not installed, another version is, or it lacks the file.
    """
    wanted = name if version is None else f"{name}=={version}"
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError as error:
        raise CcexamError(f"expected the package {wanted}, got none: pip install --no-deps {wanted}") from error
    if version is not None and distribution.version != version:
        raise CcexamError(f"expected the package {wanted}, got {distribution.version}: pip install --no-deps {wanted}")
    file = Path(str(distribution.locate_file(path)))
    if not file.is_file():
        raise CcexamError(f"expected the file {path} in {name} {distribution.version}, got none")
    return file


def read_state(file: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Returns the tensors of a state file of PyTorch by name, without PyTorch.

    Nothing but the four names that such a file of numbers needs is ever looked up, so that no code of the file runs.

    Raises:
        CcexamError: no such file, no zip archive of this kind, or one that asks for other names.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            pickled = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
            if pickled is None:
                raise pickle.UnpicklingError("another archive")
            folder = pickled.removesuffix("data.pkl")
            tensors = _StateReader(archive, folder).load()
    except (OSError, zipfile.BadZipFile, pickle.UnpicklingError, EOFError, KeyError, ValueError, TypeError) as error:
        raise CcexamError(f"expected a whole state file of PyTorch at {os.fspath(file)!r}, got {error}") from error
    if not isinstance(tensors, Mapping) or not all(isinstance(value, np.ndarray) for value in tensors.values()):
        raise CcexamError(f"expected tensors by name, got {type(tensors).__name__} in {os.fspath(file)!r}")
    return dict(tensors)


class _StateReader(pickle.Unpickler):
    """Reads tensors as NumPy arrays; storages are files of the archive."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{folder}data.pkl")))
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"the name {module}.{name}, which no file of plain tensors needs")

    def persistent_load(self, pid: Any, /) -> np.ndarray:
        _, dtype, key, *_ = pid
        return np.frombuffer(self._archive.read(f"{self._folder}data/{key}"), dtype)


def _tensor(storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> np.ndarray:
    bytes_apart = tuple(step * storage.itemsize for step in strides)
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, bytes_apart, writeable=False).copy()


def _converted(state: Mapping[str, np.ndarray]) -> tuple[tuple[Layer, ...], dict[str, Any]]:
    """The layer table and Flax's variables; kernels of PyTorch are (out, in, *spatial), its features channels first."""
    layers: list[Layer] = []
    params: dict[str, Any] = {}
    statistics: dict[str, Any] = {}
    for number in range(6):
        block, place = divmod(number, 2)
        convolution, norm = f"features.{block}.{3 * place}", f"features.{block}.{3 * place + 1}"
        kernel = state[f"{convolution}.weight"].transpose(2, 3, 1, 0)
        layers += [Conv(kernel.shape[0], kernel.shape[-1], relu=False), BatchNorm(epsilon=_EPSILON), Relu()]
        params[f"Conv_{number}"] = {"kernel": kernel, "bias": state[f"{convolution}.bias"]}
        params[f"BatchNorm_{number}"] = {"scale": state[f"{norm}.weight"], "bias": state[f"{norm}.bias"]}
        statistics[f"BatchNorm_{number}"] = {
            "mean": state[f"{norm}.running_mean"],
            "var": state[f"{norm}.running_var"],
        }
        if place == 1:
            layers.append(MaxPool(2, 2))
    side, channels = SIZE // 8, len(state["features.2.3.weight"])
    first, last = state["classifier.1.weight"], state["classifier.4.weight"]
    spatial = first.reshape(len(first), channels, side, side).transpose(2, 3, 1, 0).reshape(-1, len(first))
    params["Dense_0"] = {"kernel": spatial, "bias": state["classifier.1.bias"]}
    params["Dense_1"] = {"kernel": last.T, "bias": state["classifier.4.bias"]}
    return (*layers, Dense(len(first)), Dense(len(last))), {"params": params, "batch_stats": statistics}


@functools.cache
def _apply(layers: tuple[Layer, ...]) -> Callable[..., Any]:
    module = ConvNet(layers=layers)

    def apply(variables: Any, images: Float[Array, "B 32 32 3"]) -> Float[Array, "B 10"]:
        normalised = (images - jnp.asarray(MEAN, images.dtype)) / jnp.asarray(DEVIATION, images.dtype)
        return module.apply(variables, normalised)  # pyright: ignore[reportReturnType]

    return apply
