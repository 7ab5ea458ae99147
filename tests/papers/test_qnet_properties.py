"""What a sum of sigmoids, its hard staircase, and one-dimensional k-means must do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minquant.estimators import sigmoids
from minquant.estimators.kmeans import inertia, kmeans1d, midpoints, subsample
from minquant.estimators.level_sets import initial_biases, level_set
from minquant.estimators.sigmoids import (Steps, biases_backward, hard_codes, relaxed, scale_gradients,
                                          sigmoid, soft, soft_backward)
from minquant.nn import MaxPool
from minquant.quantizers.qnet import QNetActivation, QNetWeight
from tests.helpers import assert_close, vectors

TERNARY = Steps(level_set(2), np.array([-0.4, 0.4]))
POW2 = Steps(level_set(3, "pow2"), np.array([-2.5, -1.1, -0.05, 0.05, 1.1, 2.5]))
SETS = {"binary": Steps(level_set(1), np.zeros(1)), "ternary": TERNARY, "pow2": POW2,
        "wide": Steps(level_set(5), midpoints(level_set(5).astype(float)))}
ALPHA, BETA = 0.3, 1.7


def values(n=400, seed=0, spread=2.0):
    return np.random.default_rng(seed).normal(0, spread, n)


def hard(x, steps, alpha=ALPHA, beta=BETA):
    return alpha * steps.levels[hard_codes(x, steps.biases / beta)]


def ready(quantizer, x, temperature=10.0):
    quantizer.astype(np.float64).init_from(x, np.random.default_rng(0))
    quantizer.state["temperature"][...] = temperature
    return quantizer


@pytest.mark.parametrize("name", SETS)
def test_every_code_is_a_level_for_huge_subnormal_and_negative_zero_inputs(name):
    x = np.array([1e30, -1e30, 5e-324, -5e-324, 0.0, -0.0, np.inf, -np.inf])
    y = hard(x, SETS[name], alpha=1.0)
    assert np.isin(y, SETS[name].levels).all()
    assert y[0] == SETS[name].levels[-1] and y[1] == SETS[name].levels[0] and y[4] == y[5]


def test_nan_never_becomes_a_code():
    x = values()
    quantizer = ready(QNetWeight(2), x)
    x[7] = np.nan
    for train in (False, True):
        y = quantizer.forward(x, train)[0]
        assert np.isnan(y[7]) and np.isfinite(np.delete(y, 7)).all()
    with pytest.raises(ValueError, match="1 of 400 values are NaN"):
        quantizer.encode(x)


@pytest.mark.parametrize("name", SETS)
def test_a_value_on_a_threshold_takes_the_lower_level_and_the_next_float_the_upper(name):
    steps, beta = SETS[name], 2.0
    tie = steps.biases / beta
    lower, upper = hard(tie, steps, 1.0, beta), hard(np.nextafter(tie, np.inf), steps, 1.0, beta)
    np.testing.assert_array_equal(lower, steps.levels[:-1])
    np.testing.assert_array_equal(upper - lower, steps.heights)


@pytest.mark.parametrize("name", SETS)
def test_the_hottest_sum_of_sigmoids_is_the_staircase_and_its_middle_on_a_threshold(name):
    steps, x = SETS[name], values()
    x = x[np.abs(BETA * x[:, None] - steps.biases).min(1) > 1e-4]
    y = soft(x, ALPHA, BETA, steps, 1e6, None)
    assert np.abs(y - hard(x, steps)).max() < 1e-9 * ALPHA * np.abs(steps.levels).max()
    on = steps.biases / 2.0
    y = soft(on, ALPHA, 2.0, steps, 1e6, None)
    np.testing.assert_allclose(y - hard(on, steps, ALPHA, 2.0), ALPHA * steps.heights / 2, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("t", [1.0, 10.0, 100.0, 1000.0])
def test_soft_and_hard_differ_by_at_most_the_sum_of_the_exponential_distances(name, t):
    steps, x = SETS[name], values()
    bound = ALPHA * (steps.heights * np.exp(-t * np.abs(BETA * x[:, None] - steps.biases))).sum(1)
    assert (np.abs(soft(x, ALPHA, BETA, steps, t, None) - hard(x, steps)) <= bound + 1e-12).all()


def test_lower_temperature_moves_every_value_towards_the_middle_of_the_levels():
    x = values()
    asymmetric = Steps(np.array([-4, -1, 0, 3]), np.array([-2.0, -0.5, 1.0]))
    for steps in (*SETS.values(), asymmetric):
        middle = ALPHA * (steps.levels[0] + steps.levels[-1]) / 2
        y = soft(x, ALPHA, BETA, steps, 1e-6, None)
        assert np.abs(y - middle).max() < 1e-5 * ALPHA * steps.heights.sum()


@pytest.mark.parametrize("t", [1.0, 30.0])
@pytest.mark.parametrize("name", SETS)
def test_symmetric_levels_and_biases_give_an_odd_monotone_function(name, t):
    steps, x = SETS[name], np.sort(values())
    y = soft(x, ALPHA, BETA, steps, t)
    np.testing.assert_allclose(soft(-x, ALPHA, BETA, steps, t), -y, rtol=0, atol=1e-12)
    assert (np.diff(y) >= 0).all() and (np.diff(hard(x, steps)) >= 0).all()
    assert (soft_backward(np.ones_like(x), x, ALPHA, BETA, steps, t) >= 0).all()


@pytest.mark.parametrize("t", [1.0, 10.0, 100.0])
def test_the_slope_integrates_to_the_range_of_levels_and_to_t_times_that_in_the_wide_form(t):
    x = np.linspace(-60, 60, 400_001)
    ones = np.ones_like(x)
    exact = soft_backward(ones, x, ALPHA, BETA, POW2, t, clip=None)
    wide = soft_backward(ones, x, ALPHA, BETA, POW2, 1.0, gain=t, clip=None)
    assert_close(exact.sum() * (x[1] - x[0]) / ALPHA, 8.0, 1e-4)
    assert_close(wide.sum() * (x[1] - x[0]) / t / ALPHA, 8.0, 1e-4)


def test_two_coinciding_unit_steps_are_one_step_of_height_two():
    x, dy = np.append(values(), 0.0), values(401, 1)
    found = []
    for steps in (Steps(np.array([-1, 0, 1]), np.zeros(2)), Steps(np.array([-1, 1]), np.zeros(1))):
        y = soft(x, ALPHA, BETA, steps, 7.0)
        dx = soft_backward(dy, x, ALPHA, BETA, steps, 7.0)
        found.append(np.concatenate([y, dx, scale_gradients(dy, x, y, dx)]))
        assert hard(x, steps, 1.0)[-1] == -1
    np.testing.assert_allclose(*found, rtol=0, atol=1e-12)


@pytest.mark.parametrize("wide", [False, True])
def test_scale_and_translation_identities_hold(wide):
    x, dy, t = values(), values(400, 1), 6.0
    how = dict(gain=t) if wide else {}
    slope_t = 1.0 if wide else t
    dx = soft_backward(dy, x, ALPHA, BETA, POW2, slope_t, **how)
    db = biases_backward(dy, x, ALPHA, BETA, POW2, slope_t, **how)
    assert_close(dx.sum(), -BETA * db.sum(), 1e-10)  # y does not change if x and b move together
    y = soft(x, ALPHA, BETA, POW2, t)
    moved = soft(x + 0.3, ALPHA, BETA, Steps(POW2.levels, POW2.biases + BETA * 0.3), t)
    np.testing.assert_allclose(moved, y, rtol=0, atol=1e-12)
    log_alpha, log_beta = scale_gradients(dy, x, y, dx)
    assert_close(log_alpha / ALPHA, (dy * y).sum() / ALPHA, 1e-12)
    slope = dx / (dy * ALPHA * BETA)
    assert_close(log_beta / BETA, ALPHA * (dy * x * slope).sum(), 1e-10)


def test_a_saturated_value_leaks_the_slope_of_the_clip_and_nothing_without_leak():
    x, t = np.array([50.0, -50.0]), 3.0
    dx = soft_backward(np.ones(2), x, ALPHA, BETA, POW2, t)
    expected = ALPHA * BETA * t * 4.5395807735907655e-05 * 8
    np.testing.assert_allclose(dx, expected, rtol=1e-9)
    assert not soft_backward(np.ones(2), x, ALPHA, BETA, POW2, t, leak=False).any()


@pytest.mark.parametrize("leak", [True, False])
@pytest.mark.parametrize("clip", [10.0, None])
@pytest.mark.parametrize("levels", ["uniform", "full"])
def test_gathering_near_steps_gives_the_same_sums_as_all_steps(levels, clip, leak):
    integers = level_set(5, levels)
    if levels == "full":  # unequal heights
        integers = np.delete(integers, [3, 17])
    b = np.sort(values(len(integers) - 1, 3, 8.0))
    steps, t = Steps(integers, b), 40.0
    x = np.append(values(3000, 4, 10.0), b / BETA)
    dy = values(x.size, 5)
    assert sigmoids._Near(steps, t, clip, np.dtype(float)).gathered
    u = t * (BETA * x[:, None] - b)
    inside = u if clip is None else np.clip(u, -clip, clip)
    p = sigmoid(inside)
    slope = steps.heights * p * (1 - p) * (leak | (np.abs(u) <= (clip or np.inf)))
    assert_close(soft(x, ALPHA, BETA, steps, t, clip), ALPHA * (integers[0] + p @ steps.heights), 1e-12)
    dx = soft_backward(dy, x, ALPHA, BETA, steps, t, clip=clip, leak=leak)
    assert_close(dx, dy * ALPHA * BETA * t * slope.sum(1), 1e-12)


def test_the_relaxed_function_is_the_soft_one_where_nothing_is_clipped():
    x = values()
    y = ALPHA * (POW2.levels[0] + relaxed(x, BETA, POW2, 0.5))
    assert_close(y, soft(x, ALPHA, BETA, POW2, 0.5), 1e-12)


def test_float32_follows_float64_and_blocks_do_not_show():
    x = values(3 * sigmoids.BLOCK + 5).astype(np.float32).reshape(-1, 1)
    steps = Steps(np.arange(16), np.arange(15) + 0.5)
    y = soft(x, ALPHA, BETA, steps, 20.0)
    assert y.dtype == np.float32 and y.shape == x.shape
    np.testing.assert_allclose(y, soft(x.astype(float), ALPHA, BETA, steps, 20.0), atol=2e-4)
    np.testing.assert_array_equal(soft(x[::-1], ALPHA, BETA, steps, 20.0), y[::-1])


def test_pooling_commutes_with_the_hard_quantizer():
    x = np.maximum(values(2 * 8 * 8 * 3), 0).reshape(2, 8, 8, 3)
    quantizer, pool = ready(QNetActivation(2), x), MaxPool(2)
    first = quantizer.forward(pool.forward(x)[0])[0]
    np.testing.assert_array_equal(pool.forward(quantizer.forward(x)[0])[0], first)


@given(st.integers(2, 16), st.integers(0, 2 ** 32 - 1), st.sampled_from(["normal", "lattice", "outlier"]))
@settings(max_examples=60, deadline=None)
def test_every_centre_is_the_mean_of_its_members_and_boundaries_increase(k, seed, kind):
    rng = np.random.default_rng(seed)
    v = rng.normal(size=300)
    if kind == "lattice":
        v = rng.integers(0, 2 * k, 300).astype(float)
    if kind == "outlier":
        v[0] = 1e6
    if len(np.unique(v)) < k:
        return
    centres = kmeans1d(v, k)
    np.testing.assert_array_equal(kmeans1d(v[::-1], k), centres)
    member = np.searchsorted(midpoints(centres), v)
    means = np.array([v[member == j].mean() for j in range(k)])
    np.testing.assert_allclose(centres, means, rtol=1e-9, atol=1e-9)
    assert (np.diff(midpoints(centres)) > 0).all()


def test_clusters_scale_with_the_values():
    v = values(500)
    for factor in (1e-3, 7.0, 1e4):
        np.testing.assert_allclose(kmeans1d(factor * v, 6), factor * kmeans1d(v, 6), rtol=1e-9)


def test_clusters_of_a_gaussian_are_near_its_optimal_quantizer():
    v = np.sort(values(20_000, spread=1.0))
    assert inertia(v, kmeans1d(v, 4)) / len(v) < 0.1175 * 1.03  # Lloyd-Max, 4 levels


def test_too_few_distinct_values_are_refused_by_kmeans_and_get_uniform_biases():
    with pytest.raises(ValueError, match="3 clusters need at least as many distinct values, there are 2"):
        kmeans1d(np.array([1.0, 2.0, 1.0]), 3)
    z = np.full(50, 0.3)
    np.testing.assert_array_equal(initial_biases(z, level_set(2), np.random.default_rng(0)), [-0.5, 0.5])


def test_a_large_tensor_is_sampled_from_the_generator_that_is_passed():
    v = values(1000)
    assert len(subsample(v, None, 1000)) == 1000
    first, second = (subsample(v, np.random.default_rng(3), 100) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.isin(first, v).all()


def test_the_forced_halfwidth_hits_the_two_biases_around_level_zero():
    z = vectors("qnet")["km_pm4__x"] * 10
    b = initial_biases(z, level_set(3, "pow2"), np.random.default_rng(0), zero_halfwidth=0.05)
    assert b[2] == -0.05 and b[3] == 0.05 and (np.diff(b) > 0).all()
    one_bit = initial_biases(np.abs(z), np.array([0, 1]), np.random.default_rng(0), zero_halfwidth=0.05)
    np.testing.assert_array_equal(one_bit, [0.05])
