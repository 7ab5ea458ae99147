"""CPQ as a recipe: options, initialisation, the end of the masks, learned bits in a model, deployment."""

import copy

import numpy as np
import pytest

from minquant.nn import Linear, ReLU, Sequential
from minquant.nn.functional import relu_forward
from minquant.quantizers.base import prefixed
from minquant.quantizers.cpq import CPQ, ClusterPromoting, DropBits
from tests.helpers import vectors


def small_model(method, bits=4, act_bits=3):
    rng = np.random.default_rng(0)
    model = Sequential(fc1=Linear(6, 12, rng), relu1=ReLU(),
                       relu1_quantizer=method.activation_quantizer(act_bits), fc2=Linear(12, 3, rng))
    for name in ("fc1", "fc2"):
        layer = model.children[name]
        layer.children["weight_quantizer"] = method.weight_quantizer(bits, layer.params["weight"].shape)
        layer.children["weight_quantizer"].init_from(layer.params["weight"], rng)
    x = rng.standard_normal((32, 6)).astype(np.float32)
    hidden, _ = model.children["fc1"].forward(x)
    model.children["relu1_quantizer"].init_from(relu_forward(hidden)[0], rng)
    return model, x


def weight_quantizers(model):
    return [model.children[name].children["weight_quantizer"] for name in ("fc1", "fc2")]


@pytest.mark.parametrize("settings,word", [
    ({"keep": 0}, "keep"), ({"keep": 1.0}, "keep"), ({"masks_off": 1.5}, "masks_off"),
    ({"penalty": -1}, "penalty"), ({"penalty": float("nan")}, "penalty"), ({"min_bits": 9}, "min_bits"),
    ({"ste": "half"}, "ste"),
    ({"learn_bits": True, "dropbits": "endpoints"}, "learn_bits"),
    ({"learn_bits": True, "dropbits": "off"}, "learn_bits"), ({"dropbit": "off"}, "dropbits")])
def test_options_outside_their_range_are_refused(settings, word):
    with pytest.raises(ValueError, match=word):
        CPQ(**settings)


@pytest.mark.parametrize("bits", [0, 9, 2.5, True])
def test_bits_outside_one_to_eight_are_refused(bits):
    with pytest.raises(ValueError, match="1..8"):
        CPQ().weight_quantizer(bits, (3, 3))


def test_weights_and_activations_that_are_not_finite_are_refused():
    for quantizer, what in ((DropBits(3), "weights"), (ClusterPromoting(3, signed=False), "activations")):
        with pytest.raises(ValueError, match=f"1 of 4 {what} are NaN"):
            quantizer.init_from(np.array([0, 1, np.nan, 2], np.float32), np.random.default_rng(0))


def test_a_quantizer_that_was_never_initialised_says_so():
    for quantizer in (DropBits(3), ClusterPromoting(3, signed=False)):
        for call in (quantizer.forward, quantizer.encode):
            with pytest.raises(RuntimeError, match="calibrate"):
                call(np.zeros(3, np.float32))


def test_defaults_are_imax_weights_with_masks_and_full_activations():
    weight, activation = CPQ().weight_quantizer(4, (3, 3)), CPQ().activation_quantizer(4)
    assert (weight.ste, weight.layout, weight.nested) == ("imax", "bits", False)
    assert weight.min_bits == 1 and not weight.learn_bits
    assert (activation.ste, activation.signed, activation.normalize) == ("full", False, True)
    np.testing.assert_allclose(weight.params["omega"], np.full(3, np.log(9)), rtol=1e-6)
    assert type(CPQ(dropbits="off").weight_quantizer(4, (3, 3))) is ClusterPromoting


def test_learning_bits_nests_the_gates_keeps_two_bits_and_moves_the_masks_faster():
    quantizer = CPQ(learn_bits=True).weight_quantizer(8, (3, 3))
    assert quantizer.nested and quantizer.min_bits == 2 and len(quantizer.params["omega"]) == 6
    assert quantizer.lr_scale["omega"] == 150 and "omega" not in CPQ().weight_quantizer(8, (3, 3)).lr_scale


def test_the_least_squares_start_beats_the_range_start_at_two_bits():
    w = np.random.default_rng(0).normal(0, 1, 4000).astype(np.float32)
    errors = {}
    for init in ("mse", "range"):
        quantizer = CPQ(init=init, dropbits="off").weight_quantizer(2, w.shape)
        quantizer.init_from(w, np.random.default_rng(0))
        errors[init] = np.square(quantizer.forward(w)[0] - w).mean()
    assert errors["mse"] < errors["range"]


def test_project_keeps_the_noise_scale_and_the_mask_logits_in_their_ranges():
    quantizer = CPQ().weight_quantizer(4, (3, 3))
    quantizer.params["omega"][...] = [-9, 0, 9]
    for start, expected in ((-9.0, -np.log(30)), (9.0, np.log(3))):
        quantizer.params["log_sigma"][...] = start
        quantizer.project()
        ratio = quantizer.params["log_sigma"] - quantizer.params["log_alpha"]
        np.testing.assert_allclose(ratio, expected, rtol=1e-6)
    np.testing.assert_array_equal(quantizer.params["omega"], [-6, 0, 6])


def test_masks_end_with_the_last_share_of_the_steps_and_bits_are_fixed_then():
    method = CPQ(learn_bits=True, masks_off=0.25)
    model, x = small_model(method)
    first, second = weight_quantizers(model)
    first.params["omega"][...] = [2, -4]
    second.params["omega"][...] = [-4, 2]
    method.step_begin(model, 1, 0.74)
    assert first.masked() and first.bits == 4
    method.step_begin(model, 1, 0.75)
    assert not first.masked() and (first.bits, second.bits) == (3, 2)
    first.params["omega"][...] = 6
    method.step_begin(model, 1, 0.9)
    method.finish(model)
    assert (first.bits, second.bits) == (3, 2)
    y, cache = model.forward(x, train=True)
    _, grads = model.backward(np.ones_like(y), cache)
    assert not grads["fc1.weight_quantizer.omega"].any()


def test_finish_fixes_the_bits_of_a_run_that_stopped_before_its_masks_ended():
    method = CPQ(learn_bits=True, masks_off=0.001)
    model, _ = small_model(method)
    weight_quantizers(model)[0].params["omega"][...] = [-4, 2]
    method.step_begin(model, 1, 0.99)
    assert weight_quantizers(model)[0].masked()
    method.finish(model)
    assert [q.bits for q in weight_quantizers(model)] == [2, 4]


def test_learned_bits_survive_saving_and_loading():
    method = CPQ(learn_bits=True)
    model, x = small_model(method)
    weight_quantizers(model)[0].params["omega"][...] = [2, -4]
    method.finish(model)
    fresh, _ = small_model(CPQ(learn_bits=True))
    fresh.load(copy.deepcopy(model.named_params()), copy.deepcopy(model.named_state()))
    assert [q.bits for q in weight_quantizers(fresh)] == [3, 4]
    np.testing.assert_array_equal(fresh.forward(x)[0], model.forward(x)[0])


def test_the_parameter_budget_prices_each_layer_by_its_share_of_the_weights():
    model, _ = small_model(CPQ(learn_bits=True))
    alike, grads = CPQ(learn_bits=True).penalty(model)
    weighed, shared = CPQ(learn_bits=True, budget="params").penalty(model)
    sizes = np.array([6 * 12, 12 * 3])
    own = [q.penalty()[0] for q in weight_quantizers(model)]
    np.testing.assert_allclose(alike, sum(own))
    np.testing.assert_allclose(weighed, own @ (sizes / sizes.sum()))
    for name, share in zip(("fc1", "fc2"), sizes / sizes.sum()):
        np.testing.assert_allclose(shared[f"{name}.weight_quantizer.omega"],
                                   share * grads[f"{name}.weight_quantizer.omega"], rtol=1e-6)
    assert CPQ().penalty(small_model(CPQ())[0]) == (0.0, {})


def train(steps=8, **settings):
    method = CPQ(**settings)
    model, x = small_model(method)
    rng = np.random.default_rng(1)
    target = np.random.default_rng(2).standard_normal((32, 3)).astype(np.float32)
    losses = []
    for i in range(steps):
        method.step_begin(model, 1, i / steps)
        y, cache = model.forward(x, True, rng)
        losses.append(float(np.square(y - target).mean()))
        _, grads = model.backward(2 * (y - target) / y.size, cache)
        for name, extra in method.penalty(model)[1].items():
            grads[name] = grads[name] + extra
        for name, parameter in model.named_params().items():
            parameter -= 0.05 * grads[name]
        method.step_end(model)
    method.finish(model)
    return model, losses


@pytest.mark.parametrize("settings", [{}, {"learn_bits": True}, {"dropbits": "endpoints"},
                                      {"dropbits": "off"}])
def test_training_with_one_seed_is_reproducible_bit_for_bit(settings):
    first, losses = train(**settings)
    second, again = train(**settings)
    assert losses == again
    for name, array in first.named_params().items():
        np.testing.assert_array_equal(array, second.named_params()[name])


@pytest.mark.parametrize("settings", [{}, {"ste": "full"}, {"dropbits": "off"}, {"act_ste": "imax"}])
def test_training_lowers_the_loss(settings):
    _, losses = train(steps=60, **settings)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_a_dropped_level_stays_dropped_when_masks_are_pushed_shut():
    method = CPQ(learn_bits=True, penalty=50.0)
    model, _ = small_model(method)
    for _ in range(100):
        for name, extra in method.penalty(model)[1].items():
            model.named_params()[name][...] -= extra
        method.step_end(model)
    method.finish(model)
    assert [q.bits for q in weight_quantizers(model)] == [2, 2]


def integer_epilogue(v):
    """Thresholds per channel on the integer accumulator, for rising (A > 0) and falling (A < 0) channels."""
    a = v["bn_gamma"] * v["alpha_w"] * v["alpha_a"] / np.sqrt(v["bn_var"] + v["bn_eps"])
    b = v["bn_beta"] + v["bn_gamma"] * (v["bias"] - v["bn_mean"]) / np.sqrt(v["bn_var"] + v["bn_eps"])
    steps = np.arange(1, 2 ** int(v["bits_next"])) - 0.5
    border = (steps * v["alpha_next"] - b[:, None]) / a[:, None]
    thresholds = np.where(a[:, None] > 0, np.ceil(border), np.floor(border)).astype(np.int64)
    return a, b, np.sign(a).astype(np.int8), thresholds


def apply_thresholds(accumulator, sign, thresholds):
    level = accumulator[..., None]
    passed = np.where(sign[:, None] > 0, level >= thresholds, level <= thresholds)
    return passed.sum(-1).astype(np.uint8)


def deployment_fields():
    return {key[8:]: value for key, value in vectors("cpq").items() if key.startswith("deploy__")}


def test_golden_integer_layer():
    v = deployment_fields()
    accumulator = v["x_idx"].astype(np.int32) @ v["w_idx"].astype(np.int32).T
    np.testing.assert_array_equal(accumulator, v["acc"])
    a, b, sign, thresholds = integer_epilogue(v)
    np.testing.assert_allclose(a, v["A"], rtol=1e-12)
    np.testing.assert_allclose(b, v["B"], rtol=1e-12)
    np.testing.assert_array_equal(sign, v["sign"])
    np.testing.assert_array_equal(thresholds, v["thresholds"])
    np.testing.assert_array_equal(apply_thresholds(accumulator, sign, thresholds), v["out_idx"])


def test_the_integer_layer_gives_the_codes_of_the_fake_quantized_one():
    v, rng = deployment_fields(), np.random.default_rng(0)
    _, _, sign, thresholds = integer_epilogue(v)
    codes_x, codes_w = rng.integers(0, 8, (20_000, 12)), v["w_idx"].astype(np.int64)
    integer = apply_thresholds(codes_x @ codes_w.T, sign, thresholds)
    quantizer = ClusterPromoting(int(v["bits_next"]), signed=False)
    quantizer.params["log_alpha"] = np.log(np.float32(v["alpha_next"]))[...]
    quantizer.state["ready"][...] = True
    x, w = (np.float32(step) * codes.astype(np.float32)
            for step, codes in ((v["alpha_a"], codes_x), (v["alpha_w"], codes_w)))
    z = (x @ w.T + v["bias"] - v["bn_mean"]) / np.sqrt(v["bn_var"] + v["bn_eps"])
    z = z * v["bn_gamma"] + v["bn_beta"]
    fake = quantizer.encode(np.maximum(z, 0).astype(np.float32)).codes
    wrong = fake != integer
    distance = np.abs((z / v["alpha_next"]) % 1 - 0.5)
    assert wrong.mean() <= 1e-5 and (distance[wrong] < 1e-4).all()


def test_gradients_carry_the_names_of_the_parameters():
    model, x = small_model(CPQ())
    y, cache = model.forward(x, True, np.random.default_rng(0))
    _, grads = model.backward(np.ones_like(y), cache)
    assert grads.keys() == model.named_params().keys()
    assert all(np.shape(grad) == model.named_params()[name].shape for name, grad in grads.items())
    assert set(prefixed("fc1.weight_quantizer", weight_quantizers(model)[0].params)) <= grads.keys()
