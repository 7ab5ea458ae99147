"""A minquant network rebuilt in PyTorch, with the same weights, so that both train the same thing."""

import numpy as np
import torch
from torch import nn as tnn

from .. import nn


class Residual(tnn.Module):
    """body(x) + shortcut(x)."""

    def __init__(self, body, shortcut):
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x):
        return self.body(x) + self.shortcut(x)


class Concat(tnn.Module):
    """The channels of all branches side by side."""

    def __init__(self, branches):
        super().__init__()
        self.branches = tnn.ModuleList(branches)

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class PadShortcut(tnn.Module):
    """Every stride-th pixel, new channels filled with zeros."""

    def __init__(self, layer):
        super().__init__()
        self.stride, self.more = layer.stride, layer.outputs - layer.inputs

    def forward(self, x):
        return tnn.functional.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, 0, self.more))


class Flatten(tnn.Module):
    """In NHWC order, so that the linear weights fit; a view of channels-last memory."""

    def forward(self, x):
        return x.movedim(1, -1).flatten(1)


class BatchNorm(tnn.modules.batchnorm._BatchNorm):
    """Batch normalization of images and vectors alike."""

    def _check_input_dim(self, x):
        pass


def _filled(module, layer, weight):
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
        if "bias" in layer.params:
            module.bias.copy_(torch.from_numpy(layer.params["bias"]))
    return module


def _convolution(layer):
    kernel, _, c, o = layer.params["weight"].shape
    module = tnn.Conv2d(c * layer.groups, o, kernel, layer.stride, layer.padding, groups=layer.groups,
                        bias="bias" in layer.params)
    return _filled(module, layer, layer.params["weight"].transpose(3, 2, 0, 1))


def _linear(layer):
    weight = layer.params["weight"]
    return _filled(tnn.Linear(*weight.shape, bias="bias" in layer.params), layer, weight.T)


TRANSLATIONS = {
    nn.Sequential: lambda layer: tnn.Sequential(*map(translate, layer.children.values())),
    nn.Residual: lambda layer: Residual(*(translate(layer.children[name]) if name in layer.children
                                          else tnn.Identity() for name in ("body", "shortcut"))),
    nn.Concat: lambda layer: Concat(map(translate, layer.children.values())),
    nn.Conv2d: _convolution,
    nn.Linear: _linear,
    nn.BatchNorm: lambda layer: BatchNorm(len(layer.params["gamma"]), eps=layer.eps, momentum=layer.momentum),
    nn.ReLU: lambda layer: tnn.ReLU() if layer.cap is None else tnn.Hardtanh(0.0, layer.cap),
    nn.MaxPool: lambda layer: tnn.MaxPool2d(layer.size, layer.stride),
    nn.AvgPool: lambda layer: tnn.AvgPool2d(layer.size, layer.stride),
    nn.GlobalAvgPool: lambda layer: tnn.Sequential(tnn.AdaptiveAvgPool2d(1), tnn.Flatten()),
    nn.PadShortcut: PadShortcut,
    nn.Flatten: lambda layer: Flatten(),
    nn.Dropout: lambda layer: tnn.Dropout(layer.rate),
}


def translate(layer):
    """The PyTorch module of a float minquant layer or network that has not been trained."""
    if type(layer) not in TRANSLATIONS:
        raise ValueError(f"{type(layer).__name__} has no PyTorch counterpart; compare float networks")
    return TRANSLATIONS[type(layer)](layer)


def step_function(model, images, labels, lr, channels_last):
    """A function that trains one step and returns the loss, in contiguous (NCHW) or channels-last memory."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = translate(model).to(memory_format=layout)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).contiguous(memory_format=layout)
    y = torch.from_numpy(labels.astype(np.int64))
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9)

    def step():
        optimizer.zero_grad()
        loss = tnn.functional.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
