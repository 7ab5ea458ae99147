"""Min-max and LSQ: golden vectors and properties. Golden weights have channels first; here they are last."""

import numpy as np
import pytest

from minquant.check import GradientError, gradients
from minquant.quantizers.lsq import SMALLEST_STEP, LearnedStep
from minquant.quantizers.minmax import MinMaxActivation, MinMaxWeight, affine, affine_grid
from tests.helpers import assert_close, vectors

V = vectors("baselines")
EXACT = 1e-12


def channels_last(w):
    return np.ascontiguousarray(np.moveaxis(w, 0, -1))


W, G, A, GA = channels_last(V["x"]), channels_last(V["g"]), V["a"], V["ga"]


def rng(seed=0):
    return np.random.default_rng(seed)


def learned_step(bits, step, signed=True, features="all", symmetric=False):
    quantizer = LearnedStep(bits, signed, symmetric).astype(np.float64)
    quantizer.features = features
    quantizer.params["step"][...] = step
    quantizer.state["ready"][...] = True
    return quantizer


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("per_channel", [False, True])
def test_golden_minmax(bits, per_channel):
    key = f"minmax{'_pc' if per_channel else ''}{bits}"
    quantizer = MinMaxWeight(bits, per_channel)
    y, cache = quantizer.forward(W, True)
    stored = quantizer.encode(W)
    assert_close(y, channels_last(V[f"{key}.q"]), EXACT)
    assert_close(stored.scale, V[f"{key}.scale"], EXACT)
    np.testing.assert_array_equal(stored.levels[stored.codes], channels_last(V[f"{key}.int"]))
    np.testing.assert_array_equal(stored.decode(), y)
    if not per_channel:
        np.testing.assert_array_equal(quantizer.backward(G, cache)[0], channels_last(V[f"{key}.dx"]))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_golden_affine(bits):
    key = f"affine{bits}"
    step, zero = affine_grid(V[f"{key}.lo"], V[f"{key}.hi"], bits)
    codes, inside = affine(A, step, zero, 2 ** bits - 1)
    assert_close(step, V[f"{key}.scale"], EXACT)
    assert zero == V[f"{key}.zero"]
    np.testing.assert_array_equal(codes, V[f"{key}.int"])
    assert_close(step * (codes - zero), V[f"{key}.q"], EXACT)
    np.testing.assert_array_equal(GA * inside, V[f"{key}.dx"])


LSQ_CASES = [(f"lsq_w{bits}", W, G) for bits in (2, 3, 4)] + [(f"lsq_a{bits}", A, GA) for bits in (2, 4)]


@pytest.mark.parametrize("key,x,g", LSQ_CASES)
def test_golden_lsq(key, x, g):
    bits, signed = int(key[-1]), key[4] == "w"
    quantizer = learned_step(bits, V[f"{key}.s"], signed)
    of = channels_last if signed else np.asarray
    assert (quantizer.q_n, quantizer.q_p) == (V[f"{key}.Qn"], V[f"{key}.Qp"])
    assert_close(quantizer.gradient_scale(x), V[f"{key}.gscale"], EXACT)
    y, cache = quantizer.forward(x, True)
    dx, grads = quantizer.backward(g, cache)
    assert_close(y, of(V[f"{key}.q"]), EXACT)
    assert_close(dx, of(V[f"{key}.dx"]), 1e-10)
    assert_close(grads["step"], V[f"{key}.ds"], 1e-10)
    quantizer.init_from(x, rng())
    assert_close(quantizer.params["step"], V[f"{key}.s_init"], EXACT)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("per_channel", [False, True])
def test_minmax_moves_no_weight_by_more_than_half_a_step_and_keeps_the_extreme_one(bits, per_channel):
    w = rng(1).normal(0, 0.2, (3, 3, 4, 8))
    quantizer = MinMaxWeight(bits, per_channel)
    y, step = quantizer.forward(w)[0], quantizer.scale(w)
    assert (np.abs(y - w) <= step / 2 * (1 + 1e-12)).all()
    place = np.unravel_index(np.abs(w).argmax(), w.shape)
    assert abs(y[place] / w[place] - 1) < 1e-15


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("per_channel", [False, True])
def test_minmax_keeps_zeros_zero(bits, per_channel):
    np.testing.assert_array_equal(MinMaxWeight(bits, per_channel).forward(np.zeros((3, 4)))[0], 0)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_step_per_channel_has_no_larger_error_than_one_per_tensor(bits):
    w = rng(2).normal(0, 1, (50, 8)) * np.geomspace(0.1, 1, 8)
    tensor, channel = (np.square(MinMaxWeight(bits, own).forward(w)[0] - w).mean() for own in (False, True))
    assert channel <= tensor


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("low,high", [(-0.37, 1.5), (-2.0, -0.5), (0.2, 0.9), (0, 0)])
def test_the_affine_grid_represents_zero_exactly_and_passes_gradients_whole_or_not_at_all(bits, low, high):
    step, zero = affine_grid(low, high, bits)
    x = np.r_[0.0, rng().normal(0, 2, 200)]
    codes, inside = affine(x, step, zero, 2 ** bits - 1)
    assert (step * (codes - zero))[0] == 0 and 0 <= zero <= 2 ** bits - 1
    np.testing.assert_array_equal(inside, codes == np.rint(x / step) + zero)
    if low < high:
        assert 0 < inside.sum() < x.size


def test_the_range_of_activations_follows_the_batches_in_training_alone():
    quantizer = MinMaxActivation(4)
    quantizer.init_from(np.array([0.0, 2.0]), rng())
    quantizer.forward(np.array([0.0, 4.0]), train=True)
    assert_close(quantizer.state["high"], 0.9 * 2 + 0.1 * 4, 1e-6)
    quantizer.forward(np.array([0.0, 9.0]))
    assert_close(quantizer.state["high"], 2.2, 1e-6)


@pytest.mark.parametrize("signed", [False, True])
def test_min_max_activations_of_an_all_zero_batch_have_step_one(signed):
    quantizer = MinMaxActivation(4, signed)
    quantizer.init_from(np.zeros((2, 3), np.float32), rng())
    assert quantizer.step() == 1
    np.testing.assert_array_equal(quantizer.forward(np.zeros((2, 3), np.float32), True)[0], 0)


@pytest.mark.parametrize("signed", [False, True])
def test_min_max_activations_have_the_gradient_of_their_surrogate(signed):
    quantizer = MinMaxActivation(3, signed, momentum=0.0).astype(np.float64)
    quantizer.state["ready"][...] = True
    gradients(quantizer, rng().normal(0.5, 0.8, (5, 30)), rng(1), surrogate=quantizer.surrogate)


def test_signed_activations_of_one_bit_are_refused():
    with pytest.raises(ValueError, match="bits=1 .* choose 2..8"):
        MinMaxActivation(1, signed=True)


@pytest.mark.parametrize("signed", [True, False])
def test_lsq_scales_with_its_input(signed):
    x = rng().normal(0, 1, (10, 20))
    y, _ = learned_step(3, 0.4, signed).forward(x)
    scaled, _ = learned_step(3, 0.4 * 2.7, signed).forward(2.7 * x)
    assert_close(scaled, 2.7 * y, EXACT)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_lsq_gradients_are_those_of_the_clip_with_its_residual_frozen(signed, bits):
    x = rng(3).normal(0.3, 1, (6, 40))
    step = 2 * np.abs(x).mean() / np.sqrt(2 ** bits)
    quantizer = learned_step(bits, step, signed, "all" if signed else "image")
    quantizer.freeze(x)
    gradients(quantizer, x, rng(4), surrogate=quantizer.surrogate)
    assert_close(quantizer.surrogate(x), quantizer.forward(x)[0], EXACT)


@pytest.mark.parametrize("change", [
    lambda dx, grads, dy: (1.001 * dx, grads), lambda dx, grads, dy: (dy, grads),
    lambda dx, grads, dy: (dx, {"step": 0 * grads["step"]}),
    lambda dx, grads, dy: (dx, {"step": 1.001 * grads["step"]}),
], ids=["scaled dx", "unclipped dx", "zero ds", "scaled ds"])
def test_the_checker_rejects_a_wrong_lsq_backward(change):
    class Mutant(LearnedStep):
        def backward(self, dy, cache):
            return change(*super().backward(dy, cache), dy)

    mutant = Mutant(3).astype(np.float64)
    mutant.params["step"][...], mutant.state["ready"][...] = 0.4, True
    x = rng(3).normal(0, 1, (6, 40))
    mutant.freeze(x)
    with pytest.raises(GradientError):
        gradients(mutant, x, rng(4), surrogate=mutant.surrogate)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_gradient_scale_makes_relative_updates_of_the_step_alike_at_all_bits(bits):
    n, draws, ratios = 5000, rng(5), []
    for _ in range(50):
        x, g = draws.normal(0, 1, n), draws.normal(0, 1, n) / np.sqrt(n)
        quantizer = LearnedStep(bits).astype(np.float64)
        quantizer.init_from(x, rng())
        _, grads = quantizer.backward(g, quantizer.forward(x, True)[1])
        ratios.append(grads["step"] / quantizer.params["step"])
    assert 0.7 * 0.003 < np.std(ratios) < 1.3 * 0.003


def test_symmetric_lsq_weights_use_the_codes_minus_q_to_q():
    quantizer = learned_step(3, 0.1, symmetric=True)
    stored = quantizer.encode(np.array([-9.0, 0, 9.0]))
    np.testing.assert_array_equal(stored.levels, np.arange(-3, 4))
    np.testing.assert_array_equal(stored.levels[stored.codes], [-3, 0, 3])


def test_the_learned_step_stays_positive():
    quantizer = learned_step(3, -0.1)
    quantizer.project()
    assert quantizer.params["step"] == SMALLEST_STEP
    quantizer.init_from(np.zeros(5), rng())
    assert quantizer.params["step"] == 1


def test_only_freeze_sets_the_point_of_the_lsq_surrogate():
    quantizer = learned_step(3, 0.1)
    quantizer.forward(np.ones(3), train=True)
    with pytest.raises(RuntimeError, match="freeze"):
        quantizer.surrogate(np.ones(3))


def test_an_unset_quantizer_and_one_signed_bit_say_what_they_need():
    with pytest.raises(RuntimeError, match="calibrate"):
        LearnedStep(3).forward(np.ones(3))
    with pytest.raises(ValueError, match="bits=1 .* choose 2..8"):
        LearnedStep(1)
