"""What DropBits promises: masks, gates, the grids they leave, and learned bit-widths."""

import numpy as np
import pytest

from minquant.estimators import concrete, dropbits, multiclass
from minquant.estimators.multiclass import Grid, grid_codes
from minquant.quantizers.cpq import DropBits
from tests.helpers import assert_close


def grid(bits=3, alpha=0.25, ratio=1 / 3):
    return Grid(alpha, alpha * ratio, *grid_codes(bits, True))


def points(bits, count=400, seed=0, alpha=0.25):
    reach = 2 ** (bits - 1) + 2
    return np.random.default_rng(seed).uniform(-reach, reach, count) * alpha


def weights(bits=4, seed=0):
    return np.random.default_rng(seed).normal(0, 0.2, (3, 3, 4, 8)).astype(np.float32)


def ready(bits=4, omega=None, **options):
    quantizer = DropBits(bits, **options)
    quantizer.init_from(weights(), np.random.default_rng(1))
    if omega is not None:
        quantizer.params["omega"][...] = omega
    return quantizer


def gated_backward(dy, x, g, gates, min_bits=1):
    codes = dropbits.bits_codes(x, g, gates, min_bits)
    def slopes(x, n):
        return dropbits.bits_slopes(x, n, g, gates, min_bits)

    return codes, multiclass.contract(slopes, dy, x, codes)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("min_bits", [1, 2])
@pytest.mark.parametrize("kind", ["fractional", "binary", "top dropped"])
def test_the_closed_masked_form_equals_the_expansion_over_levels(bits, min_bits, kind):
    rng = np.random.default_rng(bits)
    gates = rng.uniform(0.05, 1, bits - min_bits)
    if kind == "binary":
        gates = (gates > 0.5) * 1.0
    elif kind == "top dropped" and len(gates):
        gates[-1] = 0
    g, x, groups = grid(bits, ratio=0.8), points(bits), dropbits.gate_groups(bits, "bits", min_bits)
    dy = rng.standard_normal(len(x))
    codes, (dx, sums) = gated_backward(dy, x, g, gates, min_bits)
    np.testing.assert_array_equal(codes, dropbits.expanded_codes(x, g, gates, groups))
    oracle_dx, oracle_sums = multiclass.contract(
        lambda x, n: dropbits.expanded_slopes(x, n, g, gates, groups, "imax"), dy, x, codes)
    assert_close(dx, oracle_dx)
    assert_close(sums[:2], oracle_sums[:2])
    alive = np.flatnonzero(gates) + 2  # a dropped gate's derivative may be cut; it reaches no mask
    assert_close(sums[alive], oracle_sums[alive])


@pytest.mark.parametrize("layout", dropbits.LAYOUTS)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_open_gates_are_the_same_as_no_masks(layout, bits):
    g, groups = grid(bits), dropbits.gate_groups(bits, layout)
    x = np.concatenate([points(bits), (np.arange(g.n_min, g.n_max) + 0.5) * g.alpha])
    gates, dy = np.ones(groups.max() + 1), np.random.default_rng(0).standard_normal(len(x))
    codes = dropbits.expanded_codes(x, g, gates, groups)
    if layout == "bits":
        np.testing.assert_array_equal(dropbits.bits_codes(x, g, gates, 1), codes)
    np.testing.assert_array_equal(codes, g.nearest(x))
    dx, dalpha, dsigma = multiclass.backward(dy, x, g, "imax")
    gated_dx, sums = multiclass.contract(
        lambda x, n: dropbits.expanded_slopes(x, n, g, gates, groups, "imax"), dy, x, codes, chunk=128)
    assert_close(gated_dx, dx, 1e-12)
    assert_close(sums[:2], [dalpha, dsigma], 1e-12)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_dropping_the_top_level_leaves_the_grid_of_one_bit_less(bits):
    g, smaller, x = grid(bits), grid(bits - 1), points(bits)
    gates = np.ones(bits - 1)
    gates[-1] = 0
    dy = np.random.default_rng(0).standard_normal(len(x))
    codes, (dx, sums) = gated_backward(dy, x, g, gates)
    np.testing.assert_array_equal(codes, smaller.nearest(x))
    expected = multiclass.backward(dy, x, smaller, "imax")
    assert_close(dx, expected[0], 1e-10)
    assert_close(sums[:2], expected[1:], 1e-10)


@pytest.mark.parametrize("layout,gates", [("bits", (1, 0, 1)), ("bits", (0, 0, 1)), ("bits", (0, 1, 0)),
                                          ("endpoints", (0, 1, 0, 1, 1, 0, 1))])
def test_binary_gates_round_to_the_nearest_surviving_level_and_ties_to_the_larger_code(layout, gates):
    g, gates = grid(4), np.array(gates, float)
    groups = dropbits.gate_groups(4, layout)
    survivors = np.arange(g.n_min, g.n_max + 1)[np.r_[1.0, gates][groups + 1] == 1]
    midway = (survivors[:-1] + survivors[1:]) / 2 * g.alpha
    x = np.concatenate([points(4), midway])
    distance = np.abs(x[:, None] - g.alpha * survivors)
    nearest = survivors[::-1][distance[:, ::-1].argmin(-1)]
    np.testing.assert_array_equal(dropbits.expanded_codes(x, g, gates, groups), nearest)
    if layout == "bits":
        np.testing.assert_array_equal(dropbits.bits_codes(x, g, gates, 1), nearest)


@pytest.mark.parametrize("layout", dropbits.LAYOUTS)
def test_with_all_gates_closed_only_minus_one_and_zero_remain(layout):
    groups = dropbits.gate_groups(3, layout)
    codes = dropbits.expanded_codes(points(3), grid(), np.zeros(groups.max() + 1), groups)
    assert set(codes) == {-1, 0}


@pytest.mark.parametrize("keep,positive,one,mean", [(0.2, 0.553, 0.048, 0.226), (0.5, 0.832, 0.168, 0.500),
                                                    (0.9, 0.978, 0.645, 0.879)])
def test_hard_concrete_masks_are_zero_and_one_as_often_as_their_formulas_say(keep, positive, one, mean):
    omega = np.log(keep / (1 - keep))
    masks, _ = concrete.hard_concrete(omega, np.random.default_rng(0).uniform(1e-6, 1 - 1e-6, 10 ** 6))
    assert abs((masks > 0).mean() - concrete.open_probability(omega)) < 3e-3
    assert abs((masks == 1).mean() - concrete.fully_open_probability(omega)) < 3e-3
    assert abs(concrete.open_probability(omega) - positive) < 1e-3
    assert abs(concrete.fully_open_probability(omega) - one) < 1e-3
    assert abs(masks.mean() - mean) < 3e-3


def test_masks_at_exactly_zero_or_one_pass_no_gradient():
    uniform = np.array([1e-6, 0.5, 1 - 1e-6])
    masks, s = concrete.hard_concrete(np.zeros(3), uniform)
    assert masks[0] == 0 and 0 < masks[1] < 1 and masks[2] == 1
    np.testing.assert_array_equal(concrete.hard_concrete_backward(np.ones(3), s) != 0, [False, True, False])


def test_nested_gates_have_no_holes_and_their_gradient_needs_no_division():
    masks = np.array([0.5, 0.0, 0.8])
    np.testing.assert_array_equal(dropbits.gates_from_masks(masks, True), [0.5, 0, 0])
    dgates = np.array([1.0, 10.0, 100.0])
    dmasks = dropbits.gates_from_masks_backward(dgates, masks, True)
    np.testing.assert_allclose(dmasks, [1, 10 * 0.5 + 100 * 0.4, 0])
    np.testing.assert_array_equal(dropbits.gates_from_masks_backward(dgates, masks, False), dgates)


def test_a_step_on_the_penalty_alone_lowers_every_keep_probability():
    quantizer = ready(learn_bits=True, nested=True, penalty=0.1)
    _, grads = quantizer.penalty()
    assert (grads["omega"] > 0).all()
    before = quantizer.params["omega"].copy()
    quantizer.params["omega"] -= 0.1 * grads["omega"]
    assert (concrete.sigmoid(quantizer.params["omega"]) < concrete.sigmoid(before)).all()
    assert ready(penalty=0.1).penalty() == (0.0, {})  # without learned bits a mask costs nothing


def test_the_deterministic_gate_is_zero_up_to_a_keep_probability_of_one_twelfth():
    keep = np.array([0.5, 1, 1.0001, 2]) / 12
    gate = concrete.deterministic_gate(np.log(keep / (1 - keep)))
    np.testing.assert_array_equal(gate[[0, 2, 3]] > 0, [False, True, True])
    assert gate[1] < 1e-12


def test_learned_bits_stop_at_the_first_closed_level():
    quantizer = ready(8, omega=[3, 3, -4, 3, 3, 3], min_bits=2, nested=True, learn_bits=True)
    assert quantizer.learned_bits() == 4 and quantizer.bits == 8
    quantizer.fix_bits()
    assert quantizer.bits == 4 and not quantizer.masked()
    quantizer.params["omega"][...] = 6
    quantizer.fix_bits()
    assert quantizer.bits == 4  # fixed once


def test_expected_bits_are_the_mean_of_the_sampled_ones():
    quantizer = ready(4, omega=[0.5, -0.5], min_bits=2, nested=True, learn_bits=True)
    uniform = np.random.default_rng(0).uniform(1e-6, 1 - 1e-6, (200_000, 2))
    masks, _ = concrete.hard_concrete(np.array([0.5, -0.5]), uniform)
    sampled = 2 + np.cumprod(masks > 0, axis=1).sum(1)
    assert abs(quantizer.expected_bits() - sampled.mean()) < 6e-3


def test_fixing_bits_keeps_the_step_size_and_drops_the_outer_levels():
    w = weights()
    quantizer = ready(4, omega=[3, -4], min_bits=2, nested=True, learn_bits=True)
    full, _ = quantizer.forward(w)
    step = np.exp(quantizer.params["log_alpha"])
    quantizer.fix_bits()
    small, _ = quantizer.forward(w)
    inner = np.abs(w) < 3 * step
    np.testing.assert_array_equal(small[inner], full[inner])
    assert set(np.unique(quantizer.encode(w).levels)) == set(range(-4, 4)) and quantizer.encode(w).bits == 3


def test_masks_are_drawn_from_the_generator_in_training_and_never_in_evaluation():
    w, quantizer = weights(), ready(omega=[0, 0, 0])
    rng, same = np.random.default_rng(5), np.random.default_rng(5)
    outputs = [quantizer.forward(w, True, rng)[0] for _ in range(10)]
    repeated = [quantizer.forward(w, True, same)[0] for _ in range(10)]
    np.testing.assert_array_equal(outputs, repeated)
    assert any(not np.array_equal(outputs[0], other) for other in outputs[1:])
    state = rng.bit_generator.state
    quantizer.forward(w, False, rng)
    quantizer.fix_bits()
    quantizer.forward(w, True, rng)
    assert rng.bit_generator.state == state


def test_training_with_masks_refuses_to_run_without_a_generator():
    with pytest.raises(ValueError, match="draws masks"):
        ready().forward(weights(), train=True)
