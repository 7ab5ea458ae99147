"""Whole networks for onnxruntime and OpenVINO: ONNX graphs of the same shapes, float32 and int8.

The int8 graph is onnxruntime's own static quantization (QDQ, uint8 activations, int8 weights per channel), which
OpenVINO reads too.
"""

import copy
import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization

from ..nn import (Concat, Conv2d, Flatten, GlobalAvgPool, Linear, MaxPool, PadShortcut, ReLU, Residual, Sequential,
                  tapped)

OPSET, IR_VERSION = 21, 10
FLOAT_LAYERS = ("Conv", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul")


class Graph:
    """The nodes and constants of a model, layer by layer; tensors are NCHW."""

    def __init__(self, model):
        self.nodes, self.constants, self.count = [], [], 0
        self.output = self.layer(model, "x")

    def node(self, kind, inputs, **attributes):
        self.count += 1
        name = f"{kind.lower()}{self.count}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, values):
        self.count += 1
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), f"constant{self.count}"))
        return self.constants[-1].name

    def layer(self, layer, x):
        if isinstance(layer, Sequential):
            for child in layer.children.values():
                x = self.layer(child, x)
            return x
        if isinstance(layer, Residual):
            short = self.layer(layer.children["shortcut"], x) if "shortcut" in layer.children else x
            return self.node("Add", [self.layer(layer.children["body"], x), short])
        if isinstance(layer, Concat):
            return self.node("Concat", [self.layer(branch, x) for branch in layer.children.values()], axis=1)
        if isinstance(layer, (Conv2d, Linear)):
            return self.weighted(layer, x)
        if isinstance(layer, PadShortcut):
            starts, ends, axes, steps = (self.constant(np.array(v, np.int64)) for v in (
                (0, 0), (1 << 30, 1 << 30), (2, 3), (layer.stride, layer.stride)))
            pads = self.constant(np.array([0, 0, 0, 0, 0, layer.outputs - layer.inputs, 0, 0], np.int64))
            return self.node("Pad", [self.node("Slice", [x, starts, ends, axes, steps]), pads])
        if isinstance(layer, MaxPool):
            return self.node("MaxPool", [x], kernel_shape=[layer.size] * 2, strides=[layer.stride] * 2)
        if isinstance(layer, GlobalAvgPool):
            return self.node("Flatten", [self.node("GlobalAveragePool", [x])])
        kinds = {ReLU: "Relu", Flatten: "Flatten"}
        if type(layer) not in kinds:
            raise ValueError(f"a {type(layer).__name__} has no translation for ONNX")
        return self.node(kinds[type(layer)], [x])

    def weighted(self, layer, x):
        weight, bias = layer.params["weight"], self.constant(layer.params["bias"])
        if isinstance(layer, Linear):
            return self.node("Gemm", [x, self.constant(weight), bias])
        return self.node("Conv", [x, self.constant(weight.transpose(3, 2, 0, 1)), bias], group=layer.groups,
                         kernel_shape=weight.shape[:2], strides=[layer.stride] * 2, pads=[layer.padding] * 4)


def channels_first(model, image_shape):
    """A copy whose linear layers take what Flatten makes of NCHW in the place of NHWC."""
    model, seen = copy.deepcopy(model), []
    with tapped(model, before=lambda name, layer, x: seen.append((layer, x.shape))):
        model.forward(np.zeros((1, *image_shape), np.float32))
    for (layer, shape), (after, _) in zip(seen, seen[1:]):
        if isinstance(layer, Flatten) and len(shape) == 4:
            weight = after.params["weight"]
            after.params["weight"] = weight.reshape(*shape[1:], -1).transpose(2, 0, 1, 3).reshape(weight.shape)
    return model


def graph(model, image_shape, batch):
    """The float32 ONNX model of a network without batch norms on images (batch, C, H, W)."""
    h, w, c = image_shape
    made = Graph(channels_first(model, image_shape))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, (batch, c, h, w))]
    outputs = [helper.make_tensor_value_info(made.output, TensorProto.FLOAT, None)]
    return helper.make_model(helper.make_graph(made.nodes, "network", inputs, outputs, made.constants),
                             opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


class _Images(quantization.CalibrationDataReader):
    def __init__(self, x):
        self.batches = iter([{"x": x}])

    def get_next(self):
        return next(self.batches, None)


def int8(model, x):
    """The QDQ model of a float32 one, calibrated on x."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, source)
        logging.disable(logging.WARNING)  # it advises preparations that the folded graph has behind it
        try:
            return _quantized(source, target, x)
        finally:
            logging.disable(logging.NOTSET)


def _quantized(source, target, x):
    quantization.quantize_static(source, target, _Images(x), quant_format=quantization.QuantFormat.QDQ,
                                 per_channel=True, activation_type=quantization.QuantType.QUInt8,
                                 weight_type=quantization.QuantType.QInt8)
    return onnx.load(target)


def contestants(model, images, threads):
    """{name: function that computes the logits of float32 NHWC images}; `model` has no batch norms."""
    x, found = np.ascontiguousarray(images.transpose(0, 3, 1, 2)), {}
    float_model = graph(model, images.shape[1:], len(images))
    for width, model in (("float32", float_model), ("int8", int8(float_model, x))):
        found[f"onnxruntime {width}"] = _onnxruntime(model, x, threads, width == "int8")
        try:
            import openvino
        except ImportError:
            continue
        found[f"openvino {width}"] = _openvino(openvino, model, x, threads)
    return found


def _onnxruntime(model, x, threads, is_int8):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder, "optimized.onnx")
        options.optimized_model_filepath = str(optimized)
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        left = [node.name for node in onnx.load(optimized).graph.node if node.op_type in FLOAT_LAYERS]
    if is_int8 and left:
        raise ValueError(f"onnxruntime computes {left} of the int8 graph in float32; the comparison would flatter us")
    return lambda: session.run(None, {"x": x})[0]


def _openvino(openvino, model, x, threads):
    core = openvino.Core()
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY",
               "INFERENCE_PRECISION_HINT": "f32",  # else float32 becomes bfloat16 where the processor has it
               "SNIPPETS_MODE": "DISABLE"}  # 2026.4 fuses int8 linear layers in a row into one that gives wrong logits
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", options)
    request = compiled.create_infer_request()
    return lambda: request.infer([x], share_inputs=True)[0]
