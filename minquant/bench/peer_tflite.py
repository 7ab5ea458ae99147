"""A .tflite model, written tensor by tensor and operator by operator."""

from typing import NamedTuple

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

KINDS = {"float32": schema.TensorType.FLOAT32, "int8": schema.TensorType.INT8, "int32": schema.TensorType.INT32}


class Kind(NamedTuple):
    """Of an operator: the first version that takes int8 (float32 needs no more), the name of its options."""

    version: int
    options: str


OPERATORS = {"ADD": Kind(2, "Add"), "CONCATENATION": Kind(2, "Concatenation"), "CONV_2D": Kind(3, "Conv2D"),
             "DEPTHWISE_CONV_2D": Kind(3, "DepthwiseConv2D"), "DEQUANTIZE": Kind(2, "Dequantize"),
             "FULLY_CONNECTED": Kind(4, "FullyConnected"), "MAX_POOL_2D": Kind(2, "Pool2D"),
             "MEAN": Kind(2, "Reducer"), "PAD": Kind(2, "Pad"), "QUANTIZE": Kind(2, "Quantize"),
             "RESHAPE": Kind(1, "Reshape")}


class Model:
    """What has been written so far; tensors are known by their number."""

    def __init__(self):
        self.tensors, self.buffers, self.codes, self.operators = [], [schema.BufferT()], {}, []

    def tensor(self, shape, dtype, scale=None, zero_point=0, axis=0, buffer=0):
        """The number of a new tensor; scale: None, one, or one for each place of `axis`."""
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = f"t{len(self.tensors)}", list(shape), KINDS[dtype], buffer
        self.tensors.append(made)
        self.recode(len(self.tensors) - 1, scale, zero_point, axis)
        return len(self.tensors) - 1

    def recode(self, index, scale, zero_point, axis=0):
        """Give a tensor another scale and zero point."""
        if scale is not None:
            made = self.tensors[index].quantization = schema.QuantizationParametersT()
            made.scale = np.atleast_1d(scale).astype(np.float32)
            made.zeroPoint = np.full(len(made.scale), zero_point, np.int64)
            made.quantizedDimension = axis

    def constant(self, values, scale=None, axis=0):
        """The number of a tensor that holds `values` (float32, int8 or int32)."""
        self.buffers.append(schema.BufferT())
        self.buffers[-1].data = np.frombuffer(values.tobytes(), np.uint8)
        return self.tensor(values.shape, str(values.dtype), scale, axis=axis, buffer=len(self.buffers) - 1)

    def operator(self, name, inputs, output, **options):
        """Append an operator of OPERATORS; options as the schema names them."""
        made = schema.OperatorT()
        made.opcodeIndex = self.codes.setdefault(name, len(self.codes))
        made.inputs, made.outputs = list(inputs), [output]
        kind = f"{OPERATORS[name].options}Options"
        made.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        made.builtinOptions = getattr(schema, f"{kind}T")()
        for option, value in options.items():
            setattr(made.builtinOptions, option, value)
        self.operators.append(made)

    def content(self, inputs, outputs):
        """The bytes of the file."""
        graph, made = schema.SubGraphT(), schema.ModelT()
        graph.tensors, graph.operators, graph.inputs, graph.outputs = self.tensors, self.operators, inputs, outputs
        made.version, made.subgraphs, made.buffers = 3, [graph], self.buffers
        made.operatorCodes = [_code(name) for name in self.codes]
        builder = flatbuffers.Builder(4096)
        builder.Finish(made.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _code(name):
    made = schema.OperatorCodeT()
    made.builtinCode = made.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
    made.version = OPERATORS[name].version
    return made
