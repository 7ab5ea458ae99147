"""onnxruntime's quantized operators on the cases of `bench kernels`, where it and onnx are installed."""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 21, 10


def contestants(case, threads):
    """{name: contestant}: int8 with requantization, and for a product int8 to int32 and 4-bit weights."""
    if case["what"] == "matmul":
        return {"onnxruntime QLinearMatMul": quantized(case, threads, "QLinearMatMul"),
                "onnxruntime MatMulInteger": integer(case, threads),
                "onnxruntime MatMulNBits 4-bit": four_bits(case, threads)}
    return {"onnxruntime QLinearConv": quantized(case, threads, "QLinearConv", strides=[case["stride"]] * 2,
                                                 pads=[1] * 4, kernel_shape=[3, 3])}


def session(nodes, constants, x, kind, threads, domain=""):
    """A function that runs one node on x, which stays where onnxruntime can use it."""
    inputs = [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)]
    outputs = [helper.make_tensor_value_info("y", kind, None)]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "case", inputs, outputs, tensors)
    imports = [helper.make_opsetid("", OPSET)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    made = onnxruntime.InferenceSession(model.SerializeToString(), options,
                                        providers=["CPUExecutionProvider"])
    return lambda: made.run(None, {"x": x})


def weights(case):
    """int8 weights, OIHW for a convolution."""
    w = np.random.default_rng(3).integers(-127, 128, case["w_shape"]).astype(np.int8)
    return w if w.ndim == 2 else np.ascontiguousarray(w.transpose(3, 2, 0, 1))


def quantized(case, threads, operator, **attributes):
    x, w = case["x"], weights(case)
    if x.ndim == 4:
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    constants = {"xs": np.float32(0.1), "xz": np.uint8(0), "w": w, "ws": np.float32(0.1), "wz": np.int8(0),
                 "ys": np.float32(40), "yz": np.uint8(128)}
    node = helper.make_node(operator, ["x", *constants], ["y"], **attributes)
    return {"run": session([node], constants, x, TensorProto.UINT8, threads), "bytes": w.nbytes}


def integer(case, threads):
    w = weights(case)
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    return {"run": session([node], {"w": w}, case["x"], TensorProto.INT32, threads), "bytes": w.nbytes}


def four_bits(case, threads, block=32):
    """Float activations, rounded to 8 bits inside (accuracy_level 4)."""
    k, n = case["w_shape"]
    blocks = -(-k // block)
    packed = np.random.default_rng(4).integers(0, 256, (n, blocks, block // 2)).astype(np.uint8)
    scales = np.full(n * blocks, 0.01, np.float32)
    node = helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=k, N=n, bits=4,
                            block_size=block, accuracy_level=4)
    run = session([node], {"w": packed, "s": scales}, case["x"].astype(np.float32), TensorProto.FLOAT,
                  threads, "com.microsoft")
    return {"run": run, "bytes": packed.nbytes + scales.nbytes}
