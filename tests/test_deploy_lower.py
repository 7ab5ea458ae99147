"""Lowering: the Program has the codes of the float64 network, for every method and width; what it refuses.

The whole matrix, all networks on 1,000 digits, takes most of an hour of one core:

    MINQUANT_FULL=1 python -m pytest tests/test_deploy_lower.py tests/test_deploy_networks.py
"""

import copy
import os

import numpy as np
import pytest

from minquant import check, models
from minquant.deploy import LoweringError, lower
from minquant.deploy.endings import Requantize
from minquant.nn import (AvgPool, BatchNorm, Conv2d, Dropout, Flatten, GlobalAvgPool, Linear, MaxPool, ReLU, Residual,
                         Sequential)
from minquant.quantize import calibrate, quantize
from tests.deploy_models import CASES, DIGITS, act_bits_of, stored_model

FULL = bool(os.environ.get("MINQUANT_FULL"))
IMAGES = np.concatenate([DIGITS.test.images, DIGITS.train.images])[:1000 if FULL else 40]


def lowered(model):
    return lower(model, DIGITS.image_shape, DIGITS.normalise)


def agree(model, images=IMAGES):
    return check.bit_exact(model, lowered(model), images, DIGITS.normalise)


def quantized(seed=0, act_bits=4, bits=4, **layers):
    """A calibrated min-max network of these layers on digits."""
    model = quantize(Sequential(**layers), "minmax", bits, act_bits)
    calibrate(model, DIGITS.normalise(DIGITS.train.images[:32]), np.random.default_rng(seed))
    return model


def rng():
    return np.random.default_rng(3)


@pytest.mark.parametrize("name,bits", CASES)
def test_every_code_and_logit_of_lenet5_is_that_of_the_float64_network(name, bits):
    model = stored_model("lenet5", name, bits)
    program = lowered(model)
    agreement = check.bit_exact(model, program, IMAGES, DIGITS.normalise)
    assert agreement.quantizers == 5 and agreement.codes == len(IMAGES) * 428
    assert agreement.logit_difference < 1e-12
    assert agreement.plain_codes == program.info["proof"]["unproven"] == 0


@pytest.mark.parametrize("first_last", ["same", "8"])
@pytest.mark.parametrize("bits,act_bits", [(2, 8), (8, 2), (5, 6), (7, 7), (6, 5)])
def test_widths_of_weights_and_activations_are_independent(bits, act_bits, first_last):
    agree(stored_model("lenet5", "minmax", bits, act_bits, first_last=first_last))


def test_layers_of_their_own_widths_are_packed_at_them():
    model = stored_model("lenet5", "minmax", 4, overrides={"conv2": 3, "fc1": 2})
    program = lowered(model)
    assert {op.name: op.bits for op in program.ops if hasattr(op, "bits")} == {
        "conv1": 4, "conv2": 3, "fc1": 2, "fc2": 4, "fc3": 4}
    assert all(len(op.stream) == -(-op.bits * op.codes.size // 8) for op in program.ops if hasattr(op, "bits"))
    check.bit_exact(model, program, IMAGES, DIGITS.normalise)


def test_scales_per_output_channel_are_folded():
    agree(stored_model("lenet5", "minmax", 4, per_channel=True))


def test_channels_with_negative_and_zero_gamma_are_covered_by_rounding_and_by_unequal_edges():
    for name, unequal in (("minmax", False), ("apot", True)):
        ops = [op for op in lowered(stored_model("lenet5", name, 4)).ops if isinstance(op, Requantize)]
        assert any(len(op.edges) for op in ops) == unequal
        assert any((op.multiplier[op.direction == 0] < 0).any() or (op.direction < 0).any() for op in ops)
        assert any((op.multiplier == 0).any() for op in ops)


def test_biases_caps_dropout_and_average_pools_are_covered():
    model = quantized(
        conv1=Conv2d(1, 6, 3, rng(), padding=1), relu1=ReLU(cap=1.5), conv2=Conv2d(6, 6, 3, rng(), padding=2, groups=3),
        bn2=BatchNorm(6), drop=Dropout(0.3), relu2=ReLU(cap=0.4), pool2=MaxPool(2),
        conv3=Conv2d(6, 8, 3, rng(), stride=2), bn3=BatchNorm(8), relu3=ReLU(), pool3=AvgPool(2),
        flatten=Flatten(), fc=Linear(8, 10, rng()))
    for name, values in model.named_params().items():
        if name.endswith("bias"):
            values += rng().normal(0, 0.3, len(values)).astype(np.float32)
    agree(model)


def test_a_saturated_cap_cuts_codes_off():
    model = quantized(conv=Conv2d(1, 4, 3, rng()), relu=ReLU(cap=1.0), pool=GlobalAvgPool(), fc=Linear(4, 10, rng()))
    model.children["relu_quantizer"].state["high"][...] = 2.1  # codes above 7 stand for more than the cap
    program = lowered(model)
    assert next(op.top for op in program.ops if op.name == "relu_quantizer") == 7
    check.bit_exact(model, program, IMAGES, DIGITS.normalise)


def test_a_batch_norm_behind_the_last_layer_is_part_of_the_logits():
    model = quantized(flatten=Flatten(), fc1=Linear(64, 20, rng()), relu=ReLU(), fc2=Linear(20, 10, rng()),
                      bn=BatchNorm(10))
    model.children["bn"].params["gamma"][...] = rng().normal(1, 0.3, 10)
    model.children["bn"].state["var"][...] = rng().uniform(0.5, 2, 10)
    assert agree(model).logit_difference < 1e-12


def test_lowering_leaves_the_model_as_it_was():
    model = stored_model("lenet5", "cpq", 4)
    before = copy.deepcopy({**model.named_params(), **model.named_state()})
    lowered(model)
    after = {**model.named_params(), **model.named_state()}
    assert all(before[k].dtype == after[k].dtype and np.array_equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("what", ["threshold", "weight", "bias"])
def test_the_check_sees_one_changed_number(what):
    model = stored_model("lenet5", "apot" if what == "threshold" else "cpq", 4, awkward=False)
    program = lowered(model)
    by_name = {op.name: op for op in program.ops}
    if what == "threshold":
        op = by_name["relu3_quantizer"]
        object.__setattr__(op, "edges", op.edges * np.float32(1.2))
    elif what == "weight":
        op = by_name["conv2"]
        object.__setattr__(op, "stream", op.stream ^ np.uint8(1))
        op.__dict__.pop("weights", None), op.__dict__.pop("codes", None)
    else:
        op = by_name["fc3.logits"]
        object.__setattr__(op, "values", op.values + np.r_[np.zeros(9), 50.0])
    where = {"threshold": "'relu3_quantizer', image", "weight": "'pool2_quantizer', image",
             "bias": "logit 9 of image 0 is"}[what]
    with pytest.raises(check.BitExactError, match=where):
        check.bit_exact(model, program, IMAGES, DIGITS.normalise)


def test_the_check_refuses_an_empty_comparison_and_a_foreign_program():
    model = stored_model("lenet5", "minmax", 4)
    with pytest.raises(ValueError, match="no images to compare"):
        agree(model, IMAGES[:0])
    other = quantized(flatten=Flatten(), fc1=Linear(64, 20, rng()), relu=ReLU(), fc2=Linear(20, 10, rng()))
    with pytest.raises(check.BitExactError, match="another model"):
        check.bit_exact(model, lowered(other), IMAGES, DIGITS.normalise)


def refused(model, message):
    with pytest.raises(LoweringError, match=message):
        lowered(model)


def test_models_that_are_not_ready_are_refused_with_the_remedy():
    network = models.lenet5(DIGITS.image_shape, 10, rng())
    refused(network, "layer 'conv1' reads the image; quantize activations too")
    refused(quantize(network, "minmax", 4, 4), "'input_quantizer': .*call minquant.calibrate")
    half = stored_model("lenet5", "minmax", 4)
    half.children["relu3_quantizer"].state["ready"][...] = False
    refused(half, "'relu3_quantizer': .*call minquant.calibrate")
    refused(stored_model("lenet5", "minmax", 4, first_last="float"), "'conv1' has float weights; .*first_last='8'")
    broken = stored_model("lenet5", "minmax", 4)
    broken.named_state()["bn2.var"][3] = np.nan
    refused(broken, "'bn2.var' holds NaN or infinity")


def test_a_codebook_that_is_not_hardened_is_refused():
    model = stored_model("lenet5", "minmax", 4)
    quantizer = model.children["fc1"].children["weight_quantizer"]
    encode = quantizer.encode

    def soft(w):
        stored = encode(w)
        return type(stored)(stored.codes, stored.levels * 0.5, stored.scale, stored.bits)

    quantizer.encode = soft
    refused(model, r"layer 'fc1': its codebook is float64, not int8; call model.method.finish")


def test_what_has_no_exact_integer_form_is_refused_by_name():
    def body(**more):
        return Sequential(conv=Conv2d(4, 4, 3, rng(), padding=1), **more)

    start = dict(conv1=Conv2d(1, 4, 3, rng()), relu1=ReLU())
    end = dict(relu2=ReLU(), pool=GlobalAvgPool(), fc=Linear(4, 10, rng()))
    refused(quantized(**start, add=Residual(body(relu=ReLU())), **end), "'add': the body ends in quantized activations")
    shortcut = Sequential(conv=Conv2d(4, 4, 1, rng()))
    refused(quantized(**start, add=Residual(body(), shortcut), **end), "'add': the shortcut ends in values that no")
    refused(quantized(conv=Conv2d(1, 4, 3, rng()), relu=ReLU(), bn=BatchNorm(4), pool=GlobalAvgPool(),
                      fc=Linear(4, 10, rng())), "layer 'bn': a batch norm must follow a convolution")
    refused(quantized(conv1=Conv2d(1, 4, 3, rng()), conv2=Conv2d(4, 4, 3, rng()), **end), "layer 'conv2' reads values")
    refused(quantized(**start, pool=GlobalAvgPool()), "the network ends in quantized activations")
    refused(quantized(conv=Conv2d(1, 4, 3, rng()), **end | dict(last=ReLU())), "the network ends in")


def test_a_layer_of_an_unknown_kind_is_refused_by_name():
    class Swish(ReLU):
        """Not monotone, so it has no ladder."""

    refused(quantized(conv=Conv2d(1, 4, 3, rng()), swish=Swish(), pool=GlobalAvgPool(), fc=Linear(4, 10, rng())),
            "layer 'swish' is a Swish, which has no integer form")


def test_sums_beyond_int32_are_refused_at_the_layer():
    side = 366  # 366 * 366 products of up to 127 * 127
    model = quantize(Sequential(flatten=Flatten(), fc=Linear(side ** 2, 1, rng(), init=lambda shape, _: np.full(
        shape, 0.1, np.float32))), "minmax", 8, 8)
    calibrate(model, rng().normal(size=(2, side, side, 1)).astype(np.float32), rng())
    with pytest.raises(LoweringError, match="layer 'fc': sums from -2160576324 to 2160576324 exceed int32; use fewer"):
        lower(model, (side, side, 1), lambda x: x / np.float32(255))


def test_a_tie_of_a_mean_is_unproven_and_falls_as_exact_arithmetic_says():
    model = quantize(Sequential(conv=Conv2d(1, 4, 7, rng(), bias=False), relu=ReLU(), pool=GlobalAvgPool(),
                                fc=Linear(4, 10, rng())), "dorefa", 2, 2)
    calibrate(model, DIGITS.normalise(DIGITS.train.images[:32]), rng())
    program = lowered(model)
    # means of four levels 0..3 in units of a twelfth; 2, 6 and 10 are midway between levels, for half to even
    pool = next(op for op in program.ops if op.name == "pool_quantizer")
    sums = np.array([[2], [3], [6], [7], [10], [11]], np.int32)
    np.testing.assert_array_equal(pool.run(sums)[:, 0], [0, 1, 2, 2, 2, 3])
    agreement = check.bit_exact(model, program, np.concatenate([DIGITS.test.images, DIGITS.train.images]),
                                DIGITS.normalise)
    assert program.info["proof"]["unproven"] >= 3 and agreement.plain_codes > 0


def test_the_mean_over_a_window_rounds_as_the_reference_does_at_its_ties():
    model = quantize(Sequential(conv=Conv2d(1, 4, 3, rng(), bias=False), relu=ReLU(), pool=GlobalAvgPool(),
                                fc=Linear(4, 10, rng())), "dorefa", 2, 2)
    calibrate(model, DIGITS.normalise(DIGITS.train.images[:32]), rng())
    pool = next(op for op in lowered(model).ops if op.name == "pool_quantizer")
    quantizer = copy.deepcopy(model.children["pool_quantizer"]).astype(np.float64)
    sums, scale = np.arange(3 * 36 + 1), np.float64(quantizer.staircase().scale)
    by_reference = quantizer.encode(sums * scale / 36).codes
    assert (by_reference != quantizer.encode(sums * (scale / 36)).codes).any()  # another order of the same algebra
    np.testing.assert_array_equal(pool.run(sums[:, None].astype(np.int32))[:, 0], by_reference)


def test_an_image_shape_of_other_axes_is_refused_and_one_that_does_not_fit_names_the_layer():
    model = stored_model("lenet5", "minmax", 4)
    with pytest.raises(LoweringError, match="is not .height, width, channels."):
        lower(model, (8, 8), DIGITS.normalise)
    with pytest.raises(LoweringError, match="'conv1': weights .* for 3 channels"):
        lower(model, (8, 8, 3), lambda x: x / 255)


def test_a_normalisation_that_mixes_pixels_is_refused():
    model = stored_model("lenet5", "minmax", 4)
    with pytest.raises(LoweringError, match="does not treat every pixel of a channel alike"):
        lower(model, DIGITS.image_shape, lambda x: x * np.linspace(0, 1, 8)[None, :, None, None])


def test_activation_bits_follow_the_method():
    assert act_bits_of("apot", 6) == 5 and act_bits_of("cpq", 3) == 3


@pytest.mark.parametrize("kernel,padding,bias", [(1, 0, True), (3, 1, False)])
def test_a_network_that_ends_in_a_convolution_gives_a_map_of_logits(kernel, padding, bias):
    model = quantized(conv1=Conv2d(1, 6, 3, rng(), stride=2, padding=1, bias=False), bn1=BatchNorm(6), relu1=ReLU(),
                      head=Conv2d(6, 5, kernel, rng(), padding=padding, bias=bias))
    program = lowered(model)
    assert program.tensors[-1].shape == (4, 4, 5) and program.classes == 5
    logits = program.run(IMAGES)
    assert logits.shape == (len(IMAGES), 4, 4, 5) and logits.dtype == np.float64
    assert agree(model).codes == len(IMAGES) * (8 * 8 + 4 * 4 * 6)
    wrong = copy.deepcopy(program)
    wrong.ops[-1].values[0, 3] *= 2
    with pytest.raises(check.BitExactError, match="all codes are equal but logit 0, 0, 3 of image 0"):
        check.bit_exact(model, wrong, IMAGES, DIGITS.normalise)
