"""QNet's backward is the derivative of what it claims, and the checker rejects wrong ones."""

import numpy as np
import pytest

from minquant.check import GradientError, gradients
from minquant.quantizers.qnet import QNetActivation, QNetWeight


def ready(quantizer, x, t=3.0):
    quantizer.astype(np.float64).init_from(x, np.random.default_rng(0))
    quantizer.state["temperature"][...] = t
    return quantizer


def values(n=200, seed=0):
    return np.random.default_rng(seed).normal(0, 0.5, n)


@pytest.mark.parametrize("t", [0.5, 3.0])
@pytest.mark.parametrize("bits,levels", [(1, "uniform"), (2, "uniform"), (3, "pow2"), (3, "-4,-1,0,1,3")])
def test_without_clamp_backward_is_the_derivative_of_the_forward(t, bits, levels):
    quantizer = ready(QNetWeight(bits, levels, clip=0, learn_biases=True), values(), t)
    found = gradients(quantizer, values(), np.random.default_rng(1))
    assert {c.what for c in found} == {"x", "log_alpha", "log_beta", "biases"}


@pytest.mark.parametrize("how", [{}, {"leak": False}, {"wide": True}, {"cap": 2.0},
                                 {"wide": True, "clip": 0}])
@pytest.mark.parametrize("t", [3.0, 25.0])
def test_every_surrogate_gradient_is_the_derivative_of_the_surrogate(how, t):
    x = values()
    quantizer = ready(QNetWeight(3, "pow2", learn_biases=True, **how), x, t) if "cap" not in how else ready(
        QNetActivation(3, signed=True, learn_biases=True, **how), x, t)
    quantizer.freeze(x)
    gradients(quantizer, x, np.random.default_rng(1), step=1e-6, surrogate=quantizer.surrogate)


def scaled(dx, grads):
    return 1.01 * dx, grads


def without_scale(dx, grads):
    return dx, {**grads, "log_beta": grads["log_beta"] * 0}


def without_bias_sign(dx, grads):
    return dx, {**grads, "biases": -grads["biases"]}


def zero(dx, grads):
    return 0 * dx, grads


@pytest.mark.parametrize("mutate", [scaled, without_scale, without_bias_sign, zero])
def test_a_wrong_backward_is_rejected(mutate):
    class Mutant(QNetWeight):
        def backward(self, dy, cache):
            return mutate(*super().backward(dy, cache))

    with pytest.raises(GradientError):
        gradients(ready(Mutant(2, clip=0, learn_biases=True), values()), values(), np.random.default_rng(1))


def test_the_surrogate_of_no_point_is_refused():
    with pytest.raises(RuntimeError, match="freeze"):
        ready(QNetWeight(2), values()).surrogate(values())
