"""Quantizers are put where they belong, start from data, and refuse what cannot work."""

import numpy as np
import pytest

from minquant import models, nn, summary, training
from minquant.optim import Adam, parameter_groups
from minquant.quantize import bits_of, calibrate, quantize
from minquant.quantizers.base import quantizers
from minquant.quantizers.minmax import MinMaxActivation


def float_lenet(seed=0):
    return models.lenet5((8, 8, 1), 10, np.random.default_rng(seed))


def images(n=32, seed=1):
    return np.random.default_rng(seed).standard_normal((n, 8, 8, 1)).astype(np.float32)


def quantized(**settings):
    model = quantize(float_lenet(), **{"method": "minmax", "rng": np.random.default_rng(2), **settings})
    calibrate(model, images(), np.random.default_rng(3))
    return model


def test_every_weight_every_activation_and_the_input_have_a_quantizer():
    names = [name for name, _ in quantizers(quantized())]
    assert names == ["input_quantizer", "conv1.weight_quantizer", "pool1_quantizer", "conv2.weight_quantizer",
                     "pool2_quantizer", "fc1.weight_quantizer", "relu3_quantizer", "fc2.weight_quantizer",
                     "relu4_quantizer", "fc3.weight_quantizer"]


def test_a_residual_network_quantizes_behind_every_relu_and_the_pooling():
    model = quantize(models.resnet20((8, 8, 1), 10, np.random.default_rng(0)), method="minmax")
    names = [name for name, _ in quantizers(model) if not name.endswith("weight_quantizer")]
    assert len(names) == 1 + 1 + 9 * 2 + 1  # input, stem, two per block, pooling
    assert "block1_1.add.body.relu1_quantizer" in names and "block3_3.relu2_quantizer" in names
    assert names[-1] == "pool_quantizer"


def placed(**layers):
    """Names of the activation quantizers, without that of the input."""
    names = [name for name, _ in quantizers(quantize(nn.Sequential(**layers), method="minmax"))]
    return [name for name in names[1:] if not name.endswith("weight_quantizer")]


def conv(inputs=4, outputs=4, **more):
    return nn.Sequential(conv=nn.Conv2d(inputs, outputs, 1, np.random.default_rng(0)), **more)


def active(inputs=4, **more):
    return conv(inputs, relu=nn.ReLU(), **more)


def test_branches_of_a_concat_share_the_quantizer_behind_it():
    branches = dict(a=active(), b=conv(relu=nn.ReLU(), conv2=conv(), relu2=nn.ReLU(), pool=nn.MaxPool(2)))
    assert placed(join=nn.Concat(**branches)) == ["join.b.relu_quantizer", "join_quantizer"]
    assert placed(join=nn.Concat(**branches), pool=nn.MaxPool(2)) == ["join.b.relu_quantizer", "pool_quantizer"]
    assert placed(join=nn.Concat(**branches), relu=nn.ReLU()) == ["join.b.relu_quantizer", "relu_quantizer"]
    assert placed(join=nn.Concat(a=conv(), b=active()), relu=nn.ReLU()) == ["relu_quantizer"]
    assert placed(start=active(), join=nn.Concat(itself=nn.Sequential(), mean=nn.Sequential(pool=nn.AvgPool(2)))) == [
        "start.relu_quantizer", "join_quantizer"]


def test_of_concats_that_end_branches_the_outermost_gets_the_quantizer():
    inner = nn.Concat(a=active(), b=conv())
    assert placed(outer=nn.Concat(c=active(), d=active(inner=nn.Concat(a=active(), b=active())))) == [
        "outer.d.relu_quantizer", "outer_quantizer"]
    assert placed(outer=nn.Concat(c=active(), d=conv(inner=inner, relu2=nn.ReLU()))) == ["outer_quantizer"]
    assert placed(outer=nn.Concat(c=active(), inner=nn.Concat(a=active()))) == ["outer_quantizer"]
    assert placed(outer=nn.Concat(c=active(), d=nn.Sequential(inner=inner, relu=nn.ReLU(), more=active()))) == [
        "outer.d.relu_quantizer", "outer_quantizer"]


def test_a_concat_of_values_that_may_be_negative_gets_no_quantizer():
    assert placed(join=nn.Concat(a=active(), b=conv())) == ["join.a.relu_quantizer"]
    assert placed(join=nn.Concat(itself=nn.Sequential(), a=active())) == ["join.a.relu_quantizer"]  # of the image
    assert placed(add=nn.Residual(conv(join=nn.Concat(a=conv(), b=conv())))) == []
    assert placed(join=nn.Concat(a=nn.Sequential(add=nn.Residual(active())))) == ["join.a.add.body.relu_quantizer"]
    assert placed(start=active(), join=nn.Concat(a=nn.Sequential(add=nn.Residual(active())))) == [
        "start.relu_quantizer", "join.a.add.body.relu_quantizer", "join_quantizer"]


def test_the_bits_of_a_layers_input_are_those_of_the_quantizer_that_its_branch_reads():
    model = nn.Sequential(start=active(), join=nn.Concat(a=active(conv2=conv(), relu2=nn.ReLU()), b=active()),
                          end=active(8))
    model = quantize(model, method="minmax", act_bits=2)
    assert summary.input_quantizers(model) == {
        "start.conv": "input_quantizer", "join.a.conv": "start.relu_quantizer",
        "join.a.conv2.conv": "join.a.relu_quantizer", "join.b.conv": "start.relu_quantizer",
        "end.conv": "join_quantizer"}
    model.children["start"].children["relu_quantizer"] = MinMaxActivation(5, signed=False)
    rng = np.random.default_rng(0)
    calibrate(model, rng.standard_normal((8, 2, 2, 4)).astype(np.float32), rng)
    rows, _ = summary.summarise(model, (2, 2, 4))
    assert [row.act_bits for row in rows] == [8, 5, 2, 5, 2]


def test_the_float_model_is_left_as_it_was():
    model = float_lenet()
    before = {name: array.copy() for name, array in model.named_params().items()}
    calibrate(quantize(model, method="minmax"), images(), np.random.default_rng(0))
    assert not quantizers(model) and list(before) == list(model.named_params())
    assert all(np.array_equal(before[name], array) for name, array in model.named_params().items())


def test_float_activations_leave_no_activation_quantizer_and_no_input_quantizer():
    names = [name for name, _ in quantizers(quantized(act_bits=None))]
    assert len(names) == 5 and all(name.endswith("weight_quantizer") for name in names)


@pytest.mark.parametrize("first_last,expected", [("same", [2, 2, 2, 2, 2]), ("8", [8, 2, 2, 2, 8]),
                                                 ("float", [2, 2, 2])])
def test_first_and_last_layer_can_be_exempt(first_last, expected):
    found = [b for name, b in bits_of(quantized(bits=2, first_last=first_last)) if name.endswith("weight_quantizer")]
    assert found == expected


def test_overrides_choose_bits_by_name_pattern_and_the_last_match_wins():
    model = quantized(bits=2, overrides={"fc*": 4, "fc2": None, "conv1": 8})
    found = {name.split(".")[0]: b for name, b in bits_of(model) if name.endswith("weight_quantizer")}
    assert found == {"conv1": 8, "conv2": 2, "fc1": 4, "fc3": 4}


def test_max_pooling_commutes_with_the_quantizer_behind_it():
    model = quantized()
    quantizer = model.children["pool1_quantizer"]
    x = np.random.default_rng(4).standard_normal((2, 8, 8, 6)).astype(np.float32)
    pooled, _ = nn.MaxPool(2).forward(x)
    first, _ = nn.MaxPool(2).forward(quantizer.forward(x)[0])
    np.testing.assert_array_equal(quantizer.forward(pooled)[0], first)


def test_calibration_leaves_the_batch_norms_running_statistics_alone():
    model = quantize(float_lenet(), method="minmax")
    calibrate(model, 5 + images(), np.random.default_rng(0))
    np.testing.assert_array_equal(model.named_state()["bn1.mean"], 0)
    assert model.named_state()["pool1_quantizer.ready"]


@pytest.mark.parametrize("x", [np.zeros((0, 8, 8, 1), np.float32), np.zeros((4, 8, 8, 1), np.uint8)])
def test_calibration_needs_images_and_floats(x):
    with pytest.raises(ValueError, match=r"calibration got \d images of (float32|uint8); it takes at least one"):
        calibrate(quantize(float_lenet(), method="minmax"), x, np.random.default_rng(0))


def test_a_model_that_was_not_calibrated_says_so():
    with pytest.raises(RuntimeError, match="call minquant.calibrate"):
        quantize(float_lenet(), method="minmax").forward(images())


def test_the_input_is_quantized_to_eight_signed_bits_with_zero_exact():
    quantizer = quantized().children["input_quantizer"]
    x = images()
    y, _ = quantizer.forward(x)
    assert len(np.unique(y)) <= 255 and np.abs(y - x).max() <= quantizer.step() / 2 * 1.001
    np.testing.assert_array_equal(quantizer.forward(np.zeros_like(x))[0], 0)


def test_training_a_quantized_network_lowers_its_loss():
    model, rng = quantized(bits=3, act_bits=3), np.random.default_rng(5)
    optimizer = Adam(model.named_params(), parameter_groups(model))
    x, labels = images(16), rng.integers(0, 10, 16)
    losses = [training.step(model, optimizer, x, labels, 3e-3, rng)[0] for _ in range(60)]
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("settings,message", [
    (dict(bits=9), r"bits=9 is not in 1..8 \(codes are stored in uint8\)"),
    (dict(bits=0), "bits=0 is not in 1..8"),
    (dict(bits=2.5), "bits=2.5 is not in 1..8"),
    (dict(act_bits=9), "act_bits=9 is not in 1..8"),
    (dict(bits=None), "bits=None is not supported"),
    (dict(method="cpr"), "no method 'cpr'; did you mean"),
    (dict(per_chanel=True), "no option 'per_chanel'; nearest: per_channel"),
    (dict(per_channel="maybe"), "not a truth value"),
    (dict(first_last="4"), "first_last='4'"),
    (dict(overrides={"conv9": 4}), "override 'conv9' matches no layer; the layers are conv1"),
    (dict(overrides={"conv1": 11}), "override conv1=11 is not in 1..8"),
])
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        quantize(float_lenet(), **{"method": "minmax", **settings})


def test_a_network_with_nan_weights_is_refused_by_layer():
    model = float_lenet()
    model.children["conv2"].params["weight"][1, 2, 3, 4] = np.nan
    message = r"layer 'conv2': 1 of 2400 weights are NaN or infinite, first at index \(1, 2, 3, 4\)"
    with pytest.raises(ValueError, match=message):
        quantize(model, method="minmax")


def test_calibrating_on_nan_names_the_quantizer():
    with pytest.raises(ValueError, match="quantizer 'input_quantizer': .* activations are NaN"):
        calibrate(quantize(float_lenet(), method="minmax"), images() * np.nan, np.random.default_rng(0))


def test_a_quantized_model_is_not_quantized_twice():
    with pytest.raises(ValueError, match="quantized already"):
        quantize(quantized(), method="minmax")
