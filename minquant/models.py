"""The networks. Each function reads like the architecture table of its paper and returns a `Sequential`.

    model = resnet20(input_shape=(32, 32, 3), classes=10, rng=numpy.random.default_rng(0))

Convolutions before a batch norm carry no bias. `count(model, input_shape)` gives parameters and multiply-accumulates.
"""

from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from .nn import (BatchNorm, Concat, Conv2d, Flatten, GlobalAvgPool, Linear, MaxPool, PadShortcut, ReLU, Residual,
                 Sequential, tapped)


def mlp(input_shape, classes, rng):
    """Two hidden layers with batch norm.

    flatten - 256 FC - 128 FC - classes FC
    """
    return Sequential(
        flatten=Flatten(),
        fc1=Linear(int(np.prod(input_shape)), 256, rng, bias=False), bn1=BatchNorm(256), relu1=ReLU(),
        fc2=Linear(256, 128, rng, bias=False), bn2=BatchNorm(128), relu2=ReLU(),
        fc3=Linear(128, classes, rng))


def lenet5(input_shape, classes, rng):
    """LeNet-5 (LeCun et al. 1998, figure 2) with max-pooling, ReLU and batch norm in the place of its squashing units.

    6 C5 - MP2 - 16 C5 - MP2 - 120 FC - 84 FC - classes FC

    The first convolution is padded to keep the size (28 x 28 images stand for the paper's 32 x 32); the second is
    unpadded as in the paper, except on images so small that it would not fit.
    """
    h, w, c = input_shape
    padding = 0 if min(h // 2, w // 2) >= 6 else 2
    flat = ((h // 2 + 2 * padding - 4) // 2) * ((w // 2 + 2 * padding - 4) // 2) * 16
    return Sequential(
        conv1=Conv2d(c, 6, 5, rng, padding=2, bias=False), bn1=BatchNorm(6), relu1=ReLU(), pool1=MaxPool(2),
        conv2=Conv2d(6, 16, 5, rng, padding=padding, bias=False), bn2=BatchNorm(16), relu2=ReLU(), pool2=MaxPool(2),
        flatten=Flatten(),
        fc1=Linear(flat, 120, rng, bias=False), bn3=BatchNorm(120), relu3=ReLU(),
        fc2=Linear(120, 84, rng, bias=False), bn4=BatchNorm(84), relu4=ReLU(),
        fc3=Linear(84, classes, rng))


def vgg_small(input_shape, classes, rng):
    """VGG-small, the network of the ternary and binary weight papers at half their width.

    2 x 64 C3 - MP2 - 2 x 128 C3 - MP2 - 2 x 256 C3 - MP2 - 512 FC - classes FC
    """
    h, w, c = input_shape
    layers = {}
    for stage, width in enumerate((64, 128, 256), start=1):
        for i in (1, 2):
            name = f"{stage}_{i}"
            layers[f"conv{name}"] = Conv2d(c, width, 3, rng, padding=1, bias=False)
            layers[f"bn{name}"], layers[f"relu{name}"] = BatchNorm(width), ReLU()
            c = width
        layers[f"pool{stage}"] = MaxPool(2)
    return Sequential(
        **layers, flatten=Flatten(),
        fc1=Linear((h // 8) * (w // 8) * c, 512, rng, bias=False), bn_fc1=BatchNorm(512), relu_fc1=ReLU(),
        fc2=Linear(512, classes, rng))


def resnet20(input_shape, classes, rng):
    """ResNet-20 for small images (He et al. 2016, section 4.2, n = 3), with its parameter-free shortcut (option A).

    16 C3 - 3 blocks of 16 - 3 blocks of 32 (first with stride 2) - 3 blocks of 64 (first with stride 2) - mean - FC
    block: C3 - BN - ReLU - C3 - BN, plus shortcut, ReLU
    """
    blocks = _residual_stages((16, 32, 64), 3, rng)
    return Sequential(
        conv1=Conv2d(input_shape[2], 16, 3, rng, padding=1, bias=False), bn1=BatchNorm(16), relu1=ReLU(),
        **blocks, pool=GlobalAvgPool(), fc=Linear(64, classes, rng))


def resnet18(input_shape, classes, rng):
    """ResNet-18 for large images (He et al. 2016, table 1), with the parameter-free shortcut (option A).

    64 C7/2 - MP3/2 - 2 blocks of 64 - 2 blocks of 128 - 2 blocks of 256 - 2 blocks of 512 - mean - FC
    (the first block of 128, 256 and 512 with stride 2)

    Pooling has no padding here. The first convolution is padded by 4 instead of 3, so that images of 224 x 224 pixels
    become 113 x 113 and then the paper's 56 x 56.
    """
    blocks = _residual_stages((64, 128, 256, 512), 2, rng)
    return Sequential(
        conv1=Conv2d(input_shape[2], 64, 7, rng, stride=2, padding=4, bias=False), bn1=BatchNorm(64), relu1=ReLU(),
        pool1=MaxPool(3, 2), **blocks, pool=GlobalAvgPool(), fc=Linear(512, classes, rng))


def _residual_stages(widths, count, rng):
    """{name: block} of `count` blocks for each width; the first block of every width but the first has stride 2."""
    blocks, inputs = {}, widths[0]
    for stage, outputs in enumerate(widths, start=1):
        for i in range(1, count + 1):
            stride = 2 if stage > 1 and i == 1 else 1
            blocks[f"block{stage}_{i}"] = _basic_block(inputs, outputs, stride, rng)
            inputs = outputs
    return blocks


def _basic_block(inputs, outputs, stride, rng):
    body = Sequential(
        conv1=Conv2d(inputs, outputs, 3, rng, stride=stride, padding=1, bias=False),
        bn1=BatchNorm(outputs), relu1=ReLU(),
        conv2=Conv2d(outputs, outputs, 3, rng, padding=1, bias=False), bn2=BatchNorm(outputs))
    shortcut = None if inputs == outputs else PadShortcut(inputs, outputs, stride)
    return Sequential(add=Residual(body, shortcut), relu2=ReLU())


def mobilenet_tiny(input_shape, classes, rng):
    """MobileNet (Howard et al. 2017, table 1) cut down to small images: depthwise separable blocks.

    32 C3 - separable 64, 128/2, 128, 256/2, 256, 512/2, 512 (/2: stride 2) - mean - FC
    separable: depthwise C3 - BN - ReLU - C1 - BN - ReLU
    """
    c = input_shape[2]
    blocks, width = {}, 32
    plan = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1))
    for i, (outputs, stride) in enumerate(plan, start=1):
        blocks[f"block{i}"] = _separable_block(width, outputs, stride, rng)
        width = outputs
    return Sequential(
        conv1=Conv2d(c, 32, 3, rng, padding=1, bias=False), bn1=BatchNorm(32), relu1=ReLU(),
        **blocks, pool=GlobalAvgPool(), fc=Linear(width, classes, rng))


def _separable_block(inputs, outputs, stride, rng):
    return Sequential(
        depthwise=Conv2d(inputs, inputs, 3, rng, stride=stride, padding=1, groups=inputs, bias=False),
        bn1=BatchNorm(inputs), relu1=ReLU(),
        pointwise=Conv2d(inputs, outputs, 1, rng, bias=False), bn2=BatchNorm(outputs), relu2=ReLU())


def squeezenet_tiny(input_shape, classes, rng):
    """SqueezeNet (Iandola et al. 2016, table 1) cut down to small images: fire modules, with batch norm.

    32 C3 - MP2 - fire 16, 2 x 32 - fire 16, 2 x 32 - MP2 - fire 24, 2 x 48 - fire 32, 2 x 64 - mean - classes FC
    fire s, 2 x e: s C1 - BN - ReLU - e C1 and e C3 side by side, each with BN - ReLU

    The paper's last layer is a C1 with ReLU, then the mean. Without that ReLU both are linear, and the mean may come
    first, which leaves the sums of a linear layer as logits.
    """
    return Sequential(
        conv1=Conv2d(input_shape[2], 32, 3, rng, padding=1, bias=False), bn1=BatchNorm(32), relu1=ReLU(),
        pool1=MaxPool(2), fire2=_fire(32, 16, 32, rng), fire3=_fire(64, 16, 32, rng),
        pool3=MaxPool(2), fire4=_fire(64, 24, 48, rng), fire5=_fire(96, 32, 64, rng),
        pool=GlobalAvgPool(), fc=Linear(128, classes, rng))


def _fire(inputs, squeezed, expanded, rng):
    def expand(kernel):
        return Sequential(conv=Conv2d(squeezed, expanded, kernel, rng, padding=kernel // 2, bias=False),
                          bn=BatchNorm(expanded), relu=ReLU())

    return Sequential(squeeze=Conv2d(inputs, squeezed, 1, rng, bias=False), bn=BatchNorm(squeezed), relu=ReLU(),
                      expand=Concat(c1=expand(1), c3=expand(3)))


def vgg_detector(input_shape, classes, rng):
    """A one-stage detector in the manner of VGG, with strided convolutions in the place of pooling.

    16 C3/2 - 32 C3/2 - 32 C3 - 64 C3/2 - 2 x 96 C3 - (classes + 4) C1, a map of 1/8 of the image's sides
    """
    c, layers = input_shape[2], {}
    for i, (width, stride) in enumerate(((16, 2), (32, 2), (32, 1), (64, 2), (96, 1), (96, 1)), start=1):
        layers[f"conv{i}"] = Conv2d(c, width, 3, rng, stride=stride, padding=1, bias=False)
        layers[f"bn{i}"], layers[f"relu{i}"] = BatchNorm(width), ReLU()
        c = width
    return Sequential(**layers, head=_detector_head(c, classes, rng))


def _detector_head(inputs, classes, rng):
    """All of a detector's outputs in one convolution, see `detection.boxes`; every class starts at a score of 0.1."""
    head = Conv2d(inputs, classes + 4, 1, rng)
    head.params["weight"] *= 0.1
    head.params["bias"][:classes] = -np.log(9)
    head.params["bias"][classes + 2:] = np.log(4)
    return head


MODELS = {f.__name__: f for f in (mlp, lenet5, vgg_small, resnet20, resnet18, mobilenet_tiny, squeezenet_tiny)}
DETECTORS = {f.__name__: f for f in (vgg_detector,)}


def build(name, input_shape, classes, rng):
    """Return the model called `name`; an unknown name is a ValueError that lists the nearest ones."""
    known = {**MODELS, **DETECTORS}
    if name not in known:
        near = get_close_matches(name, known, n=3) or sorted(known)
        raise ValueError(f"there is no model '{name}'; did you mean {', '.join(near)}? (all: {', '.join(known)})")
    return known[name](input_shape, classes, rng)


@dataclass(frozen=True)
class LayerCount:
    """One layer with weights: shapes without the batch axis, parameters (bias included), MACs for one image."""

    name: str
    weight_shape: tuple
    output_shape: tuple
    params: int
    macs: int


def count(model, input_shape):
    """Return a list of `LayerCount`, one per convolution and linear layer, by running one image of zeros through."""
    rows = []

    def record(name, layer, x, y):
        weight = layer.params.get("weight")
        if weight is not None:
            positions = int(np.prod(y.shape[1:-1], dtype=int))
            params = sum(array.size for array in layer.params.values())
            rows.append(LayerCount(name, weight.shape, y.shape[1:], params, weight.size * positions))

    with tapped(model, after=record):
        model.forward(np.zeros((1, *input_shape), np.float32))
    return rows
