"""AdaRound: golden vectors (weights are the transpose of ours), gradient, convergence, layers."""

import numpy as np
import pytest

from minquant import models
from minquant.nn import Conv2d, Linear, Sequential
from minquant.quantizers import adaround
from minquant.quantizers.adaround import (channel_errors, hard_weight, initial_v, learn_rounding, loss,
                                          patches, rectified_sigmoid, round_layer, round_layers, soft_weight)
from minquant.quantizers.calibration import PTQ, FixedWeight
from tests.helpers import assert_close, vectors

GOLDEN = {key[9:]: value for key, value in vectors("baselines").items() if key.startswith("adaround.")}
W, V, X = GOLDEN["W"].T, GOLDEN["V"].T, GOLDEN["X"].T
GRID = float(GOLDEN["scale"]), int(GOLDEN["n"]), int(GOLDEN["p"])
GRAM = X.T @ X / len(X)
BETA, LAMBDA = float(GOLDEN["beta"]), float(GOLDEN["lam"])
EXACT = 1e-12


def rng(seed=0):
    return np.random.default_rng(seed)


def test_golden_start():
    assert_close(initial_v(W, GRID[0]), GOLDEN["V_init"].T, EXACT)


def test_golden_rounding_variable():
    assert_close(rectified_sigmoid(V)[0], GOLDEN["h"].T, EXACT)
    assert_close(soft_weight(V, W, *GRID), GOLDEN["W_soft"].T, EXACT)
    assert_close(hard_weight(V, W, *GRID), GOLDEN["W_hard"].T, EXACT)


def test_golden_loss_and_gradient():
    reconstruction, regulariser, dv = loss(V, W, *GRID, GRAM, BETA, LAMBDA)
    assert_close(reconstruction, GOLDEN["rec"], EXACT)
    assert_close(regulariser, GOLDEN["reg"], EXACT)
    assert_close(dv, GOLDEN["dV"].T, 1e-10)


def test_the_gradient_equals_finite_differences_and_a_dropped_regulariser_does_not():
    direction, step = rng(1).standard_normal(V.shape), 1e-6

    def value(t):
        reconstruction, regulariser, _ = loss(V + t * direction, W, *GRID, GRAM, 4.0, 0.3)
        return reconstruction + 0.3 * regulariser

    numeric = (value(step) - value(-step)) / (2 * step)
    assert abs((loss(V, W, *GRID, GRAM, 4.0, 0.3)[2] * direction).sum() / numeric - 1) < 1e-6
    assert abs((loss(V, W, *GRID, GRAM, 4.0, 0.0)[2] * direction).sum() / numeric - 1) > 1e-3


def test_the_start_rounds_by_the_fraction():
    w = rng(2).normal(0, 1, (30, 5))
    assert_close(rectified_sigmoid(initial_v(w, 0.3))[0], w / 0.3 - np.floor(w / 0.3), EXACT)
    assert_close(soft_weight(initial_v(w, 0.3), w, 0.3, -100, 100), w, EXACT)


def test_a_strong_regulariser_drives_every_rounding_to_zero_or_one():
    v = initial_v(W, GRID[0])
    for _ in range(4000):
        v -= 0.02 * np.sign(loss(v, W, *GRID, GRAM, 2.0, 1e6)[2])
    h = rectified_sigmoid(v)[0]
    assert np.minimum(h, 1 - h).max() < 1e-3


def problem(seed=3, inputs=24, outputs=6, count=400):
    """Weights and correlated inputs, where rounding every weight for itself is not best."""
    draws = rng(seed)
    x = draws.normal(0, 1, (count, 4)) @ draws.normal(0, 1, (4, inputs))
    x += 0.3 * draws.normal(0, 1, (count, inputs))
    return draws.normal(0, 0.3, (inputs, outputs)), x.T @ x / count


def test_learned_rounding_reproduces_the_layer_better_than_nearest_rounding():
    w, gram = problem()
    step = np.abs(w).max() / 3
    learned = learn_rounding(w, step, -3, 3, gram, 600)
    nearest = step * np.clip(np.rint(w / step), -3, 3)
    ours, theirs = channel_errors(learned - w, gram), channel_errors(nearest - w, gram)
    assert (ours <= theirs).all() and ours.sum() < 0.5 * theirs.sum()


def test_the_optimizer_alone_beats_nearest_rounding_in_the_sum(monkeypatch):
    w, gram = problem()
    step = np.abs(w).max() / 3
    nearest = channel_errors(step * np.clip(np.rint(w / step), -3, 3) - w, gram).sum()
    monkeypatch.setattr(adaround, "channel_errors", lambda difference, gram: np.zeros(difference.shape[1]))
    learned = learn_rounding(w, step, -3, 3, gram, 600)
    monkeypatch.undo()
    assert channel_errors(learned - w, gram).sum() < nearest


def test_learned_weights_lie_on_the_grid_next_to_the_float_ones():
    w, gram = problem()
    learned = learn_rounding(w, 0.2, -3, 3, gram, 50)
    codes = learned / 0.2
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-9)
    assert np.abs(codes).max() <= 3 + 1e-9
    assert np.abs(learned - np.clip(w, -0.6, 0.6)).max() <= 0.2 + 1e-9


def output_error(layer, weight, x):
    """Mean square of what a layer's output changes from that with the float `weight`."""
    rounded = layer.forward(x)[0]
    quantizer, kept = layer.children.pop("weight_quantizer"), layer.params["weight"].copy()
    layer.params["weight"][...] = weight
    wanted = layer.forward(x)[0]
    layer.params["weight"][...], layer.children["weight_quantizer"] = kept, quantizer
    return np.square(rounded - wanted).mean()


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("make,shape", [
    (lambda: Linear(12, 5, rng(4)), (64, 12)),
    (lambda: Conv2d(4, 6, 3, rng(4), padding=1), (8, 6, 6, 4)),
    (lambda: Conv2d(4, 6, 3, rng(4), stride=2, groups=2), (8, 6, 6, 4)),
    (lambda: Conv2d(4, 4, 3, rng(4), padding=1, groups=4), (8, 6, 6, 4)),
], ids=["linear", "convolution", "two groups", "depthwise"])
def test_every_kind_of_layer_is_rounded_with_its_own_inputs(make, shape, per_channel):
    layer, x = make(), (rng(5).standard_normal(shape) + 1).astype(np.float32)
    weight = layer.params["weight"].copy()
    quantizer = PTQ(per_channel=per_channel).weight_quantizer(2, weight.shape)
    quantizer.init_from(weight, rng())
    layer.children["weight_quantizer"] = quantizer
    nearest = output_error(layer, weight, x)
    round_layer(layer, x, rng(), 300)
    assert output_error(layer, weight, x) < nearest
    learned = layer.params["weight"]
    np.testing.assert_allclose(quantizer.forward(learned)[0], learned, rtol=1e-6)


def test_patches_are_what_a_convolution_multiplies_and_bounded(monkeypatch):
    layer = Conv2d(2, 3, 3, rng(), bias=False, padding=1)
    x = rng(1).standard_normal((2, 5, 5, 2)).astype(np.float32)
    products = patches(layer, x, rng()) @ layer.params["weight"].reshape(-1, 3)
    wanted = layer.forward(x)[0].reshape(-1, 3)
    np.testing.assert_allclose(np.sort(products, 0), np.sort(wanted, 0), atol=1e-5)
    monkeypatch.setattr(adaround, "PATCHES", 10)
    assert len(patches(layer, x, rng())) == 10
    assert len(patches(Linear(3, 2, rng()), np.ones((50, 3)), rng())) == 10


def test_layers_are_rounded_in_order_with_inputs_from_the_rounded_ones(monkeypatch):
    model = Sequential(fc1=Linear(6, 5, rng(1)), fc2=Linear(5, 4, rng(2)))
    for layer in model.children.values():
        quantizer = PTQ().weight_quantizer(2, layer.params["weight"].shape)
        quantizer.init_from(layer.params["weight"], rng())
        layer.children["weight_quantizer"] = quantizer
    x, seen = rng(3).standard_normal((40, 6)).astype(np.float32), []
    original = adaround.round_layer
    monkeypatch.setattr(adaround, "round_layer", lambda *args: seen.append(args[1]) or original(*args))
    round_layers(model, x, rng(), FixedWeight, 20)
    np.testing.assert_array_equal(seen[0], x)
    np.testing.assert_array_equal(seen[1], model.children["fc1"].forward(x)[0])


def test_the_whole_method_brings_a_two_bit_network_closer_to_the_float_one():
    model = models.lenet5((8, 8, 1), 4, rng())
    x = rng(1).standard_normal((64, 8, 8, 1)).astype(np.float32)
    wanted = model.forward(x)[0]
    for _, layer in list(model.named_layers()):
        if "weight" in layer.params:
            layer.children["weight_quantizer"] = PTQ().weight_quantizer(2, layer.params["weight"].shape)
            layer.children["weight_quantizer"].init_from(layer.params["weight"], rng())
    nearest = np.square(model.forward(x)[0] - wanted).mean()
    PTQ(rounding="adaround", steps=200).calibrate(model, x, rng())
    assert np.square(model.forward(x)[0] - wanted).mean() < nearest
