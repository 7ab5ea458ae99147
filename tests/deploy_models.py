"""Small quantized networks for the tests of deployment: a few steps of training, batch norms made awkward."""

import numpy as np

from minquant import data, models, training
from minquant.nn import BatchNorm
from minquant.optim import Adam, parameter_groups
from minquant.quantize import calibrate, quantize
from minquant.quantizers import METHODS

DIGITS = data.load("digits")
BITS = (1, 2, 3, 4, 8)
CASES = [(name, bits) for name, method in METHODS.items() for bits in BITS if bits in method.weight_bits]


def act_bits_of(name, bits):
    """The bits of activations that go with these bits of weights: the same, or the nearest that the method takes."""
    allowed = [b for b in METHODS[name].act_bits if b is not None]
    return min(allowed, key=lambda b: abs(b - bits))


def stored_model(network, name, bits, act_bits=None, seed=0, steps=2, awkward=True, **settings):
    """A finished model whose running statistics, signs of gamma (some 0) and shifts are those of no fresh network."""
    rng = np.random.default_rng(seed)
    act_bits = act_bits_of(name, bits) if act_bits is None else act_bits
    model = quantize(models.build(network, DIGITS.image_shape, 10, rng), name, bits, act_bits, rng=rng, **settings)
    images, labels = DIGITS.normalise(DIGITS.train.images[:48]), DIGITS.train.labels[:48]
    calibrate(model, images, rng)
    optimizer = Adam(model.named_params(), parameter_groups(model))
    for i in range(steps):
        training.step(model, optimizer, images, labels, 2e-3, rng, 1, i / steps)
    if awkward:
        for _, layer in model.named_layers():
            if isinstance(layer, BatchNorm):
                layer.params["gamma"][::3] *= -1
                layer.params["gamma"][1::7] = 0
                layer.params["beta"] += rng.normal(0, 0.3, len(layer.params["beta"])).astype(np.float32)
    model.method.finish(model)
    return model
