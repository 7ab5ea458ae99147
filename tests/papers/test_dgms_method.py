"""The DGMS recipe: temperature, stages, options, transfer of a mixture."""

import numpy as np
import pytest

from minquant import nn, train as cli
from minquant.optim import SGD, Adam, parameter_groups
from minquant.quantizers.dgms import DGMS, mixtures, start_temperature
from minquant.quantizers.dgms_transfer import load_mixture, read_arrays
from minquant.quantizers.lsq import LearnedStep


def network(method=None, bits=2, seed=0, names=("first", "second")):
    """Two linear layers with mixtures over their weights."""
    rng = np.random.default_rng(seed)
    layers = {names[0]: nn.Linear(6, 8, rng), "relu": nn.ReLU(), names[1]: nn.Linear(8, 3, rng)}
    model = nn.Sequential(**layers)
    for layer in (layers[names[0]], layers[names[1]]):
        weight = layer.params["weight"]
        layer.children["weight_quantizer"] = (method or DGMS()).weight_quantizer(bits, weight.shape)
        layer.children["weight_quantizer"].init_from(weight, rng)
    return model


def train(model, method, steps=10, optimizer=Adam, lr=1e-2):
    rng = np.random.default_rng(3)
    x, target = (rng.standard_normal((16, n)).astype(np.float32) for n in (6, 3))
    updates = optimizer(model.named_params(), parameter_groups(model, 1e-4))
    losses = []
    for step in range(steps):
        method.step_begin(model, 1, step / steps)
        y, cache = model.forward(x, train=True)
        losses.append(float(np.square(y - target).mean()))
        _, grads = model.backward(2 * (y - target) / y.size, cache)
        updates.step(method.edit_gradients(model, grads), lr)
        method.step_end(model)
    return losses


def arrays_of(model):
    arrays = {f"params/{name}": array.copy() for name, array in model.named_params().items()}
    return arrays | {f"state/{name}": array.copy() for name, array in model.named_state().items()}


@pytest.mark.parametrize("optimizer", [Adam, SGD])
def test_the_zero_component_stays_exactly_zero_and_is_no_parameter(optimizer):
    method = DGMS()
    model = network(method)
    train(model, method, 20, optimizer)
    for _, _, quantizer in mixtures(model):
        assert quantizer.params["mu"].shape == (3,) and quantizer.means(np.float32)[0] == 0.0


@pytest.mark.parametrize("settings", [{}, {"mode": "official"}, {"init": "em"}, {"mixture": "fixed"},
                                      {"means_stage": 0.3}, {"tau_start": 0.01}])
def test_training_lowers_the_loss(settings):
    method = DGMS(**settings)
    losses = train(network(method), method, 60)
    assert losses[-1] < losses[0] and np.isfinite(losses).all()


def test_the_temperature_falls_geometrically_from_its_start_to_its_end():
    method = DGMS()
    model = network(method)
    seen = []
    for progress in (0, 0.25, 0.5, 0.75, 1):
        method.step_begin(model, 1, progress)
        seen.append(float(mixtures(model)[0][2].state["tau"]))
    assert seen[0] == pytest.approx(start_temperature(4)) and seen[-1] == pytest.approx(0.01)
    np.testing.assert_allclose(np.diff(np.log(seen)), np.log(0.01 / start_temperature(4)) / 4, rtol=1e-5)


def test_official_mode_learns_its_temperature_and_annealed_mode_does_not():
    method = DGMS(mode="official")
    model = network(method)
    quantizer = mixtures(model)[0][2]
    assert quantizer.params["tau"] == np.float32(0.01) and "tau" not in quantizer.state
    train(model, method, 5)
    assert quantizer.params["tau"] != np.float32(0.01)
    assert "tau" not in mixtures(network())[0][2].params


def test_a_fixed_mixture_does_not_move_while_the_weights_do():
    method = DGMS(mixture="fixed")
    model = network(method)
    before = arrays_of(model)
    train(model, method)
    after = arrays_of(model)
    for name in ("mu", "pi", "sigma"):
        key = f"params/first.weight_quantizer.{name}"
        np.testing.assert_array_equal(after[key], before[key])
    assert not np.array_equal(after["params/first.weight"], before["params/first.weight"])


def test_the_last_stage_trains_the_means_on_fixed_codes():
    method = DGMS(means_stage=0.5)
    model = network(method)
    quantizer = mixtures(model)[0][2]
    train(model, method, 2)
    assert quantizer.frozen
    codes, before = quantizer.state["codes"].copy(), arrays_of(model)
    weight = model.children["first"].params["weight"]
    method.step_begin(model, 1, 0.99)
    x = np.random.default_rng(5).standard_normal((4, 6)).astype(np.float32)
    np.testing.assert_array_equal(model.forward(x, train=True)[0], model.forward(x)[0])
    y, cache = model.forward(x, train=True)
    _, grads = model.backward(y, cache)
    SGD(model.named_params(), parameter_groups(model)).step(method.edit_gradients(model, grads), 0.1)
    after = arrays_of(model)
    key = "params/first.weight_quantizer.mu"
    assert not np.array_equal(after[key], before[key])
    np.testing.assert_array_equal(after["params/first.weight"], before["params/first.weight"])
    np.testing.assert_array_equal(quantizer.assign(weight), codes)
    with pytest.raises(ValueError, match="frozen for a weight of shape"):
        quantizer.encode(np.zeros((2, 2), np.float32))


@pytest.mark.parametrize("settings", [{}, {"mode": "official"}, {"means_stage": 0.5}])
@pytest.mark.parametrize("finished", [False, True])
def test_a_restored_state_computes_the_same(settings, finished):
    method = DGMS(**settings)
    model = network(method)
    train(model, method)
    if finished:
        method.finish(model)
    fresh = network(method, seed=9)
    saved = arrays_of(model)
    fresh.load({key[7:]: value for key, value in saved.items() if key.startswith("params/")},
               {key[6:]: value for key, value in saved.items() if key.startswith("state/")})
    x = np.random.default_rng(6).standard_normal((4, 6)).astype(np.float32)
    for flag in (False, True):
        np.testing.assert_array_equal(fresh.forward(x, flag)[0], model.forward(x, flag)[0])


def test_a_transferred_mixture_is_that_of_the_other_network_scaled_to_the_new_weights(tmp_path):
    source = network(seed=1)
    train(source, DGMS())
    np.savez(tmp_path / "best.npz", **arrays_of(source))
    target = network(seed=2)
    target.children["first"].params["weight"] *= 7
    method = DGMS(init_mixture=str(tmp_path))
    method.start(target, np.random.default_rng(0))
    for name, layer, quantizer in mixtures(target):
        there = source.children[name]
        ratio = layer.params["weight"].std() / there.params["weight"].std()
        own = there.children["weight_quantizer"].params
        np.testing.assert_allclose(quantizer.params["mu"], ratio * own["mu"], rtol=1e-5)
        np.testing.assert_allclose(quantizer.params["pi"], own["pi"], rtol=1e-5)
        assert (np.abs(quantizer.params["sigma"]) >= quantizer.state["sigma_floor"]).all()
    assert np.isfinite(train(target, method)).all()


def test_the_command_line_transfers_the_mixtures_of_a_run_to_another_network(tmp_path):
    flags = ["--method", "dgms", "--bits", "2", "--act-bits", "2", "--limit", "200", "--float-epochs", "1", "--quiet"]
    assert cli.main([*flags, "--model", "mlp", "--epochs", "2", "--out", str(tmp_path / "mlp")]) == 0
    assert cli.main([*flags, "--model", "lenet5", "--epochs", "0", "--out", str(tmp_path / "lenet5"),
                     "--init-mixture", str(tmp_path / "mlp")]) == 0
    source, target = (read_arrays(tmp_path / name) for name in ("mlp", "lenet5"))
    for name in ("fc1", "fc2", "fc3"):
        ratio = target[f"params/{name}.weight"].std() / source[f"params/{name}.weight"].std()
        mean = f"params/{name}.weight_quantizer.mu"
        np.testing.assert_allclose(target[mean], ratio * source[mean], rtol=1e-5)


def test_init_mixture_is_refused_for_a_method_without_mixtures(tmp_path, capsys):
    assert cli.main(["--method", "lsq", "--init-mixture", "runs/x", "--out", str(tmp_path / "run")]) == 2
    assert "--set init_mixture" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_only_layers_of_the_same_name_take_part_in_a_transfer():
    saved = arrays_of(network(seed=1))
    target = network(seed=2, names=("first", "head"))
    before = arrays_of(target)
    assert load_mixture(saved, mixtures(target)) == ["first"]
    key = "params/head.weight_quantizer.mu"
    np.testing.assert_array_equal(arrays_of(target)[key], before[key])


def test_a_transfer_that_cannot_work_says_why(tmp_path):
    saved = arrays_of(network(seed=1))
    with pytest.raises(ValueError, match="needs? the names"):
        load_mixture(saved, mixtures(network(names=("a", "b"))))
    with pytest.raises(ValueError, match="saved mixture has 4 components, here are 8"):
        load_mixture(saved, mixtures(network(bits=3)))
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in ("missing.npz", "text.npz", "array.npy"):
        with pytest.raises(ValueError, match="not a readable checkpoint"):
            read_arrays(tmp_path / name)


@pytest.mark.parametrize("settings,message", [
    ({"mode": "fast"}, "not one of annealed, official"), ({"init": "random"}, "not one of auto"),
    ({"tau_end": 0}, "tau_end"), ({"tau_end": "nan"}, "tau_end"), ({"tau_start": -1}, "tau_start"),
    ({"means_stage": 1}, "means_stage"), ({"temperature": 1}, "no option 'temperature'")])
def test_options_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DGMS(**settings)


def test_activations_take_learned_step_sizes():
    quantizer = DGMS().activation_quantizer(3)
    assert isinstance(quantizer, LearnedStep) and quantizer.bits == 3 and not quantizer.signed


def test_the_method_describes_itself():
    assert DGMS.name == "dgms" and "mode=annealed" in DGMS.describe_options()
    assert all(option.help for option in DGMS.options.values())
