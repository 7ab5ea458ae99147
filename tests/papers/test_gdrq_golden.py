"""GDRQ against golden vectors. They have the filters first, here they are last: weights are transposed."""

import numpy as np
import pytest

from minquant.estimators.scale_clip import Grid, group_index, merge_group_scales, project, search_alpha, threshold
from minquant.nn import Linear
from minquant.quantizers.gdrq import GDRQActivation, GDRQWeight
from tests.helpers import assert_close, vectors

TIGHT = 1e-12
V = vectors("gdrq")
WEIGHT_CASES = range(8)
SEARCH_CASES = range(3)
ACTIVATION_CASES = range(6)


def filters_last(w):
    """(O, I, kh, kw) -> (kh, kw, I, O), or (out, in) -> (in, out)."""
    return np.ascontiguousarray(np.moveaxis(w, 0, -1))


def weight_case(n, grad_mode="ste", reshape=False):
    """Quantizer, weight, upstream gradient of case w<n>, and its expected arrays by short name."""
    got = {key.split("_", 1)[1]: value for key, value in V.items() if key.startswith(f"w{n}_")}
    weight = filters_last(got["W"])
    quantizer = GDRQWeight(int(got["bits"]), weight.shape[-1], int(got["group_size"]), float(got["k"]),
                           str(got["grid"]), grad_mode=grad_mode)
    quantizer.init_from(weight, np.random.default_rng(0))
    quantizer.state["reshape"][...] = reshape
    return quantizer, weight, filters_last(got["g"]), got


@pytest.mark.parametrize("n", WEIGHT_CASES)
def test_golden_groups_and_thresholds(n):
    quantizer, weight, _, want = weight_case(n)
    assert np.array_equal(quantizer.group, want["group"])
    assert_close(quantizer.threshold(weight), want["T"], TIGHT)
    assert_close(quantizer.grid.step(quantizer.alpha(weight)), want["scale"], TIGHT)


@pytest.mark.parametrize("n", WEIGHT_CASES)
def test_golden_projection(n):
    quantizer, weight, _, want = weight_case(n)
    project(weight, quantizer.threshold(weight), quantizer.group)
    assert_close(weight, filters_last(want["Wproj"]), TIGHT)


@pytest.mark.parametrize("n", WEIGHT_CASES)
def test_golden_codes_and_levels(n):
    quantizer, weight, _, want = weight_case(n)
    stored = quantizer.encode(weight)
    assert np.array_equal(stored.levels[stored.codes], filters_last(want["codes"]))
    assert_close(stored.decode(), filters_last(want["y"]), TIGHT)
    assert np.array_equal(stored.decode(), quantizer.forward(weight)[0])


@pytest.mark.parametrize("grad_mode", ["ste", "mask", "full"])
@pytest.mark.parametrize("n", WEIGHT_CASES)
def test_golden_weight_gradients(n, grad_mode):
    quantizer, weight, g, want = weight_case(n, grad_mode)
    _, cache = quantizer.forward(weight, train=True)
    assert_close(quantizer.backward(g, cache)[0], filters_last(want[f"dW_{grad_mode}"]), TIGHT)


@pytest.mark.parametrize("n", WEIGHT_CASES)
def test_golden_gradient_of_the_clip_value(n):
    quantizer, weight, g, want = weight_case(n)
    _, cache = quantizer.forward(weight, train=True)
    assert_close(quantizer.dalpha(g, cache), want["dalpha"], 1e-10)


@pytest.mark.parametrize("grad_mode", ["mask", "full"])
@pytest.mark.parametrize("n", WEIGHT_CASES)
def test_golden_gradients_of_the_reshape_stage(n, grad_mode):
    quantizer, weight, g, want = weight_case(n, grad_mode, reshape=True)
    y, cache = quantizer.forward(weight, train=True)
    assert_close(y, filters_last(want["Wproj"]), TIGHT)
    assert_close(quantizer.dalpha(g, cache), want["clip_dT"], 1e-10)
    assert_close(quantizer.backward(g, cache)[0], filters_last(want[f"clip_dW_{grad_mode}"]), TIGHT)


@pytest.mark.parametrize("n", SEARCH_CASES)
def test_golden_search(n):
    want = {key[3:]: value for key, value in V.items() if key.startswith(f"s{n}_")}
    weight, group = filters_last(want["W"]), group_index(len(want["W"]), int(want["group_size"]))
    grid = Grid.signed(int(want["bits"]), str(want["grid"]))
    alpha, loss = search_alpha(weight, group, grid, int(want["p"]))
    codes = grid.codes(weight, alpha[group])
    assert_close(alpha, want["alpha"], TIGHT)
    assert_close(loss, want["loss"], TIGHT)
    assert_close(grid.step(alpha), want["scale"], TIGHT)
    assert np.array_equal(codes, filters_last(want["codes"]))
    assert_close(codes * grid.step(alpha)[group], filters_last(want["y"]), TIGHT)


def test_golden_search_is_what_a_searching_quantizer_stores():
    want = {key[3:]: value for key, value in V.items() if key.startswith("s0_")}
    weight = filters_last(want["W"])
    quantizer = GDRQWeight(int(want["bits"]), 4, int(want["group_size"]), grid=str(want["grid"]),
                           alpha_mode="search")
    quantizer.astype(np.float64).init_from(weight, np.random.default_rng(0))
    assert_close(quantizer.state["alpha"], want["alpha"], TIGHT)
    assert_close(quantizer.forward(weight)[0], filters_last(want["y"]), TIGHT)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("n", ACTIVATION_CASES)
def test_golden_activations(n, learned):
    want = {key[3:]: value for key, value in V.items() if key.startswith(f"a{n}_")}
    quantizer = GDRQActivation(int(want["bits"]), learned=learned).astype(np.float64)
    quantizer.state["ready"][...] = True
    quantizer.stored_alpha()[...] = want["alpha"]
    y, cache = quantizer.forward(want["x"])
    dx, grads = quantizer.backward(want["g"], cache)
    stored = quantizer.encode(want["x"])
    assert np.array_equal(stored.codes, want["codes"])
    assert np.array_equal(stored.decode(), y)
    assert np.array_equal(quantizer.staircase().codes(want["x"]), want["codes"])
    assert_close(stored.scale, want["scale"], TIGHT)
    assert_close(y, want["y"], TIGHT)
    assert_close(dx, want["dx"], TIGHT)
    if learned:
        assert_close(grads["alpha"], want["dalpha"], 1e-10)


def test_golden_running_clip_value():
    quantizer = GDRQActivation(4, float(V["ema_k"]), float(V["ema_lam"])).astype(np.float64)
    quantizer.init_from(V["ema_x"][0], np.random.default_rng(0))
    seen = []
    for x in V["ema_x"]:
        quantizer.forward(x, train=True)
        seen.append(float(quantizer.state["alpha"]))
    assert_close(np.array(seen), V["ema_alpha"], TIGHT)


def test_golden_dynamic_scale_clip():
    weight, group, walls = V["dyn_w0"][:, None].copy(), np.zeros(1, int), []
    for noise in V["dyn_noise"]:
        wall = threshold(weight, float(V["dyn_k"]), group)
        walls.append(wall[0])
        project(weight, wall, group)
        weight += noise[:, None]
    assert_close(np.array(walls), V["dyn_T"], TIGHT)
    assert_close(weight[:, 0], V["dyn_w"], TIGHT)


def test_golden_merge_into_batch_norm():
    m, b = merge_group_scales(V["f_scale_w"][V["f_group"]], V["f_scale_a"], V["f_gamma"], V["f_beta"],
                              V["f_mean"], V["f_var"], V["f_eps"], V["f_bias"])
    acc = V["f_A"] @ V["f_Wcodes"].T
    codes = np.clip(np.rint((m * acc + b) / V["f_scale_out"]), 0, 2 ** int(V["f_bits_out"]) - 1)
    assert np.array_equal(acc, V["f_acc"])
    assert_close(m, V["f_M"], TIGHT)
    assert_close(b, V["f_B"], TIGHT)
    assert_close(m * acc + b, V["f_bn_out"], TIGHT)
    assert np.array_equal(codes, V["f_out_codes"])


@pytest.mark.parametrize("grad_mode", ["ste", "mask", "full"])
def test_golden_linear_layer_with_both_quantizers(grad_mode):
    rng = np.random.default_rng(0)
    layer = Linear(10, 6, rng, bias=False)
    layer.params["weight"] = filters_last(V["l_W"])
    layer.children["weight_quantizer"] = GDRQWeight(int(V["l_bits_w"]), 6, int(V["l_group_size"]),
                                                    float(V["l_k"]), grad_mode=grad_mode)
    acts = GDRQActivation(int(V["l_bits_a"])).astype(np.float64)
    acts.state["ready"][...] = True
    acts.state["alpha"][...] = V["l_alpha_a"]
    x_hat, act_cache = acts.forward(V["l_x"])
    y, cache = layer.forward(x_hat, train=True)
    dx, grads = layer.backward(V["l_g"], cache)
    assert_close(y, V["l_out"], TIGHT)
    assert_close(acts.backward(dx, act_cache)[0], V["l_dx"], TIGHT)
    assert_close(grads["weight"], filters_last(V[f"l_dW_{grad_mode}"]), TIGHT)
