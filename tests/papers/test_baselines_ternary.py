"""TWN, binary weights and the sign activation. Golden weights have channels first; here they are last."""

import numpy as np
import pytest

from minquant import nn
from minquant.check import GradientError, gradients
from minquant.estimators.straight_through import sign_ste, sign_ste_backward, sign_ste_surrogate
from minquant.quantizers.ternary import TWN, Binary, BinaryWeight, TernaryWeight
from tests.helpers import assert_close, vectors

V = vectors("baselines")
EXACT = 1e-12


def channels_last(w):
    return np.ascontiguousarray(np.moveaxis(w, 0, -1))


W, G, A, GA = channels_last(V["x"]), channels_last(V["g"]), V["a"], V["ga"]


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("key,per_channel", [("twn", False), ("twn_pc", True)])
def test_golden_ternary_weights(key, per_channel):
    quantizer = TernaryWeight("paper", per_channel)
    y, cache = quantizer.forward(W, True)
    delta, alpha = quantizer.threshold(W)
    assert_close(y, channels_last(V[f"{key}.q"]), EXACT)
    assert_close(delta, V[f"{key}.delta"], EXACT)
    assert_close(alpha, V[f"{key}.alpha"], EXACT)
    np.testing.assert_array_equal(quantizer.backward(G, cache)[0], G)
    np.testing.assert_array_equal(quantizer.encode(W).decode(), y)


def test_golden_exact_ternary_weights():
    quantizer = TernaryWeight("exact")
    y, _ = quantizer.forward(W)
    assert_close(quantizer.threshold(W)[1], V["twn_exact.alpha"], EXACT)
    assert np.count_nonzero(y) == V["twn_exact.count"]


@pytest.mark.parametrize("gradient", ["ste", "paper", "exact"])
def test_golden_binary_weights(gradient):
    quantizer = BinaryWeight(gradient)
    y, cache = quantizer.forward(W, True)
    assert_close(y, channels_last(V["xnor_w.q"]), EXACT)
    assert_close(quantizer.backward(G, cache)[0], channels_last(V[f"xnor_w.dx_{gradient}"]), 1e-10)
    np.testing.assert_array_equal(quantizer.encode(W).decode(), y)


def test_golden_sign_activation():
    y, inside = sign_ste(A)
    np.testing.assert_array_equal(y, V["bin_a.q"])
    np.testing.assert_array_equal(sign_ste_backward(GA, inside), V["bin_a.dx"])


def ternary_error(w, rule, per_channel=False):
    return np.square(TernaryWeight(rule, per_channel).forward(w)[0] - w).mean()


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("rule", ["paper", "exact"])
def test_threshold_and_scale_are_proportional_to_the_weights(rule, per_channel):
    w = rng(1).normal(0, 0.2, (30, 5))
    quantizer = TernaryWeight(rule, per_channel)
    for small, large in zip(quantizer.threshold(w), quantizer.threshold(3.7 * w)):
        assert_close(large, 3.7 * small, EXACT)


def test_gaussian_weights_lose_most_in_binary_less_in_ternary_and_least_in_exact_ternary():
    w = rng(2).standard_normal((200_000, 1))
    binary = np.square(BinaryWeight().forward(w)[0] - w).mean()
    rule, exact = ternary_error(w, "paper"), ternary_error(w, "exact")
    assert exact <= rule < 0.6 * binary and rule < 1.008 * exact
    assert abs(exact - 0.190) < 0.002 and abs(binary - 0.363) < 0.004


@pytest.mark.parametrize("seed", range(5))
def test_no_ternary_code_has_a_smaller_error_than_the_exact_one(seed):
    w = rng(seed).laplace(0, 1, 40) * rng(seed + 10).choice([0, 1], 40, p=[0.2, 0.8])
    best = ternary_error(w, "exact")
    order = np.sort(np.abs(w))[::-1]
    for count in range(1, 41):  # the best code of so many nonzeros has the largest magnitudes at their mean
        alpha = order[:count].mean()
        assert best <= (np.square(order[:count] - alpha).sum() + np.square(order[count:]).sum()) / 40 + EXACT


def test_thresholds_per_channel_have_no_larger_error_when_exact():
    w = rng(3).normal(0, 1, (40, 6)) * np.geomspace(0.1, 1, 6)
    assert ternary_error(w, "exact", True) <= ternary_error(w, "exact")


@pytest.mark.parametrize("rule", ["paper", "exact"])
@pytest.mark.parametrize("scale", [0, 1e-38, 1e30], ids=["zero", "tiny", "huge"])
def test_ternary_weights_of_any_size_are_finite_and_zeros_stay_zero(rule, scale):
    w = (scale * rng(4).uniform(-1, 1, (20, 3))).astype(np.float32)
    y, _ = TernaryWeight(rule, True).forward(w)
    assert np.isfinite(y).all() and y.dtype == np.float32
    np.testing.assert_array_equal(TernaryWeight(rule).encode(w).decode(), TernaryWeight(rule).forward(w)[0])
    if scale == 0:
        np.testing.assert_array_equal(y, 0)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 1000])
def test_a_binary_product_is_the_length_minus_twice_the_differing_bits(length):
    a, w = rng(5).choice([-1, 1], length), rng(6).choice([-1, 1], length)
    differing = np.bitwise_xor(np.packbits(a > 0), np.packbits(w > 0))
    assert a @ w == length - 2 * int(np.unpackbits(differing).sum())


@pytest.mark.parametrize("factor", [0.99, 1.01])
def test_the_mean_magnitude_is_the_best_scale_of_signs(factor):
    w = rng(7).normal(0, 1, (3, 3, 4, 8))
    quantizer = BinaryWeight()
    alpha, sign = quantizer.scale(w), np.where(w >= 0, 1, -1)
    best, other = (np.square(w - a * sign).sum((0, 1, 2)) for a in (alpha, factor * alpha))
    assert (best < other).all()


@pytest.mark.parametrize("gradient", ["ste", "paper", "exact"])
def test_binary_gradients_are_those_of_their_surrogate(gradient):
    quantizer, w = BinaryWeight(gradient), rng(8).normal(0, 0.8, (3, 3, 2, 5))
    quantizer.freeze(w)
    gradients(quantizer, w, rng(9), surrogate=quantizer.surrogate)


@pytest.mark.parametrize("claimed", ["exact", "paper"])
@pytest.mark.parametrize("actual", ["exact", "paper", "ste"])
def test_the_checker_tells_the_three_binary_gradients_apart(claimed, actual):
    quantizer, w = BinaryWeight(actual), rng(8).normal(0, 0.8, (3, 3, 2, 5))
    claim = BinaryWeight(claimed)
    claim.freeze(w)
    if claimed == actual:
        gradients(quantizer, w, rng(9), surrogate=claim.surrogate)
        return
    with pytest.raises(GradientError):
        gradients(quantizer, w, rng(9), surrogate=claim.surrogate)


@pytest.mark.parametrize("factor", [1.001, 0])
def test_the_checker_rejects_a_scaled_or_zero_binary_gradient(factor):
    class Mutant(BinaryWeight):
        def backward(self, dy, cache):
            return factor * super().backward(dy, cache)[0], {}

    quantizer, w = Mutant(), rng(8).normal(0, 0.8, (3, 3, 2, 5))
    quantizer.freeze(w)
    with pytest.raises(GradientError):
        gradients(quantizer, w, rng(9), surrogate=quantizer.surrogate)


def test_ternary_gradients_are_those_of_the_identity():
    quantizer = TernaryWeight()
    gradients(quantizer, rng(8).normal(0, 0.8, (6, 5)), rng(9), surrogate=quantizer.surrogate)


def test_the_sign_estimator_has_the_gradient_of_a_clip_and_two_levels():
    v, g, step = rng(10).normal(0, 1, 200), rng(11).standard_normal(200), 1e-6
    y, inside = sign_ste(v)
    slope = (sign_ste_surrogate(v + step) - sign_ste_surrogate(v - step)) / (2 * step)
    assert_close(sign_ste_backward(g, inside), g * slope, 1e-8)
    np.testing.assert_array_equal(sign_ste(np.array([0.0, -0.0]))[0], 1)
    assert set(np.unique(y)) == {-1, 1}


def test_binary_channels_of_zeros_stay_zero():
    w = np.zeros((4, 2), np.float32)
    w[:, 1] = 0.5
    y, _ = BinaryWeight().forward(w)
    np.testing.assert_array_equal(y, w)
    np.testing.assert_array_equal(BinaryWeight().encode(w).decode(), w)


def test_latent_binary_weights_are_clamped_after_a_step_and_other_weights_are_not():
    model = nn.Sequential(fc1=nn.Linear(3, 4, rng()), relu=nn.ReLU(), fc2=nn.Linear(4, 2, rng()))
    for layer in (model.children["fc1"], model.children["fc2"]):
        layer.params["weight"][...] = 3
    method = Binary()
    model.children["fc1"].children["weight_quantizer"] = method.weight_quantizer(1, (3, 4))
    method.step_end(model)
    found = [np.unique(model.children[name].params["weight"]).tolist() for name in ("fc1", "fc2")]
    assert found == [[1], [3]]


def test_other_bits_and_options_are_refused():
    for method, bits in ((TWN(), 3), (Binary(), 2)):
        with pytest.raises(ValueError, match=f"bits={bits}"):
            method.weight_quantizer(bits, (3, 4))
    with pytest.raises(ValueError, match="threshold='mean' is not one of paper, exact"):
        TWN(threshold="mean")
    with pytest.raises(ValueError, match="gradient='none'"):
        Binary(gradient="none")


@pytest.mark.parametrize("gradient", ["paper", "exact"])
def test_only_freeze_sets_the_point_of_the_surrogate(gradient):
    quantizer = BinaryWeight(gradient)
    quantizer.forward(np.ones((3, 4)), train=True)
    with pytest.raises(RuntimeError, match="freeze"):
        quantizer.surrogate(np.ones((3, 4)))
