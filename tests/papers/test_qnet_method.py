"""QNet's start, its schedule and phases, its clipping of gradients, and bad input."""

import copy

import numpy as np
import pytest

from minquant import models, training
from minquant.estimators.level_sets import initial_steps, level_set
from minquant.nn import softmax_cross_entropy
from minquant.optim import Adam, parameter_groups
from minquant.quantize import calibrate, quantize
from minquant.quantizers import METHODS
from minquant.quantizers.base import quantizers
from minquant.quantizers.qnet import QNet, QNetActivation, QNetWeight, temperature
from tests.helpers import assert_close


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(METHODS, "qnet", QNet)


def ready(quantizer, x, t=3.0):
    quantizer.astype(np.float64).init_from(x, np.random.default_rng(0))
    quantizer.state["temperature"][...] = t
    return quantizer


def values(n=200, seed=0):
    return np.random.default_rng(seed).normal(0, 0.5, n)


def network(act_bits=2, bits=2, **options):
    model = quantize(models.lenet5((8, 8, 1), 4, np.random.default_rng(0)), "qnet", bits, act_bits, **options)
    rng = np.random.default_rng(2)
    x, labels = rng.standard_normal((32, 8, 8, 1)).astype(np.float32), rng.integers(0, 4, 32)
    calibrate(model, x, rng)
    return model, x, labels


def train(model, x, labels, start=0.0, stop=1.0, steps=6, lr=2e-3):
    """Steps at progress start..stop; returns the parameters before and after."""
    optimizer = Adam(model.named_params(), parameter_groups(model, 0.1))
    before = copy.deepcopy(model.named_params())
    for i in range(steps):
        progress = start + (stop - start) * i / steps
        training.step(model, optimizer, x, labels, lr, np.random.default_rng(i), 1, progress)
    return before, model.named_params()


def moved(before, after):
    return {name for name in before if not np.array_equal(before[name], after[name])}


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_largest_scaled_value_is_five_quarters_of_the_largest_level_and_the_scales_cancel(bits):
    for quantizer, x in ((QNetWeight(bits), values()), (QNetActivation(bits), np.abs(values()))):
        alpha, beta = ready(quantizer, x).scales()
        p = np.abs(quantizer.levels.astype(int)).max()
        np.testing.assert_allclose([np.abs(beta * x).max(), alpha * beta], [1.25 * p, 1.0], rtol=1e-12)


def hard_error(x, bits, **options):
    """Squared error of the first hard quantization of weights by the method's quantizer."""
    quantizer = QNet(**options).weight_quantizer(bits, x.shape)
    return np.square(ready(quantizer, x).forward(x)[0] - x).sum()


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_the_default_start_errs_no_more_than_either_kind_of_biases_and_less_than_the_papers(bits):
    x = values(2000)
    default = hard_error(x, bits)
    assert default == min(hard_error(x, bits, biases=kind) for kind in ("kmeans", "uniform"))
    assert default < 0.7 * hard_error(x, bits, biases="kmeans", alpha="inverse")


def test_few_levels_start_from_kmeans_and_many_from_uniform_biases():
    z = 10 * values(2000)
    for bits, kind in ((2, "kmeans"), (5, "uniform")):
        biases, _ = initial_steps(z, level_set(bits), np.random.default_rng(0))
        expected, _ = initial_steps(z, level_set(bits), np.random.default_rng(0), kind)
        np.testing.assert_array_equal(biases, expected)


def test_the_fitted_output_scale_has_the_least_squared_error():
    x = values(500)
    quantizer = ready(QNetWeight(3, fit=True), x)
    least = np.square(quantizer.forward(x)[0] - x).sum()
    for factor in (0.99, 1.01):
        quantizer.params["log_alpha"] += np.log(factor)
        assert np.square(quantizer.forward(x)[0] - x).sum() > least
        quantizer.params["log_alpha"] -= np.log(factor)


def test_an_all_zero_tensor_gives_finite_parameters_and_the_level_of_zero():
    for quantizer in (QNetWeight(1), QNetWeight(4), QNetActivation(1), QNetActivation(4)):
        x = np.zeros(30)
        y = ready(quantizer, x).forward(x)[0]
        assert all(np.isfinite(a).all() for a in (*quantizer.params.values(), *quantizer.state.values()))
        assert (y == (-1 if len(quantizer.levels) == 2 and quantizer.signed else 0)).all()


def test_one_weight_a_million_times_the_others_leaves_everything_finite():
    x = values().astype(np.float32)
    x[3] = 1e6 * np.abs(x).max()
    quantizer = QNetWeight(4)
    quantizer.init_from(x, np.random.default_rng(0))
    y, cache = quantizer.forward(x, train=True)
    dx, grads = quantizer.backward(np.ones_like(x), cache)
    assert all(np.isfinite(a).all() for a in (y, dx, *grads.values(), quantizer.forward(x)[0]))
    assert (np.diff(quantizer.biases) >= 0).all()


@pytest.mark.parametrize("bits,name,expected", [
    (1, "uniform", [-1, 1]), (2, "uniform", [-1, 0, 1]), (5, "uniform", list(range(-15, 16))),
    (3, "pow2", [-4, -2, -1, 0, 1, 2, 4]), (3, "-2, -1,0,1,2", [-2, -1, 0, 1, 2]), (4, "ternary", [-1, 0, 1]),
    (3, "full", list(range(-4, 4)))])
def test_level_sets_are_those_of_the_paper(bits, name, expected):
    levels = level_set(bits, name)
    assert levels.dtype == np.int8 and levels.tolist() == expected


def test_temperature_grows_linearly_with_the_epoch_up_to_its_cap():
    assert [temperature(5.0, e) for e in (1, 2, 55, 500)] == [5.0, 10.0, 275.0, 2000.0]
    model, *_ = network(schedule_epochs=0, t0=20)
    for epoch in (1, 7, 300):
        model.method.step_begin(model, epoch, 0.5)
        found = {float(q.state["temperature"]) for _, q in quantizers(model) if isinstance(q, QNetWeight)}
        assert found == {min(20.0 * epoch, 2000.0)}


def test_a_short_training_runs_through_the_whole_schedule():
    model, *_ = network()
    weight = next(q for _, q in quantizers(model) if isinstance(q, QNetWeight))
    found = []
    for i in range(3 * 100):
        model.method.step_begin(model, 1 + i // 100, i / 300)
        found.append(float(weight.state["temperature"]))
    assert sorted(set(found)) == [10.0 * e for e in range(1, 56)] and (np.diff(found) >= 0).all()


def test_a_fixed_temperature_stays():
    model, x, labels = network(temperature=7.0)
    train(model, x, labels)
    ours = [q for _, q in quantizers(model) if isinstance(q, (QNetWeight, QNetActivation))]
    assert {float(q.state["temperature"]) for q in ours} == {7.0}


def test_activations_take_gradients_at_most_at_the_cap_and_weights_at_their_own_temperature():
    assert ready(QNetActivation(2), np.abs(values()), 80.0).heat() == (80.0, 10.0, 10.0)
    assert ready(QNetActivation(2, cap=0), np.abs(values()), 80.0).heat() == (80.0, 80.0, 80.0)
    assert ready(QNetWeight(2), values(), 80.0).heat() == (80.0, 80.0, 80.0)
    assert ready(QNetWeight(2, wide=True), values(), 80.0).heat() == (80.0, 1.0, 80.0)


def test_phase_one_leaves_activations_float_and_unchanged():
    model, x, labels = network(phases="three")
    changed = moved(*train(model, x, labels, 0, 1 / 3))
    activations = [(n, q) for n, q in quantizers(model) if isinstance(q, QNetActivation)]
    assert not {name for name in changed if any(name.startswith(n) for n, _ in activations)}
    assert {q.mode for _, q in activations} == {"off"} and "conv2.weight" in changed
    y, cache = activations[0][1].forward(np.abs(x), train=True)
    np.testing.assert_array_equal(y, np.abs(x))
    np.testing.assert_array_equal(activations[0][1].backward(y, cache)[0], y)


def test_phase_two_freezes_weights_and_their_scales_to_the_bit_even_under_momentum():
    model, x, labels = network(phases="three")
    optimizer = Adam(model.named_params(), parameter_groups(model, 0.1))
    for i in range(4):  # moments are full of phase one
        training.step(model, optimizer, x, labels, 2e-3, None, 1, i / 12)
    before = copy.deepcopy(model.named_params())
    for i in range(4, 8):
        training.step(model, optimizer, x, labels, 2e-3, None, 1, i / 12)
    changed = moved(before, model.named_params())
    weights = {n for n, _ in quantizers(model) if n.endswith("weight_quantizer")}
    frozen = {name for name in before if any(name.startswith(n) for n in weights)}
    frozen |= {n.removesuffix("_quantizer") for n in weights}
    assert not frozen & changed
    assert any(name.endswith("log_alpha") for name in changed) and any("beta" in name for name in changed)
    name, quantizer = next((n, q) for n, q in quantizers(model) if isinstance(q, QNetWeight))
    w = model.named_params()[name.removesuffix("_quantizer")]
    np.testing.assert_array_equal(quantizer.forward(w, train=True)[0], quantizer.forward(w)[0])


def test_in_three_phases_activations_restart_the_temperature_and_weights_continue_theirs():
    model, *_ = network(phases="three", t0=10, act_t0=4, schedule_epochs=20)
    weight, activation = (next(q for _, q in quantizers(model) if isinstance(q, kind))
                          for kind in (QNetWeight, QNetActivation))
    found = []
    for progress in (0.0, 1 / 3 - 1e-6, 1 / 3, 2 / 3, 1 - 1e-6):
        model.method.step_begin(model, 1, progress)
        found.append([float(q.state["temperature"]) for q in (weight, activation)])
    assert [w for w, _ in found[:2]] == [10.0, 100.0] and [w for w, _ in found[3:]] == [110.0, 200.0]
    assert [a for _, a in found[2:]] == [4.0, 44.0, 80.0]


def test_three_phases_without_quantized_activations_are_one():
    model, *_ = network(act_bits=None, phases="three")
    model.method.step_begin(model, 1, 0.5)
    assert {q.mode for _, q in quantizers(model)} == {"soft"}


@pytest.mark.parametrize("clip_norm", [1e-3, 1e9, 0.0])
def test_gradients_are_clipped_by_the_norm_before_the_chain_rule_of_the_weights(clip_norm):
    model, x, labels = network(clip_norm=clip_norm)
    model.method.step_begin(model, 1, 0.3)
    logits, cache = model.forward(x, train=True)
    _, grads = model.backward(softmax_cross_entropy(logits, labels)[1], cache)
    plain = copy.deepcopy(model)
    for layer in (layer for _, layer in plain.named_layers() if "weight_quantizer" in layer.children):
        quantizer = layer.children.pop("weight_quantizer")
        layer.params["weight"] = quantizer.forward(layer.params["weight"], train=True)[0]
    logits, cache = plain.forward(x, train=True)
    _, upstream = plain.backward(softmax_cross_entropy(logits, labels)[1], cache)
    norm = np.sqrt(sum(float((g.astype(float) ** 2).sum()) for g in upstream.values()))
    factor = min(1.0, clip_norm / (norm + 1e-6)) if clip_norm else 1.0
    for name, g in model.method.edit_gradients(model, dict(grads)).items():
        assert_close(g / factor, grads[name], 1e-5)


def test_frozen_weights_do_not_count_in_the_norm_that_clips():
    model, *_ = network(phases="three", clip_norm=1.0)
    grads = {name: np.full_like(array, 1e-6) for name, array in model.named_params().items()}
    for progress, factor in ((0.5, 1.0), (0.9, 1e-3)):
        model.method.step_begin(model, 1, progress)
        for quantizer in (q for _, q in quantizers(model) if isinstance(q, QNetWeight)):
            quantizer.upstream = 1e6 / 5  # five layers: a joint norm of 1000
        edited = model.method.edit_gradients(model, grads)
        np.testing.assert_allclose(edited["conv2.weight"], factor * 1e-6, rtol=1e-3)


def test_scales_get_no_weight_decay_and_float_ends_never_meet_the_quantizer():
    model, x, labels = network(first_last="float")
    for group in parameter_groups(model, 0.1):
        assert not group.weight_decay or all(name.endswith(".weight") for name in group.names)
    layers = [layer for _, layer in model.named_layers() if "weight" in layer.params]
    assert "weight_quantizer" not in layers[0].children and "weight_quantizer" not in layers[-1].children
    assert all("weight_quantizer" in layer.children for layer in layers[1:-1])


def test_scales_stay_above_a_thousandth_of_their_start_and_learned_biases_stay_sorted():
    quantizer = ready(QNetWeight(3, learn_biases=True), values())
    start = quantizer.scales()
    for name in ("log_alpha", "log_beta"):
        quantizer.params[name] -= 50
    quantizer.params["biases"][...] = quantizer.params["biases"][::-1].copy()
    quantizer.project()
    np.testing.assert_allclose(quantizer.scales(), np.array(start) / 1000, rtol=1e-5)
    assert (np.diff(quantizer.biases) > 0).all()


def test_evaluation_is_hard_whatever_the_temperature_and_leaves_the_latent_weights():
    model, x, _ = network()
    before = copy.deepcopy(model.named_params())
    first = model.forward(x)[0]
    model.method.step_begin(model, 1, 0.99)
    np.testing.assert_array_equal(model.forward(x)[0], first)
    assert not moved(before, model.named_params())


def test_annealing_closes_the_gap_between_the_trained_and_the_stored_network():
    gaps = []
    for t in (2.0, 500.0):
        x = values()
        quantizer = ready(QNetWeight(2), x, t)
        gaps.append(np.abs(quantizer.forward(x, train=True)[0] - quantizer.forward(x)[0]).mean())
    assert gaps[1] < 0.1 * gaps[0]


@pytest.mark.parametrize("options,message", [
    ({"levels": "cubic"}, "levels='cubic' is not one of uniform, pow2"), ({"levels": "0,300"}, "-128..127"),
    ({"levels": "3"}, "2..256 different integers"), ({"t0": 0}, "option t0=0.0 must be > 0 and finite"),
    ({"clip": -1}, "option clip=-1.0 must be >= 0"), ({"act_cap": "nan"}, "must be >= 0 and finite"),
    ({"phases": "three", "schedule_epochs": 0}, "cannot restart"), ({"biases": "linear"}, "is not one of"),
    ({"bias": 1}, "nearest: biases")])
def test_bad_options_are_refused_with_the_way_out(options, message):
    with pytest.raises(ValueError, match=message):
        QNet(**options)


def test_level_sets_that_bits_or_int8_cannot_hold_are_refused():
    with pytest.raises(ValueError, match="needs the level 2\\^14, int8 ends at 127; use at most 4 bits"):
        QNet(levels="pow2").weight_quantizer(5, (3, 3))
    with pytest.raises(ValueError, match="2 bits take 2..4 different integers"):
        QNet(levels="-2,-1,0,1,2").weight_quantizer(2, (3, 3))
    with pytest.raises(ValueError, match="zero padding"):
        QNet().activation_quantizer(1, signed=True)


@pytest.mark.parametrize("bad", [0, 9, 2.5, True])
def test_bits_outside_one_to_eight_are_refused(bad):
    for make in (QNetWeight, QNetActivation):
        with pytest.raises(ValueError, match="1..8"):
            make(bad)


def test_values_that_are_not_finite_are_refused_and_an_unready_quantizer_says_so():
    with pytest.raises(ValueError, match="1 of 3 activations are NaN or infinite"):
        QNetActivation(2).init_from(np.array([0.0, np.nan, 1.0]), np.random.default_rng(0))
    with pytest.raises(RuntimeError, match="no parameters yet"):
        QNetActivation(2).forward(np.zeros(3))
