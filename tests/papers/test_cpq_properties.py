"""What CPQ's grid and its multi-class STE promise, whatever the numbers."""

import tracemalloc

import numpy as np
import pytest

from minquant.estimators import dropbits, multiclass
from minquant.estimators.multiclass import CHUNK, Grid, grid_codes
from minquant.quantizers.cpq import ClusterPromoting
from tests.helpers import assert_close

NO_GATES = np.ones(0)


def grid(bits=3, signed=True, alpha=0.3, ratio=1 / 3):
    return Grid(alpha, alpha * ratio, *grid_codes(bits, signed))


def points(g, count, seed=0, beyond=2.0):
    """Random x over the grid and `beyond` cells outside it."""
    low, high = g.n_min - beyond, g.n_max + beyond
    return np.random.default_rng(seed).uniform(low, high, count) * g.alpha


def probabilities(x, g):
    return dropbits.expanded_probabilities(x, g, NO_GATES, np.full(g.size, -1))


def expanded_backward(dy, x, g, rule):
    def slopes(x, n):
        return dropbits.expanded_slopes(x, n, g, NO_GATES, np.full(g.size, -1), rule)

    dx, (dalpha, dsigma) = multiclass.contract(slopes, dy, x, g.nearest(x), chunk=64)
    return dx, dalpha, dsigma


@pytest.mark.parametrize("signed", [True, False])
def test_probabilities_sum_to_one_and_equal_the_differences_of_the_truncated_distribution(signed):
    g = grid(signed=signed)
    x = points(g, 500, beyond=0)
    pi = probabilities(x, g)
    assert_close(pi.sum(-1), np.ones(len(x)), 1e-12)
    borders = g.alpha * (np.arange(g.n_min, g.n_max + 2) - 0.5)
    cumulative = 1 / (1 + np.exp(-(borders - x[:, None]) / g.sigma))
    assert_close(pi, np.diff(cumulative) / (cumulative[:, -1:] - cumulative[:, :1]), 1e-12)


@pytest.mark.parametrize("rule", multiclass.RULES)
@pytest.mark.parametrize("ratio", [1 / 30, 1 / 3, 3])
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_values_far_outside_the_grid_give_finite_slopes_in_float32(rule, ratio, bits):
    g = grid(bits, ratio=ratio)
    x = np.concatenate([points(g, 200), g.alpha * np.array([-1e4, -300, 300, 1e4]), [0]]).astype(np.float32)
    assert np.isfinite(probabilities(x, g)).all()
    dx, dalpha, dsigma = multiclass.backward(np.ones_like(x), x, g, rule)
    assert np.isfinite(dx).all() and np.isfinite([dalpha, dsigma]).all() and dx.dtype == np.float32


@pytest.mark.parametrize("signed", [True, False])
def test_values_are_levels_and_ties_round_up(signed):
    g = grid(alpha=0.25, signed=signed)
    ties = (np.arange(g.n_min, g.n_max) + 0.5) * g.alpha
    np.testing.assert_array_equal(g.nearest(ties), np.arange(g.n_min + 1, g.n_max + 1))
    codes = g.nearest(points(g, 1000))
    assert set(codes) == set(range(g.n_min, g.n_max + 1))


@pytest.mark.parametrize("ratio", [1 / 30, 1 / 3, 1, 3])
def test_the_most_probable_level_is_the_nearest_one(ratio):
    g = grid(ratio=ratio)
    x = points(g, 25_000, beyond=4)
    distance_to_tie = np.abs((x / g.alpha) % 1 - 0.5)
    x = x[distance_to_tie > 1e-9]
    np.testing.assert_array_equal(probabilities(x, g).argmax(-1) + g.n_min, g.nearest(x))


def test_quantizing_twice_changes_nothing():
    quantizer = ClusterPromoting(3)
    x = np.random.default_rng(0).normal(0, 0.3, 1000).astype(np.float32)
    quantizer.init_from(x, np.random.default_rng(1))
    y, _ = quantizer.forward(x)
    np.testing.assert_array_equal(quantizer.forward(y)[0], y)


@pytest.mark.parametrize("rule", multiclass.RULES)
def test_scaling_x_alpha_and_sigma_together_leaves_codes_and_gradients_unchanged(rule):
    g, c = grid(), 7.3
    scaled = Grid(c * g.alpha, c * g.sigma, g.n_min, g.n_max)
    x = points(g, 500)
    dy = np.random.default_rng(1).standard_normal(500)
    np.testing.assert_array_equal(scaled.nearest(c * x), g.nearest(x))
    scaled_grads = multiclass.backward(dy, c * x, scaled, rule)
    for ours, theirs in zip(multiclass.backward(dy, x, g, rule), scaled_grads):
        assert_close(theirs, ours, 1e-12)


@pytest.mark.parametrize("signed", [True, False])
def test_all_zero_input_has_zero_output_and_zero_gradients_under_imax(signed):
    x = np.zeros(10)
    g = grid(signed=signed)
    dx, dalpha, dsigma = multiclass.backward(np.ones(10), x, g, "imax")
    assert not g.nearest(x).any() and not dx.any() and dalpha == 0 and dsigma == 0


def test_the_zero_code_gets_no_gradient_under_imax():
    g = grid()
    x = points(g, 1000)
    dx, _, _ = multiclass.backward(np.ones_like(x), x, g, "imax")
    assert not dx[g.nearest(x) == 0].any() and dx[g.nearest(x) != 0].all()


def test_an_interior_level_is_almost_stationary_under_imax_and_the_outer_ones_are_not():
    g = grid()
    codes = np.array([-2.0, -1, 1])
    dx, _, _ = multiclass.backward(np.ones(3), g.alpha * codes, g, "imax")
    assert (np.abs(dx) <= 5e-3 * np.abs(codes)).all()
    for code, expected in ((-3, 6e-2), (2, 6e-2), (-4, 1.7), (3, 1.7)):
        outer, _, _ = multiclass.backward(np.ones(1), np.array([g.alpha * code]), g, "imax")
        assert abs(outer[0]) <= 1.1 * expected * abs(code)


@pytest.mark.parametrize("code", [-2, -1, 1])
def test_the_mean_slope_over_an_interior_cell_is_zero_and_the_update_pulls_to_or_pushes_from_the_level(code):
    g = grid()
    offset = (np.arange(4001) + 0.5) / 4001 - 0.5
    x = g.alpha * (code + offset)
    dx, _, _ = multiclass.backward(np.ones_like(x), x, g, "imax")
    largest = np.abs(dx).max()
    assert abs(dx.mean()) <= 2e-3 * largest
    assert 0.61 <= largest / abs(code) <= 0.62
    clear = np.abs(offset) > 0.05
    towards = -np.sign(offset)  # direction of the level as seen from x
    for wish, direction in ((-1, towards), (1, -towards)):  # G n_m < 0: the loss wants a larger magnitude
        upstream = np.full_like(x, wish * np.sign(code))
        update = -multiclass.backward(upstream, x, g, "imax")[0]
        np.testing.assert_array_equal(np.sign(update[clear]), direction[clear])


def test_the_full_rule_has_slope_about_one_inside_and_none_far_outside():
    g = grid()
    inside = np.linspace(0, g.alpha, 1001)
    slope, _, _ = multiclass.backward(np.ones_like(inside), inside, g, "full")
    assert 0.95 <= slope.min() and slope.max() <= 1.04
    away = np.linspace(4, 50, 50)
    outside = g.alpha * np.concatenate([g.n_max + away, g.n_min - away])
    assert np.abs(multiclass.backward(np.ones_like(outside), outside, g, "full")[0]).max() < 1e-3
    anywhere = points(g, 5000, beyond=10)
    assert multiclass.backward(np.ones_like(anywhere), anywhere, g, "full")[0].min() >= -1e-12


@pytest.mark.parametrize("rule", multiclass.RULES)
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("ratio", [1 / 30, 1 / 3, 3])
def test_the_closed_form_equals_the_expansion_over_levels(rule, signed, bits, ratio):
    g = grid(bits, signed, ratio=ratio)
    x = points(g, 150, seed=bits, beyond=5)
    dy = np.random.default_rng(2).standard_normal(len(x))
    for ours, oracle in zip(multiclass.backward(dy, x, g, rule), expanded_backward(dy, x, g, rule)):
        assert_close(ours, oracle)


@pytest.mark.parametrize("rule", multiclass.RULES)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_float32_gradients_agree_with_float64(rule, bits):
    g = grid(bits, signed=False, alpha=0.25)
    x = points(g, 2000, beyond=2).astype(np.float32)
    x = x[np.abs((x / g.alpha) % 1 - 0.5) > 1e-3]
    dy = np.random.default_rng(2).standard_normal(len(x)).astype(np.float32)
    single = multiclass.backward(dy, x, g, rule)
    double = multiclass.backward(dy.astype(np.float64), x.astype(np.float64), g, rule)
    for ours, exact in zip(single, double):
        assert_close(ours, exact, 1e-3 if rule == "imax" else 3e-4)


@pytest.mark.parametrize("rule", multiclass.RULES)
def test_work_in_chunks_does_not_show(rule):
    g = grid()
    x = points(g, CHUNK + 17).reshape(-1, 1)
    dy = np.random.default_rng(3).standard_normal(x.shape)
    whole = [dy[:, 0] * slope[:, 0] if i == 0 else (dy * slope).sum()
             for i, slope in enumerate(multiclass.RULES[rule](x, g))]
    dx, dalpha, dsigma = multiclass.backward(dy, x, g, rule)
    np.testing.assert_array_equal(dx[:, 0], whole[0])
    assert_close([dalpha, dsigma], whole[1:], 1e-12)


@pytest.mark.parametrize("rule", multiclass.RULES)
def test_values_that_are_zero_share_a_slope_and_nothing_else_changes(rule):
    g = grid(signed=False)
    x = np.maximum(points(g, 3000), 0) * (np.random.default_rng(1).random(3000) < 0.4)
    dy = np.random.default_rng(3).standard_normal(x.shape)
    slope, by_alpha, by_sigma = multiclass.RULES[rule](x, g)
    dx, dalpha, dsigma = multiclass.backward(dy, x, g, rule)
    assert_close(dx, dy * slope, 1e-12)
    assert_close([dalpha, dsigma], [dy @ by_alpha, dy @ by_sigma], 1e-11)


@pytest.mark.parametrize("rule", multiclass.RULES)
def test_memory_of_a_backward_does_not_grow_with_the_number_of_levels(rule):
    x = np.random.default_rng(0).normal(0.5, 1, 2 ** 20).astype(np.float32)
    peaks = []
    for bits in (2, 8):
        g = grid(bits, signed=False, alpha=4 / 2 ** bits)
        tracemalloc.start()
        multiclass.backward(x, x, g, rule)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] and peaks[1] < 4 * x.nbytes


def test_the_same_call_gives_the_same_bits_every_time():
    g = grid()
    x, dy = points(g, 1000), np.random.default_rng(1).standard_normal(1000)
    first = multiclass.backward(dy, x, g, "imax")
    for _ in range(5):
        again = multiclass.backward(dy, x, g, "imax")
        np.testing.assert_array_equal(first[0], again[0])
        assert first[1:] == again[1:]
