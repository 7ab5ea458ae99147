"""Relaxed Quantization: golden vectors, sampling, gradients, bad input."""

import numpy as np
import pytest

from minquant.check import GradientError, gradients
from minquant.estimators import dropbits, multiclass
from minquant.estimators.concrete import concrete, concrete_backward, gumbel
from minquant.estimators.multiclass import Grid, grid_codes
from minquant.quantizers import rq
from minquant.quantizers.rq import (RQ, RQST, RelaxedQuantizer, chosen_codes, mse_step, range_step,
                                    relaxed_sample)
from tests.helpers import assert_close, vectors

GOLDEN = vectors("cpq")
CASES = [str(case) for case in GOLDEN["cases"] if str(case).startswith("rq")]


def fields(case):
    return {key[len(case) + 2:]: value for key, value in GOLDEN.items() if key.startswith(case + "__")}


def codes_of(grid, x, window=-1):
    """All codes for every x, (K, N); those outside the window are moved off the grid."""
    codes = np.arange(grid.n_min, grid.n_max + 1.0)[:, None] + 0 * x
    return codes if window < 0 else np.where(np.abs(codes - grid.nearest(x)) <= window, codes, grid.n_max + 1)


@pytest.mark.parametrize("case", CASES)
def test_golden_relaxed_quantization(case):
    v = fields(case)
    grid = Grid(float(v["alpha"]), float(v["sigma"]), int(v["n_min"]), int(v["n_max"]))
    x, codes, hard = v["x"], codes_of(grid, v["x"], int(v["window"])), bool(v["hard"])
    settings = codes, v["gumbel"].T, float(v["temp"])
    z = relaxed_sample(x, grid, *settings, float(v["eps"]))
    assert_close(z.T, v["z"])
    assert_close(chosen_codes(z, codes, hard) * grid.alpha, v["xq"])
    np.testing.assert_array_equal(chosen_codes(z, codes, True), v["idx_hard"])
    by_x, by_alpha, by_sigma = rq.relaxed_slopes(x, grid, *settings, hard, float(v["eps"]))
    assert_close(v["G"] * by_x, v["dx"])
    assert_close(v["G"] @ by_alpha, v["dalpha"])
    assert_close(v["G"] @ by_sigma, v["dsigma"])
    assert_close(grid.nearest(x) * grid.alpha, v["x_test"])


def grid3():
    return Grid(0.3, 0.1, *grid_codes(3, True))


def test_concrete_samples_become_one_hot_as_the_temperature_falls():
    rng = np.random.default_rng(0)
    logits, noise = rng.standard_normal((500, 8)), gumbel(rng, (500, 8), np.float64)
    ranked = np.sort(logits + noise, axis=1)
    clear = ranked[:, -1] - ranked[:, -2] > 0.02  # e^-20: the rest are near ties
    z = concrete(logits, noise, 1e-3)
    assert clear.mean() > 0.9
    np.testing.assert_allclose(z[clear], np.eye(8)[(logits + noise)[clear].argmax(1)], atol=1e-6)


def test_concrete_samples_do_not_depend_on_a_constant_added_to_the_logits():
    rng = np.random.default_rng(0)
    logits, noise = rng.standard_normal((50, 8)), gumbel(rng, (50, 8), np.float64)
    assert_close(concrete(logits + 13.7, noise, 0.7), concrete(logits, noise, 0.7), 1e-12)


def test_the_concrete_backward_is_the_derivative_of_the_softmax():
    rng = np.random.default_rng(0)
    logits, noise, dz, step = rng.standard_normal(6), gumbel(rng, 6, np.float64), rng.standard_normal(6), 1e-6
    dlogits = concrete_backward(dz, concrete(logits, noise, 0.5), 0.5)
    for i in range(6):
        shift = step * (np.arange(6) == i)
        change = concrete(logits + shift, noise, 0.5) - concrete(logits - shift, noise, 0.5)
        assert abs(dz @ change / (2 * step) - dlogits[i]) < 1e-8


def test_gumbel_arg_max_and_rounding_of_noisy_values_both_have_the_grid_distribution():
    grid, count, rng = grid3(), 200_000, np.random.default_rng(0)
    x = np.full(count, 0.37)
    pi = dropbits.expanded_probabilities(x[:1], grid, np.ones(0), np.full(8, -1))[0]
    noise = gumbel(rng, (8, count), np.float64)
    sampled = chosen_codes(relaxed_sample(x, grid, codes_of(grid, x), noise, 1.0), codes_of(grid, x), True)
    frequency = (sampled[:, None] == np.arange(-4, 4)).mean(0)
    assert np.abs(frequency - pi).max() < 6e-3
    rounded = np.floor((x + rng.logistic(0, grid.sigma, count)) / grid.alpha + 0.5)
    rounded = rounded[(rounded >= -4) & (rounded <= 3)]
    assert np.abs((rounded[:, None] == np.arange(-4, 4)).mean(0) - pi).max() < 6e-3


def test_the_mean_of_straight_through_samples_is_the_mean_of_the_distribution():
    grid, count = grid3(), 50_000
    quantizer = ready(RelaxedQuantizer(3, delta=0, hard=True))
    y, _ = quantizer.forward(np.full(count, 0.37), True, np.random.default_rng(1))
    pi = dropbits.expanded_probabilities(np.array([0.37]), grid, np.ones(0), np.full(8, -1))[0]
    mean = pi @ np.arange(-4, 4) * grid.alpha
    assert abs(y.mean() - mean) < 4 * y.std() / np.sqrt(count)


def test_uniform_noise_of_one_cell_gives_stochastic_rounding():
    alpha, x = 0.3, np.random.default_rng(0).uniform(-0.9, 0.9, 1000)
    lower = alpha * np.floor(x / alpha)
    border = lower + alpha / 2  # x + U(-alpha/2, alpha/2) is rounded to the lower level below this border
    probability = np.clip((border - (x - alpha / 2)) / alpha, 0, 1)
    assert_close(probability, np.ceil(x / alpha) - x / alpha, 1e-12)


@pytest.mark.parametrize("tau,mean,variance", [(1.0, 0.98, 0.34), (0.5, 0.99, 1.08), (0.1, 1.01, 8.3)])
def test_relaxed_gradients_are_unbiased_but_noisier_at_lower_temperature(tau, mean, variance):
    grid, count = grid3(), 100_000
    x = np.full(count, 0.37)
    noise = gumbel(np.random.default_rng(0), (8, count), np.float64)
    dx, _, _ = rq.relaxed_slopes(x, grid, codes_of(grid, x), noise, tau, False)
    assert abs(dx.var() / variance - 1) < 0.1
    assert abs(dx.mean() - mean) < 0.03
    exact, _, _ = multiclass.full_slopes(x[:1], grid)
    assert abs(exact[0] - 0.988) < 1e-3


def test_relaxed_gradients_differ_from_call_to_call_and_repeat_with_the_seed():
    quantizer, x = ready(RelaxedQuantizer(3)), np.linspace(-1, 1, 50)

    def gradient(rng):
        return quantizer.backward(np.ones(50), quantizer.forward(x, True, rng)[1])[0]

    rng = np.random.default_rng(0)
    first, second = gradient(rng), gradient(rng)
    assert np.abs(first - second).max() > 0.01
    np.testing.assert_array_equal(gradient(np.random.default_rng(0)), first)


def ready(quantizer):
    quantizer.astype(np.float64)
    quantizer.params["log_alpha"][...] = np.log(0.3)
    quantizer.params["log_sigma"][...] = np.log(0.1)
    quantizer.state["ready"][...] = True
    return quantizer


def values(n=120):
    rng = np.random.default_rng(3)
    return 0.3 * (rng.integers(-5, 5, n) + rng.uniform(-0.45, 0.45, n))


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("delta", [0, 3, 7])
@pytest.mark.parametrize("eps", [0, 1e-3])
def test_gradients_equal_finite_differences(hard, delta, eps):
    quantizer = ready(RelaxedQuantizer(4, hard=hard, delta=delta, eps=eps))
    quantizer.freeze(values(), np.random.default_rng(0))
    gradients(quantizer, values(), np.random.default_rng(0), step=1e-5, surrogate=quantizer.surrogate)
    if not hard:  # exactly differentiable: the forward itself is the function
        gradients(quantizer, values(), np.random.default_rng(0), step=1e-5)


@pytest.mark.parametrize("change", [
    lambda dx, grads, dy: (1.001 * dx, grads), lambda dx, grads, dy: (dy, grads),
    lambda dx, grads, dy: (dx, {**grads, "log_alpha": 0 * grads["log_alpha"]}),
    lambda dx, grads, dy: (dx, {**grads, "log_sigma": -grads["log_sigma"]}),
], ids=["scaled dx", "plain STE", "zero dalpha", "negated dsigma"])
def test_the_checker_rejects_a_wrong_backward(change):
    class Mutant(RelaxedQuantizer):
        def backward(self, dy, cache):
            return change(*super().backward(dy, cache), dy)

    with pytest.raises(GradientError):
        gradients(ready(Mutant(4)), values(), np.random.default_rng(0), step=1e-5)


def test_the_local_grid_is_the_nearest_level_and_its_neighbours_and_small_grids_are_taken_whole():
    grid = Grid(0.3, 0.1, -8, 7)
    np.testing.assert_array_equal(rq.local_codes(np.array([0.31, 2.5]), grid, 3).T, [[0, 1, 2], [6, 7, 8]])
    small = Grid(0.3, 0.1, -2, 1)
    np.testing.assert_array_equal(rq.local_codes(np.array([0.31]), small, 6)[:, 0], [-2, -1, 0, 1])
    assert rq.local_codes(np.array([0.31]), grid, 0).shape == (16, 1)


@pytest.mark.parametrize("hard", [False, True])
def test_outputs_stay_between_the_outer_levels_also_for_values_far_outside(hard):
    quantizer = RelaxedQuantizer(4, hard=hard).astype(np.float32)
    quantizer.state["ready"][...] = True
    x = np.array([-1e4, -9.0, 0, 7.9, 1e4], np.float32)
    y, cache = quantizer.forward(x, True, np.random.default_rng(0))
    assert y.dtype == np.float32 and -8 <= y.min() and y.max() <= 7
    dx, grads = quantizer.backward(np.ones_like(x), cache)
    assert np.isfinite(dx).all() and all(np.isfinite(g) for g in grads.values())


def test_work_in_parts_gives_every_element_its_own_noise(monkeypatch):
    monkeypatch.setattr(rq, "ROWS", 60)
    quantizer = ready(RelaxedQuantizer(3))
    y, _ = quantizer.forward(np.full((10, 10), 0.37), True, np.random.default_rng(0))
    assert len(np.unique(y)) == 100


def test_training_needs_a_generator_and_backward_the_training_cache():
    quantizer = ready(RelaxedQuantizer(3))
    with pytest.raises(ValueError, match="draws noise"):
        quantizer.forward(values(), train=True)
    with pytest.raises(ValueError, match="training forward"):
        quantizer.backward(values(), quantizer.forward(values())[1])
    with pytest.raises(RuntimeError, match="freeze"):
        ready(RelaxedQuantizer(3)).surrogate(values())


def test_initial_steps_follow_their_formulas():
    x = np.array([-1.0, 0.5, 1.0])
    assert range_step(x, 2, True) == 0.5 + 3 * 0.5 / 4
    spread = np.random.default_rng(0).normal(0, 1, 4000)
    step = mse_step(spread, 2, True)
    errors = {f: np.square(spread - Grid(f, f, -2, 1).nearest(spread) * f).sum()
              for f in np.abs(spread).max() / 2 * np.arange(10, 125, 5) / 100}
    assert abs(step - min(errors, key=errors.get)) < 1e-12


@pytest.mark.parametrize("init", ["range", "mse"])
@pytest.mark.parametrize("x", [np.zeros(9), np.full(9, 0.2), np.full(9, -1e-40), np.r_[np.ones(8), 1e6],
                               np.full(9, 1e37)],
                         ids=["zero", "constant", "denormal", "outlier", "huge"])
def test_unusual_tensors_start_from_a_positive_finite_step(init, x):
    x = x.astype(np.float32)
    for signed in (True, False):
        quantizer = RelaxedQuantizer(4, signed, init=init)
        quantizer.init_from(x, np.random.default_rng(0))
        alpha = np.exp(quantizer.params["log_alpha"])
        assert 0 < alpha < np.inf
        assert np.isfinite(quantizer.forward(x)[0]).all()


@pytest.mark.parametrize("settings", [{"tau": 0}, {"tau": -1}, {"tau": np.inf}, {"delta": -1}, {"eps": -1e-9},
                                      {"init": "best"}])
def test_options_outside_their_range_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        RQ(**settings)


def test_the_two_methods_differ_in_sampling_alone():
    soft, hard = RQ(tau=0.5).weight_quantizer(2, (3, 4)), RQST(tau=0.5).activation_quantizer(3)
    assert not soft.hard and hard.hard and soft.tau == hard.tau == 0.5 and soft.signed and not hard.signed
