"""LiteRT (XNNPACK) on the products of `bench kernels`: an int8 fully connected layer, written as a .tflite model."""

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from .peer_tflite import Model


def contestants(case, threads):
    """{name: contestant}: int8 activations and weights to int8 codes."""
    if case["what"] != "matmul":
        return {}
    w = np.random.default_rng(3).integers(-127, 128, case["w_shape"][::-1]).astype(np.int8)
    interpreter = Interpreter(model_content=content(case["x"].shape, w), num_threads=threads)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], case["x"].view(np.int8))
    return {"LiteRT int8": {"run": interpreter.invoke, "bytes": w.nbytes}}


def content(shape, w):
    """Bytes of a model with one fully connected layer: x int8 of `shape`, w (N, K)."""
    model = Model()
    x, y = model.tensor(shape, "int8", 0.1), model.tensor((shape[0], len(w)), "int8", 40.0)
    weights = [model.constant(w, 0.1), model.constant(np.zeros(len(w), np.int32), 0.01)]
    model.operator("FULLY_CONNECTED", [x, *weights], y)
    return model.content([x], [y])
