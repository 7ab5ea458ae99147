"""A Program as an ONNX model (extra `export`): the same integers, in the QDQ form that runtimes read.

    export_onnx(program, "model.onnx")

The model takes `images`, uint8 (N, H, W, C) as the Program does (not normalised; the input table is in the graph),
transposes to NCHW once, and gives `logits`, float32 (N, classes), and `class`, int64 (N,), their arg-max (a network
that ends in a convolution gives its map of logits, NHWC, alone). N is free.

    weights       integers of 2, 4 or 8 bits (INT2, INT4, ...; other widths in the next larger type), convolutions
                  OIHW, linear layers (out, in); DequantizeLinear makes levels of them where levels are consecutive,
                  Gather on an int8 codebook where they are not
    activations   QuantizeLinear - DequantizeLinear pairs of 2, 4 or 8 bits, Min in front where codes end earlier
    real scales   in the Mul and Add behind each sum, the float32 multiplier and offset of the requantization. Every
                  QuantizeLinear and DequantizeLinear has scale 1: floats between them are integers, and exact

What is promised: the codes of every layer are the Program's, with no tolerance, in a runtime that computes each float
operation of the graph as IEEE 754 says. Sums of products stay below 2^24 in magnitude, where float32 is exact in any
order of summation (a layer that could exceed it is summed in parts); a Round behind them keeps a runtime from folding
the scale into the weights, and makes a fast convolution's result whole. Channels that keep a ladder of thresholds, or
add a shortcut in float64, find their code by binary search in the same numbers. The logits are the Program's float64
logits rounded to float32 once: |difference| <= 2^-24 |logit|; `class` is taken before that rounding.

Linear layers are Gemm with transposed weights and a bias of zeros, because of what onnxruntime makes of others by
default: of MatMul behind a DequantizeLinear MatMulNBits, which rounds activations to int8 block by block unless
`session.qdq_matmulnbits_accuracy_level` is 1; of a Gemm without bias QGemm, whose products of full 8 bits saturate on
processors without VNNI and which does not load at 2 bits. `check_onnx` sets that option all the same; onnxruntime
needs none. OpenVINO computes in bfloat16 where the processor can, and replaces layers by 8-bit ones of its own, unless
compile_model is given {"EXECUTION_MODE_HINT": "ACCURACY"}; then its codes are these too, but for channels that add a
shortcut in float64 (at 8 bits), which it computes in float32.

Models with 2-bit integers need opset 25 (onnx 1.20), which OpenVINO 2026.4 does not read; the others opset 21.
"""

from importlib import import_module

import numpy as np

from .. import __version__
from .reference import BitExactError

ROUNDING = 2.0 ** -24  # float32(logit) is within this share of the float64 logit
REFERENCE_IMAGES, BATCH = 4, 100


def need(name):
    """The module `name` of the extra. Raises ImportError that says how to install it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"the ONNX export needs the package {name} ({error}): "
                          'pip install "minquant[export]"') from error


def export_onnx(program, path, images=None):
    """Write a Program as an ONNX model; return {"bytes", "nodes", "opset"}.

    images is taken, and not used, for the sake of `minquant.export`. Raises ImportError without the extra, ValueError
    for a program that float32 sums cannot hold.
    """
    onnx = need("onnx")
    model = to_onnx(program)
    onnx.save(model, path)
    return {"bytes": model.ByteSize(), "nodes": len(model.graph.node), "opset": model.opset_import[0].version}


def to_onnx(program):
    """The onnx.ModelProto of a Program, with the shape of every tensor, checked by onnx.checker."""
    onnx = need("onnx")
    from onnx import TensorProto, helper

    from .onnx_ops import Translator
    graph = Translator(program).graph
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", *program.tensors[-1].shape])]
    if len(program.tensors[-1].shape) == 1:
        outputs.append(helper.make_tensor_value_info("class", TensorProto.INT64, ["N"], "the largest logit's"))
    made = helper.make_graph(
        graph.nodes, str(program.info.get("model", "program")),
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", *program.image_shape],
                                       "pixels 0..255, NHWC, not normalised")],
        outputs,
        list(graph.constants.values()), doc_string=describe(program))
    small = {TensorProto.INT2, TensorProto.UINT2}
    has_2_bits = any(constant.data_type in small for constant in graph.constants.values())
    opset, ir_version = (25, 13) if has_2_bits else (21, 10)
    model = helper.make_model(made, producer_name="minquant", producer_version=__version__, ir_version=ir_version,
                              opset_imports=[helper.make_opsetid("", opset)])
    helper.set_model_props(model, {key: str(value) for key, value in program.info.items()})
    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    return model


def describe(program):
    """What a viewer shows about the graph."""
    info, (h, w, c) = program.info, program.image_shape
    what = " ".join(str(info[key]) for key in ("model", "method", "data") if key in info) or "a quantized network"
    return (f"{what}, exported by minquant {__version__}. Input: uint8 images (N, {h}, {w}, {c}), NHWC, not "
            "normalised; inside NCHW. Floats between QuantizeLinear and DequantizeLinear are integers; real scales "
            "are in the Mul and Add behind each sum.")


def check_onnx(program, path, images):
    """Run an exported model and compare every code and logit with the Program's; return figures.

    On all images onnxruntime, without optimizations (with the codes of every layer) and as it comes; on the first few
    the reference evaluator of onnx, which is slow. Raises BitExactError at the first difference: a code, a logit
    beyond the bound, an arg-max.
    """
    onnx = need("onnx")
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    runs = runners(model, traced(model, program))
    zeros, codes, worst = zero_points(program), 0, 0.0
    for start in range(0, len(images), BATCH):
        expected = program.trace(images[start:start + BATCH])
        for what, run, limit in runs:
            found = run(images[start:min(start + BATCH, limit)]) if start < limit else {}
            for name, zero in zeros.items():
                if name in found:
                    codes += _equal_codes(f"{what}: '{name}'", expected[name], found[name] + zero, start)
            if "logits" in found:
                worst = max(worst, _close_logits(what, list(expected.values())[-1], found, start))
    return {"images": len(images), "codes": codes, "mismatches": 0, "largest_logit_difference": f"{worst:.1e}",
            "bound": "2^-24 of the logit"}


def traced(model, program):
    """A copy of an exported model that also gives the codes of every layer: float32, NCHW, less their zero point."""
    copied = type(model)()
    copied.CopyFrom(model)
    names = zero_points(program)
    copied.graph.output.extend(value for value in model.graph.value_info if value.name in names)
    return copied


def zero_points(program):
    """{operation that gives codes: what the model subtracts from them}."""
    from .onnx_plan import wanted_zeros
    described = zip(program.ops, program.tensors[1:], wanted_zeros(program)[1:], strict=True)
    return {op.name: zero or 0 for op, tensor, zero in described if tensor.kind == "codes"}


def runners(model, with_codes):
    """[(what, function of images -> {result: array}, number of images to try it on)]."""
    runtime = need("onnxruntime")
    from onnx.reference import ReferenceEvaluator
    made = []
    for what, shown, level in (
            ("onnxruntime without optimizations", with_codes, runtime.GraphOptimizationLevel.ORT_DISABLE_ALL),
            ("onnxruntime", model, runtime.GraphOptimizationLevel.ORT_ENABLE_ALL)):
        options = runtime.SessionOptions()
        options.graph_optimization_level, options.log_severity_level = level, 3
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # no int8 activations
        session = runtime.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
        made.append((what, _named(session.run, shown), np.inf))
    evaluator = ReferenceEvaluator(with_codes)
    return [*made, ("onnx.reference", _named(evaluator.run, with_codes), REFERENCE_IMAGES)]


def _named(run, model):
    names = [output.name for output in model.graph.output]
    return lambda images: dict(zip(names, run(None, {"images": images})))


def _equal_codes(what, expected, found, start):
    """Number of codes, all equal; BitExactError at the first that is not."""
    expected = np.moveaxis(expected, -1, 1)[:len(found)]
    wrong = np.argwhere(expected != found)
    if len(wrong):
        place = tuple(int(k) for k in wrong[0])
        raise BitExactError(f"{what}, image {start + place[0]}, index {place[1:]} (channel first): code "
                            f"{found[place]:g}, in the program {expected[place]}; {len(wrong)} of {found.size} differ")
    return found.size


def _close_logits(what, expected, found, start):
    """The largest difference; BitExactError at a logit beyond the bound or another class."""
    logits = found["logits"]
    expected = expected[:len(logits)]
    difference = np.abs(logits - expected)
    wrong = np.argwhere(difference > ROUNDING * np.abs(expected))
    if len(wrong):
        place = tuple(int(k) for k in wrong[0])
        raise BitExactError(f"{what}: logit {place[1:]} of image {start + place[0]} is {logits[place]!r}, in the "
                            f"program {expected[place]!r}")
    other = np.flatnonzero(found["class"] != expected.argmax(1)) if "class" in found else ()
    if len(other):
        raise BitExactError(f"{what}: image {start + other[0]} is of class {found['class'][other[0]]}, in the program "
                            f"of {expected[other[0]].argmax()}")
    return float(difference.max(initial=0.0))
