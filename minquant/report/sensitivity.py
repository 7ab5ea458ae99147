"""Which layer costs the accuracy: quantizers taken out of a network one layer at a time, and put in one at a time.

A layer here is its weights and the quantizer of its input. Float means what is left when a quantizer is taken out:
the latent weights, the unrounded activations. After quantization-aware training that is not the float network the
training started from; a network that has learned to be rounded may well be worse without.
"""

from contextlib import contextmanager

from ..nn.base import Layer
from ..quantizers.base import quantizers
from ..summary import input_quantizers
from ..training import evaluate


class Identity(Layer):
    """y = x, in the place of a quantizer."""

    def forward(self, x, train=False, rng=None):
        return x, None

    def backward(self, dy, cache):
        return dy, {}


@contextmanager
def bypassed(model, names):
    """While open, the quantizers with these dotted names let their input through; then the model is as before.

    Raises ValueError for a name that is no quantizer of the model.
    """
    known = dict(quantizers(model))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"'{unknown[0]}' is no quantizer of this model; there are {', '.join(known) or 'none'}")
    layers, replaced = dict(model.named_layers()), []
    try:
        for name in names:
            parent, _, child = name.rpartition(".")
            children = layers[parent].children
            replaced.append((children, child, children[child]))
            children[child] = Identity()
        yield model
    finally:
        for children, child, quantizer in replaced:
            children[child] = quantizer


def sensitivity(model, split, dataset):
    """Accuracy on `split` with all quantized, all float, and per layer the two mixtures of them.

    Returns {"images", "all_quantized", "all_float", "layers": {name: {"only_quantized", "only_float"}}}; layers
    without any quantizer are left out, and a model without any gives None.
    """
    names = [name for name, _ in quantizers(model)]
    if not names:
        return None

    def accuracy(float_names):
        with bypassed(model, float_names):
            return evaluate(model, split, dataset.normalise)[1]

    result = {"images": len(split), "all_quantized": accuracy([]), "all_float": accuracy(names), "layers": {}}
    for layer, before in input_quantizers(model).items():
        own = [name for name in (f"{layer}.weight_quantizer", before) if name in names]
        if own:
            result["layers"][layer] = {"only_quantized": accuracy([name for name in names if name not in own]),
                                       "only_float": accuracy(own)}
    return result
