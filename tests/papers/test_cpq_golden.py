"""Golden vectors of CPQ and DropBits: outputs exact, gradients to 1e-9 relative."""

import numpy as np
import pytest

from minquant.estimators import concrete, dropbits, multiclass
from minquant.estimators.multiclass import Grid, grid_codes
from minquant.quantizers.cpq import ClusterPromoting, DropBits
from tests.helpers import assert_close, vectors

GOLDEN = vectors("cpq")
CASES = [str(case) for case in GOLDEN["cases"]]
PLAIN = [case for case in CASES if case.startswith("cpq_")]
DROPPED = [case for case in CASES if case.startswith("drop_")]
END_TO_END = [case for case in CASES if case.startswith("dropE2E")]
RULES = "imax", "full"


def fields(case):
    return {key[len(case) + 2:]: value for key, value in GOLDEN.items() if key.startswith(case + "__")}


def grid_of(v):
    return Grid(float(v["alpha"]), float(v["sigma"]), int(v["n_min"]), int(v["n_max"]))


def with_parameters(quantizer, v):
    quantizer.astype(np.float64)
    quantizer.params["log_alpha"][...] = np.log(v["alpha"])
    quantizer.params["log_sigma"][...] = np.log(v["sigma"])
    quantizer.state["ready"][...] = True
    return quantizer


@pytest.mark.parametrize("case", PLAIN)
def test_golden_codes_values_and_gradients(case):
    v = fields(case)
    grid = grid_of(v)
    assert grid_codes(int(v["bits"]), v["n_min"] < 0) == (grid.n_min, grid.n_max)
    codes = grid.nearest(v["x"])
    np.testing.assert_array_equal(codes, v["idx"])
    np.testing.assert_array_equal(codes * grid.alpha, v["xq"])
    dx, dalpha, dsigma = multiclass.backward(v["G"], v["x"], grid, RULES[int(v["ste"])], bool(v["normalize"]))
    assert_close(dx, v["dx"])
    assert_close(dalpha, v["dalpha"])
    assert_close(dsigma, v["dsigma"])


@pytest.mark.parametrize("case", PLAIN)
def test_golden_probability_of_the_chosen_level(case):
    v = fields(case)
    grid = grid_of(v)
    log_pi = multiclass.log_mass(v["x"], grid, v["idx"], v["idx"])
    if v["normalize"]:
        log_pi = log_pi - multiclass.log_mass(v["x"], grid, grid.n_min, grid.n_max)
    assert_close(np.exp(log_pi), v["pi"])


@pytest.mark.parametrize("case", PLAIN)
def test_golden_quantizer_gradients_of_log_parameters(case):
    v = fields(case)
    quantizer = with_parameters(
        ClusterPromoting(int(v["bits"]), bool(v["n_min"] < 0), RULES[int(v["ste"])], bool(v["normalize"])), v)
    y, cache = quantizer.forward(v["x"], train=True)
    assert_close(y, v["xq"])
    dx, grads = quantizer.backward(v["G"], cache)
    assert_close(dx, v["dx"])
    assert_close(grads["log_alpha"], v["alpha"] * v["dalpha"])
    assert_close(grads["log_sigma"], v["sigma"] * v["dsigma"])


@pytest.mark.parametrize("case", DROPPED)
def test_golden_gated_codes_and_gradients_level_by_level(case):
    v = fields(case)
    grid, rule = grid_of(v), RULES[int(v["ste"])]
    groups = dropbits.gate_groups(int(v["bits"]), dropbits.LAYOUTS[int(v["layout"])])
    np.testing.assert_array_equal(groups, v["groups"])
    codes = dropbits.expanded_codes(v["x"], grid, v["gates"], groups)
    np.testing.assert_array_equal(codes, v["idx"])
    pi = dropbits.expanded_probabilities(v["x"], grid, v["gates"], groups)
    assert_close(pi[np.arange(len(codes)), v["idx"] - grid.n_min], v["pi"])
    check_sums(v, lambda x, n: dropbits.expanded_slopes(x, n, grid, v["gates"], groups, rule), codes)


@pytest.mark.parametrize("case", [case for case in DROPPED if "_bits" in case and "full" not in case])
def test_golden_gated_codes_and_gradients_in_closed_form(case):
    v = fields(case)
    grid = grid_of(v)
    codes = dropbits.bits_codes(v["x"], grid, v["gates"], 1)
    np.testing.assert_array_equal(codes, v["idx"])
    check_sums(v, lambda x, n: dropbits.bits_slopes(x, n, grid, v["gates"], 1), codes)


def check_sums(v, slopes, codes):
    dx, sums = multiclass.contract(slopes, v["G"], v["x"], codes)
    assert_close(dx, v["dx"])
    assert_close(sums[0], v["dalpha"])
    assert_close(sums[1], v["dsigma"])
    assert_close(sums[2:], v["dgates"])


def test_golden_hard_concrete():
    v = fields("hardconcrete")
    assert (v["gamma"], v["zeta"], v["tau"]) == (concrete.GAMMA, concrete.ZETA, concrete.MASK_TAU)
    masks, s = concrete.hard_concrete(v["logit"], v["U"])
    phi = concrete.open_probability(v["logit"])
    assert_close(s, v["S"])
    assert_close(masks, v["Z"])
    assert_close(concrete.hard_concrete_backward(np.ones_like(masks), s), v["dZ_dlogit"])
    assert_close(phi, v["phi"])
    assert_close(concrete.open_probability_backward(1.0, phi), v["dphi_dlogit"])
    assert_close(concrete.deterministic_gate(v["logit"]), v["Z_eval"])
    assert_close(concrete.fully_open_probability(v["logit"]), v["p_one"])


@pytest.mark.parametrize("case", END_TO_END)
def test_golden_dropbits_from_noise_to_the_gradient_of_the_mask_logits(case):
    v = fields(case)
    quantizer = with_parameters(
        DropBits(int(v["bits"]), RULES[int(v["ste"])], nested=bool(v["nested"]), learn_bits=True,
                 penalty=float(v["lam"])), v)
    np.testing.assert_array_equal(quantizer.groups, v["groups"])
    quantizer.params["omega"][...] = v["logit"]
    y, cache = quantizer.forward_masked(v["x"], v["U"])
    _, _, codes, masks, _, gates = cache
    assert_close(masks, v["Z"])
    assert_close(gates, v["gates"])
    np.testing.assert_array_equal(codes, v["idx"])
    assert_close(y, v["xq"])
    dx, grads = quantizer.backward(v["G"], cache)
    price, extra = quantizer.penalty()
    assert_close(price, v["penalty"])
    assert_close(dx, v["dx"])
    assert_close(grads["log_alpha"], v["alpha"] * v["dalpha"])
    assert_close(grads["log_sigma"], v["sigma"] * v["dsigma"])
    assert_close(grads["omega"] + extra["omega"], v["dlogit"])
