"""GDRQ in a network: stages, projection, options, the merge into batch norm, and what is refused."""

import copy
import warnings

import numpy as np
import pytest

from minquant.estimators.scale_clip import group_index, merge_group_scales
from minquant.nn import BatchNorm, Conv2d, Flatten, Linear, ReLU, Sequential
from minquant.optim import Adam, parameter_groups
from minquant.quantizers.base import quantizers
from minquant.quantizers.gdrq import GDRQ, SEARCH_EVERY, GDRQActivation, GDRQWeight
from minquant.training import step
from tests.helpers import assert_close


def network(method, bits=2, act_bits=2, seed=0):
    """conv - BN - ReLU - linear with the method's quantizers, initialised; (model, images, labels)."""
    rng = np.random.default_rng(seed)
    model = Sequential(conv=Conv2d(2, 6, 3, rng, bias=False), bn=BatchNorm(6), relu=ReLU(),
                       relu_quantizer=method.activation_quantizer(act_bits), flatten=Flatten(),
                       fc=Linear(96, 3, rng))
    images, labels = rng.standard_normal((24, 6, 6, 2)).astype(np.float32), rng.integers(0, 3, 24)
    for layer in (model.children["conv"], model.children["fc"]):
        weight = layer.params["weight"]
        layer.children["weight_quantizer"] = method.weight_quantizer(bits, weight.shape)
        layer.children["weight_quantizer"].init_from(weight, rng)
    model.children["relu_quantizer"].init_from(np.maximum(rng.standard_normal((24, 4, 4, 6)), 0), rng)
    model.method = method
    return model, images, labels


def train(model, images, labels, steps, lr=1e-2):
    optimizer = Adam(model.named_params(), parameter_groups(model))
    rng = np.random.default_rng(1)
    return [step(model, optimizer, images, labels, lr, rng, 1, i / steps)[0] for i in range(steps)]


def conv_parts(model):
    conv = model.children["conv"]
    return conv.params["weight"], conv.children["weight_quantizer"]


OPTIONS = [dict(), dict(grad_mode="mask"), dict(grad_mode="full"), dict(alpha="search"),
           dict(alpha="learned"), dict(act_alpha="learned"), dict(grid="tile"), dict(grid="sym"),
           dict(reshape=0.0), dict(groups=3), dict(scale_clip="none"), dict(scale_clip="weights"),
           dict(scale_clip="activations", alpha="search"), dict(project=False),
           dict(group_size=-1, k_w=2.5, k_a=3.0, lam=0.1)]


@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_trains_to_a_lower_loss_and_ends_with_the_stored_network(options):
    model, images, labels = network(GDRQ(**options))
    losses = train(model, images, labels, 60)
    model.method.finish(model)
    assert np.isfinite(losses).all() and min(losses[-5:]) < 0.9 * losses[0]
    weight, quantizer = conv_parts(model)
    assert np.array_equal(quantizer.encode(weight).decode(), quantizer.forward(weight, train=True)[0])
    assert not any(q.state["reshape"] for _, q in quantizers(model))


def test_every_step_leaves_the_weights_within_the_wall_it_applied():
    model, images, labels = network(GDRQ(group_size=2))
    seen = []
    own = model.method.step_end

    def watched(model):
        weight, quantizer = conv_parts(model)
        wall = quantizer.threshold(weight)[quantizer.group]
        own(model)
        seen.append((np.abs(weight) <= wall).all() and (np.abs(weight) == wall).any())

    model.method.step_end = watched
    train(model, images, labels, 12)
    assert len(seen) == 12 and all(seen)


@pytest.mark.parametrize("options", [dict(project=False), dict(scale_clip="activations"),
                                     dict(scale_clip="none")])
def test_without_projection_the_step_end_leaves_the_weights_alone(options):
    model, _, _ = network(GDRQ(**options))
    before = conv_parts(model)[0].copy()
    model.method.step_end(model)
    assert np.array_equal(conv_parts(model)[0], before)


def test_stage_one_clips_without_rounding_and_stage_two_rounds():
    model, _, _ = network(GDRQ(reshape=0.5))
    weight, quantizer = conv_parts(model)
    model.method.step_begin(model, 1, 0.49)
    wall = quantizer.threshold(weight)[quantizer.group]
    assert np.array_equal(quantizer.forward(weight, train=True)[0], np.clip(weight, -wall, wall))
    model.method.step_begin(model, 2, 0.5)
    assert np.array_equal(quantizer.forward(weight, train=True)[0], quantizer.encode(weight).decode())


def test_evaluation_rounds_in_stage_one_too():
    model, _, _ = network(GDRQ())
    model.method.step_begin(model, 1, 0.0)
    weight, quantizer = conv_parts(model)
    assert np.array_equal(quantizer.forward(weight)[0], quantizer.encode(weight).decode())


def test_finishing_during_stage_one_ends_it():
    model, _, _ = network(GDRQ())
    model.method.step_begin(model, 1, 0.0)
    assert all(q.state["reshape"] for _, q in quantizers(model))
    model.method.finish(model)
    assert not any(q.state["reshape"] for _, q in quantizers(model))


def test_a_stored_alpha_is_searched_when_stage_two_begins_and_then_at_intervals():
    model, _, _ = network(GDRQ(alpha="search", reshape=0.5))
    weight, quantizer = conv_parts(model)
    alpha, begin = quantizer.state["alpha"], model.method.step_begin
    first = alpha.copy()
    begin(model, 1, 0.1)
    weight *= 2
    begin(model, 1, 0.2)
    assert np.array_equal(alpha, first)
    begin(model, 1, 0.5)
    assert np.array_equal(alpha, 2 * first)
    weight *= 2
    for _ in range(SEARCH_EVERY):
        begin(model, 1, 0.6)
    assert np.array_equal(alpha, 2 * first)
    begin(model, 1, 0.6)
    assert np.array_equal(alpha, 4 * first)


@pytest.mark.parametrize("alpha", ["threshold", "search", "learned"])
def test_an_interrupted_run_continues_as_the_uninterrupted_one(alpha):
    whole, images, labels = network(GDRQ(alpha=alpha))
    half = copy.deepcopy(whole)
    optimizer = Adam(whole.named_params(), parameter_groups(whole))
    for i in range(10):
        step(whole, optimizer, images, labels, 1e-2, np.random.default_rng(i), 1, i / 10)
        if i == 4:
            half.load(copy.deepcopy(whole.named_params()), copy.deepcopy(whole.named_state()))
            resumed = Adam(half.named_params(), parameter_groups(half))
            resumed.load({k: v.copy() for k, v in optimizer.arrays().items()}, optimizer.steps)
    for i in range(5, 10):
        step(half, resumed, images, labels, 1e-2, np.random.default_rng(i), 1, i / 10)
    assert all(np.array_equal(a, half.named_params()[name]) for name, a in whole.named_params().items())


def test_training_with_projection_flattens_gaussian_weights():
    kurtosis = {}
    for scale_clip in ("both", "none"):
        rng = np.random.default_rng(0)
        quantizer = GDRQ(scale_clip=scale_clip).weight_quantizer(4, (3, 3, 16, 16))
        layer = Conv2d(16, 16, 3, rng)
        layer.children["weight_quantizer"] = quantizer
        model, method = Sequential(conv=layer), GDRQ(scale_clip=scale_clip, group_size=-1)
        weight = layer.params["weight"]
        for _ in range(1500):
            weight += (0.02 * weight.std() * rng.standard_normal(weight.shape)).astype(np.float32)
            method.step_end(model)
        kurtosis[scale_clip] = np.mean(weight ** 4) / np.mean(weight ** 2) ** 2
    assert kurtosis["both"] < 2.2 and kurtosis["none"] > 2.8


# Groups and batch norm -------------------------------------------------------------------------------

@pytest.mark.parametrize("group_size", [-1, 1, 4])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_merging_the_group_scales_into_batch_norm_is_exact(group_size, bits):
    rng = np.random.default_rng(0)
    conv, norm, acts = Conv2d(3, 6, 3, rng, padding=1), BatchNorm(6), GDRQActivation(bits)
    quantizer = GDRQWeight(bits, 6, group_size)
    conv.children["weight_quantizer"] = quantizer
    norm.params.update(gamma=rng.standard_normal(6), beta=rng.standard_normal(6))  # about half are negative
    norm.state.update(mean=rng.standard_normal(6), var=rng.uniform(0.1, 2, 6))
    conv.params["bias"] = rng.standard_normal(6)
    model = Sequential(conv=conv, norm=norm).astype(np.float64)
    x = np.maximum(rng.standard_normal((5, 7, 7, 3)), 0)
    acts.astype(np.float64).init_from(x, rng)
    weight = conv.params["weight"]
    quantizer.init_from(weight, rng)
    want = model.forward(acts.forward(x)[0])[0]

    stored, inputs = quantizer.encode(weight), acts.encode(x)
    integer = Conv2d(3, 6, 3, rng, padding=1, bias=False)
    integer.params["weight"] = stored.levels[stored.codes].astype(np.float64)
    acc = integer.forward(inputs.levels[inputs.codes].astype(np.float64))[0]
    m, b = merge_group_scales(stored.scale, inputs.scale, norm.params["gamma"], norm.params["beta"],
                              norm.state["mean"], norm.state["var"], norm.eps, conv.params["bias"])
    assert np.array_equal(acc, np.rint(acc)) and (norm.params["gamma"] < 0).any()
    assert_close(m * acc + b, want, 1e-12)
    single = (m.astype(np.float32) * acc.astype(np.float32) + b.astype(np.float32))
    assert_close(single, want, 1e-5)
    step_out = 0.3
    codes, float_codes = (np.clip(np.rint(z / step_out), 0, 15) for z in (single, want))
    assert (codes != float_codes).mean() < 1e-3 and np.abs(codes - float_codes).max() <= 1


def test_group_scales_cost_nothing_because_batch_norm_absorbs_them():
    rng = np.random.default_rng(0)
    gamma, beta, mean, scale = rng.standard_normal((4, 6))
    var, c, eps = rng.uniform(0.1, 2, 6), rng.uniform(0.1, 9, 6), 1e-5
    m, b = merge_group_scales(np.abs(scale), 0.1, gamma, beta, mean, var, eps)
    m2, b2 = merge_group_scales(c * np.abs(scale), 0.1, gamma, beta, c * mean, c ** 2 * var, c ** 2 * eps)
    assert_close(m2, m, 1e-10)
    assert_close(b2, b, 1e-10)


def test_more_groups_store_more_scales_in_the_same_form():
    w = np.random.default_rng(0).standard_normal((3, 3, 2, 6)).astype(np.float32)
    for size, distinct in ((-1, 1), (4, 2), (2, 3), (1, 6)):
        stored = GDRQWeight(4, 6, size).encode(w)
        assert len(np.unique(stored.scale)) == distinct and stored.codes.shape == w.shape
        assert stored.scale.shape == ((6,) if distinct > 1 else ())


@pytest.mark.parametrize("groups,filters,distinct",
                         [(1, 6, 1), (2, 6, 2), (4, 16, 4), (16, 10, 10), (4, 10, 4)])
def test_the_number_of_groups_can_be_given_instead_of_their_size(groups, filters, distinct):
    quantizer = GDRQ(groups=groups).weight_quantizer(4, (3, 3, 2, filters))
    assert quantizer.group[-1] + 1 == distinct and len(quantizer.group) == filters


# Settings --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("scale_clip,weights,activations",
                         [("both", 2.0, 4.0), ("weights", 2.0, None), ("activations", None, 4.0),
                          ("none", None, None)])
def test_scale_clip_can_be_switched_off_for_either_side(scale_clip, weights, activations):
    method = GDRQ(scale_clip=scale_clip)
    x = np.abs(np.random.default_rng(0).standard_normal((20, 4)))
    quantizer, acts = method.weight_quantizer(4, (20, 4)), method.activation_quantizer(4)
    assert quantizer.k == weights and acts.k == activations
    if weights is None:
        assert quantizer.alpha(x)[0] == x.max()
    if activations is None:
        assert acts.threshold(x) == x.max()


def test_the_activation_constant_is_the_number_of_bits_unless_given():
    assert [GDRQ().activation_quantizer(b).k for b in (2, 3, 4, 8)] == [2, 3, 4, 8]
    assert GDRQ(k_a=5.0).activation_quantizer(2).k == 5


def test_a_small_k_with_projection_is_warned_about():
    with pytest.warns(UserWarning, match="k_w=1.5 with projection shrinks"):
        GDRQ(k_w=1.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GDRQ(k_w=1.5, project=False)
        GDRQ(k_w=1.8)


@pytest.mark.parametrize("options,message", [
    (dict(group_size=0), "group_size=0 is neither positive nor -1"), (dict(group_size=-2), "group_size=-2"),
    (dict(groups=-1), "groups=-1"), (dict(k_w=0.0), "k_w=0.0"), (dict(k_w=float("nan")), "k_w=nan"),
    (dict(k_a=-1.0), "k_a=-1.0"), (dict(lam=0.0), "lam=0.0"), (dict(lam=2.0), "lam=2.0"),
    (dict(reshape=1.0), "reshape=1.0"), (dict(reshape=-0.1), "reshape=-0.1"),
    (dict(grid="full"), "grid='full'"), (dict(stage=1), "no option 'stage'"),
    (dict(grad_mode="full", alpha="search"), "grad_mode='full'"),
    (dict(grad_mode="full", scale_clip="none"), "grad_mode='full'")])
def test_wrong_options_are_refused_with_their_value(options, message):
    with pytest.raises(ValueError, match=message):
        GDRQ(**options)


@pytest.mark.parametrize("bits", [1, 9, 0, 2.5, True])
def test_bits_outside_two_to_eight_are_refused(bits):
    for make in (lambda: GDRQWeight(bits, 4), lambda: GDRQActivation(bits)):
        with pytest.raises(ValueError, match="is not in 2..8"):
            make()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value):
    x = np.ones((4, 4))
    x[1, 2] = value
    for quantizer, what in ((GDRQWeight(4, 4), "weights"), (GDRQActivation(4), "activations")):
        with pytest.raises(ValueError, match=f"1 of 16 {what} are NaN or infinite"):
            quantizer.init_from(x, np.random.default_rng(0))


def test_misuse_names_the_remedy():
    with pytest.raises(ValueError, match="4 filters on its last axis, the groups are made for 6"):
        GDRQWeight(4, 6).forward(np.ones((3, 4)))
    with pytest.raises(ValueError, match="grid='odd'"):
        GDRQWeight(4, 6, grid="odd")
    with pytest.raises(ValueError, match="after a ReLU"):
        GDRQ().activation_quantizer(4, signed=True)
    with pytest.raises(RuntimeError, match="init_from"):
        GDRQActivation(4).forward(np.ones(3))
    with pytest.raises(RuntimeError, match="freeze"):
        GDRQWeight(4, 6, grad_mode="mask").surrogate(np.ones((3, 6)))
    with pytest.raises(ValueError, match="group_size=0"):
        group_index(4, 0)
