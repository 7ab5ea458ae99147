"""The ONNX export: every code is the Program's in onnxruntime and in the reference evaluator, at 2, 4 and 8 bits."""

import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from minquant.deploy import lower, ops
from minquant.deploy.endings import AddRequantize, Logits, Requantize
from minquant.deploy.onnx_export import check_onnx, export_onnx, to_onnx
from minquant.deploy.onnx_plan import exact_slices
from minquant.deploy.pack import pack
from minquant.deploy.program import Program
from minquant.deploy.reference import BitExactError
from tests.deploy_models import DIGITS, stored_model
from tests.random_programs import random_program
from tests.test_deploy_ops import tiny, weights

MODELS = [("lenet5", "cpq", 4), ("lenet5", "dgms", 3), ("lenet5", "qnet", 2), ("lenet5", "gdrq", 8),
          ("lenet5", "dq", 5), ("mlp", "minmax", 1), ("resnet20", "cpq", 2), ("resnet20", "minmax", 8),
          ("mobilenet_tiny", "lsq", 4), ("squeezenet_tiny", "cpq", 4), ("squeezenet_tiny", "apot", 2)]


def lowered(network, name, bits):
    return lower(stored_model(network, name, bits), DIGITS.image_shape, DIGITS.normalise, {"data": "digits"})


def checked(program, path, images):
    export_onnx(program, path)
    return check_onnx(program, path, images)


@pytest.mark.parametrize("network,name,bits", MODELS)
def test_every_code_of_a_network_is_the_programs(network, name, bits, tmp_path):
    program = lowered(network, name, bits)
    images = DIGITS.test.images[:12]
    figures = checked(program, tmp_path / "m.onnx", images)
    per_image = sum(np.prod(t.shape) for t in program.tensors if t.kind == "codes")
    assert figures["codes"] == per_image * (12 + 4) and figures["mismatches"] == 0
    assert float(figures["largest_logit_difference"]) <= 2 ** -24 * np.abs(program.run(images)).max()


@pytest.mark.parametrize("seed", range(24))
def test_every_code_of_a_program_of_any_operations_is_the_programs(seed, tmp_path):
    rng = np.random.default_rng(seed)
    program = random_program(rng)
    images = rng.integers(0, 256, (6, *program.image_shape), dtype=np.uint8)
    checked(program, tmp_path / "m.onnx", images)


def test_those_programs_hold_every_operation_in_every_form():
    programs = [random_program(np.random.default_rng(seed)) for seed in range(24)]
    seen = {(type(op), op.form().split(" in ")[0]) for program in programs for op in program.ops}
    assert {kind for kind, _ in seen} == set(ops.OPS.values())
    assert {(Requantize, "float32"), (Requantize, "float32 edges"), (Requantize, "ladder"),
            (AddRequantize, "float64")} <= seen  # additions in float32 are resnet20's at 2 bits


def large_sums(inputs, level):
    """A linear layer of 2 outputs whose sums leave what float32 holds exactly."""
    codes = np.stack([np.zeros(inputs, np.uint8), np.ones(inputs, np.uint8)], axis=1)
    layer = ops.Linear("fc", (2,), 1, (inputs, 2), pack(codes, 1), np.array([-level, level], np.int8),
                       np.arange(256, dtype=np.int16))
    return Program((1, inputs, 1), (
        ops.QuantizeInput("input", (0,), np.arange(256, dtype=np.uint8)[None]), ops.Flatten("flatten", (1,)), layer,
        Requantize("quantizer", (3,), 255, np.full(2, 1e-7, np.float32), np.full(2, 100, np.float32),
                   np.array([0, 1], np.int8), np.arange(255, dtype=np.int32)[None] * 12 + 2 ** 24 - 1500),
        ops.Linear("out", (4,), 1, (2, 2), pack(codes[:2], 1), np.array([-1, 1], np.int8),
                   np.arange(256, dtype=np.int16)),
        Logits("logits", (5,), ("multiply",), np.ones((1, 2)))))


def test_sums_beyond_float32_are_taken_in_parts_that_are_exact(tmp_path):
    program = large_sums(1000, 127)
    assert len(exact_slices(program.ops[2])) == 2 and len(exact_slices(large_sums(500, 127).ops[2])) == 1
    rng = np.random.default_rng(1)
    images = np.full((200, 1, 1000, 1), 132, np.uint8)  # 127 * 132 * 1000 is just below 2^24
    images[:, :, :112] += rng.integers(0, 3, (200, 1, 112, 1), dtype=np.uint8)
    codes = program.trace(images)["quantizer"]
    assert program.trace(images)["fc"].max() > 2 ** 24 and len(np.unique(codes[:, 1])) > 20
    checked(program, tmp_path / "m.onnx", images)


@pytest.mark.parametrize("network,name,bits,stored", [
    ("lenet5", "cpq", 2, "INT2"), ("lenet5", "cpq", 3, "INT4"), ("lenet5", "cpq", 4, "INT4"),
    ("lenet5", "minmax", 6, "INT8"), ("lenet5", "cpq", 8, "INT8"), ("lenet5", "dgms", 4, "UINT4"),
    ("lenet5", "dgms", 2, "UINT2")])
def test_weights_are_stored_in_the_next_integer_type_and_codebooks_are_gathered(network, name, bits, stored, tmp_path):
    program = lowered(network, name, bits)
    path = tmp_path / "m.onnx"
    figures, model = export_onnx(program, path), onnx.load(path)
    constants = {c.name: c for c in model.graph.initializer}
    operators = {node.name: node.op_type for node in model.graph.node}
    assert figures["opset"] == (25 if "2" in stored else 21) and figures["bytes"] == path.stat().st_size
    for op in program.ops:
        if isinstance(op, ops.Weighted) and op.bits == bits:
            weight = constants[f"{op.name}.weight"]
            assert TensorProto.DataType.Name(weight.data_type) == stored
            assert len(weight.raw_data) == -(-op.codes.size * int(stored[-1]) // 8)
            has_table = "Gather" == operators.get(f"{op.name}/weight/entries")
            assert has_table == (f"{op.name}.codebook" in constants) == (stored[0] == "U")
    quantized = {node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert len(quantized) == 4
    assert quantized <= {node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}


def test_a_viewer_finds_names_shapes_and_a_description(tmp_path):
    model = to_onnx(lowered("resnet20", "cpq", 2))
    shapes = {v.name: [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim]
              for v in (*model.graph.value_info, *model.graph.input, *model.graph.output)}
    assert shapes["images"] == ["N", 8, 8, 1] and shapes["logits"] == ["N", 10]
    assert shapes["block2_1.add.body.conv1"] == ["N", 32, 4, 4]
    assert all(shapes.get(node.output[0]) is not None and node.name for node in model.graph.node)
    assert sum(node.op_type == "Transpose" for node in model.graph.node) == 1
    assert "NHWC" in model.graph.doc_string and {p.key: p.value for p in model.metadata_props}["data"] == "digits"


def test_a_session_without_any_option_computes_the_same():
    program = lowered("lenet5", "minmax", 8)
    session = onnxruntime.InferenceSession(to_onnx(program).SerializeToString(), providers=["CPUExecutionProvider"])
    images = DIGITS.test.images
    logits, classes = session.run(["logits", "class"], {"images": images})
    np.testing.assert_array_equal(logits, program.run(images).astype(np.float32))
    np.testing.assert_array_equal(classes, program.run(images).argmax(1))


def test_the_class_is_told_apart_where_float32_logits_are_equal():
    program = tiny(logits=Logits("logits", (5,), ("multiply", "add"), np.array([[0.0] * 3, [1, 1 + 1e-12, 1]])))
    session = onnxruntime.InferenceSession(to_onnx(program).SerializeToString(), providers=["CPUExecutionProvider"])
    logits, classes = session.run(["logits", "class"], {"images": np.zeros((1, 2, 2, 1), np.uint8)})
    assert (logits == 1).all() and classes == 1


def test_a_network_that_ends_in_a_convolution_gives_its_map_of_logits(tmp_path):
    rng = np.random.default_rng(0)
    program = Program((5, 4, 1), (
        ops.QuantizeInput("input", (0,), np.arange(256, dtype=np.uint8)[None] // 16),
        ops.Convolution(**weights(rng, (3, 3, 1, 2), 4, stride=1, padding=1, groups=1) | dict(inputs=(1,))),
        Logits("map", (2,), ("multiply",), np.full((1, 2), 0.25))))
    images = rng.integers(0, 256, (3, 5, 4, 1), dtype=np.uint8)
    checked(program, tmp_path / "m.onnx", images)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    logits, = session.run(None, {"images": images})
    np.testing.assert_array_equal(logits, program.run(images))


@pytest.mark.parametrize("constant,message", [
    ("fc1.weight", "onnxruntime without optimizations: 'relu3_quantizer', image 0, index .* code"),
    ("pool2_quantizer.requantize.multiplier", "'pool2_quantizer.requantize', image 0"),
    ("fc3.logits/add1", "logit .0,. of image 0 is")])
def test_the_check_finds_a_changed_constant(constant, message, tmp_path):
    program = lowered("lenet5", "minmax", 8)
    model = to_onnx(program)
    changed = next(c for c in model.graph.initializer if c.name == constant)
    values = numpy_helper.to_array(changed).copy()
    values += np.ones_like(values) if values.dtype.kind in "iu" else np.abs(values).max() * 1e-3
    changed.CopyFrom(numpy_helper.from_array(values, changed.name))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(BitExactError, match=message):
        check_onnx(program, tmp_path / "m.onnx", DIGITS.test.images[:50])


@pytest.mark.parametrize("module", ["onnx", "onnxruntime"])
def test_without_the_extra_the_error_names_it(module, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f'needs the package {module} .*pip install "minquant.export."'):
        checked(tiny(), tmp_path / "m.onnx", np.zeros((1, 2, 2, 1), np.uint8))


@pytest.mark.parametrize("levels,operator", [
    ([-2, -1, 0, 1], "DequantizeLinear"), ([-1, 0, 1, 2], "DequantizeLinear"), ([-3, -2, -1, 0], "DequantizeLinear"),
    ([1, 2, 3, 4], "Cast"), ([-9, -8, -7, -6], "Cast"), ([-128, -127, 126, 127], "Cast"), ([5], "Cast"),
    ([-1], "DequantizeLinear")])
def test_levels_that_no_zero_point_reaches_are_gathered(levels, operator, tmp_path):
    codes = np.arange(24, dtype=np.uint8).reshape(8, 3) % len(levels)
    layer = ops.Linear("fc", (4,), 2, (8, 3), pack(codes, 2), np.array(levels, np.int8), np.arange(16, dtype=np.int16))
    program = tiny(fc=layer)
    checked(program, tmp_path / "m.onnx", np.random.default_rng(0).integers(0, 256, (9, 2, 2, 1), dtype=np.uint8))
    nodes = {node.name: node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node}
    assert nodes["fc/weight"] == operator


def test_a_layer_may_have_any_name_but_those_of_the_input_and_the_results(tmp_path):
    program = tiny()
    renamed = [replace(op, name=name) for op, name in zip(program.ops, ("one", "zero", "top", "bit", "at", "logits"))]
    checked(Program(program.image_shape, tuple(renamed)), tmp_path / "m.onnx", np.zeros((1, 2, 2, 1), np.uint8))
    for name in ("images", "logits", "class"):
        with pytest.raises(ValueError, match=f"an operation is called '{name}', like an input or result"):
            to_onnx(Program(program.image_shape, (replace(program.ops[0], name=name),
                                                  *program.ops[1:-1], replace(program.ops[-1], name="last"))))


def test_a_grouped_convolution_beyond_float32_is_refused_by_name():
    op = ops.Convolution("conv", (1,), 1, (3, 3, 300, 2), pack(np.ones(5400, np.uint8), 1),
                         np.array([-127, 127], np.int8), np.arange(256, dtype=np.int16), 1, 1, 2)
    with pytest.raises(ValueError, match="'conv': the sums of one input channel, or of one group, reach 2.24"):
        exact_slices(op)
    op = ops.Convolution("conv", (1,), 1, (23, 23, 1, 1), pack(np.ones(529, np.uint8), 1),
                         np.array([-127, 127], np.int8), np.arange(256, dtype=np.int16), 1, 1, 1)
    with pytest.raises(ValueError, match="Use fewer bits, a smaller kernel"):
        exact_slices(op)
