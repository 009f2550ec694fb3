"""Poolings and normalisations written out with NumPy, and what passed through the layers of a network."""

import math

import numpy as np
from torch import nn

LAYERS = (nn.Conv2d, nn.Linear)


def recorded(network, x):
    """Input and output of every convolution and linear layer, by name, as NumPy arrays, and the network's output."""
    passed = {}

    def keep(name):
        return lambda layer, inputs, output: passed.update({name: (inputs[0].numpy(), output.numpy())})

    hooks = [
        layer.register_forward_hook(keep(name)) for name, layer in network.named_modules() if isinstance(layer, LAYERS)
    ]
    output = network(x).numpy()
    for hook in hooks:
        hook.remove()
    return passed, output


def relu(x):
    return np.maximum(x, 0)


def max_pool(x_NCHW, kernel, stride, *, up):
    """Maximum of windows; `up`: one more window where pixels are left over, cut off at the border."""
    for axis in (2, 3):
        windows = (x_NCHW.shape[axis] - kernel) / stride
        starts = [stride * i for i in range((math.ceil(windows) if up else math.floor(windows)) + 1)]
        moved = np.moveaxis(x_NCHW, axis, 0)
        x_NCHW = np.moveaxis(np.stack([moved[start : start + kernel].max(axis=0) for start in starts]), 0, axis)
    return x_NCHW


def response_norm(x_NCHW, k, alpha, beta=0.75, size=5):
    """x_c / (k + alpha * sum of the squares of the `size` channels around c) ** beta."""
    out = np.empty_like(x_NCHW)
    for c in range(x_NCHW.shape[1]):
        around = x_NCHW[:, max(0, c - size // 2) : c + size // 2 + 1]
        out[:, c] = x_NCHW[:, c] / (k + alpha * (around**2).sum(axis=1)) ** beta
    return out
