"""Plain-loop NumPy twins in float64: a network as a list of layers, run forward and passed back under a rule.

Nothing here uses JAX; every sum is written out as in the equations. Arrays are one image (H, W, C).
"""

import dataclasses
import itertools

import numpy as np


def relu_back(rule, x, response):
    """Eqs. 2.11–2.13 and 5.2 of the thesis."""
    return {
        "backprop": (x > 0) * response,
        "deconvnet": np.maximum(response, 0),
        "guided": (x > 0) * np.maximum(response, 0),
        "linear": response,
    }[rule]


def seed(rule, value):
    """Rules that pass back positive responses only start from positive values only."""
    return np.maximum(value, 0) if rule in ("deconvnet", "guided") else value


@dataclasses.dataclass
class Conv:
    kernel: np.ndarray  # (kh, kw, Cin / groups, Cout)
    bias: np.ndarray
    stride: tuple = (1, 1)
    padding: tuple = ((0, 0), (0, 0))
    dilation: tuple = (1, 1)
    groups: int = 1

    def terms(self, shape):
        """Yields (output position, input position, kernel position) of every product in the sum."""
        kh, kw = self.kernel.shape[:2]
        sizes = [
            (n + lo + hi - (d * (k - 1) + 1)) // s + 1
            for n, (lo, hi), d, k, s in zip(shape, self.padding, self.dilation, (kh, kw), self.stride, strict=False)
        ]
        self.out_shape = (*sizes, self.kernel.shape[3])
        for i, j, u, v in itertools.product(range(sizes[0]), range(sizes[1]), range(kh), range(kw)):
            y = i * self.stride[0] + u * self.dilation[0] - self.padding[0][0]
            x = j * self.stride[1] + v * self.dilation[1] - self.padding[1][0]
            if 0 <= y < shape[0] and 0 <= x < shape[1]:
                yield (i, j), (y, x), (u, v)

    def group_slices(self):
        cin, cout = self.kernel.shape[2], self.kernel.shape[3] // self.groups
        for g in range(self.groups):
            yield slice(g * cin, (g + 1) * cin), slice(g * cout, (g + 1) * cout)

    def forward(self, x):
        products = list(self.terms(x.shape))
        out = np.zeros(self.out_shape) + self.bias
        for at, source, tap in products:
            for into, outof in self.group_slices():
                out[(*at, outof)] += x[(*source, into)] @ self.kernel[(*tap, slice(None), outof)]
        return out

    def backward(self, rule, x, response):
        back = np.zeros_like(x)
        for at, source, tap in self.terms(x.shape):
            for into, outof in self.group_slices():
                back[(*source, into)] += self.kernel[(*tap, slice(None), outof)] @ response[(*at, outof)]
        return back


@dataclasses.dataclass
class Relu:
    cap: float = np.inf

    def forward(self, x):
        return np.minimum(np.maximum(x, 0), self.cap)

    def backward(self, rule, x, response):
        if rule in ("backprop", "guided"):
            response = np.where(x < self.cap, response, 0)
        return relu_back(rule, x, response)


@dataclasses.dataclass
class MaxPool:
    window: tuple
    stride: tuple
    padding: tuple = ((0, 0), (0, 0))
    dilation: tuple = (1, 1)

    def switches(self, x):
        """Yields (output position, input position of the first maximum in row-major order) for every channel."""
        sizes = [
            (n + lo + hi - (d * (w - 1) + 1)) // s + 1
            for n, (lo, hi), d, w, s in zip(
                x.shape, self.padding, self.dilation, self.window, self.stride, strict=False
            )
        ]
        self.out_shape = (*sizes, x.shape[2])
        for i, j, c in itertools.product(range(sizes[0]), range(sizes[1]), range(x.shape[2])):
            best, where = -np.inf, None
            for u, v in itertools.product(range(self.window[0]), range(self.window[1])):
                y = i * self.stride[0] + u * self.dilation[0] - self.padding[0][0]
                z = j * self.stride[1] + v * self.dilation[1] - self.padding[1][0]
                if 0 <= y < x.shape[0] and 0 <= z < x.shape[1] and x[y, z, c] > best:
                    best, where = x[y, z, c], (y, z, c)
            yield (i, j, c), where, best

    def forward(self, x):
        found = list(self.switches(x))
        out = np.zeros(self.out_shape)
        for at, _, best in found:
            out[at] = best
        return out

    def backward(self, rule, x, response):
        back = np.zeros_like(x)
        for at, where, _ in self.switches(x):
            if where is not None:
                back[where] += response[at]
        return back


@dataclasses.dataclass
class BatchNorm:
    mean: np.ndarray
    var: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    epsilon: float = 1e-5

    @property
    def factor(self):
        return self.scale / np.sqrt(self.var + self.epsilon)

    def forward(self, x):
        return (x - self.mean) * self.factor + self.bias

    def backward(self, rule, x, response):
        return response * self.factor


@dataclasses.dataclass
class Dense:
    kernel: np.ndarray  # (features, units)
    bias: np.ndarray

    def forward(self, x):
        return x.reshape(-1) @ self.kernel + self.bias

    def backward(self, rule, x, response):
        return (self.kernel @ response).reshape(x.shape)


def forward(layers, image):
    """Returns the inputs of every layer and the last output."""
    values = [np.asarray(image, np.float64)]
    for layer in layers:
        values.append(layer.forward(values[-1]))
    return values


def class_responses(layers, image, rule, seed=seed):
    """Returns R(x|c) of every class: the seed of its class map (or logit), restricted to its kernel, passed back."""
    values = forward(layers, image)
    responses = []
    for c in range(values[-1].shape[-1]):
        response = np.zeros_like(values[-1])
        response[..., c] = seed(rule, values[-1][..., c])
        for layer, x in zip(reversed(layers), reversed(values[:-1]), strict=True):
            response = layer.backward(rule, x, response)
        responses.append(response)
    return np.stack(responses)
