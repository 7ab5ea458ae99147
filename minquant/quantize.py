"""Put a method's quantizers into a float network.

    quantized = quantize(model, method="cpq", bits=4, act_bits=4, rng=rng)
    calibrate(quantized, images, rng)          # activation quantizers start from one batch

Weights are quantized where they are used (children["weight_quantizer"] of each convolution and linear layer);
activations behind every ReLU, after the max-pooling if one follows (it commutes with a monotone quantizer and leaves a
quarter of the elements), and behind average pooling. The network's input gets 8 signed bits of its own.

The branches of a Concat share one quantizer, because a layer that reads their channels side by side sums integers of
one scale: what ends a branch is left open, and the quantizer stands behind the Concat (behind a ReLU or max-pooling
that follows it). There is none where a branch may give negative values and no ReLU follows; such a network trains, but
cannot be lowered to integers.
"""

import copy
from fnmatch import fnmatchcase

import numpy as np

from .nn import (AvgPool, Concat, Dropout, Flatten, GlobalAvgPool, MaxPool, PadShortcut, ReLU, Residual, Sequential,
                 tapped)
from .nn.layers import Weighted
from .quantizers import create
from .quantizers.base import Quantizer, check_bits, quantizers
from .quantizers.minmax import MinMaxActivation, MinMaxWeight

FIRST_LAST = ("same", "8", "float")
KEEP_SIGN = (AvgPool, Dropout, Flatten, GlobalAvgPool, MaxPool, PadShortcut)


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
        _place_activation_quantizers(model, lambda: recipe.activation_quantizer(act_bits, signed=False))
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


def _place_activation_quantizers(container, make, positive=False, open_end=False):
    """Put a quantizer from `make` behind every activation in a container and the containers below it.

    positive : its input is nowhere negative;  open_end : it is a branch of a Concat, and what ends it is closed behind
    """
    if not isinstance(container, Sequential):
        for child in container.children.values():
            if child.is_container():
                _place_activation_quantizers(child, make, positive, open_end and isinstance(container, Concat))
        return
    items, before = list(container.children.items()), False  # whether an activation stands right before
    for i, (name, layer) in enumerate(items):
        after = items[i + 1][1] if i + 1 < len(items) else None
        stays_open = after is None and open_end
        gives_positive = is_positive(layer, positive)
        if layer.is_container():
            closed = isinstance(layer, Concat) and (gives_positive or isinstance(after, ReLU))
            _place_activation_quantizers(layer, make, positive, stays_open or closed)
        active = isinstance(layer, ReLU) or (isinstance(layer, Concat) and closed and not isinstance(after, ReLU))
        unpooled = active and not isinstance(after, MaxPool)
        pooled = isinstance(layer, MaxPool) and before
        if (unpooled or pooled or isinstance(layer, (AvgPool, GlobalAvgPool))) and not stays_open:
            container.insert_after(name, f"{name}_quantizer", make())
        before, positive = active, gives_positive


def is_positive(layer, positive):
    """Whether a layer's results are nowhere negative; `positive`: whether its input is."""
    if isinstance(layer, Sequential):
        for child in layer.children.values():
            positive = is_positive(child, positive)
        return positive
    if isinstance(layer, (Concat, Residual)):
        identity = [positive] if isinstance(layer, Residual) and "shortcut" not in layer.children else []
        return all([*identity, *(is_positive(child, positive) for child in layer.children.values())])
    return isinstance(layer, ReLU) or (isinstance(layer, KEEP_SIGN) and positive)


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
