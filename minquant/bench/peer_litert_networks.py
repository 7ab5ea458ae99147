"""Whole networks for LiteRT (XNNPACK), float32 and int8, written as .tflite models.

The input is float32 NHWC and the output float32; in int8 a QUANTIZE and a DEQUANTIZE stand at the two ends. Weights
have a scale per output channel; activations a scale and a zero point, from the range that our own float32 network
takes on the calibration images. The input is set once: copying it is not timed.
"""

from typing import NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from ..nn import Concat, Conv2d, Flatten, GlobalAvgPool, Linear, MaxPool, PadShortcut, ReLU, Residual, Sequential
from .networks import CALIBRATION
from .peer_tflite import Model


class Activations(NamedTuple):
    """A tensor of the model: its number, what our network has there on the calibration images, how it is coded.

    free: whether its operator gives any scale and zero point, and not those of its input
    """

    index: int
    values: np.ndarray
    scale: float | None
    zero_point: int
    free: bool

    @property
    def coding(self):
        return self.scale, self.zero_point


def contestants(model, images, threads):
    """{name: function that computes the logits of float32 NHWC images}; `model` has no batch norms."""
    return {f"litert {'int8' if int8 else 'float32'}": _call(content(model, images, int8), images, threads)
            for int8 in (False, True)}


def _call(model_content, images, threads):
    interpreter = Interpreter(model_content=model_content, num_threads=threads)
    interpreter.allocate_tensors()
    x, logits = (details()[0]["index"] for details in (interpreter.get_input_details, interpreter.get_output_details))
    delegated = [node for node in interpreter._get_ops_details() if node["op_name"] == "DELEGATE"]
    if len(delegated) != 1 or x not in delegated[0]["inputs"] or logits not in delegated[0]["outputs"]:
        raise ValueError("LiteRT does not compute the whole network in XNNPACK; the comparison would flatter us")
    interpreter.set_tensor(x, images)

    def call():
        interpreter.invoke()
        return interpreter.get_tensor(logits)

    return call


def content(model, images, int8):
    """The bytes of a .tflite model for as many images, calibrated on the first of them."""
    return Network(len(images), int8).content(model, images[:CALIBRATION])


class Network:
    """A network on its way into a .tflite model, layer by layer."""

    def __init__(self, batch, int8):
        self.batch, self.int8, self.model = batch, int8, Model()

    def content(self, network, calibration):
        floats = Activations(self.model.tensor((self.batch, *calibration.shape[1:]), "float32"), calibration, None, 0,
                             False)
        x = self.emit("QUANTIZE", [floats], calibration) if self.int8 else floats
        y = self.layer(network, x, None)
        result = y.index
        if self.int8:
            result = self.model.tensor((self.batch, *y.values.shape[1:]), "float32")
            self.model.operator("DEQUANTIZE", [y.index], result)
        return self.model.content([floats.index], [result])

    def emit(self, name, activations, values, constants=(), coding=None, **options):
        """Append an operator and return its output, coded by the range of `values` unless `coding` is given."""
        scale, zero_point = coding or self.coding(values)
        dtype = "int8" if self.int8 else "float32"
        index = self.model.tensor((self.batch, *values.shape[1:]), dtype, scale, zero_point)
        self.model.operator(name, [*(x.index for x in activations), *constants], index, **options)
        return Activations(index, values, scale, zero_point, coding is None)

    def coding(self, values):
        """(scale, zero point) of int8 codes from -128 to 127 whose levels span the values and 0."""
        if not self.int8:
            return None, 0
        low, high = min(values.min(), 0), max(values.max(), 0)
        scale = float(high - low) / 255 or 1.0
        return scale, round(-128 - low / scale)

    def layer(self, layer, x, relu):
        """Append a layer and the ReLU behind it (None: there is none); return the output."""
        if isinstance(layer, Sequential):
            return self.sequence(list(layer.children.values()), x)
        if isinstance(layer, Residual):
            short = self.layer(layer.children["shortcut"], x, None) if "shortcut" in layer.children else x
            body = self.layer(layer.children["body"], x, None)
            return self.emit("ADD", [body, short], **rectified(body.values + short.values, relu))
        if isinstance(layer, Concat):
            return self.concat(layer, x)
        if isinstance(layer, (Conv2d, Linear)):
            return self.weighted(layer, x, relu)
        y = layer.forward(x.values)[0]
        if isinstance(layer, MaxPool):
            return self.emit("MAX_POOL_2D", [x], y, coding=x.coding, padding=schema.Padding.VALID, strideH=layer.stride,
                             strideW=layer.stride, filterHeight=layer.size, filterWidth=layer.size)
        if isinstance(layer, GlobalAvgPool):
            return self.emit("MEAN", [x], y, [self.integers(1, 2)], keepDims=False)
        if isinstance(layer, Flatten):
            shape = (self.batch, y.shape[1])
            return self.emit("RESHAPE", [x], y, [self.integers(*shape)], coding=x.coding, newShape=list(shape))
        if isinstance(layer, PadShortcut):
            return self.pad(self.subsample(x, layer.stride), channels=layer.outputs - layer.inputs)
        raise ValueError(f"a {type(layer).__name__} has no translation for LiteRT")

    def sequence(self, layers, x):
        """A ReLU becomes the fused activation of the convolution, linear layer or addition before it."""
        while layers:
            layer, *layers = layers
            relu = None
            if isinstance(layer, (Conv2d, Linear, Residual)) and layers and isinstance(layers[0], ReLU):
                relu, *layers = layers
            x = self.layer(layer, x, relu)
        return x

    def concat(self, layer, x):
        """The branches side by side; in int8 they must share one scale and zero point."""
        values = layer.forward(x.values)[0]
        coding = self.coding(values)
        branches = []
        for branch in layer.children.values():
            y = self.layer(branch, x, None)
            if y.free and y.index != x.index:
                self.model.recode(y.index, *coding)
            elif y.coding != coding:
                y = self.emit("QUANTIZE", [y], y.values, coding=coding)
            branches.append(y)
        return self.emit("CONCATENATION", branches, values, coding=coding, axis=values.ndim - 1)

    def weighted(self, layer, x, relu):
        inputs, rest = x.values.shape[-1], rectified(layer.forward(x.values)[0], relu)
        weight, axis, name = layer.params["weight"].T, 0, "FULLY_CONNECTED"
        if isinstance(layer, Conv2d):
            padding = schema.Padding.VALID
            if same(layer, x.values.shape[1:3]):
                padding = schema.Padding.SAME
            elif layer.padding:
                x = self.pad(x, pixels=layer.padding)
            rest.update(strideH=layer.stride, strideW=layer.stride, padding=padding)
            weight, name = layer.params["weight"].transpose(3, 0, 1, 2), "CONV_2D"
            if layer.groups > 1:
                if layer.groups != inputs:
                    raise ValueError(f"LiteRT takes 1 group or as many as channels, not {layer.groups} of {inputs}")
                weight, axis, name = layer.params["weight"].transpose(2, 0, 1, 3), 3, "DEPTHWISE_CONV_2D"
                rest["depthMultiplier"] = weight.shape[3] // inputs
        return self.emit(name, [x], constants=self.weights(weight, layer.params["bias"], axis, x.scale), **rest)

    def weights(self, weight, bias, axis, x_scale):
        """Numbers of the two constants; `axis` is that of the output channels."""
        weight = np.ascontiguousarray(weight, np.float32)
        if not self.int8:
            return [self.model.constant(weight), self.model.constant(bias.astype(np.float32))]
        largest = np.abs(weight).max(tuple(i for i in range(weight.ndim) if i != axis), keepdims=True)
        scale = np.where(largest > 0, largest, 1) / 127
        codes = np.round(weight / scale).astype(np.int8)
        bias_scale = scale.ravel() * x_scale
        return [self.model.constant(codes, scale.ravel(), axis),
                self.model.constant(np.round(bias / bias_scale).astype(np.int32), bias_scale)]

    def pad(self, x, pixels=0, channels=0):
        """Zeros around the images, and channels of zeros behind the last."""
        widths = np.array([(0, 0), (pixels, pixels), (pixels, pixels), (0, channels)], np.int32)
        return self.emit("PAD", [x], np.pad(x.values, widths), [self.model.constant(widths)], coding=x.coding)

    def subsample(self, x, stride):
        """Every stride-th pixel, by a depthwise 1 x 1 convolution with ones: XNNPACK takes no strided slice."""
        channels = x.values.shape[-1]
        ones = self.weights(np.ones((1, 1, 1, channels)), np.zeros(channels), 3, x.scale)
        return self.emit("DEPTHWISE_CONV_2D", [x], x.values[:, ::stride, ::stride], ones, coding=x.coding,
                         depthMultiplier=1, strideH=stride, strideW=stride, padding=schema.Padding.VALID)

    def integers(self, *values):
        return self.model.constant(np.array(values, np.int32))


def rectified(values, relu):
    """The values behind a ReLU and the option that fuses it."""
    if relu is None:
        return {"values": values, "fusedActivationFunction": schema.ActivationFunctionType.NONE}
    if relu.cap is not None:
        raise ValueError(f"a ReLU with cap={relu.cap} has no translation for LiteRT")
    return {"values": relu.forward(values)[0], "fusedActivationFunction": schema.ActivationFunctionType.RELU}


def same(layer, size):
    """Whether TensorFlow's padding SAME means this convolution on images of this size."""
    kernel = len(layer.params["weight"])
    for length in size:
        out = -(-length // layer.stride)
        total = max((out - 1) * layer.stride + kernel - length, 0)
        if total // 2 != layer.padding or (length + 2 * layer.padding - kernel) // layer.stride + 1 != out:
            return False
    return True
