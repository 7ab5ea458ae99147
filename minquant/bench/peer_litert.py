"""LiteRT (XNNPACK) on the products of `bench kernels`: an int8 fully connected layer, written as a .tflite model."""

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter


def contestants(case, threads):
    """{name: contestant}: int8 activations and weights to int8 codes."""
    if case["what"] != "matmul":
        return {}
    w = np.random.default_rng(3).integers(-127, 128, case["w_shape"][::-1]).astype(np.int8)
    interpreter = Interpreter(model_content=model(case["x"].shape, w), num_threads=threads)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], case["x"].view(np.int8))
    return {"LiteRT int8": {"run": interpreter.invoke, "bytes": w.nbytes}}


def model(shape, w):
    """Bytes of a model with one fully connected layer: x int8 of `shape`, w (N, K)."""
    made = schema.ModelT()
    made.version = 3
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 4
    made.operatorCodes = [code]
    made.buffers = [schema.BufferT(), schema.BufferT(), schema.BufferT()]
    made.buffers[1].data = np.frombuffer(w.tobytes(), np.uint8)
    made.buffers[2].data = np.zeros(4 * len(w), np.uint8)
    kinds = schema.TensorType
    graph = schema.SubGraphT()
    graph.tensors = [tensor("x", shape, kinds.INT8, 0, 0.1), tensor("w", w.shape, kinds.INT8, 1, 0.1),
                     tensor("b", (len(w),), kinds.INT32, 2, 0.01), tensor("y", (shape[0], len(w)), kinds.INT8, 0, 40.0)]
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0, 1, 2], [3]
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    graph.operators, graph.inputs, graph.outputs = [operator], [0], [3]
    made.subgraphs = [graph]
    builder = flatbuffers.Builder(w.nbytes + 4096)
    builder.Finish(made.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def tensor(name, shape, kind, buffer, scale):
    made = schema.TensorT()
    made.name, made.shape, made.type, made.buffer = name, list(shape), kind, buffer
    made.quantization = schema.QuantizationParametersT()
    made.quantization.scale, made.quantization.zeroPoint = [scale], [0]
    return made
