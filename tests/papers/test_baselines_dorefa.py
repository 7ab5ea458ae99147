"""DoReFa and PACT: golden vectors and properties. Golden weights have channels first; here they are last."""

import numpy as np
import pytest

from minquant.check import GradientError, gradients
from minquant.quantizers.dorefa import (PACT, DoReFa, DoReFaActivation, DoReFaWeight, PACTActivation,
                                        quantize_gradient)
from minquant.quantizers.lsq import LearnedStep
from tests.helpers import assert_close, vectors

V = vectors("baselines")
EXACT = 1e-12


def channels_last(w):
    return np.ascontiguousarray(np.moveaxis(w, 0, -1))


W, G, A, GA = channels_last(V["x"]), channels_last(V["g"]), V["a"], V["ga"]


def rng(seed=0):
    return np.random.default_rng(seed)


def ready(quantizer, **params):
    quantizer.astype(np.float64)
    quantizer.state["ready"][...] = True
    for name, value in params.items():
        quantizer.params[name][...] = value
    return quantizer


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_golden_dorefa_weights(bits):
    quantizer = ready(DoReFaWeight(bits))
    y, cache = quantizer.forward(W, True)
    assert_close(y, channels_last(V[f"dorefa_w{bits}.q"]), EXACT)
    assert_close(quantizer.backward(G, cache)[0], channels_last(V[f"dorefa_w{bits}.dx"]), 1e-10)
    np.testing.assert_array_equal(quantizer.encode(W).decode(), y)
    if bits > 1:
        quantizer = ready(DoReFaWeight(bits, through_max=False))
        assert_close(quantizer.backward(G, cache)[0], channels_last(V[f"dorefa_w{bits}.dx_nomax"]), 1e-10)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_golden_dorefa_activations(bits):
    quantizer = ready(DoReFaActivation(bits))
    y, cache = quantizer.forward(A, True)
    assert_close(y, V[f"dorefa_a{bits}.q"], EXACT)
    assert_close(quantizer.backward(GA, cache)[0], V[f"dorefa_a{bits}.dx"], 1e-10)
    np.testing.assert_array_equal(quantizer.encode(A).decode(), y)


@pytest.mark.parametrize("bits", [4, 6])
def test_golden_dorefa_gradients(bits):
    assert_close(quantize_gradient(GA, bits, V["dorefa_g.noise"]), V[f"dorefa_g{bits}.out"], EXACT)


@pytest.mark.parametrize("bits", [2, 4])
def test_golden_pact(bits):
    quantizer = ready(PACTActivation(bits), alpha=V[f"pact{bits}.alpha"])
    y, cache = quantizer.forward(A, True)
    dx, grads = quantizer.backward(GA, cache)
    assert_close(y, V[f"pact{bits}.q"], EXACT)
    assert_close(dx, V[f"pact{bits}.dx"], 1e-10)
    assert_close(grads["alpha"], V[f"pact{bits}.dalpha"], 1e-10)
    np.testing.assert_array_equal(quantizer.encode(A).decode(), y)


@pytest.mark.parametrize("bits", range(2, 8))
def test_dorefa_weights_reach_one_on_levels_of_odd_integers_over_n_without_zero(bits):
    n = 2 ** bits - 1
    quantizer = ready(DoReFaWeight(bits))
    w = rng(1).normal(0, 1, (200, 50))
    y = quantizer.forward(w)[0]
    assert np.abs(y).max() == 1
    found, levels = np.unique(y), (2 * np.arange(n + 1) - n) / n
    assert len(found) == 2 ** bits and 0 not in found
    assert_close(found, levels, EXACT)
    stored = quantizer.encode(w)
    np.testing.assert_array_equal(stored.levels, np.arange(-n, n + 1, 2))
    assert stored.levels.dtype == np.int8


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_weight_gradient_knows_that_a_common_factor_of_tanh_w_changes_nothing(bits):
    quantizer, w = ready(DoReFaWeight(bits)), rng(2).normal(0, 1, (20, 10))
    dw, _ = quantizer.backward(rng(3).standard_normal(w.shape), quantizer.forward(w, True)[1])
    t = np.tanh(w)
    assert abs((dw / (1 - t * t) * t).sum()) < 1e-12


@pytest.mark.parametrize("bits", [1, 2, 4, 7])
@pytest.mark.parametrize("through_max", [True, False])
@pytest.mark.parametrize("keep_scale", [True, False])
def test_dorefa_weight_gradients_are_those_of_the_surrogate(bits, through_max, keep_scale):
    w = rng(4).normal(0, 0.5, (8, 9))
    quantizer = DoReFaWeight(bits, through_max, keep_scale).astype(np.float64)
    quantizer.init_from(w, rng())
    quantizer.freeze(w)
    gradients(quantizer, w, rng(5), surrogate=quantizer.surrogate)


@pytest.mark.parametrize("change", [lambda dw: 1.001 * dw, lambda dw: 0 * dw, lambda dw: dw + 1e-3],
                         ids=["scaled", "zero", "shifted"])
def test_the_checker_rejects_a_wrong_dorefa_backward(change):
    class Mutant(DoReFaWeight):
        def backward(self, dy, cache):
            return change(super().backward(dy, cache)[0]), {}

    quantizer = ready(Mutant(3))
    with pytest.raises(GradientError):
        gradients(quantizer, rng(4).normal(0, 0.5, (8, 9)), rng(5), surrogate=quantizer.surrogate)


def test_the_path_through_the_maximum_is_noticed_when_it_is_dropped():
    with_max, without = ready(DoReFaWeight(3)), ready(DoReFaWeight(3, through_max=False))
    with pytest.raises(GradientError):
        gradients(without, rng(4).normal(0, 0.5, (8, 9)), rng(5), surrogate=with_max.surrogate)


def test_weights_that_keep_their_scale_reach_the_largest_tanh_of_the_float_network():
    w = rng(4).normal(0, 0.05, (30, 9))
    quantizer = DoReFaWeight(4, keep_scale=True).astype(np.float64)
    quantizer.init_from(w, rng())
    assert_close(np.abs(quantizer.forward(w)[0]).max(), np.tanh(np.abs(w).max()), 1e-12)
    assert np.abs(quantizer.forward(w)[0] - w).max() < 0.6 * 2 * np.abs(w).max() / 15


def test_the_mean_of_quantized_gradients_is_the_gradient():
    dr, draws = rng(6).standard_normal((2, 10)), 100_000
    noise = rng(7).random((draws, *dr.shape)) - 0.5
    total, squares = np.zeros(dr.shape), np.zeros(dr.shape)
    for sample in noise:
        out = quantize_gradient(dr, 4, sample)
        total, squares = total + out, squares + out * out
    mean = total / draws
    sigma = np.sqrt(np.maximum(squares / draws - mean ** 2, 0))
    inner = np.abs(dr) < np.abs(dr).max(1, keepdims=True)
    assert (np.abs(mean - dr)[inner] <= 4 * sigma[inner] / np.sqrt(draws)).all() and inner.sum() == 18


def test_quantized_gradients_of_zero_images_are_at_most_half_a_level_and_finite():
    out = quantize_gradient(np.zeros((2, 3)), 4, np.zeros((2, 3)))
    assert np.isfinite(out).all()


def test_quantized_gradients_draw_from_the_generator_of_the_forward():
    quantizer, x = ready(DoReFaActivation(2, grad_bits=4)), rng(8).random((4, 6))
    g = rng(9).standard_normal(x.shape)
    caches = [quantizer.forward(x, True, rng(seed))[1] for seed in (1, 1, 2)]
    first, again, other = (quantizer.backward(g, cache)[0] for cache in caches)
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
    assert all(len(np.unique(row)) <= 16 for row in first)
    with pytest.raises(ValueError, match="draw noise"):
        quantizer.forward(x, True)


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_dorefa_activation_gradients_are_those_of_the_clip(bits):
    quantizer = ready(DoReFaActivation(bits))
    gradients(quantizer, rng(10).normal(0.5, 0.7, (5, 20)), rng(11), surrogate=quantizer.surrogate)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_pact_gradients_are_those_of_the_clip(bits):
    quantizer = ready(PACTActivation(bits), alpha=1.1)
    gradients(quantizer, rng(12).normal(0.8, 0.7, (5, 20)), rng(13), surrogate=quantizer.surrogate)
    x = rng(14).normal(0, 2, 50)
    assert_close(quantizer.surrogate(x), (np.abs(x) - np.abs(x - 1.1) + 1.1) / 2, EXACT)


@pytest.mark.parametrize("change", [
    lambda dx, grads, dy: (1.001 * dx, grads), lambda dx, grads, dy: (dy, grads),
    lambda dx, grads, dy: (dx, {"alpha": 0 * grads["alpha"]}),
], ids=["scaled dx", "unclipped dx", "zero dalpha"])
def test_the_checker_rejects_a_wrong_pact_backward(change):
    class Mutant(PACTActivation):
        def backward(self, dy, cache):
            return change(*super().backward(dy, cache), dy)

    quantizer = ready(Mutant(3), alpha=1.1)
    with pytest.raises(GradientError):
        gradients(quantizer, rng(12).normal(0.8, 0.7, (5, 20)), rng(13), surrogate=quantizer.surrogate)


def test_alpha_gets_no_gradient_below_the_clip_and_is_a_level_itself():
    quantizer, x = ready(PACTActivation(3), alpha=2.0), rng(15).uniform(-1, 1.99, 100)
    y, cache = quantizer.forward(x, True)
    assert quantizer.backward(np.ones(100), cache)[1]["alpha"] == 0
    assert quantizer.forward(np.array([2.0]))[0] == 2.0


@pytest.mark.parametrize("bits", [2, 4])
def test_unsigned_lsq_at_step_alpha_over_n_is_pact_but_for_the_residual_in_its_gradient(bits):
    n, alpha, x = 2 ** bits - 1, 1.3, rng(16).normal(0.8, 0.9, (1, 200))
    g = rng(17).standard_normal(x.shape)
    pact = ready(PACTActivation(bits), alpha=alpha)
    lsq = ready(LearnedStep(bits, signed=False), step=alpha / n)
    (y_pact, cache_pact), (y_lsq, cache_lsq) = pact.forward(x, True), lsq.forward(x, True)
    (dx_pact, of_pact), (dx_lsq, _) = pact.backward(g, cache_pact), lsq.backward(g, cache_lsq)
    assert_close(y_pact, y_lsq, EXACT)
    np.testing.assert_array_equal(dx_pact, dx_lsq)
    saturated = g * (x >= alpha)
    of_lsq = lsq.backward(saturated, cache_lsq)[1]["step"] / lsq.gradient_scale(x)
    assert_close(of_lsq, n * of_pact["alpha"], EXACT)


def test_the_penalty_on_alpha_is_lambda_alpha_squared_with_its_gradient():
    value, grads = ready(PACTActivation(3, decay=0.01), alpha=2.0).penalty()
    assert_close(value, 0.04, EXACT)
    assert_close(grads["alpha"], 0.04, EXACT)


def test_alpha_stays_positive_and_starts_at_most_at_the_largest_activation():
    quantizer = PACTActivation(3)
    for largest, start in ((3.0, 3.0), (100.0, 8.0), (0.0, 8.0), (1e-6, 1e-3)):
        quantizer.init_from(np.array([0, largest], np.float32), rng())
        assert_close(quantizer.params["alpha"], start, 1e-7)
    quantizer.params["alpha"][...] = -1
    quantizer.project()
    assert quantizer.params["alpha"] == np.float32(1e-3)


def test_zeros_fall_on_the_level_next_to_zero_because_dorefa_has_none():
    np.testing.assert_array_equal(np.abs(ready(DoReFaWeight(2)).forward(np.zeros((3, 4)))[0]), 1 / 3)
    np.testing.assert_array_equal(DoReFaWeight(1).forward(np.zeros((3, 4)))[0], 0)


@pytest.mark.parametrize("method,settings,message", [
    (DoReFa, {"grad_bits": 1}, "grad_bits=1 is not in 2..8"), (DoReFa, {"grad_bits": 9}, "grad_bits=9"),
    (PACT, {"alpha_decay": -1}, "alpha_decay"), (PACT, {"alpha_init": 0}, "alpha_init"),
    (PACT, {"alpha_init": np.inf}, "alpha_init"), (PACT, {"grad_bits": 4}, "no option 'grad_bits'")])
def test_options_outside_their_range_are_refused(method, settings, message):
    with pytest.raises(ValueError, match=message):
        method(**settings)


def test_eight_bit_weights_and_signed_activations_are_refused():
    with pytest.raises(ValueError, match="bits=8 is not in 1..7"):
        DoReFaWeight(8)
    for method in (DoReFa(), PACT()):
        with pytest.raises(ValueError, match="behind a ReLU"):
            method.activation_quantizer(4, signed=True)


def test_only_freeze_sets_the_maximum_of_the_dorefa_surrogate():
    quantizer = ready(DoReFaWeight(3, through_max=False))
    quantizer.forward(np.ones(3), train=True)
    with pytest.raises(RuntimeError, match="freeze"):
        quantizer.surrogate(np.ones(3))
