"""Optimizers against textbook updates worked by hand, schedules, groups, clipping."""

import numpy as np
import pytest

from minquant import nn, optim

GRADIENTS = [np.array([0.5, -2.0]), np.array([1.0, 0.25]), np.array([-0.5, 1.0])]


def run(optimizer, lrs=(0.1, 0.1, 0.1), decay=0.0, **settings):
    p = {"weight": np.array([1.0, -1.0])}
    group = [optim.Group(("weight",), weight_decay=decay)]
    opt = optimizer(p, group, **settings)
    trace = []
    for g, lr in zip(GRADIENTS, lrs):
        opt.step({"weight": g}, lr)
        trace.append(p["weight"].copy())
    return np.array(trace)


def test_golden_momentum_sequence():
    # v: .5 -> .9*.5+1 = 1.45 -> .9*1.45-.5 = .805;  p: 1-.05 = .95 -> .95-.145 = .805 -> .805-.0805 = .7245
    # v: -2 -> -1.8+.25 = -1.55 -> -1.395+1 = -.395;  p: -1+.2 = -.8 -> -.645 -> -.6055
    np.testing.assert_allclose(run(optim.SGD), [[0.95, -0.8], [0.805, -0.645], [0.7245, -0.6055]], rtol=1e-12)


def test_golden_nesterov_sequence():
    # p1 = 1 - .1 (.5 + .9*.5) = .905;  p2 = .905 - .1 (1 + .9*1.45) = .6745;  p3 = .6745 - .1 (-.5 + .9*.805) = .65205
    np.testing.assert_allclose(run(optim.SGD, nesterov=True)[:, 0], [0.905, 0.6745, 0.65205], rtol=1e-12)


def test_golden_weight_decay_sequence_without_momentum():
    # p1 = 1 - .1 (.5 + .1*1) = .94;  p2 = .94 - .1 (1 + .094) = .8306;  p3 = .8306 - .1 (-.5 + .08306) = .872294
    np.testing.assert_allclose(run(optim.SGD, momentum=0.0, decay=0.1)[:, 0], [0.94, 0.8306, 0.872294], rtol=1e-12)


def test_golden_adam_sequence():
    # first step: m/(1-b1) = g and sqrt(v/(1-b2)) = |g|, so p moves by exactly lr against the sign of g
    # second step, first element: m = .09*.5+.1*1 = .145/.19, v = (.999*.00025+.001)/.001999; p = .9 - .1*m/sqrt(v)
    trace = run(optim.Adam, eps=0.0)
    np.testing.assert_allclose(trace[0], [0.9, -0.9], rtol=1e-12)
    m, v = 0.145 / 0.19, (0.999 * 0.00025 + 0.001) / 0.001999
    assert trace[1, 0] == pytest.approx(0.9 - 0.1 * m / np.sqrt(v), rel=1e-12)


def test_adamw_shrinks_the_weight_beside_the_adam_step_and_adam_mixes_it_into_the_moments():
    plain, decoupled, coupled = run(optim.Adam), run(optim.AdamW, decay=0.1), run(optim.Adam, decay=0.1)
    np.testing.assert_allclose(decoupled[0], [1 * (1 - 0.01) - 0.1, -1 * (1 - 0.01) + 0.1], rtol=1e-6)
    np.testing.assert_allclose(coupled[0], plain[0], rtol=1e-6)  # the first step has the sign of g + decay p only


def test_groups_scale_the_learning_rate_and_the_decay():
    p = {"a": np.array([1.0]), "b": np.array([1.0])}
    opt = optim.SGD(p, [optim.Group(("a",), lr_scale=0.1), optim.Group(("b",), weight_decay=1.0)], momentum=0.0)
    opt.step({"a": np.array([1.0]), "b": np.array([1.0])}, 0.5)
    assert p["a"][0] == pytest.approx(0.95) and p["b"][0] == pytest.approx(0.0)


def test_only_weights_decay_and_quantizer_parameters_have_their_own_rate():
    from minquant.quantizers.base import Quantizer

    class Learned(Quantizer):
        lr_scale = {"alpha": 0.25}

        def __init__(self):
            super().__init__(4)
            self.params.update(alpha=np.ones(()), beta=np.ones(()))

    net = nn.Sequential(fc=nn.Linear(2, 2, np.random.default_rng(0)), bn=nn.BatchNorm(2), q=Learned())
    groups = {g.names: (g.lr_scale, g.weight_decay) for g in optim.parameter_groups(net, 0.01)}
    assert groups == {("fc.weight",): (1.0, 0.01), ("fc.bias", "bn.gamma", "bn.beta", "q.beta"): (1.0, 0.0),
                      ("q.alpha",): (0.25, 0.0)}


@pytest.mark.parametrize("optimizer", [optim.SGD, optim.Adam, optim.AdamW])
def test_a_restored_optimizer_goes_on_as_if_nothing_had_happened(optimizer):
    rng = np.random.default_rng(1)
    grads = [{"w": rng.standard_normal(5), "s": np.asarray(rng.standard_normal())} for _ in range(6)]
    def fresh():
        return {"w": np.ones(5), "s": np.ones(())}
    p = fresh()
    opt = optimizer(p)
    for g in grads:
        opt.step(g, 0.1)
    q = fresh()
    first = optimizer(q)
    for g in grads[:3]:
        first.step(g, 0.1)
    second = optimizer(q)
    second.load({name: array.copy() for name, array in first.arrays().items()}, first.steps)
    for g in grads[3:]:
        second.step(g, 0.1)
    np.testing.assert_array_equal(p["w"], q["w"])
    np.testing.assert_array_equal(p["s"], q["s"])


@pytest.mark.parametrize("optimizer", [optim.SGD, optim.Adam, optim.AdamW])
def test_every_optimizer_finds_the_bottom_of_a_bowl(optimizer):
    p = {"w": np.array([3.0, -2.0])}
    opt = optimizer(p)
    for i in range(400):
        opt.step({"w": 2 * (p["w"] - 1)}, 0.05 * optim.cosine(i / 400))
    np.testing.assert_allclose(p["w"], 1, atol=1e-2)


def test_updates_keep_float32():
    p = {"w": np.ones(3, np.float32)}
    for optimizer in (optim.SGD, optim.Adam, optim.AdamW):
        opt = optimizer(p, [optim.Group(("w",), weight_decay=0.1)])
        opt.step({"w": np.ones(3)}, np.float64(0.1))
        assert p["w"].dtype == np.float32 and all(a.dtype == np.float32 for a in opt.arrays().values())


def test_the_cosine_falls_from_one_to_zero():
    values = [optim.cosine(p) for p in np.linspace(0, 1, 50)]
    assert values[0] == 1 and values[-1] == pytest.approx(0) and all(a > b for a, b in zip(values, values[1:]))


def test_the_step_schedule_drops_at_its_milestones():
    schedule = optim.step_decay((0.5, 0.75), 0.1)
    assert [schedule(p) for p in (0, 0.49, 0.5, 0.74, 0.75)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_warm_up_rises_linearly_and_then_follows_the_schedule():
    schedule = optim.warm_up(optim.cosine, 0.2)
    assert [schedule(p) for p in (0, 0.1, 0.2, 1)] == pytest.approx([0, 0.5, 1, 0])
    assert optim.warm_up(optim.cosine, 0.0)(0.3) == optim.cosine(0.3)


def test_clipping_bounds_the_joint_norm_and_keeps_the_direction():
    grads = {"a": np.array([3.0]), "b": np.array([[4.0]])}
    clipped, norm = optim.clip_gradients(grads, 1.0)
    assert norm == pytest.approx(5)
    assert clipped["a"][0] == pytest.approx(0.6) and clipped["b"][0, 0] == pytest.approx(0.8)
    untouched, _ = optim.clip_gradients(grads, 6.0)
    assert untouched["a"][0] == 3.0


@pytest.mark.parametrize("call,message", [
    (lambda: optim.SGD({"a": np.ones(1)}, [optim.Group(("b",))]), "missing \\['a'\\], unknown \\['b'\\]"),
    (lambda: optim.SGD({"a": np.ones(1)}).step({}, 0.1), "no gradient for \\['a'\\]"),
    (lambda: optim.SGD({"a": np.ones(1)}, momentum=1.0), "momentum=1.0"),
    (lambda: optim.Adam({"a": np.ones(1)}).load({}, 0), "another model or optimizer"),
    (lambda: optim.warm_up(optim.cosine, 1.0), "share=1.0"),
])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
