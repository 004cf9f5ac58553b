"""A small sibling of ccexam's network: random weights of its architecture, in PyTorch's format without PyTorch."""

import collections
import io
import pickle
import sys
import types
import zipfile

import numpy as np


class FloatStorage:
    __module__ = "torch"

    def __init__(self, values):
        self.values = values


class LongStorage(FloatStorage):
    __module__ = "torch"


def _rebuild_tensor_v2(*_):
    raise AssertionError("named in the file, and never called")


_rebuild_tensor_v2.__module__ = "torch._utils"


class _Tensor:
    def __init__(self, values):
        self.values = np.array(values, order="C")

    def __reduce__(self):
        kind = FloatStorage if self.values.dtype == np.float32 else LongStorage
        strides = tuple(step // self.values.itemsize for step in self.values.strides)
        arguments = (kind(self.values), 0, self.values.shape, strides, False, collections.OrderedDict())
        return _rebuild_tensor_v2, arguments


class _Pickler(pickle.Pickler):
    def __init__(self, file, storages):
        super().__init__(file, protocol=2)
        self.storages = storages

    def persistent_id(self, item):
        if not isinstance(item, FloatStorage):
            return None
        self.storages.append(item.values)
        return "storage", type(item), str(len(self.storages) - 1), "cpu", item.values.size


def write_state(file, tensors, monkeypatch):
    """Writes tensors by name as torch.save does."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch.FloatStorage, torch.LongStorage, torch._utils = FloatStorage, LongStorage, utils
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    buffer, storages = io.BytesIO(), []
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "torch", torch)
        patched.setitem(sys.modules, "torch._utils", utils)
        _Pickler(buffer, storages).dump(collections.OrderedDict((k, _Tensor(v)) for k, v in tensors.items()))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("net/data.pkl", buffer.getvalue())
        for number, values in enumerate(storages):
            archive.writestr(f"net/data/{number}", values.tobytes())
    return file


def sibling_state(seed=0, widths=(2, 3, 2), hidden=5):
    """Random tensors of the names and order of axes that ccexam's SVHNNet has, with other widths."""
    rng = np.random.default_rng(seed)
    state, inputs = {}, 3
    for block, width in enumerate(widths):
        for place in (0, 3):
            name, norm = f"features.{block}.{place}", f"features.{block}.{place + 1}"
            state[f"{name}.weight"] = rng.normal(0, 1 / np.sqrt(9 * inputs), (width, inputs, 3, 3))
            state[f"{name}.bias"] = rng.normal(0, 0.1, width)
            state[f"{norm}.weight"] = rng.uniform(0.5, 1.5, width)
            state[f"{norm}.bias"] = rng.normal(0, 0.3, width)
            state[f"{norm}.running_mean"] = rng.normal(0, 0.3, width)
            state[f"{norm}.running_var"] = rng.uniform(0.5, 1.5, width)
            state[f"{norm}.num_batches_tracked"] = np.array(7)
            inputs = width
    for name, size in (("classifier.1", (hidden, 16 * inputs)), ("classifier.4", (10, hidden))):
        state[f"{name}.weight"] = rng.normal(0, 1 / np.sqrt(size[1]), size)
        state[f"{name}.bias"] = rng.normal(0, 0.1, size[0])
    return {key: value if value.dtype == np.int64 else value.astype(np.float32) for key, value in state.items()}
