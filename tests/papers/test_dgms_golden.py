"""Golden vectors of DGMS: codes and hard weights exact, soft weights and gradients to 1e-9 relative."""

import numpy as np
import pytest

from minquant import nn
from minquant.estimators.mixture import (Mixture, official_kmeans, responsibilities, soft_backward,
                                         zero_anchored_kmeans)
from minquant.optim import SGD, parameter_groups
from minquant.quantizers.base import QTensor
from minquant.quantizers.dgms import DGMSWeight, snap
from tests.helpers import vectors

GOLDEN = vectors("dgms")
CASES = ["k2_t01", "k4_t001", "k4_t03", "k8_t005", "k16_t01", "k4_negparam", "zeros", "outlier", "ties"]


def fields(case):
    return {key.split("/")[1]: value for key, value in GOLDEN.items() if key.startswith(case + "/")}


def close(actual, expected, relative=1e-9, absolute=1e-12):
    """|actual - expected| <= relative |expected| + absolute max|expected|, element by element."""
    largest = float(np.abs(expected).max()) if np.size(expected) else 0.0
    np.testing.assert_allclose(actual, expected, rtol=relative, atol=absolute * largest)


def quantizer_with(v, shape, mode):
    """A DGMSWeight in float64 that holds the mixture of a golden case."""
    bits = len(v["pi"]).bit_length() - 1
    quantizer = DGMSWeight(bits, shape, mode).astype(np.float64)
    quantizer.params["mu"][...], quantizer.params["pi"][...] = v["mu"][1:], v["pi"]
    quantizer.params["sigma"][...] = v["sigma"]
    (quantizer.params if mode == "official" else quantizer.state)["tau"][...] = v["tau"]
    quantizer.state["ready"][...] = True
    return quantizer


@pytest.mark.parametrize("case", CASES)
def test_golden_official_responsibilities(case):
    v = fields(case)
    gamma, phi = responsibilities(v["w"], Mixture(v["mu"], v["pi"], v["sigma"], float(v["tau"])))
    close(gamma, v["gamma"])
    close(phi, v["phi"])


@pytest.mark.parametrize("mode,prefix,relative", [("official", "", 1e-9), ("annealed", "r_", 1e-8)])
@pytest.mark.parametrize("case", CASES)
def test_golden_soft_and_hard_weights_codes_and_gradients(case, mode, prefix, relative):
    v = fields(case)
    quantizer = quantizer_with(v, v["w"].shape, mode)
    s, cache = quantizer.forward(v["w"], train=True)
    dw, grads = quantizer.backward(v["G"], cache)
    close(s, v[prefix + "soft"], relative)
    close(dw, v[prefix + "g_w"], relative)
    close(grads["mu"], v[prefix + "g_mu"][1:], relative)
    close(grads["pi"], v[prefix + "g_pi"], relative)
    close(grads["sigma"], v[prefix + "g_sigma"], relative)
    np.testing.assert_array_equal(quantizer.assign(v["w"]), v[prefix + "idx"])
    np.testing.assert_array_equal(quantizer.forward(v["w"])[0], v[prefix + "hard"])


@pytest.mark.parametrize("robust,prefix", [(False, ""), (True, "r_")])
@pytest.mark.parametrize("case", CASES)
def test_golden_gradient_of_the_temperature(case, robust, prefix):
    v = fields(case)
    mixture = (Mixture.robust if robust else Mixture)(v["mu"], v["pi"], v["sigma"], float(v["tau"]))
    close(soft_backward(v["G"], v["w"], mixture)[4], v[prefix + "g_tau"], 1e-8)


@pytest.mark.parametrize("components", [4, 8])
def test_golden_k_means_of_the_code(components):
    v = fields(f"init{components}")
    mu, pi, sigma = official_kmeans(v["w"], v["draw"])
    np.testing.assert_allclose(mu, v["mu"], atol=1e-6)
    np.testing.assert_allclose(pi, v["pi"], atol=1e-6)
    np.testing.assert_allclose(sigma, v["sigma"], atol=1e-6)
    zero = np.abs(v["centers"]).argmin()
    centres = np.insert(mu[1:], zero, v["centers"][zero])  # in cluster order; what became 0 is not kept
    np.testing.assert_array_equal(np.abs(v["w"].reshape(-1) - centres[:, None]).argmin(0), v["assign"])


@pytest.mark.parametrize("case,weights", [("zinit4", "init4"), ("zinit8", "init8"), ("zinitz", "zinitz"),
                                          ("zinito", "zinito"), ("zinitp", "zinitp")])
def test_golden_zero_anchored_start(case, weights):
    v = fields(case)
    mu, pi, sigma = zero_anchored_kmeans(GOLDEN[f"{weights}/w"], len(v["mu"]))
    np.testing.assert_allclose(mu, v["mu"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(pi, v["pi"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(sigma, v["sigma"], rtol=0, atol=1e-9)
    assert mu[0] == 0.0


def linear_with(v, weight, mode="official"):
    outputs, inputs = weight.shape
    layer = nn.Linear(inputs, outputs, np.random.default_rng(0), bias=False).astype(np.float64)
    layer.params["weight"][...] = weight.T
    layer.children["weight_quantizer"] = quantizer_with(v, weight.T.shape, mode)
    return layer


def test_golden_layer_whose_input_gradient_uses_the_soft_weight():
    v = fields("lin")
    layer = linear_with(v, v["W"])
    y, cache = layer.forward(v["x"], train=True)
    dx, grads = layer.backward(v["gy"], cache)
    close(y, v["y_train"], 1e-10)
    close(layer.forward(v["x"])[0], v["y_eval"], 1e-10)
    close(dx, v["g_x"], 1e-10)
    close(grads["weight"], v["g_W"].T, 1e-10)
    close(grads["weight_quantizer.mu"], v["g_mu"][1:], 1e-10)
    for name in ("pi", "sigma", "tau"):
        close(grads[f"weight_quantizer.{name}"], v[f"g_{name}"], 1e-10)


def test_golden_four_steps_of_gradient_descent_with_momentum():
    v = fields("traj")
    start = {name: v[f"{name}0"] for name in ("mu", "pi", "sigma", "tau")}
    layer = linear_with(start, v["W0"])
    quantizer = layer.children["weight_quantizer"]
    quantizer.lr_scale = {"mu": 0.1, "pi": 0.1, "sigma": 0.1, "tau": 0.02}
    optimizer = SGD(layer.named_params(), parameter_groups(layer), momentum=0.9)
    for step in range(4):
        y, cache = layer.forward(v["X"], train=True)
        close(np.mean((y - v["T"]) ** 2), v["loss"][step])
        _, grads = layer.backward(2 * (y - v["T"]) / y.size, cache)
        optimizer.step(grads, 0.05)
        quantizer.project()
        close(layer.params["weight"], v["W_steps"][step].T)
        close(quantizer.means(np.float64), v["mu_steps"][step])
        assert quantizer.means(np.float64)[0] == 0.0
        for name in ("pi", "sigma", "tau"):
            close(quantizer.params[name], v[f"{name}_steps"][step])


@pytest.mark.parametrize("components", [4, 8, 16])
def test_golden_integer_codebooks_and_accumulators(components):
    v = fields(f"dep{components}")
    for limit, name, step_name, out in ((127, "cb_i8", "s_w", "out_i32"), (64, "cb_i7", "s_w7", "out_i32_7")):
        levels, step = snap(v["mu"], limit)
        np.testing.assert_array_equal(levels, v[name])
        assert step == v[step_name] and step.dtype == np.float32
        acc = v["act_u8"].astype(np.int64) @ levels[v["idx"]].astype(np.int64).T
        np.testing.assert_array_equal(acc, v[out])
        assert np.abs(levels * step - v["mu"]).max() <= step / 2 * (1 + 1e-6)


@pytest.mark.parametrize("components", [4, 8, 16])
def test_golden_stored_tensors_hold_the_same_integers_as_the_unsorted_codebook(components):
    v = fields(f"dep{components}")
    mu = v["mu"]
    quantizer = DGMSWeight(components.bit_length() - 1, v["idx"].shape)
    quantizer.set_mixture(mu, np.ones(components), np.full(components, 1e-3), 0.0)
    quantizer.state["ready"][...] = True
    quantizer.harden()
    stored = quantizer.encode(mu[v["idx"]])
    assert isinstance(stored, QTensor) and stored.scale == v["s_w"] and stored.axis is None
    np.testing.assert_array_equal(stored.levels, np.unique(v["cb_i8"]))  # equal integers are stored once
    np.testing.assert_array_equal(stored.levels[stored.codes], v["cb_i8"][v["idx"]])
    acc = v["act_u8"].astype(np.int64) @ stored.levels[stored.codes].astype(np.int64).T
    np.testing.assert_array_equal(acc, v["out_i32"])
