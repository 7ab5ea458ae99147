"""Whole networks for the engines that `bench networks` compares with: ONNX graphs of the same shapes, float32 and int8.

Batch norms are folded into the layer before them, as every engine would. The int8 graph is onnxruntime's own static
quantization (QDQ, uint8 activations, int8 weights per channel), which OpenVINO reads too.
"""

import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization

from ..nn import (BatchNorm, Concat, Conv2d, Dropout, Flatten, GlobalAvgPool, Linear, MaxPool, PadShortcut, ReLU,
                  Residual, Sequential)

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
            return self.sequence(list(layer.children.values()), x)
        if isinstance(layer, Residual):
            short = self.layer(layer.children["shortcut"], x) if "shortcut" in layer.children else x
            return self.node("Add", [self.layer(layer.children["body"], x), short])
        if isinstance(layer, Concat):
            return self.node("Concat", [self.layer(branch, x) for branch in layer.children.values()], axis=1)
        if isinstance(layer, PadShortcut):
            starts, ends, axes, steps = (self.constant(np.array(v, np.int64)) for v in (
                (0, 0), (1 << 30, 1 << 30), (2, 3), (layer.stride, layer.stride)))
            pads = self.constant(np.array([0, 0, 0, 0, 0, layer.outputs - layer.inputs, 0, 0], np.int64))
            return self.node("Pad", [self.node("Slice", [x, starts, ends, axes, steps]), pads])
        if isinstance(layer, MaxPool):
            return self.node("MaxPool", [x], kernel_shape=[layer.size] * 2, strides=[layer.stride] * 2)
        if isinstance(layer, GlobalAvgPool):
            return self.node("Flatten", [self.node("GlobalAveragePool", [x])])
        kinds = {ReLU: "Relu", Flatten: "Flatten", Dropout: "Identity"}
        if type(layer) not in kinds:
            raise ValueError(f"a {type(layer).__name__} has no translation for the peers")
        return self.node(kinds[type(layer)], [x])

    def sequence(self, layers, x):
        for layer, after in zip(layers, [*layers[1:], None]):
            if isinstance(layer, (Conv2d, Linear)):
                x = self.weighted(layer, after if isinstance(after, BatchNorm) else None, x)
            elif not isinstance(layer, BatchNorm):
                x = self.layer(layer, x)
        return x

    def weighted(self, layer, norm, x):
        weight, bias = layer.params["weight"], layer.params.get("bias", np.zeros(1, np.float32))
        if norm is not None:
            gain = norm.params["gamma"] / np.sqrt(norm.state["var"] + norm.eps)
            weight, bias = weight * gain, (bias - norm.state["mean"]) * gain + norm.params["beta"]
        bias = self.constant(np.broadcast_to(bias, weight.shape[-1:]).astype(np.float32))
        weight = weight.astype(np.float32)
        if isinstance(layer, Linear):
            return self.node("Gemm", [x, self.constant(weight), bias])
        return self.node("Conv", [x, self.constant(weight.transpose(3, 2, 0, 1)), bias], group=layer.groups,
                         kernel_shape=weight.shape[:2], strides=[layer.stride] * 2, pads=[layer.padding] * 4)


def graph(model, image_shape, batch):
    """The float32 ONNX model of a network on images (batch, C, H, W)."""
    h, w, c = image_shape
    made = Graph(model)
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


def contestants(float_model, int8_model, x, threads):
    """{name: function that computes x} of the engines that are installed."""
    found = {}
    for width, model in (("float32", float_model), ("int8", int8_model)):
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
    return lambda: session.run(None, {"x": x})


def _openvino(openvino, model, x, threads):
    core = openvino.Core()
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY",
               "INFERENCE_PRECISION_HINT": "f32"}  # else float32 becomes bfloat16 where the processor has it
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", options)
    request = compiled.create_infer_request()
    return lambda: request.infer([x])
