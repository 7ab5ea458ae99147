"""DQ as a recipe: options, fixed and learned bits, the three memory constraints, holding the bits, reporting."""

import numpy as np
import pytest

from minquant.nn import Linear, ReLU, Sequential
from minquant.optim import Adam, parameter_groups
from minquant.quantizers import dq_budget
from minquant.quantizers.base import quantizers
from minquant.quantizers.dq import DQ, Uniform
from minquant.quantizers.dq_budget import Memory
from minquant.quantizers.dq_parameters import FORMS, POWER, UNIFORM
from minquant.quantizers.dq_power import PowerOfTwo


def small_model(method, bits=4, act_bits=4):
    rng = np.random.default_rng(0)
    model = Sequential(fc1=Linear(6, 12, rng), relu1=ReLU(),
                       relu1_quantizer=method.activation_quantizer(act_bits), fc2=Linear(12, 8, rng), relu2=ReLU(),
                       relu2_quantizer=method.activation_quantizer(act_bits), fc3=Linear(8, 3, rng))
    for name in ("fc1", "fc2", "fc3"):
        layer = model.children[name]
        layer.children["weight_quantizer"] = method.weight_quantizer(bits, layer.params["weight"].shape)
        layer.children["weight_quantizer"].init_from(layer.params["weight"], rng)
    x = y = rng.standard_normal((32, 6)).astype(np.float32)
    for name, layer in model.children.items():
        if name.endswith("_quantizer"):
            layer.init_from(y, rng)
        y, _ = layer.forward(y)
    return model, x


def train(method, model, x, steps, lr=2e-3):
    target = np.random.default_rng(2).standard_normal((len(x), 3)).astype(np.float32)
    optimizer, losses = Adam(model.named_params(), parameter_groups(model)), []
    for i in range(steps):
        method.step_begin(model, 1, i / steps)
        y, cache = model.forward(x, True)
        losses.append(float(np.square(y - target).mean()))
        _, grads = model.backward(2 * (y - target) / y.size, cache)
        for name, extra in method.penalty(model)[1].items():
            grads[name] = grads[name] + extra
        grads = method.edit_gradients(model, grads)
        optimizer.step(grads, lr)
        method.step_end(model)
    return losses


@pytest.mark.parametrize("settings,word", [
    ({"budget_w_kb": -1}, "budget_w_kb"), ({"budget_a_kb": float("nan")}, "budget_a_kb"), ({"lam": -0.1}, "lam"),
    ({"hold": 1.5}, "hold"), ({"ramp": 0.5}, "ramp"), ({"max_bits": 9}, "max_bits"), ({"max_bits": 1}, "max_bits"),
    ({"parametrization": "u4"}, "parametrization"), ({"constraint": "mean"}, "constraint"),
    ({"parametrization": "fixed", "budget_w_kb": 3}, "learns nothing"),
    ({"parametrization": "fixedp", "learn_bits": True}, "learns nothing"), ({"budget": 3}, "budget_w_kb")])
def test_options_outside_their_range_are_refused(settings, word):
    with pytest.raises(ValueError, match=word):
        DQ(**settings)


@pytest.mark.parametrize("settings,bits,signed,word", [
    ({}, 1, True, "2..8"), ({}, 9, True, "1..8"), ({}, 2.5, True, "1..8"), ({}, True, True, "1..8"),
    ({"parametrization": "p3"}, 5, True, "1..4.*uniform"), ({"parametrization": "p3"}, 5, False, "1..4"),
    ({"parametrization": "u2"}, 8, True, "2..7.*u2snap"), ({"max_bits": 4}, 5, True, "2..4")])
def test_bits_that_cannot_be_stored_are_refused(settings, bits, signed, word):
    method = DQ(**settings)
    with pytest.raises(ValueError, match=word):
        method.weight_quantizer(bits, (3, 3)) if signed else method.activation_quantizer(bits)


@pytest.mark.parametrize("parametrization", [*FORMS])
@pytest.mark.parametrize("kind", ["zero", "constant", "outlier", "tiny", "single"])
@pytest.mark.parametrize("init_step", ["mse", "paper"])
def test_unusual_tensors_start_finite(parametrization, kind, init_step):
    x = {"zero": np.zeros(20), "constant": np.full(20, 0.3), "outlier": np.r_[1e5, np.linspace(-0.1, 0.1, 19)],
         "tiny": np.full(20, 1e-30), "single": np.ones(1)}[kind].astype(np.float32)
    for signed in (True, False):
        method = DQ(parametrization=parametrization, init_step=init_step,
                    learn_bits=parametrization in ("u3", "p3"))
        quantizer = method.weight_quantizer(3, x.shape) if signed else method.activation_quantizer(3)
        quantizer.init_from(x, np.random.default_rng(0))
        y, cache = quantizer.forward(x, True)
        dx, grads = quantizer.backward(np.ones_like(y), cache)
        assert np.isfinite(y).all() and np.isfinite(dx).all() and np.isfinite(list(grads.values())).all()
        np.testing.assert_array_equal(quantizer.encode(x).decode(), y)
        if parametrization in UNIFORM and kind == "zero":
            assert not y.any()


def test_values_that_are_not_finite_and_missing_starts_are_refused():
    for method in (DQ(), DQ(parametrization="p3")):
        for quantizer, what in ((method.weight_quantizer(3, (4,)), "weights"),
                                (method.activation_quantizer(3), "activations")):
            with pytest.raises(ValueError, match=f"1 of 4 {what} are NaN"):
                quantizer.init_from(np.array([0, 1, np.nan, 2], np.float32), np.random.default_rng(0))
            for call in (quantizer.forward, quantizer.encode):
                with pytest.raises(RuntimeError, match="calibrate"):
                    call(np.zeros(3, np.float32))
            with pytest.raises(RuntimeError, match="freeze"):
                quantizer.surrogate(np.zeros(3, np.float32))


def test_fixed_bits_run_with_b_held_and_stay_as_given():
    for given, form in (("u3", "u2snap"), ("p3", "p2"), ("u1", "u1"), ("u2snap", "u2snap")):
        method = DQ(parametrization=given)
        model, x = small_model(method, 3, 2)
        assert {q.form for _, q in quantizers(model)} == {form}
        assert not any(q.learning or "b" in q.params for _, q in quantizers(model))
        losses = train(method, model, x, 60)
        assert np.mean(losses[-5:]) < 0.8 * losses[0]
        assert [q.bits for name, q in quantizers(model)] == [3, 2, 3, 2, 3]
        assert method.penalty(model) == (0.0, {}) and method.feasible(model)


def test_a_budget_lets_only_its_own_kind_of_tensor_learn_bits():
    for settings, learning in (({"budget_w_kb": 1}, [True, False]), ({"budget_a_kb": 1}, [False, True]),
                               ({"learn_bits": True}, [True, True])):
        method = DQ(**settings)
        assert [method.weight_quantizer(4, (3,)).learning, method.activation_quantizer(4).learning] == learning


BUDGETS = [{"budget_w_kb": 0.05}, {"budget_a_kb": 0.005, "constraint": "sum"},
           {"budget_a_kb": 0.003, "constraint": "max"}, {"budget_w_kb": 0.055, "budget_a_kb": 0.003}]


@pytest.mark.parametrize("parametrization", ["u3", "u3snap", "p3"])
@pytest.mark.parametrize("settings", BUDGETS)
def test_training_meets_the_budget_and_holds_the_bits(parametrization, settings):
    method = DQ(parametrization=parametrization, lam=10, **settings)
    model, x = small_model(method)
    method.start(model, np.random.default_rng(0))
    assert not method.feasible(model)
    value, grads = method.penalty(model)
    assert value > 0
    for name, grad in grads.items():  # descent raises the smallest value and lowers the largest
        assert grad >= 0 if name.endswith("q_max") else grad <= 0
    train(method, model, x, 600)
    assert method.feasible(model)
    weights, activations = dq_budget.weight_memory(model), dq_budget.activation_memory(model)
    assert not any(row.learned for row in weights + activations)
    assert sum(row.kilobytes for row in weights) <= settings.get("budget_w_kb", np.inf)
    combine = sum if method.settings["constraint"] == "sum" else max
    assert combine([row.kilobytes for row in activations]) <= settings.get("budget_a_kb", np.inf)
    found = dict(quantizers(model))
    for row in weights + activations:
        assert row.bits == found[row.name].bits and row.kilobytes == row.elements * row.bits / 8192


def test_the_weight_of_the_penalty_grows_by_ramp_over_the_training_and_stays_for_ramp_one():
    for ramp in (1.0, 1000.0):
        method = DQ(budget_w_kb=0.05, ramp=ramp)
        model, _ = small_model(method)
        values = []
        for progress in (0.0, 0.5, 1.0):
            method.step_begin(model, 1, progress)
            values.append(method.penalty(model)[0])
        np.testing.assert_allclose(values, values[0] * ramp ** np.array([0, 0.5, 1]))


def test_penalty_and_gradient_are_zero_at_the_target_and_below_and_for_layers_at_the_floor():
    method = DQ(budget_w_kb=1.0, lam=100)
    model, _ = small_model(method)
    value, grads = method.penalty(model)
    assert value == 0 and not any(np.any(grad) for grad in grads.values())
    floor = Uniform(2, "u3", learn_bits=True)
    assert floor.bits == floor.b_min == 2 and not any(floor.bits_slopes().values())
    row = Memory("floor", 8192, 2, True, floor)
    value, grads = dq_budget.penalty([row], 2.0, 1.0)
    assert value == 0
    value, grads = dq_budget.penalty([row], 1.0, 1.0)
    assert value == 1.0 and not any(np.any(grad) for grad in grads.values())


def test_under_the_largest_activation_only_the_first_of_equal_ones_is_pushed():
    rows = [Memory(str(i), 8192, 4, True, Uniform(4, "u3", False, False, True)) for i in range(3)]
    value, grads = dq_budget.penalty(rows, 3.0, 1.0, "max")
    assert value == 1.0 and [bool(grads[f"{i}.d"]) for i in range(3)] == [True, False, False]
    assert dq_budget.total(rows, "max") == 4.0 and dq_budget.total(rows) == 12.0


@pytest.mark.parametrize("form", ["u3", "p3"])
def test_the_bit_slopes_are_the_derivative_of_the_bit_width_without_its_roundings(form):
    kind, values = (Uniform, {"d": 0.125, "q_max": 1.375}) if form == "u3" else (
        PowerOfTwo, {"q_min": 0.125, "q_max": 2.0})
    quantizer = kind(4, form, learn_bits=True)
    for name, value in values.items():
        quantizer.params[name][...] = value

    def smooth(values):
        ratio = values["q_max"] / values.get("d", values.get("q_min"))
        return np.log2(ratio + 1) if form == "u3" else np.log2(np.log2(ratio) + 1)

    for name, slope in quantizer.bits_slopes().items():
        up, down = ({**values, name: values[name] * (1 + h)} for h in (1e-6, -1e-6))
        np.testing.assert_allclose(slope, (smooth(up) - smooth(down)) / (2e-6 * values[name]), rtol=1e-6)


def test_gradients_of_step_and_range_are_clipped_to_the_step_only_under_a_budget():
    for settings, clipped in (({"budget_w_kb": 0.1}, True), ({"budget_w_kb": 0.1, "clip": False}, False),
                              ({"learn_bits": True}, False)):
        method = DQ(**settings)
        model, _ = small_model(method)
        grads = {name: np.full(array.shape, 9.0, array.dtype) for name, array in model.named_params().items()}
        edited = method.edit_gradients(model, grads)
        quantizer = model.children["fc1"].children["weight_quantizer"]
        for name in ("d", "q_max"):
            found = edited[f"fc1.weight_quantizer.{name}"]
            assert found == (quantizer.params["d"] if clipped else 9.0) and np.shape(found) == ()
        assert (edited["fc1.weight"] == 9.0).all()


@pytest.mark.parametrize("settings", [{"budget_w_kb": 0.01}, {"budget_a_kb": 0.0001},
                                      {"budget_a_kb": 0.0001, "constraint": "sum"}])
def test_a_budget_below_the_fewest_bits_is_refused_with_the_least_that_can_be_met(settings):
    method = DQ(**settings)
    model, _ = small_model(method)
    with pytest.raises(ValueError, match=f"{next(iter(settings))}.*cannot be met: .* KB remain"):
        method.start(model, np.random.default_rng(0))


def test_an_activation_budget_without_quantized_activations_is_refused():
    method = DQ(budget_a_kb=1)
    with pytest.raises(ValueError, match="act_bits"):
        method.start(Sequential(fc=Linear(3, 3, np.random.default_rng(0))), np.random.default_rng(0))


def test_bits_are_held_only_once_the_budget_is_met():
    method = DQ(budget_w_kb=0.05)
    model, _ = small_model(method)
    quantizer = model.children["fc1"].children["weight_quantizer"]
    method.step_begin(model, 1, 0.9)
    assert quantizer.learning
    for _, other in quantizers(model):
        if other.weights:
            other.params["d"][...] = other.params["q_max"]
            other.project()
    assert method.feasible(model)
    method.step_begin(model, 1, 0.5)
    assert quantizer.learning
    method.step_begin(model, 1, 0.9)
    assert not quantizer.learning and quantizer.form == "u2snap" and quantizer.bits == 2


@pytest.mark.parametrize("parametrization", ["u1", "u2snap", "u3", "u3snap", "p1", "p2", "p3"])
def test_held_bits_stay_while_the_range_goes_on_moving(parametrization):
    quantizer = DQ(parametrization=parametrization, learn_bits=True).weight_quantizer(4, (500,))
    quantizer.init_from(np.random.default_rng(0).normal(0, 0.1, 500).astype(np.float32), None)
    bits = quantizer.bits
    quantizer.hold_bits()
    name = next(name for name in FORMS[quantizer.form] if name != "b")
    for factor in (0.5, 0.9, 1.3, 2.0, 3.0):
        quantizer.params[name][...] *= factor
        quantizer.project()
        assert quantizer.bits == bits
    x = np.random.default_rng(1).normal(0, 0.1, 500).astype(np.float32)
    _, cache = quantizer.forward(x, True)
    _, grads = quantizer.backward(x, cache)
    assert grads.keys() == quantizer.params.keys() and grads.get("b", 0) == 0 and np.any(grads[name])
    assert not any(quantizer.bits_slopes().values())


def test_float_layers_and_foreign_quantizers_count_as_constants():
    model, _ = small_model(DQ(budget_w_kb=1))
    del model.children["fc3"].children["weight_quantizer"]
    rows = dq_budget.weight_memory(model)
    assert [row.bits for row in rows] == [4, 4, 32] and [row.learned for row in rows] == [True, True, False]
    assert dq_budget.least(rows) == (72 * 2 + 96 * 2 + 24 * 32) / 8192
    assert [row.elements for row in dq_budget.activation_memory(model)] == [12, 8]


def resnet20_weights():
    widths, weights = [16] * 7 + [32] * 6 + [64] * 6, 3 * 16 * 9
    return weights + sum(a * b * 9 for a, b in zip(widths, widths[1:])) + 64 * 10 + 10


def test_the_paper_counts_resnet20_at_1048_kilobytes_float_and_65_at_two_bits():
    assert resnet20_weights() == 268_346
    for bits, kilobytes in ((32, 1048.2), (2, 65.5)):
        assert round(dq_budget.total([Memory("w", 268_346, bits, False, None)]), 1) == kilobytes
    acts = [16 * 32 * 32] * 7 + [32 * 16 * 16] * 6 + [64 * 8 * 8] * 6
    assert sum(acts) == 188_416
    rows = [Memory("a", n, 32, False, None) for n in acts]
    assert dq_budget.total(rows) == 736 and dq_budget.total(rows, "max") == 64
    rows = [Memory("a", n, 4, False, None) for n in acts]
    assert dq_budget.total(rows) == 92 and dq_budget.total(rows, "max") == 8


def test_the_published_bits_of_resnet18_give_the_published_size():
    bits = [9, 8, 5, 6, 6, 6, 6, 8, 6, 5, 5, 4, 5, 4, 4, 4, 3, 5, 3, 4, 7]
    sizes = [64 * 3 * 49] + [64 * 64 * 9] * 4
    for a, b in ((64, 128), (128, 256), (256, 512)):
        sizes += [a * b * 9, b * b * 9, a * b, b * b * 9, b * b * 9]
    sizes += [512 * 1000 + 1000]
    assert sum(sizes) == 11_679_912
    rows = [Memory("w", n, b, False, None) for n, b in zip(sizes, bits)]
    assert round(dq_budget.total(rows) / 1024, 4) == 5.3996


@pytest.mark.parametrize("parametrization", [*UNIFORM, *POWER])
def test_training_is_reproducible_bit_for_bit_and_survives_a_checkpoint(parametrization):
    results = []
    for _ in range(2):
        method = DQ(parametrization=parametrization, learn_bits=not parametrization.startswith("fixed"))
        model, x = small_model(method, 3, 3)
        results.append((train(method, model, x, 20), model))
    assert results[0][0] == results[1][0]
    fresh, _ = small_model(method, 3, 3)
    fresh.load(model.named_params(), model.named_state())
    np.testing.assert_array_equal(fresh.forward(x)[0], model.forward(x)[0])
    assert [q.bits for _, q in quantizers(fresh)] == [q.bits for _, q in quantizers(model)]
