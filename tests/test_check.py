"""The gradient checker accepts right backwards and rejects wrong ones."""

import numpy as np
import pytest

from minquant import check
from minquant.nn import BatchNorm, Conv2d, Linear, Sequential
from minquant.nn.base import Layer


class Wrong(Layer):
    """A layer whose backward has been tampered with."""

    def __init__(self, layer, tamper):
        super().__init__()
        self.layer, self.tamper = layer, tamper
        self.params, self.state, self.children = layer.params, layer.state, layer.children

    def forward(self, x, train=False, rng=None):
        return self.layer.forward(x, train, rng)

    def backward(self, dy, cache):
        return self.tamper(*self.layer.backward(dy, cache))


def batch_norm(rng):
    layer = BatchNorm(3)
    layer.params["gamma"][...] = rng.uniform(0.5, 1.5, 3)
    return layer


LAYERS = {"linear": (lambda rng: Linear(5, 4, rng), (6, 5)),
          "convolution": (lambda rng: Conv2d(3, 4, 3, rng, padding=1), (2, 5, 5, 3)),
          "batch norm": (batch_norm, (4, 3, 3, 3))}


@pytest.mark.parametrize("name", LAYERS)
def test_right_backwards_are_accepted(name):
    make, shape = LAYERS[name]
    rng = np.random.default_rng(1)
    found = check.gradients(make(rng), rng.standard_normal(shape), rng)
    assert max(c.error for c in found) < 1e-9


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("factor", [1.001, 0.0, -1.0])
def test_a_scaled_zero_or_flipped_input_gradient_is_rejected(name, factor):
    make, shape = LAYERS[name]
    rng = np.random.default_rng(1)
    wrong = Wrong(make(rng), lambda dx, grads: (factor * dx, grads))
    with pytest.raises(check.GradientError, match="dx: analytic"):
        check.gradients(wrong, rng.standard_normal(shape), rng)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("factor", [1.001, 0.0])
def test_a_scaled_or_zero_parameter_gradient_is_rejected(name, factor):
    make, shape = LAYERS[name]
    rng = np.random.default_rng(1)
    layer = make(rng)
    first = next(iter(layer.params))
    wrong = Wrong(layer, lambda dx, grads: (dx, {**grads, first: factor * grads[first]}))
    with pytest.raises(check.GradientError, match=f"d{first}: analytic"):
        check.gradients(wrong, rng.standard_normal(shape), rng)


def test_a_batch_norm_that_forgets_the_path_through_the_variance_is_rejected():
    class Forgetful(BatchNorm):
        def backward(self, dy, cache):
            x, mean, inv_std, gamma = cache[1]
            dx, grads = super().backward(dy, cache)
            return dx + (x - mean) * inv_std * (gamma * inv_std) * grads["gamma"] / (x.size // x.shape[-1]), grads

    rng = np.random.default_rng(2)
    with pytest.raises(check.GradientError, match="dx"):
        check.gradients(Forgetful(3), rng.standard_normal((4, 3, 3, 3)), rng)


def test_a_missing_parameter_gradient_is_rejected():
    rng = np.random.default_rng(3)
    wrong = Wrong(Linear(3, 2, rng), lambda dx, grads: (dx, {"weight": grads["weight"]}))
    with pytest.raises(check.GradientError, match="bias"):
        check.gradients(wrong, rng.standard_normal((4, 3)), rng)


def test_a_gradient_of_the_wrong_shape_is_rejected():
    rng = np.random.default_rng(3)
    wrong = Wrong(Linear(3, 2, rng), lambda dx, grads: (dx[:1], grads))
    with pytest.raises(check.GradientError, match="shape"):
        check.gradients(wrong, rng.standard_normal((4, 3)), rng)


def test_a_check_that_would_prove_nothing_is_refused():
    rng = np.random.default_rng(4)
    with pytest.raises(ValueError, match="proves nothing"):
        check.gradients(Linear(3, 2, rng), np.zeros((4, 3)), rng, surrogate=lambda x: np.zeros((4, 2)))


def test_an_error_deep_in_a_network_names_the_layer():
    rng = np.random.default_rng(5)
    wrong = Wrong(Linear(4, 4, rng), lambda dx, grads: (dx, {**grads, "bias": 2 * grads["bias"]}))
    net = Sequential(first=Linear(3, 4, rng), second=wrong, third=Linear(4, 2, rng))
    with pytest.raises(check.GradientError, match=r"dsecond\.bias") as caught:
        check.gradients(net, rng.standard_normal((5, 3)), rng)
    assert "first" not in str(caught.value)


def test_the_difference_formula_is_exact_for_polynomials_of_degree_four():
    assert check.directional(lambda t: 3 * t - 2 * t**3 + t**4, 0.1) == pytest.approx(3, abs=1e-12)
