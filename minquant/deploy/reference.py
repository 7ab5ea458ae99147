"""The reference of every exactness statement: the evaluation-mode network in float64, its sums taken exactly.

The plain float64 forward adds products (level * scale) that are rounded one by one, so that its last bit depends on
the order of the sum. The reference adds the integer levels, which is exact in any order, and multiplies by both
scales once. All else is the layers' own float64 forward. Where a pre-activation is nearer to a threshold than the
rounding of a plain sum, the two may differ by a code; `requantize` says when they cannot.
"""

import copy
from typing import NamedTuple

import numpy as np

from ..nn import (AvgPool, BatchNorm, Concat, Conv2d, GlobalAvgPool, Linear, ReLU, Residual, Sequential, functional,
                  tapped)
from ..nn.base import join
from ..quantizers.base import Quantizer


class BitExactError(AssertionError):
    """Two forms of one network differ; the message names the first layer, the place and both values."""


class Exact(NamedTuple):
    """Quantized activations: integer levels (as float64) times one scale."""

    levels: np.ndarray
    scale: np.float64

    def value(self):
        """The real values, each rounded once."""
        return self.levels * self.scale


def float64(model):
    """A copy of a model in float64."""
    return copy.deepcopy(model).astype(np.float64)


def exact_forward(model, x):
    """({activation quantizer: codes}, logits) of a `float64` model with exact sums; x is normalised float64."""
    codes = {}
    logits = _walk(model, "", x, codes)
    return codes, logits


def plain_forward(model, x):
    """The same of the model's own forward."""
    codes = {}

    def encode(name, layer, x):
        if isinstance(layer, Quantizer) and not name.endswith("weight_quantizer"):
            codes[name] = layer.encode(x).codes

    with tapped(model, before=encode):
        logits = model.forward(x)[0]
    return codes, logits


def _walk(layer, name, x, codes):
    if isinstance(layer, Sequential):
        for child_name, child in layer.children.items():
            x = _walk(child, join(name, child_name), x, codes)
        return x
    if isinstance(layer, Residual):
        y = _walk(layer.children["body"], join(name, "body"), x, codes)
        short = _walk(layer.children["shortcut"], join(name, "shortcut"), x, codes) if len(layer.children) > 1 else x
        return y + short.value()
    if isinstance(layer, Concat):
        return _joined([_walk(child, join(name, child_name), x, codes) for child_name, child in layer.children.items()])
    if isinstance(layer, Quantizer):
        stored, stairs = layer.encode(_value(x)), layer.staircase()
        codes[name] = stored.codes
        return Exact(stairs.levels.astype(np.float64)[stored.codes], np.float64(stairs.scale))
    if isinstance(layer, (Conv2d, Linear)):
        return _weighted(layer, x)
    if isinstance(layer, (AvgPool, GlobalAvgPool)):
        return _mean(layer, x)
    if isinstance(layer, (BatchNorm, ReLU)) or not isinstance(x, Exact):
        return layer.forward(_value(x))[0]
    return Exact(layer.forward(x.levels)[0], x.scale)  # max-pooling, flattening, padding move levels about


def _value(x):
    return x.value() if isinstance(x, Exact) else x


def _joined(parts):
    """Values side by side: levels where all have one scale, real values otherwise."""
    if all(isinstance(part, Exact) and part.scale == parts[0].scale for part in parts):
        return Exact(np.concatenate([part.levels for part in parts], axis=-1), parts[0].scale)
    return np.concatenate([_value(part) for part in parts], axis=-1)


def _weighted(layer, x):
    """(integer sums) * (scale of the weights * scale of the input) + bias."""
    stored = layer.children["weight_quantizer"].encode(layer.params["weight"])
    weights = stored.levels.astype(np.float64)[stored.codes]
    if isinstance(layer, Conv2d):
        sums = functional.conv2d_forward(x.levels, weights, layer.stride, layer.padding, layer.groups)[0]
    else:
        sums = x.levels @ weights
    y = sums * (np.asarray(stored.scale, np.float64) * x.scale)
    return y + layer.params["bias"] if "bias" in layer.params else y


def _mean(layer, x):
    """(integer sum over the window) * scale / count."""
    if isinstance(layer, GlobalAvgPool):
        return x.levels.sum((1, 2)) * x.scale / (x.levels.shape[1] * x.levels.shape[2])
    windows = np.lib.stride_tricks.sliding_window_view(x.levels, (layer.size, layer.size), axis=(1, 2))
    return windows[:, ::layer.stride, ::layer.stride].sum((-1, -2)) * x.scale / layer.size ** 2
