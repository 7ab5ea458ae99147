"""QNet against stored values: sums of sigmoids and gradients, k-means, a training trace, integer ladders."""

import numpy as np
import pytest

from minquant.estimators.kmeans import inertia, kmeans1d, midpoints
from minquant.estimators.level_sets import initial_biases
from minquant.estimators.sigmoids import (Steps, biases_backward, hard_codes, scale_gradients, soft,
                                          soft_backward)
from minquant.quantizers.base import Staircase
from minquant.quantizers.qnet import HOTTEST, SigmoidSteps
from tests.helpers import assert_close, vectors

GOLDEN = vectors("qnet")
CASES = sorted({key.split("__")[0] for key in GOLDEN if key.startswith(("w_", "a_"))})
CLUSTERED = sorted({key.split("__")[0] for key in GOLDEN if key.startswith("km_")})


def arrays(case):
    return {key.split("__")[1]: value for key, value in GOLDEN.items() if key.startswith(case + "__")}


def point(case):
    """(arrays, positional arguments of `soft` after x)."""
    v = arrays(case)
    t = float(v.get("T_eff", v["T"]))
    return v, (float(v["alpha"]), float(v["beta"]), Steps(v["levels"], v["b"]), t)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("clip,suffix", [(10.0, ""), (None, "_nc")])
def test_golden_values_and_all_gradients(case, clip, suffix):
    v, args = point(case)
    alpha, beta = args[:2]
    y = soft(v["x"], *args, clip)
    dx = soft_backward(v["g"], v["x"], *args, clip=clip)
    log_alpha, log_beta = scale_gradients(v["g"], v["x"], y, dx)
    found = {"y_soft": y, "dx": dx, "dalpha": log_alpha / alpha, "dbeta": log_beta / beta,
             "db": biases_backward(v["g"], v["x"], *args, clip=clip)}
    for name, value in found.items():
        assert_close(value, v[name + suffix], 1e-11)


@pytest.mark.parametrize("case", [case for case in CASES if f"{case}__dx_T1" in GOLDEN])
def test_golden_wide_gradients(case):
    v, args = point(case)
    y = soft(v["x"], *args)
    dx = soft_backward(v["g"], v["x"], *args[:3], 1.0, gain=args[3])
    assert_close(dx, v["dx_T1"], 1e-11)
    assert_close(scale_gradients(v["g"], v["x"], y, dx)[1] / args[1], v["dbeta_T1"], 1e-11)


@pytest.mark.parametrize("case", CASES)
def test_golden_hard_values_and_codes(case):
    v, (alpha, beta, steps, _) = point(case)
    code = v["levels"][hard_codes(v["x"], v["b"] / beta)]
    np.testing.assert_array_equal(code, v["code"])
    assert_close(code * alpha, v["y_hard"], 1e-12)


@pytest.mark.parametrize("case", CASES)
def test_golden_quantizer_classes(case):
    v, (alpha, beta, steps, t) = point(case)
    signed = case.startswith("w_")
    levels = v["levels"].astype(np.int8 if signed else np.uint8)
    quantizer = SigmoidSteps(8, signed, levels).astype(np.float64)
    quantizer.biases[...], quantizer.state["temperature"][...] = v["b"], t
    quantizer.params["log_alpha"][...], quantizer.params["log_beta"][...] = np.log(alpha), np.log(beta)
    quantizer.state["ready"][...] = True
    y, cache = quantizer.forward(v["x"], train=True)
    dx, grads = quantizer.backward(v["g"], cache)
    np.testing.assert_allclose(y, v["y_soft"], rtol=1e-9, atol=1e-9)
    assert_close(dx, v["dx"], 1e-9)
    assert_close(grads["log_alpha"] / alpha, v["dalpha"], 1e-9)
    assert_close(grads["log_beta"] / beta, v["dbeta"], 1e-9)
    stored = quantizer.encode(v["x"])
    same = np.abs(beta * v["x"][:, None] - v["b"]).min(1) > 1e-12  # exp(log(beta)) rounds
    np.testing.assert_array_equal(stored.levels[stored.codes][same], v["code"][same])


def test_golden_temperature_is_capped():
    v = arrays("w_cap")
    assert min(float(v["T"]), HOTTEST) == v["T_eff"]


@pytest.mark.parametrize("case", CLUSTERED)
def test_golden_initial_scales_and_clusters(case):
    v = arrays(case)
    p = np.abs(v["levels"]).max()
    beta = 1.25 * p / np.abs(v["x"]).max()
    assert_close(beta, v["beta"], 1e-12)
    assert_close(1 / beta, v["alpha"], 1e-12)
    z = np.sort(v["x"] * v["beta"])
    centres = kmeans1d(z, len(v["levels"]))
    assert inertia(z, centres) <= 1.05 * v["inertia"]
    if case != "km_gauss":  # without gaps between clusters only the optimum's inertia is promised
        assert_close(centres, v["centers"], 1e-9)
        assert_close(midpoints(centres), v["b_mid_centers"], 1e-9)


@pytest.mark.parametrize("case", [case for case in CLUSTERED if case != "km_gauss"])
def test_golden_biases_of_the_paper_and_of_its_code(case):
    v = arrays(case)
    rng = np.random.default_rng(0)
    z = v["x"] * v["beta"]
    halfwidth = 0.05 if v["levels"][0] < 0 else 0.0
    assert_close(initial_biases(z, v["levels"], rng, zero_halfwidth=halfwidth), v["b_paper"], 1e-9)
    ours = initial_biases(z, v["levels"], rng)
    for other in (v["b_gap"], v["b_official"]):  # between neighbouring data: another place of the same gap
        np.testing.assert_array_equal(np.searchsorted(np.sort(z), ours), np.searchsorted(np.sort(z), other))


@pytest.mark.parametrize("suffix,wide", [("", False), ("_T1", True)])
def test_golden_three_training_steps_clip_before_the_chain_rule(suffix, wide):
    v = arrays("step")
    names = ("W0", "W1", "W2", "alpha", "beta")
    p = {name: v[f"{name}_0"].astype(np.float64) for name in names}
    velocity = {name: np.zeros_like(p[name]) for name in names}
    steps, t, lr = Steps(v["levels"], v["b"]), float(v["T"]), float(v["lr"])
    for x, labels, loss in zip(v["X"], v["Y"], v["loss" + suffix]):
        quantized = soft(p["W1"], p["alpha"], p["beta"], steps, t)
        found, grads = _loss_and_grads(x, labels, p["W0"], quantized, p["W2"])
        assert_close(found, loss, 1e-10)
        norm = np.sqrt(sum((g * g).sum() for g in grads))
        d0, dq, d2 = (g * min(1, float(v["clip_norm"]) / (norm + 1e-6)) for g in grads)
        how = (1.0, t) if wide else (t, None)
        d1 = soft_backward(dq, p["W1"], p["alpha"], p["beta"], steps, *how)
        dalpha, dbeta = scale_gradients(dq, p["W1"], quantized, d1)
        step = {"W0": d0, "W1": d1, "W2": d2, "alpha": dalpha / p["alpha"], "beta": dbeta / p["beta"]}
        for name in names:
            decay = float(v["wd"]) * p[name] if name.startswith("W") else 0.0
            velocity[name] = float(v["momentum"]) * velocity[name] + step[name] + decay
            p[name] = p[name] - lr * velocity[name]
    for name in names:
        assert_close(p[name], v[f"{name}_3{suffix}"], 1e-10)


def _loss_and_grads(x, labels, w0, w1, w2):
    """Mean cross-entropy of relu(relu(x w0') w1') w2', and its gradients for the three matrices."""
    h0 = np.maximum(x @ w0.T, 0)
    h1 = np.maximum(h0 @ w1.T, 0)
    logits = h1 @ w2.T
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.log(p[rows, labels]).mean()
    p[rows, labels] -= 1
    d2 = p / len(labels)
    d1 = (d2 @ w2) * (h1 > 0)
    d0 = (d1 @ w1) * (h0 > 0)
    return loss, (d0.T @ x, d1.T @ h0, d2.T @ h1)


def _stairs(beta, b, levels):
    return Staircase(b / beta, np.zeros(len(b), bool), levels, np.asarray(1.0))


def test_golden_integer_ladder_equals_the_staircase_behind_batch_norm_and_relu():
    v = arrays("dep")
    acc = v["Ia"].astype(np.int32) @ v["Iw"].T.astype(np.int32)
    np.testing.assert_array_equal(acc, v["acc"])
    gain = v["gamma"] / np.sqrt(v["var"] + v["eps"])
    assert_close(v["alpha_a"] * v["alpha_w"] * gain, v["A"], 1e-12)
    assert_close(v["beta_bn"] - gain * v["mean"], v["B"], 1e-12)
    stairs = _stairs(v["beta_next"], v["b_next"], v["levels_next"])
    np.testing.assert_array_equal(stairs.codes(np.maximum(v["A"] * acc + v["B"], 0)), v["out"])
    everything = np.arange(-2 ** 15, 2 ** 15 + 1)
    for c in range(8):
        ladder = ((v["sign"][c] * everything)[:, None] >= v["theta"][c]).sum(1)
        direct = stairs.codes(np.maximum(v["A"][c] * everything + v["B"][c], 0))
        np.testing.assert_array_equal(ladder, direct)
    assert (np.diff(v["theta"], axis=1) >= 0).all()


def test_golden_residual_ladder_equals_the_staircase_for_every_identity_code():
    v, res = arrays("dep"), arrays("dep_res")
    stairs = _stairs(v["beta_next"], v["b_next"], v["levels_next"])
    z = v["A"] * v["acc"] + v["B"] + res["alpha_res"] * res["Ires"]
    np.testing.assert_array_equal(stairs.codes(np.maximum(z, 0)), res["out"])
    everything = np.arange(-2 ** 12, 2 ** 12)
    for code, theta in enumerate(res["theta"]):
        offset = v["B"] + res["alpha_res"] * code
        for c in range(8):
            ladder = ((v["sign"][c] * everything)[:, None] >= theta[c]).sum(1)
            direct = stairs.codes(np.maximum(v["A"][c] * everything + offset[c], 0))
            np.testing.assert_array_equal(ladder, direct)


def test_golden_lookup_table_equals_the_staircase():
    v = arrays("lut")
    acc = v["Ia"].astype(np.int32) @ v["Iw"].T.astype(np.int32)
    np.testing.assert_array_equal(acc, v["acc"])
    stairs = _stairs(v["beta_next"], v["b_next"], v["levels_next"])
    every = np.arange(v["lut"].shape[1]) - v["acc_offset"]
    for c, row in enumerate(v["lut"]):
        np.testing.assert_array_equal(stairs.codes(np.maximum(v["A"][c] * every + v["B"][c], 0)), row)
    np.testing.assert_array_equal(v["lut"][np.arange(4), acc + v["acc_offset"]], v["out"])
