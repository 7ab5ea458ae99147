"""Lowering: a trained, quantized network becomes a `Program` on integers, with a proof per threshold.

The model is copied and converted to float64: that network's evaluation mode is the reference (`reference`). The
walk carries a value through the layers (`values`); it is one of

    Image    pixels, before the input quantizer
    Codes    codes of a tensor and what they stand for: levels[code] * scale
    Pending  sums of products, and the float64 expression that makes the network's value of them; a ReLU, a shortcut
             or a max-pooling met on the way waits here until a quantizer closes the value (`requantize`)
    Concatenated  Codes and Pendings side by side; the quantizer behind closes each for itself, as it treats every
             element for itself, and the codes are joined

A batch norm, a bias and a scale are steps of the expression and vanish into the next requantization.
"""

import copy
from dataclasses import replace

import numpy as np

from ..nn import (AvgPool, BatchNorm, Concat, Conv2d, Dropout, Flatten, GlobalAvgPool, Linear, MaxPool, PadShortcut,
                  ReLU, Residual, Sequential)
from ..nn.base import join
from ..quantizers.base import Quantizer
from . import ops
from .closing import LoweringError, close, close_parts
from .op import Tensor
from .pack import pack
from .program import Program
from .reference import float64
from .requantize import INT32_LIMIT, scaled, sum_slack
from .values import Codes, Concatenated, Image, Pending, what


def lower(model, image_shape, normalise, info=None):
    """Return the `Program` of a quantized model.

    image_shape : (H, W, C);  normalise : function of uint8 images (N, H, W, C) -> floats, pixel by pixel, such as
    `Dataset.normalise`;  info : text and numbers kept with the program
    Raises LoweringError for a model that is not finite, not calibrated, not hardened, or has a layer that integers
    cannot express exactly.

    program.info["proof"] counts the thresholds, those at which the plain float64 sum is not proven to give the same
    code (see `requantize`), and the channels in which float32 arithmetic did not do.
    """
    if len(image_shape) != 3:
        raise LoweringError(f"image_shape={image_shape} is not (height, width, channels)")
    for name, values in {**model.named_params(), **model.named_state()}.items():
        if not np.isfinite(values).all():
            raise LoweringError(f"'{name}' holds NaN or infinity; lower a checkpoint from before the training diverged")
    lowering = _Lowering(image_shape)
    value = lowering.walk(float64(model), "", Image(pixel_values(image_shape, normalise)))
    if not isinstance(value, Pending) or not value.is_affine():
        raise LoweringError(f"the network ends in {what(value)}; the last layer must be a Linear or Conv2d "
                            "without activation, whose sums are the logits")
    last = lowering.ops[value.tensor - 1].name
    lowering.emit(ops.Logits(f"{last}.logits", (value.tensor,), value.expression.steps, value.expression.values))
    return Program(tuple(image_shape), tuple(lowering.ops), {**(info or {}), "proof": lowering.proof})


def pixel_values(image_shape, normalise):
    """(channels, 256) float64: what `normalise` makes of every pixel value."""
    table = np.empty((image_shape[2], 256))
    for pixel in range(256):  # one image at a time: 256 large ones would not fit into memory
        values = np.asarray(normalise(np.full((1, *image_shape), pixel, np.uint8)))[0]
        table[:, pixel] = values[0, 0]
        if (values != values[:1, :1]).any():
            raise LoweringError("normalise does not treat every pixel of a channel alike; "
                                "an input table cannot hold it")
    return table


class _Lowering:
    """The operations so far, and how each kind of layer continues a value."""

    def __init__(self, image_shape):
        self.ops, self.tensors = [], [Tensor("image", tuple(image_shape))]
        self.proof = dict.fromkeys(("thresholds", "unproven", "unexamined", "channels", "ladder_channels",
                                    "float64_channels"), 0)
        self.kinds = {Sequential: self.sequential, Residual: self.residual, Concat: self.concat,
                      Conv2d: self.weighted, Linear: self.weighted, BatchNorm: self.batch_norm, ReLU: self.relu,
                      Dropout: self.same, MaxPool: self.max_pool, AvgPool: self.mean, GlobalAvgPool: self.mean,
                      PadShortcut: self.pad_shortcut, Flatten: self.flatten}

    def emit(self, op):
        """Append an operation; return the index of the tensor it gives."""
        try:
            self.tensors.append(op.result(*(self.tensors[i] for i in op.inputs)))
        except ValueError as error:
            raise LoweringError(str(error)) from error
        self.ops.append(op)
        return len(self.ops)

    def walk(self, layer, name, value):
        """Continue `value` through a layer."""
        if isinstance(layer, Quantizer):
            return self.quantizer(layer, name, value)
        if type(layer) not in self.kinds:
            raise LoweringError(f"layer '{name}' is a {type(layer).__name__}, which has no integer form; "
                                f"known are {', '.join(kind.__name__ for kind in self.kinds)}")
        return self.kinds[type(layer)](layer, name, value)

    def sequential(self, layer, name, value):
        for child_name, child in layer.children.items():
            value = self.walk(child, join(name, child_name), value)
        return value

    def same(self, layer, name, value):
        return value

    def residual(self, layer, name, value):
        codes = self.need_codes(name, value)
        body = self.walk(layer.children["body"], join(name, "body"), codes)
        short = codes
        if "shortcut" in layer.children:
            short = self.walk(layer.children["shortcut"], join(name, "shortcut"), codes)
        if not isinstance(short, Codes):
            raise LoweringError(f"layer '{name}': the shortcut ends in {what(short)}; only codes can be added "
                                "exactly: use the identity or PadShortcut, or end the shortcut with a quantizer")
        if not isinstance(body, Pending) or not body.is_affine():
            raise LoweringError(f"layer '{name}': the body ends in {what(body)} or an activation; end it with a "
                                "convolution and its batch norm")
        return replace(body, shortcut=short)

    def concat(self, layer, name, value):
        """Branches of the same codes; those of a Concat that ends a branch count as branches themselves."""
        codes, parts = self.need_codes(name, value), {}
        for branch, child in layer.children.items():
            part = self.walk(child, join(name, branch), codes)
            inner = part.parts if isinstance(part, Concatenated) else {"": part}
            parts.update({join(branch, label): value for label, value in inner.items()})
        return Concatenated(name, parts)

    def weighted(self, layer, name, value):
        """Convolution or linear: integer levels times integer levels, then the scale and the bias."""
        codes, stored = self.need_codes(name, value), self.stored_weight(layer, name)
        if np.prod(stored.codes.shape, dtype=float) == 0:
            raise LoweringError(f"layer '{name}' has weights of shape {stored.codes.shape}")
        fields = dict(name=name, inputs=(codes.tensor,), bits=stored.bits, shape=stored.codes.shape,
                      stream=pack(stored.codes, stored.bits), levels=stored.levels,
                      input_levels=codes.levels.astype(np.int16))
        op = (ops.Linear(**fields) if isinstance(layer, Linear) else
              ops.Convolution(**fields, stride=layer.stride, padding=layer.padding, groups=layer.groups))
        (low, high), scale = op.bounds(), np.broadcast_to(np.asarray(stored.scale, np.float64), stored.codes.shape[-1:])
        if max(-low.min(), high.max()) > INT32_LIMIT:
            raise LoweringError(f"layer '{name}': sums from {low.min()} to {high.max()} exceed int32; "
                                "use fewer bits for its weights or its input")
        products = int(np.prod(stored.codes.shape[:-1]))
        slack = sum_slack(codes.scale, scale, products, op.magnitude())
        expression = scaled(scale * codes.scale, len(low))
        if "bias" in layer.params:
            expression = expression.then("add", layer.params["bias"])
        return Pending(self.emit(op), expression, low, high, slack)

    def stored_weight(self, layer, name):
        """The QTensor of a layer's weight, checked to be what the evaluation forward uses."""
        quantizer = layer.children.get("weight_quantizer")
        if quantizer is None:
            raise LoweringError(f"layer '{name}' has float weights; quantize it (first_last='8' gives the first and "
                                "the last layer 8 bits)")
        stored = self.asked(name, quantizer.encode, layer.params["weight"])
        if stored.levels.dtype != np.int8:
            raise LoweringError(f"layer '{name}': its codebook is {stored.levels.dtype}, not int8; call "
                                "model.method.finish(model), which hardens it")
        if stored.axis is not None and stored.axis % stored.codes.ndim != stored.codes.ndim - 1:
            raise LoweringError(f"layer '{name}': its scale varies along axis {stored.axis}; only the output channels "
                                "(the last axis) can be folded")
        if not np.array_equal(stored.decode(), quantizer.forward(layer.params["weight"])[0]):
            raise LoweringError(f"layer '{name}': what {type(quantizer).__name__}.encode stores is not its forward")
        return stored

    def batch_norm(self, layer, name, value):
        """(x - mean) * (gamma / std) + beta, the operations of the layer's evaluation forward in their order."""
        if isinstance(value, Concatenated):
            return self.batch_norm_of_parts(layer, name, value)
        if not isinstance(value, Pending) or not value.is_affine():
            raise LoweringError(f"layer '{name}': a batch norm must follow a convolution or linear layer directly "
                                "to be folded, before activation, pooling and shortcut")
        gain = layer.params["gamma"] * (1 / np.sqrt(layer.state["var"] + layer.eps))
        expression = value.expression.then("add", -layer.state["mean"]).then("multiply", gain)
        return replace(value, expression=expression.then("add", layer.params["beta"]))

    def batch_norm_of_parts(self, layer, name, value):
        """Of every part with its own channels of the batch norm."""
        start = 0

        def own(label, part):
            nonlocal start
            channels = slice(start, start + self.tensors[part.tensor].shape[-1])
            start, sliced = channels.stop, copy.copy(layer)
            sliced.params = {key: array[channels] for key, array in layer.params.items()}
            sliced.state = {key: array[channels] for key, array in layer.state.items()}
            return self.batch_norm(sliced, name, part)

        return value.each(own)

    def relu(self, layer, name, value):
        if isinstance(value, Concatenated):
            return value.each(lambda label, part: replace(part, nonlinear=(*part.nonlinear, layer)))
        if not isinstance(value, Pending):
            raise LoweringError(f"layer '{name}': an activation of {what(value)} has no integer form; "
                                "it must follow a convolution or linear layer")
        return replace(value, nonlinear=(*value.nonlinear, layer))

    def max_pool(self, layer, name, value):
        """On codes at once; on a pending value after its quantizer, with which it commutes (both are monotone)."""
        if isinstance(value, Concatenated):
            return value.each(lambda label, part: self.max_pool(layer, join(name, label), part))
        if isinstance(value, Pending):
            return replace(value, pools=(*value.pools, (name, layer)))
        codes = self.need_codes(name, value)
        return replace(codes, tensor=self.emit(ops.MaxPool(name, (codes.tensor,), layer.size, layer.stride)))

    def mean(self, layer, name, value):
        """An integer sum over the window; the reference then multiplies by the scale and divides by the count."""
        codes = self.need_codes(name, value)
        if isinstance(layer, AvgPool):
            window, stride = (layer.size, layer.size), layer.stride
        else:
            window, stride = self.tensors[codes.tensor].shape[:2], 0
        levels = codes.levels.astype(np.int16)
        op = ops.SumPool(name, (codes.tensor,), window, stride, levels)
        count, (low, high) = window[0] * window[1], op.bounds()
        largest = count * int(np.abs(codes.levels.astype(int)).max())
        slack = sum_slack(codes.scale, np.float64(1), count, largest)
        expression = scaled(codes.scale, 1).then("divide", count)
        return Pending(self.emit(op), expression, np.array([low]), np.array([high]), np.array([slack]))

    def pad_shortcut(self, layer, name, value):
        codes = self.need_codes(name, value)
        zero = np.flatnonzero(codes.levels == 0)
        if not len(zero):
            raise LoweringError(f"layer '{name}': the activations have no level 0 for the new channels; "
                                "use more bits or a convolution as shortcut")
        op = ops.PadShortcut(name, (codes.tensor,), layer.outputs, layer.stride, int(zero[0]))
        return replace(codes, tensor=self.emit(op))

    def flatten(self, layer, name, value):
        codes = self.need_codes(name, value)
        return replace(codes, tensor=self.emit(ops.Flatten(name, (codes.tensor,))))

    def quantizer(self, quantizer, name, value):
        """Close a value: pixels by a table, sums by requantization (`closing`)."""
        if isinstance(value, Codes):
            raise LoweringError(f"quantizer '{name}' quantizes what is quantized already; remove one of the two")
        stairs = self.asked(name, quantizer.staircase)
        if not stairs.scale > 0 or stairs.levels.dtype not in (np.int8, np.uint8):
            raise LoweringError(f"quantizer '{name}': scale {stairs.scale} of {stairs.levels.dtype} levels; it needs a "
                                "positive scale and 8-bit integer levels")
        if isinstance(value, Image):
            codes = self.asked(name, quantizer.encode, value.pixels)
            tensor = self.emit(ops.QuantizeInput(name, (0,), codes.codes))
        elif isinstance(value, Concatenated):
            tensor = close_parts(self, quantizer, name, value, stairs)
        else:
            tensor = close(self, quantizer, name, value, stairs)
        return Codes(tensor, stairs.levels, np.float64(stairs.scale))

    def asked(self, name, question, *arguments):
        """What a quantizer answers; that it is not ready, or stores more than 8 bits, is a LoweringError."""
        try:
            return question(*arguments)
        except (RuntimeError, ValueError, TypeError) as error:
            raise LoweringError(f"'{name}': {error}") from error

    def need_codes(self, name, value):
        """The Codes that a layer reads; a concatenation of codes alike is joined here."""
        if isinstance(value, Concatenated) and value.are_alike():
            parts = list(value.parts.values())
            return replace(parts[0], tensor=self.emit(ops.Concat(value.name, tuple(part.tensor for part in parts))))
        if isinstance(value, Concatenated):
            raise LoweringError(f"layer '{name}' reads {what(value)} ('{value.name}'): integers of different scales "
                                "cannot be summed. End every branch in an activation, or put a ReLU behind the Concat, "
                                "before quantize(), which then gives all parts one quantizer")
        if not isinstance(value, Codes):
            raise LoweringError(f"layer '{name}' reads {what(value)}; quantize activations too (act_bits 1..8), so "
                                "that a quantizer stands before it")
        return value
