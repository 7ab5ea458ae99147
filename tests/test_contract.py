"""What every registered method promises, whatever its paper."""

import copy

import numpy as np
import pytest

from minquant import models, training
from minquant.config import FIELDS
from minquant.optim import Adam, parameter_groups
from minquant.quantize import calibrate, quantize
from minquant.quantizers import METHODS, create
from minquant.quantizers.base import quantizers

CASES = [(name, bits) for name, method in METHODS.items() for bits in method.weight_bits if bits in (1, 2, 3, 4, 8)]
ACT_CASES = [(name, bits) for name, method in METHODS.items() for bits in method.act_bits if bits in (1, 2, 3, 4, 8)]


def weights(seed=0, shape=(3, 3, 4, 8)):
    return np.random.default_rng(seed).normal(0, 0.2, shape).astype(np.float32)


def activations(seed=0, shape=(8, 6, 6, 4)):
    return np.maximum(np.random.default_rng(seed).normal(0.3, 1, shape), 0).astype(np.float32)


def weight_quantizer(name, bits, w, hardened=True):
    quantizer = create(name).weight_quantizer(bits, w.shape)
    quantizer.init_from(w, np.random.default_rng(1))
    if hardened:
        quantizer.harden()
    return quantizer


def act_quantizer(name, bits, x):
    quantizer = create(name).activation_quantizer(bits, signed=False)
    quantizer.init_from(x, np.random.default_rng(1))
    return quantizer


def trained(name, steps=3, **settings):
    method = METHODS[name]
    bits = 2 if 2 in method.weight_bits else method.weight_bits[0]
    act_bits = 2 if 2 in method.act_bits else method.act_bits[0]
    model = quantize(models.lenet5((8, 8, 1), 4, np.random.default_rng(0)), name, bits, act_bits, **settings)
    rng = np.random.default_rng(2)
    x, labels = rng.standard_normal((32, 8, 8, 1)).astype(np.float32), rng.integers(0, 4, 32)
    calibrate(model, x, rng)
    optimizer = Adam(model.named_params(), parameter_groups(model))
    losses = [training.step(model, optimizer, x, labels, 2e-3, rng, 1, i / steps)[0] for i in range(steps)]
    return model, x, losses


@pytest.mark.parametrize("name,bits", CASES)
def test_weights_keep_shape_and_dtype_and_take_at_most_two_to_the_bits_values(name, bits):
    w = weights()
    quantizer = weight_quantizer(name, bits, w)
    y, _ = quantizer.forward(w)
    assert y.shape == w.shape and y.dtype == w.dtype
    stored = quantizer.encode(w)
    groups = y.reshape(-1, y.shape[-1]).T if stored.axis is not None else [y]
    assert max(len(np.unique(group)) for group in groups) <= 2 ** bits


@pytest.mark.parametrize("name,bits", CASES)
def test_what_is_stored_of_weights_is_the_evaluation_forward_to_the_last_bit(name, bits):
    w = weights()
    for hardened in (False, True):
        quantizer = weight_quantizer(name, bits, w, hardened)
        stored = quantizer.encode(w)
        np.testing.assert_array_equal(stored.decode(), quantizer.forward(w)[0])
    assert stored.levels.dtype == np.int8 and stored.codes.dtype == np.uint8 and stored.bits == bits
    assert (np.diff(stored.levels.astype(int)) > 0).all()


@pytest.mark.parametrize("name,bits", ACT_CASES)
def test_what_is_stored_of_activations_is_the_evaluation_forward_to_the_last_bit(name, bits):
    x = activations()
    quantizer = act_quantizer(name, bits, x)
    y, stored = quantizer.forward(x)[0], quantizer.encode(x)
    np.testing.assert_array_equal(stored.decode(), y)
    assert y.dtype == x.dtype and len(np.unique(y)) <= 2 ** bits and stored.levels.dtype in (np.int8, np.uint8)


@pytest.mark.parametrize("name,bits", ACT_CASES)
def test_the_staircase_of_an_activation_quantizer_gives_its_codes(name, bits):
    quantizer = act_quantizer(name, bits, activations()).astype(np.float64)
    x = activations(seed=5).astype(np.float64)
    stairs = quantizer.staircase()
    assert (np.diff(stairs.thresholds) >= 0).all() and len(stairs.levels) == len(stairs.thresholds) + 1
    np.testing.assert_array_equal(stairs.codes(x), quantizer.encode(x).codes)
    np.testing.assert_array_equal(stairs.levels[stairs.codes(x)] * stairs.scale, quantizer.forward(x)[0])


@pytest.mark.parametrize("name,bits", CASES)
def test_equal_seeds_give_equal_training_forwards(name, bits):
    w = weights()
    first = weight_quantizer(name, bits, w).forward(w, True, np.random.default_rng(3))[0]
    second = weight_quantizer(name, bits, w).forward(w, True, np.random.default_rng(3))[0]
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name,bits", CASES)
def test_backward_returns_finite_gradients_of_every_parameter_in_its_shape(name, bits):
    w = weights()
    quantizer = weight_quantizer(name, bits, w, hardened=False)
    y, cache = quantizer.forward(w, True, np.random.default_rng(4))
    dx, grads = quantizer.backward(np.random.default_rng(5).standard_normal(y.shape).astype(y.dtype), cache)
    assert dx.shape == w.shape and np.isfinite(dx).all() and np.any(dx)
    assert grads.keys() == quantizer.params.keys()
    assert all(np.shape(g) == quantizer.params[k].shape and np.isfinite(g).all() for k, g in grads.items())


def unusual(kind, normal):
    """A tensor that quantizers meet in practice and that breaks careless ones; `two values` leaves clusters empty."""
    x = {"zero": np.zeros_like(normal), "constant": np.full_like(normal, 0.3), "single": normal.reshape(-1, 1)[-1:],
         "tiny": 1e-30 * normal, "two values": np.where(normal > 0.2, 0.5, 0).astype(normal.dtype)}
    x["outlier"] = normal.copy()
    x["outlier"].flat[0] = 1e6 * np.abs(normal).max()
    return x[kind]


UNUSUAL = ["zero", "constant", "outlier", "single", "tiny", "two values"]


@pytest.mark.parametrize("name,bits", CASES)
@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_weights_neither_hang_nor_become_nan(name, bits, kind):
    w = unusual(kind, weights(shape=(3, 3, 2, 4)))
    quantizer = weight_quantizer(name, bits, w, hardened=False)
    y, cache = quantizer.forward(w, True, np.random.default_rng(6))
    dx, grads = quantizer.backward(np.ones_like(y), cache)
    assert np.isfinite(y).all() and np.isfinite(dx).all() and all(np.isfinite(g).all() for g in grads.values())
    assert np.isfinite(quantizer.forward(w)[0]).all()


@pytest.mark.parametrize("name,bits", ACT_CASES)
@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_activations_neither_hang_nor_become_nan(name, bits, kind):
    x = unusual(kind, activations(shape=(4, 3, 3, 2)))
    quantizer = act_quantizer(name, bits, x)
    y, cache = quantizer.forward(x, True, np.random.default_rng(6))
    dx, grads = quantizer.backward(np.ones_like(y), cache)
    assert np.isfinite(y).all() and np.isfinite(dx).all() and all(np.isfinite(g).all() for g in grads.values())
    stored = quantizer.encode(x)
    np.testing.assert_array_equal(stored.decode(), quantizer.forward(x)[0])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("bits", [0, -1, 9, 2.5, "4", True])
def test_bits_that_no_code_can_have_are_refused(name, bits):
    model = models.lenet5((8, 8, 1), 4, np.random.default_rng(0))
    for given in ({"bits": bits}, {"act_bits": bits}):
        with pytest.raises(ValueError, match="bits="):
            quantize(model, name, **{"bits": 8 if 8 in METHODS[name].weight_bits else METHODS[name].weight_bits[0],
                                     "act_bits": None, **given})
    for make in (lambda: create(name).weight_quantizer(bits, (3, 3)), lambda: create(name).activation_quantizer(bits)):
        with pytest.raises((ValueError, TypeError), match="bits"):
            make()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_activations_that_are_not_finite_are_refused(name, value):
    x = activations()
    x[1, 1, 1, 1] = value
    bits = next(bits for bits in METHODS[name].act_bits if bits is not None)
    with pytest.raises(ValueError, match="1 of .* activations are NaN or infinite"):
        create(name).activation_quantizer(bits).init_from(x, np.random.default_rng(0))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(name, value):
    w = weights()
    w[1, 1, 1, 1] = value
    quantizer = create(name).weight_quantizer(METHODS[name].weight_bits[-1], w.shape)
    with pytest.raises(ValueError, match="NaN or infinite"):
        quantizer.init_from(w, np.random.default_rng(0))


@pytest.mark.parametrize("name", METHODS)
def test_training_lowers_the_loss_and_finishing_leaves_integer_levels(name):
    model, x, losses = trained(name, steps=40)
    assert losses[-1] < losses[0] and np.isfinite(losses).all()
    model.method.finish(model)
    for layer_name, layer in model.named_layers():
        if "weight_quantizer" in layer.children:
            stored = layer.children["weight_quantizer"].encode(layer.params["weight"])
            assert stored.levels.dtype == np.int8, layer_name
    assert np.isfinite(model.forward(x)[0]).all()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("finished", [False, True])
def test_a_saved_state_restored_into_a_fresh_model_gives_the_same_outputs_and_bits(name, finished):
    model, x, _ = trained(name)
    if finished:
        model.method.finish(model)
    method = METHODS[name]
    bits = 2 if 2 in method.weight_bits else method.weight_bits[0]
    act_bits = 2 if 2 in method.act_bits else method.act_bits[0]
    fresh = quantize(models.lenet5((8, 8, 1), 4, np.random.default_rng(9)), name, bits, act_bits)
    fresh.load(copy.deepcopy(model.named_params()), copy.deepcopy(model.named_state()))
    np.testing.assert_array_equal(fresh.forward(x)[0], model.forward(x)[0])
    assert [q.bits for _, q in quantizers(fresh)] == [q.bits for _, q in quantizers(model)]


@pytest.mark.parametrize("name", METHODS)
def test_evaluation_does_not_change_the_model_and_does_not_draw(name):
    model, x, _ = trained(name)
    before = {k: v.copy() for k, v in {**model.named_params(), **model.named_state()}.items()}
    first, second = model.forward(x)[0], model.forward(x)[0]
    np.testing.assert_array_equal(first, second)
    after = {**model.named_params(), **model.named_state()}
    assert all(np.array_equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("name,bits", CASES)
def test_quantizing_hardened_weights_again_changes_nothing_where_that_is_claimed(name, bits):
    w = weights()
    quantizer = weight_quantizer(name, bits, w)
    y, _ = quantizer.forward(w)
    again, _ = quantizer.forward(y)
    if quantizer.idempotent:
        np.testing.assert_array_equal(again, y)
    assert np.isfinite(again).all()


@pytest.mark.parametrize("name,bits", ACT_CASES)
def test_quantizing_quantized_activations_again_changes_nothing_where_that_is_claimed(name, bits):
    x = activations()
    quantizer = act_quantizer(name, bits, x)
    y, _ = quantizer.forward(x)
    if quantizer.idempotent:
        np.testing.assert_array_equal(quantizer.forward(y)[0], y)


@pytest.mark.parametrize("name,bits", ACT_CASES)
def test_no_gradient_passes_beyond_the_last_level_where_that_is_claimed(name, bits):
    x = activations()
    quantizer = act_quantizer(name, bits, x)
    far = np.full_like(x, 1e3 * x.max())
    y, cache = quantizer.forward(far, True, np.random.default_rng(2))
    dx, _ = quantizer.backward(np.ones_like(y), cache)
    if quantizer.saturates:
        assert not dx.any()
    assert np.abs(dx).max() <= 0.2


def test_most_quantizers_claim_both():
    made = [create(name).activation_quantizer(bits) for name, bits in ACT_CASES]
    assert sum(q.idempotent for q in made) > len(made) / 2 < 2 * sum(q.saturates for q in made)


@pytest.mark.parametrize("name,bits", CASES)
def test_zero_weights_stay_zero_where_the_grid_has_a_zero(name, bits):
    w = weights()
    w[0] = 0
    quantizer = weight_quantizer(name, bits, w)
    stored = quantizer.encode(w)
    if 0 not in stored.levels:
        assert bits == 1 or name in ("dorefa", "pact")  # grids without a zero level, by their papers
    elif name != "qnet":  # k-means biases need not put 0 between the two around level 0
        assert not stored.decode()[0].any()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_describes_itself(name):
    method = METHODS[name]
    assert method.name == name and method.title and method.paper and method.learns
    assert all(option.help for option in method.options.values())


@pytest.mark.parametrize("name", METHODS)
def test_no_option_of_a_method_has_the_name_of_a_setting(name):
    assert not set(METHODS[name].options) & set(FIELDS)  # --set could not tell them apart


@pytest.mark.parametrize("name", METHODS)
def test_the_training_a_method_recommends_is_made_of_settings(name):
    assert set(METHODS[name].training) <= set(FIELDS)
