"""OpenVINO on the products of `bench kernels`: int8 by quantize and dequantize nodes around a matrix product."""

import numpy as np
import openvino
from onnx import TensorProto, helper, numpy_helper


def contestants(case, threads):
    """{name: contestant}: uint8 activations and int8 weights to uint8 codes."""
    if case["what"] != "matmul":
        return {}
    w = np.random.default_rng(3).integers(-127, 128, case["w_shape"]).astype(np.int8)
    constants = {"xs": np.float32(0.1), "xz": np.uint8(0), "w": w, "ws": np.float32(0.1), "wz": np.int8(0),
                 "ys": np.float32(40), "yz": np.uint8(128)}
    nodes = [helper.make_node("DequantizeLinear", ["x", "xs", "xz"], ["xf"]),
             helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wf"]),
             helper.make_node("MatMul", ["xf", "wf"], ["yf"]),
             helper.make_node("QuantizeLinear", ["yf", "ys", "yz"], ["y"])]
    inputs = [helper.make_tensor_value_info("x", TensorProto.UINT8, case["x"].shape)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.UINT8, None)]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "case", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    core = openvino.Core()
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": threads})
    request = core.compile_model(core.read_model(model.SerializeToString()), "CPU").create_infer_request()
    request.set_input_tensor(openvino.Tensor(case["x"]))
    return {"OpenVINO int8": {"run": request.infer, "bytes": w.nbytes}}
