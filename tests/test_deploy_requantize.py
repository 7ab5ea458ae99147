"""Requantization: thresholds against exact rational arithmetic, the cheap form against every accumulator."""

from fractions import Fraction

import numpy as np
import pytest

from minquant.deploy.endings import Requantize
from minquant.deploy.requantize import (Expression, boundaries, cheap_codes, fit, scaled, sum_slack, thresholds,
                                        unproven, verified)
from minquant.quantizers.base import uniform_staircase

TIES = ("up", "even", "away", "down")


def expression(rng, channels=6):
    """scale, batch norm, with a negative and a zero gain."""
    gain = rng.uniform(0.5, 2, channels)
    gain[1], gain[2] = -gain[1], 0.0
    return (scaled(rng.uniform(1e-4, 1e-3, channels), channels).then("add", -rng.normal(0, 0.1, channels))
            .then("multiply", gain).then("add", rng.normal(0, 0.2, channels)))


def staircase_of(top, ties="even", step=0.07):
    return uniform_staircase(np.float64(step), 0, top, ties)


def by_definition(expr, boundary, acc):
    """Number of boundaries that the value has reached, one accumulator after another."""
    return (expr(acc)[None] >= np.asarray(boundary)[:, None, None]).sum(0)


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("n_min,n_max", [(0, 3), (-7, 7), (-1, 0)])
def test_boundaries_find_the_way_a_quantizer_takes_ties(ties, n_min, n_max):
    stairs = uniform_staircase(np.float64(0.25), n_min, n_max, ties)
    found = boundaries(stairs.codes, n_max - n_min)
    at_tie = np.where(stairs.inclusive, stairs.thresholds, np.nextafter(stairs.thresholds, np.inf))
    np.testing.assert_array_equal(found, at_tie)


def test_boundaries_of_codes_that_all_or_no_values_have_are_infinite():
    found = boundaries(lambda v: np.where(v > 1, 2, 1).astype(np.uint8), 3)
    np.testing.assert_array_equal(found, [-np.inf, np.nextafter(1.0, 2), np.inf])


@pytest.mark.parametrize("top", [1, 3, 15, 255])
def test_thresholds_separate_the_codes_of_every_reachable_accumulator(top):
    expr = expression(np.random.default_rng(top))
    boundary = boundaries(staircase_of(top).codes, top)
    low, high = np.full(6, -3000), np.full(6, 3000)
    ladder = thresholds(expr, boundary, low, high)
    acc = np.arange(-3000, 3001)[:, None] * np.ones(6, int)
    counted = (ladder.direction * acc >= ladder.thresholds[0][:, None]).sum(0)
    np.testing.assert_array_equal(counted, by_definition(expr, boundary, acc))
    assert ladder.direction[1] == -1 and (np.ptp(counted[:, 2]) == 0)


@pytest.mark.parametrize("ties", TIES)
def test_thresholds_at_exact_ties_agree_with_rational_arithmetic(ties):
    scale, step = Fraction(1, 64), Fraction(1, 4)  # acc = 8 (2 j - 1) falls on the boundary of code j exactly
    stairs = uniform_staircase(np.float64(step), 0, 7, ties)
    ladder = thresholds(scaled(float(scale), 1), boundaries(stairs.codes, 7), np.array([0]), np.array([200]))
    expected = []
    for j, inclusive in enumerate(stairs.inclusive, start=1):
        tie = (Fraction(2 * j - 1, 2) * step) / scale
        assert tie.denominator == 1
        expected.append(int(tie) + (0 if inclusive else 1))
    np.testing.assert_array_equal(ladder.thresholds[0, :, 0], expected)


@pytest.mark.parametrize("top", [1, 3, 15, 63])
def test_a_verified_cheap_form_equals_the_definition_at_every_accumulator(top):
    expr, boundary = expression(np.random.default_rng(7)), boundaries(staircase_of(top).codes, top)
    low, high = np.full(6, -4000), np.full(6, 5000)
    ladder = thresholds(expr, boundary, low, high)
    slope = np.abs(expr(high) - expr(low)) / 9000 / 0.07
    multiplier, offset, fits = fit(ladder, slope)
    assert fits.all()
    acc = np.arange(-4000, 5001)[:, None] * np.ones(6, int)
    np.testing.assert_array_equal(cheap_codes(acc, multiplier, offset, top), by_definition(expr, boundary, acc))


def test_a_multiplier_that_cannot_be_right_is_never_accepted():
    expr, boundary = expression(np.random.default_rng(8)), boundaries(staircase_of(15).codes, 15)
    ladder = thresholds(expr, boundary, np.full(6, -4000), np.full(6, 5000))
    slope = np.abs(expr(np.full(6, 5000)) - expr(np.full(6, -4000))) / 9000 / 0.07
    _, _, fits = fit(ladder, slope * 1.05)
    np.testing.assert_array_equal(fits, [False, False, True, False, False, False])  # the constant channel fits always


def test_unequal_steps_keep_their_ladder_and_the_ladder_is_right():
    def code_of(v):
        return np.searchsorted([0.1, 0.15, 0.5], v, side="left").astype(np.uint8)

    expr, boundary = expression(np.random.default_rng(9)), boundaries(code_of, 3)
    low, high = np.full(6, -2000), np.full(6, 2000)
    ladder = thresholds(expr, boundary, low, high)
    multiplier, offset, fits = fit(ladder, np.abs(expr(high) - expr(low)) / 4000 / 0.2)
    rows = (ladder.thresholds[0] * ladder.direction).T[~fits].astype(np.int32)
    op = Requantize("op", (0,), 3, multiplier, offset, np.where(fits, 0, ladder.direction).astype(np.int8), rows)
    acc = (np.arange(-2000, 2001)[:, None] * np.ones(6, int)).astype(np.int32)
    assert not fits.all() and (op.direction == -1).any()
    np.testing.assert_array_equal(op.run(acc), by_definition(expr, boundary, acc))


def test_unequal_steps_become_edges_that_all_channels_share():
    def code_of(v):
        return np.searchsorted([0.1, 0.15, 0.5], v, side="left").astype(np.uint8)

    expr, boundary = expression(np.random.default_rng(9)), boundaries(code_of, 3)
    low, high = np.full(6, -2000), np.full(6, 2000)
    ladder = thresholds(expr, boundary, low, high)
    edges = boundary.astype(np.float32)
    multiplier, offset, fits = fit(ladder, np.abs(expr(high) - expr(low)) / 4000, edges=edges)
    acc = np.arange(-2000, 2001)[:, None] * np.ones(6, int)
    assert fits.all()
    found = cheap_codes(acc, multiplier, offset, 3, edges=edges)
    np.testing.assert_array_equal(found, by_definition(expr, boundary, acc))
    assert not verified(ladder, multiplier, offset, 3, None, edges * np.float32(1.01)).all()


def test_a_cheap_addition_equals_the_definition_for_every_shortcut_code():
    expr, boundary = expression(np.random.default_rng(10)), boundaries(staircase_of(15).codes, 15)
    short = np.arange(16) * 0.031
    low, high = np.full(6, -1500), np.full(6, 1500)
    ladder = thresholds(expr, boundary, low, high, short)
    table = (short / 0.07).astype(np.float32)
    multiplier, offset, fits = fit(ladder, np.abs(expr(high) - expr(low)) / 3000 / 0.07, table)
    assert fits.sum() >= 4
    acc = np.arange(-1500, 1501)[:, None] * np.ones(6, int)
    for k in range(16):
        expected = ((expr(acc) + short[k])[None] >= boundary[:, None, None]).sum(0)
        found = cheap_codes(acc, multiplier, offset, 15, table[k])
        np.testing.assert_array_equal(found[:, fits], expected[:, fits])


def test_the_slack_covers_any_order_of_the_plain_float64_sum_and_is_needed():
    rng, largest = np.random.default_rng(11), 0.0
    s_a, s_w = 0.1, 0.037
    for _ in range(200):
        a, w = rng.integers(0, 256, 400), rng.integers(-127, 128, 400)
        exact, terms = int(a @ w) * (s_a * s_w), (a * s_a) * (w * s_w)
        slack = float(sum_slack(np.float64(s_a), np.float64(s_w), 400, int(np.abs(a) @ np.abs(w))))
        for total in (terms.sum(), np.sort(terms).cumsum()[-1], sum(terms.tolist())):
            largest = max(largest, abs(total - exact))
            assert abs(total - exact) <= slack
    assert largest > 0


def test_powers_of_two_need_no_slack():
    assert sum_slack(np.float64(0.25), np.float64(2.0 ** -7), 500, 10 ** 6) == 0
    assert sum_slack(np.float64(0.25), np.float64(0.3), 500, 10 ** 6) > 0


@pytest.mark.parametrize("scale,open_thresholds", [(0.1, 1), (0.1004, 0)])
def test_only_a_near_tie_is_reported_as_unproven(scale, open_thresholds):
    expr = scaled(scale, 1)  # acc = 5 falls on the threshold 0.5 where the scale is 0.1, up to rounding
    ladder = thresholds(expr, [0.5], np.array([-100]), np.array([100]))
    assert unproven(ladder, expr, [0.5], np.array([1e-13])) == open_thresholds


def test_every_step_of_an_expression_rounds_once():
    expr = Expression(("multiply", "add"), np.array([[0.1], [-0.3]]))
    assert expr(np.array([3]))[0] == 3 * 0.1 - 0.3 != 0


@pytest.mark.parametrize("offset,right", [(-9.0, True), (-8.4, False), (-9.6, False)])
def test_a_cheap_form_is_rejected_for_an_error_on_either_side_of_a_threshold(offset, right):
    ladder = thresholds(scaled(1.0, 1), [9.5], np.array([0]), np.array([20]))  # code 1 from 10 on
    one = np.ones(1, np.float32)
    assert ladder.thresholds.item() == 10
    assert verified(ladder, one, np.array([offset], np.float32), 1, None).item() == right
