"""Concatenated channels: the Program has the codes of the float64 network; what cannot be joined is refused."""

import numpy as np
import pytest

from minquant import check
from minquant.deploy import file, ops
from minquant.nn import (AvgPool, BatchNorm, Concat, Conv2d, Dropout, Flatten, GlobalAvgPool, Linear, MaxPool, ReLU,
                         Residual, Sequential)
from minquant.quantizers.minmax import MinMaxActivation
from tests.deploy_models import DIGITS, stored_model
from tests.test_deploy_lower import IMAGES, agree, lowered, quantized, refused


def rng():
    return np.random.default_rng(3)


def active(inputs, outputs, kernel=1, **more):
    """A convolution that keeps the size, with batch norm and ReLU."""
    return Sequential(conv=Conv2d(inputs, outputs, kernel, rng(), padding=kernel // 2, bias=False),
                      bn=BatchNorm(outputs), relu=ReLU(), **more)


def network(join, channels, **between):
    """Four channels of 8 x 8 pixels, a concatenation of them, then its mean."""
    return quantized(start=active(1, 4, 3), join=join, **between, last=active(channels, 5, 3), mean=GlobalAvgPool(),
                     fc=Linear(5, 10, rng()))


def dense():
    """What a branch makes of the channels is put behind them."""
    return network(Concat(itself=Sequential(), grown=active(4, 3, 3)), 7)


def joined(program, name="join_quantizer"):
    return next(op for op in program.ops if op.name == name)


@pytest.mark.parametrize("name,bits", [("minmax", 4), ("lsq", 4), ("dgms", 4), ("cpq", 4), ("qnet", 4), ("apot", 4),
                                       ("minmax", 2), ("cpq", 3), ("dq", 8), ("minmax", 8)])
def test_every_code_and_logit_of_fire_modules_is_that_of_the_float64_network(name, bits):
    model = stored_model("squeezenet_tiny", name, bits)
    program = lowered(model)
    agreement = check.bit_exact(model, program, IMAGES[:20], DIGITS.normalise)
    assert agreement.quantizers == 11
    joins = [op for op in program.ops if isinstance(op, ops.Concat)]
    assert [op.name for op in joins] == [f"fire{i}.expand_quantizer" for i in (2, 3, 4, 5)]
    assert not any(op.tables.size for op in joins)
    proof = program.info["proof"]
    assert agreement.plain_codes == 0 or proof["unproven"] > 0


def test_the_identity_and_pooled_codes_are_looked_up_in_tables_of_the_common_quantizer():
    model = network(Concat(itself=Sequential(), grown=active(4, 3, 3), most=Sequential(pool=MaxPool(1)),
                           mean=Sequential(pool=AvgPool(1))), 15)
    op = joined(lowered(model))
    codes, common = (model.children[name] for name in ("start", "join_quantizer"))
    x = codes.children["relu_quantizer"].staircase()
    expected = common.encode(x.levels.astype(np.float64) * float(x.scale)).codes
    np.testing.assert_array_equal(op.tables[:, :16], [expected, range(16), expected, range(16)])
    assert op.form() == "table for 2 of 4" and (expected != np.arange(16)).any()
    agree(model)


def test_concats_inside_branches_are_joined_once():
    def inner(inputs):
        return Concat(a=active(inputs, 2, 3), b=Concat(c=active(inputs, 1)))

    model = network(Concat(inner=inner(4), deep=active(4, 3, more=Sequential(inner=inner(3))), itself=Sequential()), 10)
    program = lowered(model)
    assert [op.name for op in program.ops if isinstance(op, ops.Concat)] == ["join_quantizer"]
    assert [program.ops[i - 1].name for i in joined(program).inputs] == [
        "join_quantizer.inner.a", "join_quantizer.inner.b.c", "join_quantizer.deep.a", "join_quantizer.deep.b.c",
        "start.relu_quantizer"]
    agree(model)


def test_what_stands_behind_a_concat_is_done_to_each_part():
    def parts(*names):
        return Concat(**{name: Conv2d(4, 3, 3, rng(), padding=1) for name in names})

    model = network(parts("a", "b"), 6, bn=BatchNorm(6), relu=ReLU(cap=0.5), pool=MaxPool(2))
    model.children["bn"].params["gamma"][...] = rng().normal(1, 0.5, 6)
    model.children["bn"].state["mean"][...] = rng().normal(0, 0.5, 6)
    assert agree(model).quantizers == 5 and len(joined(lowered(model), "pool_quantizer").inputs) == 2
    model = network(Concat(itself=Sequential(), a=parts("b")), 7, pool1=MaxPool(2, 1), pool2=MaxPool(2),
                    relu=ReLU(cap=1))
    assert len({op.name for op in lowered(model).ops}) == len(lowered(model).ops)
    agree(model)
    model = network(Concat(a=active(4, 3), b=active(4, 2, 3)), 5, pool=MaxPool(2))
    assert [op.name for op in lowered(model).ops if isinstance(op, ops.MaxPool)] == ["pool_quantizer.a",
                                                                                     "pool_quantizer.b"]
    agree(model)


def test_a_concat_of_two_activations_and_a_concat_of_vectors_are_covered():
    first, second = Concat(a=active(4, 3), b=active(4, 2, 3, drop=Dropout(0.1))), Concat(itself=Sequential(),
                                                                                      a=active(5, 4))
    agree(network(first, 9, dense=second))
    model = quantized(flatten=Flatten(), join=Concat(
        a=Sequential(fc=Linear(64, 5, rng()), relu=ReLU()), b=Sequential(fc=Linear(64, 7, rng()), relu=ReLU())),
        fc=Linear(12, 10, rng()))
    assert agree(model).codes == len(IMAGES) * (64 + 12)


def test_codes_that_already_stand_for_the_same_need_neither_quantizer_nor_table():
    model = network(Concat(itself=Sequential(), most=Sequential(pool=MaxPool(1)), again=Sequential()), 12)
    del model.children["join_quantizer"]
    op = joined(lowered(model), "join")
    assert op.tables.shape == (0, 0) and op.inputs[0] == op.inputs[2] and op.form() == ""
    agree(model)


def test_a_concat_in_a_residual_body_needs_a_convolution_behind_it():
    def body(**more):
        return Sequential(join=Concat(a=active(4, 3), b=active(4, 2, 3)), **more)

    agree(network(Residual(body(conv=Conv2d(5, 4, 1, rng()))), 4, relu=ReLU()))
    sums = Sequential(join=Concat(a=Conv2d(4, 2, 1, rng()), b=Conv2d(4, 2, 1, rng())))
    refused(network(Residual(sums), 4, relu=ReLU()), "'join': the body ends in a concatenation of parts that no common "
            "quantizer has closed or an activation; end it with a convolution")
    refused(network(Residual(Sequential(conv=Conv2d(4, 4, 1, rng())), sums), 4, relu=ReLU()),
            "'join': the shortcut ends in a concatenation")


def test_what_integers_cannot_join_is_refused_by_name():
    refused(network(Concat(a=active(4, 2), b=Conv2d(4, 2, 1, rng())), 4),
            r"layer 'last.conv' reads a concatenation .* \('join'\): integers of different scales cannot be summed. "
            "End every branch in an activation, or put a ReLU behind the Concat")
    model = network(Concat(a=active(4, 2), b=active(4, 2)), 4)
    del model.children["join_quantizer"]
    for branch in model.children["join"].children.values():
        branch.children["relu_quantizer"] = MinMaxActivation(4, signed=False)
        branch.children["relu_quantizer"].init_from(rng().uniform(0, rng().uniform(1, 3), (5, 2)), rng())
    assert agree(model).quantizers == 6  # both calibrated alike
    branch.children["relu_quantizer"].state["high"][...] *= 2
    refused(model, "integers of different scales cannot be summed")
    refused(network(Concat(itself=Sequential(), a=Conv2d(4, 2, 1, rng())), 6, bn=BatchNorm(6), relu=ReLU()),
            "layer 'bn': a batch norm must follow a convolution")
    refused(quantized(start=active(1, 4), join=Concat(a=Conv2d(4, 2, 1, rng()))), "the network ends in a concatenation")


def test_a_loaded_concat_is_the_stored_one(tmp_path):
    program = lowered(dense())
    file.save(program, tmp_path / "model.mqz")
    loaded = file.load(tmp_path / "model.mqz")
    assert file.dump(loaded) == file.dump(program) and loaded.summary() == program.summary()
    np.testing.assert_array_equal(loaded.run(IMAGES), program.run(IMAGES))
