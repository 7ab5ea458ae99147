"""GDRQ: the gradients, the activations, and weights at the edge of what floats hold."""

import numpy as np
import pytest

from minquant import check
from minquant.quantizers.gdrq import GDRQActivation, GDRQWeight
from tests.helpers import assert_close

SHAPE = (3, 3, 2, 6)


def normal(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).standard_normal(shape)


def ready(weight, bits=4, **settings):
    quantizer = GDRQWeight(bits, weight.shape[-1], **settings).astype(weight.dtype)
    quantizer.init_from(weight, np.random.default_rng(0))
    return quantizer


# Gradients -------------------------------------------------------------------------------------------

def both(grad_mode, reshape=False, weight=None):
    w, g = normal() if weight is None else weight, normal(9)
    quantizer = ready(w, group_size=2, grad_mode=grad_mode)
    quantizer.state["reshape"][...] = reshape
    _, cache = quantizer.forward(w, train=True)
    return quantizer, w, g, cache, quantizer.backward(g, cache)[0]


def test_the_gradient_modes_pass_mask_and_add_the_threshold_term():
    quantizer, w, g, cache, full = both("full")
    mask, inside = both("mask")[4], np.abs(w) <= quantizer.alpha(w)[quantizer.group]
    term = (2.0 / 36) * np.sign(w) * quantizer.dalpha(g, cache)[quantizer.group]
    assert np.array_equal(both("ste")[4], g)
    assert np.array_equal(mask, g * inside) and 0 < inside.sum() < w.size
    assert_close(full - mask, term, 1e-12)


def test_the_reshape_stage_is_differentiated_exactly():
    quantizer = GDRQWeight(4, 6, 2, grad_mode="full")
    quantizer.state["reshape"][...] = True
    w = normal()
    away = np.abs(np.abs(w) - quantizer.threshold(w)[quantizer.group]) > 1e-3
    check.gradients(quantizer, np.where(away, w, w * 0.9), np.random.default_rng(1))


@pytest.mark.parametrize("settings", [
    dict(), dict(grad_mode="mask"), dict(grad_mode="full"), dict(alpha_mode="learned"),
    dict(alpha_mode="learned", grad_mode="mask", grid="tile"), dict(alpha_mode="search", grad_mode="mask")])
def test_backward_is_the_derivative_of_the_surrogate(settings):
    w = normal()
    quantizer = ready(w, 3, group_size=4, **settings)
    quantizer.freeze(w)
    found = check.gradients(quantizer, w, np.random.default_rng(2), surrogate=quantizer.surrogate)
    assert [c.what for c in found] == ["x", "alpha"] if quantizer.params else ["x"]


@pytest.mark.parametrize("learned", [False, True])
def test_backward_of_activations_is_the_derivative_of_the_surrogate(learned):
    x = np.random.default_rng(0).normal(0.5, 1, (8, 3, 3, 4))
    x[np.abs(x) < 1e-3] = 0.1  # finite differences must not cross the kink at 0
    quantizer = GDRQActivation(3, 2.0, learned=learned).astype(np.float64)
    quantizer.init_from(x, np.random.default_rng(0))
    quantizer.freeze(x)
    check.gradients(quantizer, x, np.random.default_rng(2), surrogate=quantizer.surrogate, train=False)


def test_a_learned_activation_clip_is_differentiated_exactly_while_reshaping():
    x = np.random.default_rng(0).normal(0.5, 1, (8, 3, 3, 4))
    x[np.abs(x) < 1e-3] = 0.1
    quantizer = GDRQActivation(3, 2.0, learned=True).astype(np.float64)
    quantizer.init_from(x, np.random.default_rng(0))
    quantizer.state["reshape"][...] = True
    check.gradients(quantizer, x, np.random.default_rng(3))


@pytest.mark.parametrize("wrong", [lambda dx, grads: (1.01 * dx, grads), lambda dx, grads: (0 * dx, grads),
                                   lambda dx, grads: (dx, {"alpha": 1.01 * grads["alpha"]}),
                                   lambda dx, grads: (dx, {"alpha": 0 * grads["alpha"]})])
def test_a_scaled_or_zero_gradient_is_rejected(wrong):
    class Wrong(GDRQWeight):
        def backward(self, dy, cache):
            return wrong(*super().backward(dy, cache))

    w = normal()
    quantizer = Wrong(3, 6, 2, alpha_mode="learned", grad_mode="mask").astype(np.float64)
    quantizer.init_from(w, np.random.default_rng(0))
    quantizer.freeze(w)
    with pytest.raises(check.GradientError):
        check.gradients(quantizer, w, np.random.default_rng(2), surrogate=quantizer.surrogate)


def test_a_dropped_threshold_term_is_rejected():
    class Dropped(GDRQWeight):
        def backward(self, dy, cache):
            self.grad_mode = "mask"
            dx = super().backward(dy, cache)
            self.grad_mode = "full"
            return dx

    w = normal()
    quantizer = Dropped(3, 6, 2, grad_mode="full").astype(np.float64)
    quantizer.init_from(w, np.random.default_rng(0))
    quantizer.freeze(w)
    with pytest.raises(check.GradientError):
        check.gradients(quantizer, w, np.random.default_rng(2), surrogate=quantizer.surrogate)


def test_the_gradient_of_a_clip_value_below_all_weights_is_that_of_the_end_codes():
    w, g = np.sign(normal()) * 5, normal(9)
    quantizer = ready(w, 3, alpha_mode="learned")
    quantizer.params["alpha"][...] = 1.0
    _, cache = quantizer.forward(w)
    assert_close(quantizer.dalpha(g, cache), np.array([np.sum(g * cache[2] / 4)]), 1e-12)


# Activations -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("lam", [0.01, 0.5, 1.9])
def test_the_running_clip_value_approaches_a_constant_threshold_geometrically(lam):
    quantizer = GDRQActivation(4, 2.0, lam).astype(np.float64)
    quantizer.init_from(np.full(8, 3.0), np.random.default_rng(0))
    for t in range(1, 30):
        quantizer.forward(np.full(8, 0.5), train=True)
        assert_close(quantizer.state["alpha"], np.array(1 + 5 * (1 - lam) ** t), 1e-12)


def test_evaluation_leaves_the_running_clip_value_alone():
    x = np.abs(normal())
    quantizer = GDRQActivation(4)
    quantizer.init_from(x, np.random.default_rng(0))
    before = quantizer.state["alpha"].copy()
    quantizer.forward(10 * x)
    assert quantizer.state["alpha"] == before


def test_a_dead_activation_layer_gives_zeros_and_wakes_with_the_first_batch_that_is_not_zero():
    x, zero = np.abs(normal()), np.zeros(SHAPE)
    quantizer = GDRQActivation(4, 2.0).astype(np.float64)
    quantizer.init_from(zero, np.random.default_rng(0))
    y, cache = quantizer.forward(zero, train=True)
    assert not y.any() and quantizer.encode(zero).scale == 1 and not quantizer.forward(x)[0].any()
    assert np.array_equal(quantizer.backward(x, cache)[0], x)
    assert not quantizer.staircase().codes(x).any()
    quantizer.forward(x, train=True)
    assert_close(quantizer.state["alpha"], 2 * x.mean(), 1e-12)


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_staircase_of_activations_is_their_codes_with_ties_to_even(bits):
    x = np.linspace(-1, 5, 4001)
    quantizer = GDRQActivation(bits).astype(np.float64)
    quantizer.state["ready"][...] = True
    quantizer.state["alpha"][...] = 2.0 ** bits - 1
    x = np.concatenate([x, np.arange(2 ** bits) + 0.5])
    assert np.array_equal(quantizer.staircase().codes(x), quantizer.encode(x).codes)


# Unusual weights -------------------------------------------------------------------------------------

@pytest.mark.parametrize("grad_mode", ["ste", "mask", "full"])
def test_an_all_zero_group_has_codes_zero_scale_one_and_passes_its_gradient(grad_mode):
    w, g = normal(), normal(9)
    w[..., :2] = 0
    quantizer = ready(w, group_size=2, grad_mode=grad_mode)
    y, cache = quantizer.forward(w, train=True)
    assert np.isfinite(y).all() and not y[..., :2].any() and quantizer.encode(w).scale[0] == 1
    assert np.array_equal(quantizer.backward(g, cache)[0][..., :2], g[..., :2])
    assert quantizer.dalpha(g, cache)[0] == 0


@pytest.mark.parametrize("value", [0.3, 1e-45, 1e-30, 1e30])
@pytest.mark.parametrize("alpha_mode", ["threshold", "search", "learned"])
def test_constant_tensors_of_any_size_stay_finite(value, alpha_mode):
    w = np.full((5, 4), value, np.float32)
    quantizer = ready(w, 2, alpha_mode=alpha_mode)
    y, cache = quantizer.forward(w, train=True)
    dx, grads = quantizer.backward(np.ones_like(w), cache)
    assert all(np.isfinite(v).all() for v in (y, dx, *grads.values()))
    assert np.array_equal(quantizer.encode(w).decode(), quantizer.forward(w)[0])


def test_a_learned_clip_value_stays_positive():
    w = normal()
    w[..., :2] = 0
    quantizer = ready(w, group_size=2, alpha_mode="learned")
    assert (quantizer.params["alpha"] > 0).all() and not quantizer.forward(w)[0][..., :2].any()
    quantizer.params["alpha"][...] = -1
    quantizer.project()
    assert (quantizer.params["alpha"] > 0).all() and np.isfinite(quantizer.forward(w)[0]).all()
