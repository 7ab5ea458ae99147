"""Put a method's quantizers into a float network.

    quantized = quantize(model, method="cpq", bits=4, act_bits=4, rng=rng)
    calibrate(quantized, images, rng)          # activation quantizers start from one batch

Weights are quantized where they are used (children["weight_quantizer"] of each convolution and linear layer);
activations behind every ReLU, after the max-pooling if one follows (it commutes with a monotone quantizer and leaves a
quarter of the elements), and behind average pooling. The network's input gets 8 signed bits of its own.
"""

import copy
from fnmatch import fnmatchcase

import numpy as np

from .nn import AvgPool, GlobalAvgPool, MaxPool, ReLU, Sequential, tapped
from .nn.layers import Weighted
from .quantizers import create
from .quantizers.base import Quantizer, check_bits, quantizers
from .quantizers.minmax import MinMaxActivation, MinMaxWeight

FIRST_LAST = ("same", "8", "float")


def quantize(model, method="cpq", bits=4, act_bits=4, first_last="same", overrides=None, rng=None, **options):
    """Return a copy of a float `model` with the quantizers of `method` in place; `.method` holds the recipe.

    bits, act_bits : bits of weights and of activations; act_bits=None leaves activations (and the input) float
    first_last     : the first and the last layer's weights: "same" as all others, "8" (8-bit min-max) or "float"
    overrides      : {layer name pattern: bits, or None for float weights}; shell patterns such as "block3_*.conv1";
                     the last match wins and it beats `first_last`. A pattern that matches nothing is an error.
    rng            : Generator for initialisations that draw
    options        : the method's own (`--list-methods` names them)

    Raises ValueError for bits the method does not support, unknown methods, options and patterns, and NaN weights.
    """
    if any(isinstance(layer, Quantizer) for _, layer in model.named_layers()):
        raise ValueError("the model is quantized already; start from the float model")
    if first_last not in FIRST_LAST:
        raise ValueError(f"first_last={first_last!r} is not one of {', '.join(FIRST_LAST)}")
    recipe = recipe_for(method, bits, act_bits, options)
    rng = np.random.default_rng(0) if rng is None else rng
    model = copy.deepcopy(model)
    model.method = recipe
    _place_weight_quantizers(model, recipe, bits, first_last, overrides or {}, rng)
    if act_bits is not None:
        _place_activation_quantizers(model, recipe, act_bits)
        model.insert_first("input_quantizer", MinMaxActivation(8, signed=True, momentum=0.0))
    return model


def recipe_for(method, bits, act_bits, options):
    """Return the method with its options, after checking that it takes these bits. Raises ValueError."""
    recipe = create(method, **options)
    _check_supported(recipe, bits, recipe.weight_bits, "bits")
    _check_supported(recipe, act_bits, recipe.act_bits, "act_bits")
    return recipe


def _check_supported(recipe, bits, allowed, what):
    if bits not in allowed:
        if bits is not None:
            check_bits(bits, what=what)
        names = ", ".join("float" if b is None else str(b) for b in allowed)
        raise ValueError(f"{what}={bits} is not supported by method '{recipe.name}'; it takes {names}")


def _place_weight_quantizers(model, recipe, bits, first_last, overrides, rng):
    layers = [(name, layer) for name, layer in model.named_layers() if isinstance(layer, Weighted)]
    names = [name for name, _ in layers]
    for pattern in overrides:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"override '{pattern}' matches no layer; the layers are {', '.join(names)}")
    for i, (name, layer) in enumerate(layers):
        weight = layer.params["weight"]
        wanted = [value for pattern, value in overrides.items() if fnmatchcase(name, pattern)]
        if wanted:
            own = wanted[-1]
            if own is not None:
                _check_supported(recipe, own, recipe.weight_bits, f"override {name}")
            quantizer = None if own is None else recipe.weight_quantizer(own, weight.shape)
        elif i in (0, len(layers) - 1) and first_last != "same":
            quantizer = MinMaxWeight(8) if first_last == "8" else None
        else:
            quantizer = recipe.weight_quantizer(bits, weight.shape)
        if quantizer is not None:
            try:
                quantizer.init_from(weight, rng)
            except ValueError as error:
                raise ValueError(f"layer '{name}': {error}") from error
            layer.children["weight_quantizer"] = quantizer


def _place_activation_quantizers(model, recipe, act_bits):
    for _, container in list(model.named_layers()):
        if not isinstance(container, Sequential):
            continue
        items = list(container.children.items())
        for (_, before), (name, layer), (_, after) in zip([("", None), *items], items, [*items[1:], ("", None)]):
            unpooled = isinstance(layer, ReLU) and not isinstance(after, MaxPool)
            pooled = isinstance(layer, MaxPool) and isinstance(before, ReLU)
            if unpooled or pooled or isinstance(layer, (AvgPool, GlobalAvgPool)):
                container.insert_after(name, f"{name}_quantizer", recipe.activation_quantizer(act_bits, signed=False))


def calibrate(model, images, rng):
    """Initialise every activation quantizer that is not ready from what it sees of `images` (normalised, NHWC).

    The batch runs through in training mode, so batch norms use its statistics; their running ones are restored.
    Ends with the method's own `calibrate`, which for most only calls its `start`.
    """
    if len(images) == 0 or images.dtype.kind != "f":
        raise ValueError(f"calibration got {len(images)} images of {images.dtype}; it takes at least one, normalised "
                         "floats (Dataset.normalise)")
    saved = {name: array.copy() for name, array in model.named_state().items()
             if name.rsplit(".", 1)[-1] in ("mean", "var")}

    def initialise(name, layer, x):
        if isinstance(layer, Quantizer) and not layer.state["ready"]:
            try:
                layer.init_from(x, rng)
            except ValueError as error:
                raise ValueError(f"quantizer '{name}': {error}") from error

    with tapped(model, before=initialise):
        model.forward(images, train=True, rng=rng)
    for name, array in model.named_state().items():
        if name in saved:
            array[...] = saved[name]
    if getattr(model, "method", None) is not None:
        model.method.calibrate(model, images, rng)


def bits_of(model):
    """Return [(name, bits)] of every quantizer in a model, in the order of the computation."""
    return [(name, int(quantizer.bits)) for name, quantizer in quantizers(model)]
