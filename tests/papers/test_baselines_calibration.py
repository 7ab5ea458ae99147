"""Post-training calibration: golden vectors, thresholds, quantizers, the method."""

import numpy as np
import pytest

from minquant import models
from minquant.check import gradients
from minquant.nn import ReLU, Sequential
from minquant.quantizers.base import quantizers
from minquant.quantizers.calibration import (CANDIDATES, PTQ, FixedActivation, FixedWeight, kl_of_values,
                                             kl_threshold, least_squares_step, mse_curve, mse_threshold,
                                             percentile_threshold, reestimate_batchnorm, rounded, top_code)
from tests.helpers import assert_close, vectors

V = vectors("baselines")
X = V["cal.x"]
EXACT = 1e-12


def rng(seed=0):
    return np.random.default_rng(seed)


def error(x, threshold, bits, signed=True):
    return np.square(rounded(x, threshold / top_code(bits, signed), bits, signed) - x).mean()


def test_golden_minmax_and_percentiles():
    quantizer = PTQ(calibrate="minmax", per_channel=False).weight_quantizer(4, X.shape).astype(np.float64)
    quantizer.init_from(X, rng())
    assert_close(quantizer.state["step"] * 7, V["cal.T_minmax"], EXACT)
    for percentile in ("99", "99.9"):
        assert_close(percentile_threshold(X, float(percentile)), V[f"cal.T_pct_{percentile}"], EXACT)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_golden_mse_thresholds(bits):
    assert_close(mse_curve(X, bits), V[f"cal.mse_curve_b{bits}"], EXACT)
    assert_close(mse_threshold(X, bits), V[f"cal.T_mse_b{bits}"], EXACT)
    assert_close(mse_threshold(X, bits, power=2.4), V[f"cal.T_mse24_b{bits}"], EXACT)
    assert_close(mse_threshold(np.maximum(X, 0), bits, signed=False), V[f"cal.T_mse_relu_b{bits}"], EXACT)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_golden_alternating_least_squares(bits):
    step = least_squares_step(X, bits, True, np.abs(X).max() / top_code(bits, True))
    assert_close(step, V[f"cal.s_als_b{bits}"], EXACT)


@pytest.mark.parametrize("bits", [3, 4, 5, 8])
def test_golden_kl_thresholds(bits):
    width = float(V["cal.hist_width"])
    histogram = np.histogram(np.abs(X), 256, (0, np.abs(X).max()))[0]
    np.testing.assert_array_equal(histogram, V["cal.hist"])
    threshold, best, curve = kl_threshold(V["cal.hist"], width, 2 ** (bits - 1))
    assert best == V[f"cal.kl_bins_b{bits}"]
    assert_close(threshold, V[f"cal.T_kl_b{bits}"], EXACT)
    assert_close(curve, V[f"cal.kl_curve_b{bits}"], EXACT)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_mse_threshold_is_at_most_the_largest_value_and_no_worse_than_it_or_a_percentile(bits):
    x = rng(1).standard_normal(10_000)
    best, largest = mse_threshold(x, bits), np.abs(x).max()
    assert best <= largest and error(x, best, bits) <= error(x, largest, bits)
    for percentile in (99, 99.9, 99.99):
        assert error(x, best, bits) <= 1.02 * error(x, percentile_threshold(x, percentile), bits)


def test_more_bits_clip_less_of_a_gaussian():
    x = rng(2).standard_normal(10_000)
    shares = [mse_threshold(x, bits) / np.abs(x).max() for bits in (2, 3, 4, 8)]
    assert (np.diff(shares) > 0).all()
    assert (np.abs(np.array(shares) - [0.30, 0.48, 0.60, 0.95]) < 0.08).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_alternating_least_squares_never_raises_the_error(bits):
    for seed in range(5):
        x = rng(seed).standard_t(4, 2000)
        for threshold in (np.abs(x).max(), mse_threshold(x, bits)):
            step = least_squares_step(x, bits, True, threshold / top_code(bits, True))
            assert error(x, step * top_code(bits, True), bits) <= error(x, threshold, bits) * (1 + 1e-12)


def test_alternating_least_squares_is_stuck_at_an_outlier_when_it_starts_from_the_maximum():
    x = np.r_[rng(12).standard_normal(2000), 30.0]
    from_maximum, from_grid = (least_squares_step(x, 2, True, start) for start in (30.0, mse_threshold(x, 2)))
    assert from_maximum == 30
    assert error(x, from_grid, 2) < 0.8 * error(x, from_maximum, 2)


@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_the_kl_threshold_scales_with_the_values(factor):
    x = rng(3).standard_normal(4000)
    assert_close(kl_of_values(factor * x, 8), factor * kl_of_values(x, 8), 1e-12)


def test_a_histogram_that_is_flat_within_every_group_loses_nothing_unclipped():
    histogram = np.repeat([40, 30, 20, 10], 16)
    threshold, best, curve = kl_threshold(histogram, 0.5, 4)
    assert abs(curve[-1]) < EXACT and best == 64 and threshold == 32


def test_unusual_histograms_have_a_threshold():
    assert kl_threshold(np.zeros(16, int), 1.0, 4)[0] == 16
    assert kl_of_values(np.zeros(9), 8) == 0 and mse_threshold(np.zeros(9), 4) == 0
    assert 0 < kl_of_values(np.full(9, 0.2), 8) <= 0.2 * (1 + EXACT)


@pytest.mark.parametrize("rule", ["mse", "minmax", "percentile", "kl"])
@pytest.mark.parametrize("kind", ["zero", "constant", "outlier", "tiny"])
def test_unusual_tensors_give_finite_weights_and_activations(rule, kind):
    x = {"zero": np.zeros((4, 6)), "constant": np.full((4, 6), 0.3), "outlier": rng(4).random((4, 6)),
         "tiny": np.full((4, 6), 1e-42)}[kind].astype(np.float32)
    if kind == "outlier":
        x[0, 0] = 1e6
    method = PTQ(calibrate=rule, refine=True)
    for quantizer in (method.weight_quantizer(4, x.shape), method.activation_quantizer(4)):
        quantizer.init_from(x, rng())
        y, cache = quantizer.forward(x, True)
        assert np.isfinite(y).all() and np.isfinite(quantizer.backward(np.ones_like(x), cache)[0]).all()
        np.testing.assert_array_equal(quantizer.encode(x).decode(), y)
        if kind == "zero":
            np.testing.assert_array_equal(y, 0)


@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_get_the_gradient_of_their_clip_on_a_fixed_step(per_channel):
    w = rng(5).normal(0, 0.3, (20, 4))
    quantizer = PTQ(per_channel=per_channel).weight_quantizer(3, w.shape).astype(np.float64)
    quantizer.init_from(w, rng())
    before = quantizer.state["step"].copy()
    gradients(quantizer, w, rng(6), surrogate=quantizer.surrogate)
    np.testing.assert_array_equal(quantizer.state["step"], before)
    assert before.shape == ((4,) if per_channel else ())


@pytest.mark.parametrize("signed", [False, True])
def test_activations_get_the_gradient_of_their_clip_on_a_fixed_range(signed):
    x = rng(7).normal(0.3, 1, (5, 30))
    quantizer = PTQ().activation_quantizer(3, signed).astype(np.float64)
    quantizer.init_from(x, rng())
    gradients(quantizer, x, rng(8), surrogate=quantizer.surrogate)


def test_large_batches_are_sampled_except_for_their_maximum():
    x = np.zeros(100_000, np.float32)
    x[123] = 5.0
    seen = []
    FixedActivation(4, lambda values: seen.append(values.size) or 1.0).init_from(x, rng())
    assert seen == [2 ** 16]
    quantizer = PTQ(calibrate="minmax").activation_quantizer(4)
    quantizer.init_from(x, rng())
    assert quantizer.state["high"] == 5


def test_the_error_of_each_channel_decides_its_own_step():
    w = rng(9).normal(0, 1, (500, 3)) * [0.1, 1, 10]
    quantizer = FixedWeight(4, lambda x: mse_threshold(x, 4), channels=3)
    quantizer.init_from(w, rng())
    assert_close(quantizer.state["step"], [mse_threshold(w[:, i], 4) / 7 for i in range(3)], 1e-6)


def test_batch_norms_take_the_statistics_of_the_quantized_network():
    model = models.lenet5((8, 8, 1), 4, rng())
    x = rng(1).normal(2, 3, (64, 8, 8, 1)).astype(np.float32)
    momentum = model.children["bn1"].momentum
    reestimate_batchnorm(model, x, rng())
    y, _ = model.children["conv1"].forward(x)
    assert_close(model.children["bn1"].state["mean"], y.mean((0, 1, 2)), 1e-5)
    assert model.children["bn1"].momentum == momentum


def test_re_estimated_batch_norms_bring_the_quantized_network_closer_to_the_float_one():
    model = models.lenet5((8, 8, 1), 4, rng())
    x = rng(1).standard_normal((64, 8, 8, 1)).astype(np.float32)
    reestimate_batchnorm(model, x, rng())
    wanted = model.forward(x)[0]
    for _, layer in list(model.named_layers()):
        if "weight" in layer.params:
            layer.children["weight_quantizer"] = PTQ().weight_quantizer(2, layer.params["weight"].shape)
            layer.children["weight_quantizer"].init_from(layer.params["weight"], rng())
    kept = np.square(model.forward(x)[0] - wanted).mean()
    PTQ(batchnorm="reestimate").calibrate(model, x, rng())
    assert np.square(model.forward(x)[0] - wanted).mean() < kept


def test_candidates_end_at_the_largest_value():
    assert len(mse_curve(X, 4)) == CANDIDATES
    assert_close(mse_curve(X, 4)[-1], error(X, np.abs(X).max(), 4), EXACT)


@pytest.mark.parametrize("settings", [{"percentile": 0}, {"percentile": 100.1}, {"power": 0},
                                      {"power": np.inf}, {"steps": 0}, {"calibrate": "best"},
                                      {"rounding": "up"}])
def test_options_outside_their_range_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        PTQ(**settings)


def test_calibrating_a_model_without_weights_changes_nothing():
    model = Sequential(relu=ReLU())
    PTQ(rounding="adaround").calibrate(model, np.ones((2, 3), np.float32), rng())
    assert not quantizers(model)
