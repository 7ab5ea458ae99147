"""APoT: golden vectors and properties. Golden weights have channels first; here they are last."""

import numpy as np
import pytest

from minquant.check import GradientError, gradients
from minquant.quantizers.apot import (TERMS, APoT, APoTActivation, APoTWeight, apot_numerators,
                                      normalise_backward, pot_numerators)
from tests.helpers import assert_close, vectors

V = vectors("baselines")
EXACT = 1e-12
TABLE = {  # the additive levels as integers over their largest
    2: [0, 1, 2, 4],
    3: [0, 1, 2, 3, 4, 6, 8, 10],
    4: [0, 1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 24, 32, 33, 36, 48],
    5: [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 17, 20, 21, 24, 28, 32, 34, 36, 38, 48, 52, 64, 65, 68,
        69, 72, 76, 96, 100],
}


def channels_last(w):
    return np.ascontiguousarray(np.moveaxis(w, 0, -1))


W, G, A, GA = channels_last(V["x"]), channels_last(V["g"]), V["a"], V["ga"]


def rng(seed=0):
    return np.random.default_rng(seed)


def ready(quantizer, alpha):
    quantizer.astype(np.float64)
    quantizer.params["alpha"][...], quantizer.state["ready"][...] = alpha, True
    return quantizer


@pytest.mark.parametrize("bits", range(2, 7))
def test_golden_additive_levels(bits):
    numerators = apot_numerators(bits)
    assert_close(numerators / numerators[-1], V[f"apot_levels{bits}"], 1e-15)


def test_golden_powers_of_two():
    numerators = pot_numerators(3)
    assert_close(numerators / numerators[-1], V["pot_levels3"], 1e-15)


@pytest.mark.parametrize("bits", [3, 4, 5])
def test_golden_apot_weights(bits):
    key = f"apot_w{bits}"
    quantizer = ready(APoTWeight(bits), V[f"{key}.alpha"])
    y, cache = quantizer.forward(W, True)
    dw, grads = quantizer.backward(G, cache)
    assert_close(quantizer.normalise(W)[0], channels_last(V["apot_w.norm"]), EXACT)
    assert_close(y, channels_last(V[f"{key}.q"]), EXACT)
    assert_close(G * cache[2], channels_last(V[f"{key}.dnorm"]), 1e-10)
    assert_close(dw, channels_last(V[f"{key}.dw"]), 1e-10)
    assert_close(grads["alpha"], V[f"{key}.dalpha"], 1e-10)
    np.testing.assert_array_equal(quantizer.encode(W).decode(), y)


@pytest.mark.parametrize("bits", [2, 4])
def test_golden_apot_activations(bits):
    key = f"apot_a{bits}"
    quantizer = ready(APoTActivation(bits), V[f"{key}.alpha"])
    y, cache = quantizer.forward(A, True)
    dx, grads = quantizer.backward(GA, cache)
    assert_close(y, V[f"{key}.q"], EXACT)
    assert_close(dx, V[f"{key}.dx"], 1e-10)
    assert_close(grads["alpha"], V[f"{key}.dalpha"], 1e-10)
    np.testing.assert_array_equal(quantizer.encode(A).decode(), y)
    np.testing.assert_array_equal(quantizer.staircase().codes(A), quantizer.encode(A).codes)


@pytest.mark.parametrize("bits", range(1, 7))
def test_levels_are_ascending_two_to_the_bits_of_them_from_zero_to_one(bits):
    numerators = apot_numerators(bits)
    assert len(numerators) == 2 ** bits and numerators[0] == 0 and (np.diff(numerators) > 0).all()
    if bits in TABLE:
        np.testing.assert_array_equal(numerators, TABLE[bits])


@pytest.mark.parametrize("bits", range(2, 7))
def test_every_numerator_is_a_sum_of_at_most_as_many_powers_of_two_as_there_are_sets(bits):
    for numerator in apot_numerators(bits):
        assert int(numerator).bit_count() <= len(TERMS[bits])
    assert all(term == 0 or int(term).bit_count() == 1 for terms in TERMS[bits] for term in terms)


@pytest.mark.parametrize("bits", range(2, 7))
def test_levels_are_their_own_nearest_levels_and_ties_go_to_the_lower_one(bits):
    quantizer = APoTWeight(bits)
    levels = quantizer.numerators / quantizer.denominator
    np.testing.assert_array_equal(quantizer.nearest(levels), np.arange(len(levels)))
    sums = quantizer.numerators[:-1] + quantizer.numerators[1:]
    ties = quantizer.middles * (2 * quantizer.denominator) == sums  # those that are ties after rounding too
    np.testing.assert_array_equal(quantizer.nearest(quantizer.middles[ties]), np.flatnonzero(ties))
    assert ties.any()
    r = rng(1).random(500)
    np.testing.assert_array_equal(quantizer.nearest(r), np.abs(r[:, None] - levels).argmin(1))


def test_the_gradient_through_the_normalisation_has_no_part_along_a_shift_or_a_scaling():
    x = rng(2).normal(0.1, 0.3, (20, 10))
    normal, std = APoTWeight(3).normalise(x)
    dw = normalise_backward(rng(3).standard_normal(x.shape), normal, std)
    assert abs(dw.sum()) < 1e-12 and abs((dw * normal).sum()) < 1e-12


@pytest.mark.parametrize("bits", range(2, 7))
@pytest.mark.parametrize("clip_gradient", [None, True, False])
@pytest.mark.parametrize("keep_scale", [True, False])
def test_weight_gradients_are_those_of_the_clip_with_its_residual_frozen(bits, clip_gradient, keep_scale):
    w = rng(4).normal(0.1, 0.3, (8, 9))
    quantizer = APoTWeight(bits, keep_scale, clip_gradient).astype(np.float64)
    quantizer.init_from(w, rng())
    quantizer.params["alpha"][...] = 1.2
    quantizer.freeze(w)
    gradients(quantizer, w, rng(5), surrogate=quantizer.surrogate)


@pytest.mark.parametrize("bits", range(2, 6))
def test_activation_gradients_are_those_of_the_clip_with_its_residual_frozen(bits):
    quantizer = ready(APoTActivation(bits), 1.2)
    x = rng(6).normal(0.6, 0.8, (5, 20))
    quantizer.freeze(x)
    gradients(quantizer, x, rng(7), surrogate=quantizer.surrogate)
    assert_close(quantizer.surrogate(x), quantizer.forward(x)[0], EXACT)


@pytest.mark.parametrize("change", [
    lambda dx, dalpha, dy: (1.001 * dx, dalpha), lambda dx, dalpha, dy: (dy, dalpha),
    lambda dx, dalpha, dy: (0 * dx, dalpha), lambda dx, dalpha, dy: (dx, 0 * dalpha),
    lambda dx, dalpha, dy: (dx, 1.001 * dalpha),
], ids=["scaled dx", "plain STE", "zero dx", "zero dalpha", "scaled dalpha"])
@pytest.mark.parametrize("kind", [APoTWeight, APoTActivation])
def test_the_checker_rejects_a_wrong_backward(kind, change):
    class Mutant(kind):
        def backward(self, dy, cache):
            dx, grads = super().backward(dy, cache)
            dx, dalpha = change(dx, grads["alpha"], dy)
            return dx, {"alpha": dalpha}

    quantizer, x = ready(Mutant(3), 1.2), rng(6).normal(0.6, 0.8, (5, 20))
    quantizer.freeze(x)
    with pytest.raises(GradientError):
        gradients(quantizer, x, rng(7), surrogate=quantizer.surrogate)


def test_two_bit_weights_are_ternary_and_let_every_gradient_pass():
    quantizer, w = ready(APoTWeight(2), 0.5), rng(8).normal(0, 1, (10, 10))
    y, cache = quantizer.forward(w, True)
    normal = quantizer.normalise(w)[0]
    np.testing.assert_array_equal(y, 0.5 * np.clip(np.rint(normal / 0.5), -1, 1))
    g = rng(9).standard_normal(w.shape)
    assert_close(quantizer.backward(g, cache)[0], normalise_backward(g, *quantizer.normalise(w)), EXACT)


@pytest.mark.parametrize("value", [0.0, 0.3, -1e-30])
def test_constant_weights_become_zero_with_finite_gradients(value):
    w = np.full((5, 7), value, np.float32)
    quantizer = APoTWeight(4, keep_scale=True)
    quantizer.init_from(w, rng())
    y, cache = quantizer.forward(w, True)
    np.testing.assert_array_equal(y, 0)
    dw, grads = quantizer.backward(np.ones_like(w), cache)
    assert np.isfinite(dw).all() and np.isfinite(grads["alpha"])


def test_weights_that_keep_their_scale_have_the_spread_of_the_float_network():
    w = rng(10).normal(0, 0.05, (100, 20)).astype(np.float32)
    kept, unit = APoTWeight(5, keep_scale=True), APoTWeight(5)
    for quantizer in (kept, unit):
        quantizer.init_from(w, rng())
    assert abs(kept.forward(w)[0].std() / w.std() - 1) < 0.05
    assert abs(unit.forward(w)[0].std() - 1) < 0.05


def test_the_activation_clip_starts_at_most_at_the_largest_activation_and_stays_positive():
    quantizer = APoTActivation(3)
    for largest, start in ((3.0, 3.0), (100.0, 8.0), (0.0, 8.0)):
        quantizer.init_from(np.array([0, largest], np.float32), rng())
        assert quantizer.params["alpha"] == start
    quantizer.params["alpha"][...] = -1
    quantizer.project()
    assert quantizer.params["alpha"] == np.float32(1e-3)


def test_bits_whose_numerators_do_not_fit_and_signed_activations_are_refused():
    with pytest.raises(ValueError, match="bits=7 is not in 2..6"):
        APoTWeight(7)
    with pytest.raises(ValueError, match="bits=6 is not in 2..5"):
        APoTActivation(6)
    with pytest.raises(ValueError, match="behind a ReLU"):
        APoT().activation_quantizer(4, signed=True)


@pytest.mark.parametrize("kind", [APoTWeight, APoTActivation])
def test_only_freeze_sets_the_point_of_the_surrogate(kind):
    quantizer, x = ready(kind(3), 1.2), rng(11).normal(0, 1, 9)
    quantizer.forward(x, train=True)
    with pytest.raises(RuntimeError, match="freeze"):
        quantizer.surrogate(x)
