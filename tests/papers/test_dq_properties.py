"""What the mixed-precision quantizers promise: levels, ties, gradients, bit-widths, projection, storage."""

import math

import numpy as np
import pytest

from minquant import check
from minquant.quantizers.dq import Uniform
from minquant.quantizers.dq_parameters import POWER, UNIFORM, Rounder, nearest_exponent
from minquant.quantizers.dq_power import PowerOfTwo

LEARNED = [form for form in (*UNIFORM, *POWER) if not form.startswith("fixed")]


def make(form, signed=True, bits=3, weights=None, learn_bits=True, max_bits=8, **values):
    weights = signed if weights is None else weights
    quantizer = (Uniform if form in UNIFORM else PowerOfTwo)(bits, form, signed, weights, learn_bits, max_bits)
    quantizer.astype(np.float64)
    quantizer.state["ready"][...] = True
    for name, value in values.items():
        quantizer.array(name)[...] = value
    return quantizer


def normal(seed=0, size=2000, scale=1.0):
    return np.random.default_rng(seed).normal(0, scale, size)


def off_grid(form, signed=True, **settings):
    """A quantizer whose range is no multiple of its step, some values saturated, parameters far from borders."""
    values = {"d": 0.13, "q_max": 0.9, "q_min": 0.11, "b": 3.2}
    quantizer = make(form, signed, **settings)
    for name in quantizer.params:
        quantizer.params[name][...] = values[name]
    return quantizer


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("form", [*UNIFORM])
def test_uniform_outputs_are_integer_multiples_of_a_power_of_two_up_to_k(form, signed):
    quantizer = off_grid(form, signed)
    step, _ = quantizer.grid(quantizer.theta()[0], Rounder())
    codes = quantizer.forward(normal())[0] / step
    assert math.log2(step) == round(math.log2(step))
    np.testing.assert_array_equal(codes, np.round(codes))
    assert np.abs(codes).max() <= quantizer.largest_code() and (signed or codes.min() == 0)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("form", [*UNIFORM, *POWER])
def test_quantizing_twice_changes_nothing_and_order_is_kept(form, signed):
    quantizer, x = off_grid(form, signed), np.sort(normal())
    y = quantizer.forward(x)[0]
    np.testing.assert_array_equal(quantizer.forward(y)[0], y)
    assert (np.diff(y) >= 0).all()
    if form in UNIFORM and signed:
        np.testing.assert_array_equal(quantizer.forward(-x)[0], -y)


def test_the_error_inside_the_range_is_at_most_half_a_step():
    quantizer, x = make("u3", d=0.125, q_max=0.875), np.random.default_rng(0).uniform(-0.875, 0.875, 5000)
    assert np.abs(quantizer.forward(x)[0] - x).max() <= 0.0625


@pytest.mark.parametrize("signed", [True, False])
def test_a_power_of_two_is_within_a_factor_of_root_two(signed):
    quantizer = make("p3", signed, q_min=0.125, q_max=1.0)
    rng = np.random.default_rng(0)
    x = rng.uniform(0.125, 1.0, 5000) * (rng.choice([-1, 1], 5000) if signed else 1)
    ratio = quantizer.forward(x)[0] / x
    assert ratio.min() >= 1 / math.sqrt(2) - 1e-12 and ratio.max() <= math.sqrt(2) + 1e-12


def test_ties_go_away_from_zero():
    quantizer = make("u3", d=0.25, q_max=1.0)
    x = np.array([0.125, -0.125, 0.375, -0.375, 0.625])
    np.testing.assert_array_equal(quantizer.forward(x)[0], [0.25, -0.25, 0.5, -0.5, 0.75])


def test_on_a_full_grid_all_uniform_parametrizations_agree_and_their_gradients_are_combinations():
    x, g = normal(), normal(1)
    grids = {"u1": {"d": 0.125, "b": 4}, "u2": {"b": 4, "q_max": 0.875}, "u2snap": {"b": 4, "q_max": 0.875},
             "u3": {"d": 0.125, "q_max": 0.875}, "u3snap": {"d": 0.125, "q_max": 0.875}}
    outputs, grads = {}, {}
    for form, values in grids.items():
        quantizer = make(form, **values)
        outputs[form], cache = quantizer.forward(x)
        grads[form] = quantizer.backward(g, cache)[1]
    for form in grids:
        np.testing.assert_array_equal(outputs[form], outputs["u3"])
    d, q_max = grads["u3"]["d"], grads["u3"]["q_max"]
    np.testing.assert_allclose(grads["u1"]["d"], d + 7 * q_max, rtol=1e-12)
    np.testing.assert_allclose(grads["u1"]["b"], 0.125 * 8 * math.log(2) * q_max, rtol=1e-12)


def element_gradients(quantizer, x, name):
    caches = [quantizer.forward(x[i:i + 1])[1] for i in range(x.size)]
    return np.array([quantizer.backward(np.ones(1), cache)[1][name] for cache in caches])


@pytest.mark.parametrize("form", ["u3", "u3snap"])
def test_gradients_of_step_and_range_are_bounded_and_decoupled_where_the_range_is_on_the_grid(form):
    q_max = 0.875 if form == "u3" else 0.9
    quantizer, x = make(form, d=0.13, q_max=q_max), normal(size=300)
    dd, dq_max = element_gradients(quantizer, x, "d"), element_gradients(quantizer, x, "q_max")
    assert np.abs(dd).max() <= 0.5 * 0.125 / 0.13 + 1e-12
    assert set(np.unique(dq_max)) <= {-1, 0, 1}
    assert (dd * dq_max == 0).all() and dd.any() and dq_max.any()
    assert dd @ dq_max == 0  # the off-diagonal of the Gauss-Newton Hessian


def test_the_gradient_norm_of_u1_explodes_with_the_bits_and_that_of_u3_stays_one():
    expected = {2: 1.71, 3: 4.09, 4: 8.93, 6: 38.1, 8: 154.9}
    for bits, norm in expected.items():
        largest = 2 ** (bits - 1) - 1
        x = np.r_[np.linspace(-largest, largest, 999), -2.0 * largest, 2.0 * largest]
        u1, u3 = make("u1", bits=bits, d=1.0, b=bits), make("u3", bits=bits, d=1.0, q_max=largest)
        for quantizer, limit in ((u1, norm), (u3, 1.0)):
            for name in quantizer.params:
                quantizer.limits[name] = -1e9, 1e9
            both = np.hypot(*(element_gradients(quantizer, x, name) for name in quantizer.params))
            assert abs(both.max() - limit) <= 0.01 * limit
        exact = math.hypot(2 ** (bits - 1) * math.log(2), largest)
        both = np.hypot(*(element_gradients(u1, x, name) for name in u1.params))
        assert abs(both.max() - exact) <= 1e-9 * exact


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("form", LEARNED)
def test_backward_is_the_derivative_of_the_surrogate(form, signed):
    quantizer, x = off_grid(form, signed), normal(size=400) + (0 if signed else 0.4)
    quantizer.freeze(x)
    check.gradients(quantizer, x, np.random.default_rng(1), surrogate=quantizer.surrogate, step=1e-7)


@pytest.mark.parametrize("form", ["u2snap", "p2"])
def test_backward_at_fixed_bits_is_the_derivative_of_the_surrogate(form):
    quantizer, x = off_grid(form, learn_bits=False), normal(size=400)
    assert list(quantizer.params) == ["q_max"]
    quantizer.freeze(x)
    check.gradients(quantizer, x, np.random.default_rng(1), surrogate=quantizer.surrogate, step=1e-7)


@pytest.mark.parametrize("form", ["u3", "p3"])
def test_only_freeze_sets_the_point_of_the_surrogate(form):
    quantizer, x = off_grid(form), normal(size=9)
    quantizer.forward(x, train=True)
    with pytest.raises(RuntimeError, match="freeze"):
        quantizer.surrogate(x)


@pytest.mark.parametrize("form", ["u1", "u2snap", "u3", "p1", "p2", "p3"])
@pytest.mark.parametrize("fault", ["scaled", "zero", "dropped"])
def test_the_checker_rejects_wrong_backwards(form, fault):
    quantizer, x = off_grid(form), normal(size=400)
    original = quantizer.backward

    def wrong(dy, cache):
        dx, grads = original(dy, cache)
        name = next(iter(grads))
        if fault == "dropped":
            return dx - dy * (np.abs(x) > 0.5) * 0.1, grads
        return dx, grads | {name: grads[name] * (1.01 if fault == "scaled" else 0)}

    quantizer.backward = wrong
    quantizer.freeze(x)
    with pytest.raises(check.GradientError):
        check.gradients(quantizer, x, np.random.default_rng(1), surrogate=quantizer.surrogate, step=1e-7)


@pytest.mark.parametrize("form,name,value", [("u3", "d", 2.0 ** -13), ("u3", "d", 300.0), ("u3", "q_max", 200.0),
                                             ("u1", "b", 9.0), ("p3", "q_min", 2.0 ** -17), ("p3", "q_max", 500.0)])
def test_a_parameter_outside_its_clamp_gets_no_gradient_and_acts_clamped(form, name, value):
    outside, inside = make(form, **{name: value}), make(form)
    low, high = outside.limits[name]
    inside.array(name)[...] = min(max(value, low), high)
    x = normal(scale=100.0)
    y, cache = outside.forward(x)
    assert outside.backward(normal(1), cache)[1][name] == 0
    np.testing.assert_array_equal(y, inside.forward(x)[0])


def test_zeros_and_values_behind_a_relu_that_are_negative():
    g = normal(1, 50)
    signed, unsigned = make("u3"), make("u3", False)
    y, cache = signed.forward(np.zeros(50))
    dx, grads = signed.backward(g, cache)
    np.testing.assert_array_equal(dx, g)
    assert not y.any() and grads["d"] == 0 and grads["q_max"] == 0
    y, cache = unsigned.forward(-np.abs(normal(2, 50)))
    dx, grads = unsigned.backward(g, cache)
    assert not y.any() and not dx.any() and grads["q_max"] == 0


def test_the_integer_form_of_the_bit_width_is_the_ceiling_of_the_logarithm():
    for k in range(1, 65536):
        assert k.bit_length() == math.ceil(math.log2(k + 1))


@pytest.mark.parametrize("d,q_max,bits", [(0.5, 0.5, 2), (0.125, 0.875, 4), (0.125, 1.0, 5), (2.0 ** -7, 3.0, 10)])
def test_bits_are_inferred_from_step_and_range(d, q_max, bits):
    assert make("u3", max_bits=16, d=d, q_max=q_max).bits == bits


@pytest.mark.parametrize("form", [*UNIFORM, *POWER])
@pytest.mark.parametrize("learn_bits", [True, False])
def test_bits_start_as_given(form, learn_bits):
    for signed in (True, False):
        for bits in range(2, 8 if form in UNIFORM else 5):
            quantizer = make(form, signed, bits, learn_bits=learn_bits)
            if form == "u2":
                assert quantizer.bits in (bits, bits + 1)  # a rounded step may need up to sqrt(2) times the codes
            else:
                assert quantizer.bits == bits


def test_projection_orders_step_and_range_swaps_a_crossed_pair_and_is_idempotent():
    rng = np.random.default_rng(0)
    for _ in range(300):
        d, q_max = np.exp(rng.uniform(np.log(2.0 ** -9), np.log(4), 2))
        quantizer = make("u3", max_bits=16, d=d, q_max=q_max)
        quantizer.project()
        once = float(quantizer.params["d"]), float(quantizer.params["q_max"])
        assert once[1] >= once[0] or q_max < 2.0 ** -8 or d < 2.0 ** -8
        if d > q_max > 2.0 ** -7:
            np.testing.assert_allclose(once, (q_max, d), atol=1.1e-5)
        quantizer.project()
        np.testing.assert_allclose(once, (quantizer.params["d"], quantizer.params["q_max"]), atol=3e-5)


@pytest.mark.parametrize("signed", [True, False])
def test_projection_raises_the_step_at_the_cap_by_less_than_one_doubling(signed):
    most = 127 if signed else 255
    for q_max in np.linspace(1, 120, 500):
        quantizer = make("u3", signed, d=2.0 ** -11, q_max=q_max)
        quantizer.project()
        assert most / 2 <= quantizer.largest_code() <= most
        d = float(quantizer.params["d"])
        quantizer.project()
        assert quantizer.params["d"] == d


@pytest.mark.parametrize("signed,most", [(True, 127), (False, 255)])
def test_projection_keeps_codes_within_eight_bits(signed, most):
    quantizer = make("u3", signed, d=0.01, q_max=100.0)
    with pytest.raises(ValueError, match=r"max_bits=8"):
        quantizer.encode(normal())
    quantizer.project()
    assert quantizer.largest_code() <= most and quantizer.bits == 8 and quantizer.params["q_max"] == 100
    np.testing.assert_array_equal(quantizer.encode(normal()).decode(), quantizer.forward(normal())[0])


@pytest.mark.parametrize("signed,span", [(True, 6), (False, 7)])
def test_projection_keeps_powers_of_two_within_int8_and_uint8(signed, span):
    quantizer = make("p3", signed, q_min=2.0 ** -12, q_max=1.0)
    with pytest.raises(ValueError, match="doublings"):
        quantizer.encode(normal())
    quantizer.project()
    assert quantizer.exponent_range() == (-span, 0) and quantizer.bits == 4
    assert quantizer.encode(normal()).levels[-1] == 2 ** span


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("form", [*UNIFORM, *POWER])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_stored_is_the_evaluation_forward_and_the_staircase_gives_its_codes(form, weights, signed, dtype):
    if weights and not signed:
        return
    x = normal(size=3000).astype(dtype)
    for bits in (2, 3, 4):
        quantizer = make(form, signed, bits, weights)
        quantizer.init_from(x, None)
        quantizer.astype(dtype)
        extra = [2.0 ** j * m for j in range(-6, 3) for m in (0.5, 1.0, 1.5, math.sqrt(0.5))]
        points = np.r_[x, extra, np.negative(extra), 0].astype(dtype)
        stored, y = quantizer.encode(points), quantizer.forward(points)[0]
        np.testing.assert_array_equal(stored.decode(), y)
        assert y.dtype == dtype and (np.diff(stored.levels.astype(int)) > 0).all()
        if form in UNIFORM or quantizer.with_zero:
            stairs = quantizer.staircase()
            np.testing.assert_array_equal(stairs.codes(points), stored.codes)
            np.testing.assert_array_equal(stairs.levels, stored.levels)


def test_powers_of_two_with_zero_begin_inclusively_at_a_over_root_two():
    quantizer = make("p3", False, q_min=0.25, q_max=1.0)
    border = 0.25 / math.sqrt(2)
    x = np.array([0, np.nextafter(border, 0), border, 0.25])
    np.testing.assert_array_equal(quantizer.forward(x)[0], [0, 0, 0.25, 0.25])
    np.testing.assert_array_equal(make("p3", q_min=0.25).forward(np.zeros(1))[0], [0.25])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_nearest_exponent_changes_between_the_floats_around_root_two(dtype):
    below = dtype(math.sqrt(2))
    below = below if float(below) ** 2 < 2 else np.nextafter(below, dtype(0))
    np.testing.assert_array_equal(nearest_exponent(np.array([below, np.nextafter(below, dtype(2))])), [0, 1])


def test_float32_products_equal_integer_products_while_sums_stay_below_two_to_the_24():
    rng = np.random.default_rng(0)
    w = rng.normal(0, 0.2, (500, 8)).astype(np.float32)
    x = np.maximum(rng.normal(0, 1, (20, 500)), 0).astype(np.float32)
    weight, activation = Uniform(4, "u3"), Uniform(4, "u3", signed=False, weights=False)
    for quantizer, tensor in ((weight, w), (activation, x)):
        quantizer.init_from(tensor, None)
    qw, qx = weight.encode(w), activation.encode(x)
    accumulator = qx.levels[qx.codes].astype(np.int64) @ qw.levels[qw.codes].astype(np.int64)
    fake = activation.forward(x)[0] @ weight.forward(w)[0]
    np.testing.assert_array_equal(fake, accumulator * (qx.scale * qw.scale))


def test_gradient_descent_on_normal_samples_lowers_the_error_without_oscillation():
    x = np.random.default_rng(0).standard_normal(10_000)
    d, q_max, records = 0.125, 0.875, []
    for i in range(301):
        clipped = np.clip(x, -q_max, q_max)
        y = np.sign(clipped) * np.floor(np.abs(clipped) / d + 0.5) * d
        error = y - x
        records += [0.5 * np.square(error).mean()] * (i % 10 == 0)
        quantizer = make("u3", max_bits=16, d=d, q_max=q_max)
        rows = quantizer.slopes(quantizer.theta()[0], d)
        outside = np.where(np.abs(x) > q_max, np.sign(x), 0)
        slope = {n: rows[n][0] * (y - clipped) + rows[n][1] * outside for n in ("d", "q_max")}
        d, q_max = (v - 0.1 * float((error * slope[n]).mean()) for n, v in (("d", d), ("q_max", q_max)))
    assert records[0] > 0.09 and records[-1] < 0.006
    assert all(after <= 1.1 * before for before, after in zip(records, records[1:]))
