"""The measurements: what the probe books, and what the command prints."""

import json

import numpy as np
import pytest

from minquant import nn
from minquant.bench import __main__ as bench
from minquant.bench import probe, timing, train
from minquant.quantizers import METHODS


class Clock:
    """Stands in for the module `time`; layers move it on."""

    now = 0.0

    def perf_counter(self):
        return self.now


class Sleeper(nn.Layer):
    """Takes 20 s forward and 10 s backward on the clock, and runs a child in between."""

    def __init__(self, clock=None, **children):
        super().__init__()
        self.clock, self.children = clock or Clock(), children

    def forward(self, x, train=False, rng=None):
        self.clock.now += 20
        caches = [child.forward(x, train, rng)[1] for child in self.children.values()]
        return x, (x, caches)

    def backward(self, dy, cache):
        self.clock.now += 10
        for child, own in zip(self.children.values(), cache[1]):
            child.backward(dy, own)
        return dy, {}


def test_a_layer_is_not_charged_for_the_layer_inside_it(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(probe, "time", clock)
    model = nn.Sequential(outer=Sleeper(clock, inner=Sleeper(clock)))
    children = dict(model.children)
    x = np.zeros((4, 5), np.float32)
    with probe.watched(model) as records:
        _, cache = model.forward(x)
        model.backward(x, cache)
    assert model.children == children
    assert [(r.name, r.forward, r.backward) for r in records] == [("outer", 20, 10), ("outer.inner", 20, 10)]


def test_a_buffer_that_two_layers_keep_is_counted_once_and_as_a_whole():
    model = nn.Sequential(a=Sleeper(), b=Sleeper())
    x = np.zeros((4, 5), np.float32)
    with probe.watched(model) as records:
        model.forward(x[:2])
    assert probe.kept_buffers(records) == [("a", (4, 5), "float32", 80)]


def test_the_model_is_restored_after_an_error():
    model = nn.Sequential(fc=nn.Linear(3, 2, np.random.default_rng(0)))
    children = dict(model.children)
    with pytest.raises(ValueError), probe.watched(model):
        model.forward(np.zeros((1, 4), np.float32))
    assert model.children == children


def test_peak_memory_is_of_what_lives_at_the_same_time():
    def allocate():
        for _ in range(3):
            np.ones(1 << 20, np.uint8)
        return np.ones(1 << 19, np.uint8)

    assert 1 << 20 <= probe.peak_bytes(allocate) < 1.2 * (1 << 20)


def test_contestants_take_turns_after_a_warm_up(monkeypatch):
    monkeypatch.setattr(timing, "TURN_S", 0)
    calls = []
    times = timing.interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "a", "b", "b", "a", "b", "a", "b"]
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}


def test_a_short_function_is_repeated_within_its_turn(monkeypatch):
    monkeypatch.setattr(timing, "TURN_S", 0.02)
    calls = []
    timing.interleaved({"short": lambda: calls.append(1)}, 1)
    assert len(calls) > 10


def test_a_detector_is_measured_as_a_classifier_is(capsys):
    assert bench.main(["train", "--model", "vgg_detector", "--batch-size", "2", "--repeats", "1", "--json"]) == 0
    [model] = json.loads(capsys.readouterr().out)["models"]
    assert model["input"] == [96, 96, 3] and set(model["milliseconds"]) == {"float"}
    assert [layer["name"] for layer in model["profiles"]["float"]["layers"]][-1] == "head"


def test_training_is_reported_per_layer_with_memory_and_ratios(capsys):
    arguments = ["train", "--model", "lenet5", "--batch-size", "8", "--repeats", "1", "--no-torch",
                 "--method", "minmax"]
    assert bench.main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    [model] = report["models"]
    assert report["batch_size"] == 8 and model["model"] == "lenet5"
    assert set(model["milliseconds"]) == {"float", "minmax"}
    assert set(model["ratios"]) == {"minmax / float", "minmax / float, memory"}
    profile = model["profiles"]["float"]
    names = [layer["name"] for layer in profile["layers"]]
    assert names[:4] == ["conv1", "bn1", "relu1", "pool1"] and len(names) == 16
    assert all(layer["forward"] > 0 for layer in profile["layers"])
    assert 0 < profile["kept_bytes"] < profile["peak_bytes"]
    assert profile["largest_buffers"][0]["bytes"] == 8 * 28 * 28 * 6 * 4
    assert bench.main(arguments) == 0
    assert "where the minmax step goes" in capsys.readouterr().out


def test_all_methods_are_measured_each_at_bits_that_it_takes():
    found = train.contestants("all", 4)
    assert {how[0] for how in found.values()} == set(METHODS) and found["cpq"] == ("cpq", 4, 4)
    for label, (name, bits, act_bits) in found.items():
        assert bits in METHODS[name].weight_bits and act_bits in METHODS[name].act_bits
        assert (label == name) == (bits == act_bits == 4)
    assert train.contestants("float,lsq", 3) == {"lsq": ("lsq", 3, 3)}


@pytest.mark.parametrize("arguments, message", [
    (["train", "--model", "lenet6"], "there is no model 'lenet6'; did you mean lenet5?"),
    (["train", "--method", "cqp", "--model", "lenet5"], "there is no method 'cqp'; did you mean"),
    (["train", "--threads", "0"], "'0' is not a positive integer"),
    (["trian"], "invalid choice: 'trian'")])
def test_a_wrong_argument_is_named(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        bench.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
