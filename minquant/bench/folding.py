"""Float networks as an engine would see them: every batch norm folded into the layer before it."""

import copy

import numpy as np

from ..nn import BatchNorm, Conv2d, Dropout, Linear, Sequential


def folded(model):
    """A copy of a float network without BatchNorm and Dropout that gives the same values in evaluation.

    Raises ValueError for a batch norm that does not come right behind a convolution or linear layer.
    """
    model = copy.deepcopy(model)
    for _, container in list(model.named_layers()):
        kept, last = {}, None
        for name, layer in container.children.items():
            if isinstance(layer, BatchNorm):
                fold(layer, last, name)
            elif not isinstance(layer, Dropout):
                kept[name] = layer
            last = layer if isinstance(container, Sequential) else None
        container.children = kept
    return model


def fold(norm, layer, name):
    """Move a batch norm into the weight and bias of the layer before it."""
    if not isinstance(layer, (Conv2d, Linear)):
        raise ValueError(f"batch norm '{name}' follows no convolution or linear layer and cannot be folded")
    gain = norm.params["gamma"] / np.sqrt(norm.state["var"] + norm.eps)
    bias = layer.params.get("bias", 0) - norm.state["mean"]
    layer.params["weight"] = (layer.params["weight"] * gain).astype(np.float32)
    layer.params["bias"] = (bias * gain + norm.params["beta"]).astype(np.float32)
