"""CPQ's backward is the exact derivative of the surrogate it claims, and the checker rejects wrong ones."""

import numpy as np
import pytest

from minquant.check import GradientError, gradients
from minquant.estimators.concrete import hard_concrete
from minquant.quantizers.cpq import ClusterPromoting, DropBits

OPEN_SEED = 1  # with this seed the masks of these tests are strictly between 0 and 1 for at least one level


def values(n=200, unsigned=False):
    """Random values whose codes do not change under the small steps of the check."""
    rng = np.random.default_rng(3)
    codes = rng.integers(-5, 5, n) + rng.uniform(-0.45, 0.45, n)
    return 0.1 * (np.abs(codes) if unsigned else codes)


def prepared(quantizer):
    quantizer.astype(np.float64)
    quantizer.params["log_alpha"][...] = np.log(0.1)
    quantizer.params["log_sigma"][...] = np.log(0.04)
    quantizer.state["ready"][...] = True
    return quantizer


def check(quantizer, x, seed=0):
    rng = np.random.default_rng(0)
    quantizer.freeze(x, np.random.default_rng(seed))
    return gradients(quantizer, x, rng, surrogate=quantizer.surrogate, step=1e-5, seed=seed)


@pytest.mark.parametrize("ste", ["imax", "full"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("bits,signed", [(1, True), (3, True), (3, False), (8, False)])
def test_gradients_equal_finite_differences_of_the_surrogate(ste, normalize, bits, signed):
    quantizer = prepared(ClusterPromoting(bits, signed, ste, normalize))
    check(quantizer, values(unsigned=not signed))


@pytest.mark.parametrize("ste", ["imax", "full"])
@pytest.mark.parametrize("layout", ["bits", "endpoints"])
@pytest.mark.parametrize("nested", [True, False])
def test_masked_gradients_equal_finite_differences_of_the_surrogate(ste, layout, nested):
    quantizer = prepared(DropBits(4, ste, layout=layout, nested=nested, keep=0.6))
    checked = check(quantizer, values(), OPEN_SEED)
    assert {c.what for c in checked} == {"x", "log_alpha", "log_sigma", "omega"}
    omega = quantizer.params["omega"]
    masks, _ = hard_concrete(omega, np.random.default_rng(OPEN_SEED).uniform(1e-6, 1 - 1e-6, omega.shape))
    assert ((masks > 0) & (masks < 1)).any()


def test_the_penalty_is_differentiated_exactly():
    quantizer = prepared(DropBits(4, nested=True, learn_bits=True, penalty=0.3))
    _, grads = quantizer.penalty()
    omega = quantizer.params["omega"]
    for k in range(len(omega)):
        omega[k] += 1e-5
        above = quantizer.penalty()[0]
        omega[k] -= 2e-5
        below = quantizer.penalty()[0]
        omega[k] += 1e-5
        assert abs((above - below) / 2e-5 - grads["omega"][k]) < 1e-9


def mutant(change):
    class Mutant(DropBits):
        def backward(self, dy, cache):
            dx, grads = super().backward(dy, cache)
            return change(dx, grads, dy, cache)
    return prepared(Mutant(4, keep=0.6))


def without_direct_term(dx, grads, dy, cache):
    x, grid, codes, *_ = cache
    return dx, {**grads, "log_alpha": grads["log_alpha"] - grid.alpha * (dy * codes).sum()}


@pytest.mark.parametrize("change", [
    lambda dx, grads, dy, cache: (1.001 * dx, grads),
    lambda dx, grads, dy, cache: (0 * dx, grads),
    lambda dx, grads, dy, cache: (dy, grads),
    lambda dx, grads, dy, cache: (dx, {**grads, "log_sigma": 1.001 * grads["log_sigma"]}),
    lambda dx, grads, dy, cache: (dx, {**grads, "log_alpha": 0 * grads["log_alpha"]}),
    lambda dx, grads, dy, cache: (dx, {**grads, "omega": -grads["omega"]}),
    lambda dx, grads, dy, cache: (dx, {**grads, "omega": 0 * grads["omega"]}),
    without_direct_term,
], ids=["scaled dx", "zero dx", "plain STE", "scaled dsigma", "zero dalpha", "negated domega", "zero domega",
        "dropped direct term of dalpha"])
def test_the_checker_rejects_a_wrong_backward(change):
    quantizer = mutant(change)
    with pytest.raises(GradientError):
        check(quantizer, values(), OPEN_SEED)


def test_only_freeze_sets_the_point_of_the_surrogate():
    for quantizer in (prepared(ClusterPromoting(3)), prepared(DropBits(3))):
        quantizer.forward(values(), train=True, rng=np.random.default_rng(0))
        with pytest.raises(RuntimeError, match="freeze"):
            quantizer.surrogate(values())
