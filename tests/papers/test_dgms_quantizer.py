"""The DGMS weight quantizer: gradients, storage, floors, bad input."""

import tracemalloc

import numpy as np
import pytest

from minquant.check import GradientError, gradients
from minquant.quantizers.dgms import DGMSWeight, snap

SHAPE = (3, 3, 4, 6)


def weights(seed=0, shape=SHAPE, dtype=np.float32):
    return np.random.default_rng(seed).normal(0, 0.1, shape).astype(dtype)


def started(bits=2, w=None, **options):
    w = weights() if w is None else w
    quantizer = DGMSWeight(bits, w.shape, **options)
    quantizer.init_from(w, np.random.default_rng(1))
    return quantizer


@pytest.mark.parametrize("tau", [0.1, 0.5])
@pytest.mark.parametrize("mode", ["annealed", "official"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_backward_is_the_derivative_of_the_soft_weight(bits, mode, tau):
    w = weights(dtype=np.float64)
    quantizer = started(bits, w, mode=mode, init="anchored", tau=tau).astype(np.float64)
    low, high = np.sort(quantizer.means(np.float64))[[0, -1]]
    margin = 0.01 * (high - low)
    w = np.clip(w, low + margin, high - margin)  # between the walls, which the gradient holds constant
    found = gradients(quantizer, w, np.random.default_rng(2), step=1e-6)
    assert {c.what for c in found} == {"x", "mu", "pi", "sigma"} | ({"tau"} if mode == "official" else set())


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_backward_is_the_derivative_of_the_surrogate_where_weights_are_clipped(bits):
    w = weights(dtype=np.float64)
    quantizer = started(bits, w, tau=0.2).astype(np.float64)
    assert np.abs(w).max() > np.abs(quantizer.means(np.float64)).max()
    quantizer.freeze(w)
    gradients(quantizer, w, np.random.default_rng(2), step=1e-6, surrogate=quantizer.surrogate)


def without_gradient_of_the_posterior(dx, grads, dy, cache):
    x, m = cache
    phi = m.sharpen(m.posterior(m.standardise(x.reshape(-1))))
    return dx, {**grads, "mu": (phi * dy.reshape(-1)).sum(1)[1:]}


MUTANTS = {"scaled": lambda dx, grads, dy, cache: (1.001 * dx, grads),
           "zero weights": lambda dx, grads, dy, cache: (0 * dx, grads),
           "straight through": lambda dx, grads, dy, cache: (dy, grads),
           "scaled shares": lambda dx, grads, dy, cache: (dx, {**grads, "pi": 1.001 * grads["pi"]}),
           "zero widths": lambda dx, grads, dy, cache: (dx, {**grads, "sigma": 0 * grads["sigma"]}),
           "widths of the other sign": lambda dx, grads, dy, cache: (dx, {**grads, "sigma": -grads["sigma"]}),
           "means by phi alone": without_gradient_of_the_posterior}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_gradient_check_rejects_wrong_backwards(name):
    class Mutant(DGMSWeight):
        def backward(self, dy, cache):
            return MUTANTS[name](*super().backward(dy, cache), dy, cache)

    w = weights(dtype=np.float64)
    quantizer = Mutant(2, w.shape, tau=0.2)
    quantizer.init_from(w, np.random.default_rng(1))
    quantizer.astype(np.float64).freeze(w)
    with pytest.raises(GradientError):
        gradients(quantizer, w, np.random.default_rng(2), step=1e-6, surrogate=quantizer.surrogate)


def test_gradients_of_frozen_codes_sum_the_upstream_of_each_component():
    w = weights(dtype=np.float64)
    quantizer = started(2, w, keep_codes=True).astype(np.float64)
    quantizer.freeze_codes(w)
    y, cache = quantizer.forward(w, train=True)
    dy = np.random.default_rng(4).standard_normal(w.shape)
    dx, grads = quantizer.backward(dy, cache)
    expected = [dy[quantizer.state["codes"] == k].sum() for k in (1, 2, 3)]
    np.testing.assert_allclose(grads["mu"], expected, rtol=1e-12)
    np.testing.assert_array_equal(y, quantizer.forward(w)[0])
    assert not dx.any() and not grads["pi"].any() and not grads["sigma"].any()


@pytest.mark.parametrize("mode", ["annealed", "official"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bits", range(1, 9))
def test_what_is_stored_is_the_evaluation_forward_before_and_after_hardening(bits, dtype, mode):
    w = weights(dtype=dtype)
    quantizer = started(bits, w, mode=mode)
    free = quantizer.encode(w)
    np.testing.assert_array_equal(free.decode(), quantizer.forward(w)[0])
    assert free.levels.dtype == dtype and free.scale == 1 and (np.diff(free.levels) > 0).all()
    quantizer.harden()
    stored = quantizer.encode(w)
    y = quantizer.forward(w)[0]
    np.testing.assert_array_equal(stored.decode(), y)
    assert stored.levels.dtype == np.int8 and (np.diff(stored.levels.astype(int)) > 0).all()
    assert 0 in stored.levels and np.abs(y - free.decode()).max() <= stored.scale / 2 * (1 + 1e-6)


@pytest.mark.parametrize("mode", ["annealed", "official"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_codes_and_levels_are_those_of_the_same_quantizer_in_double_precision(bits, mode):
    w = weights(shape=(50, 400))
    quantizer = started(bits, w, mode=mode)
    for hardened in (False, True):
        if hardened:
            quantizer.harden()
        single = quantizer.encode(w)
        wide = started(bits, w, mode=mode)
        wide.load(quantizer.named_params(), quantizer.named_state())
        double = wide.astype(np.float64).encode(w.astype(np.float64))
        np.testing.assert_array_equal(single.codes, double.codes)
        np.testing.assert_array_equal(single.levels, double.levels)


def test_rounding_the_codebook_keeps_zero_and_survives_an_empty_one():
    levels, step = snap(np.array([0, 1e-6, -0.5, 0.25], np.float32))
    np.testing.assert_array_equal(levels, [0, 0, -127, 64])
    levels, step = snap(np.zeros(4, np.float32))
    assert step == 1 and not levels.any()


def test_pruned_weights_are_those_of_the_zero_component():
    w = weights()
    quantizer = started(2, w)
    usage = quantizer.usage(w)
    assert usage["counts"].sum() == w.size and len(usage["dead"]) == 0
    assert usage["nonzero"] == pytest.approx(np.count_nonzero(quantizer.forward(w)[0]) / w.size)
    constant = np.full(SHAPE, 0.3, np.float32)
    assert list(started(2, constant).usage(constant)["dead"]) == [0, 2, 3]


def test_projection_lifts_magnitudes_to_their_floors_and_keeps_signs():
    quantizer = started(2, mode="official")
    quantizer.params["sigma"][...] = [1e-9, -1e-9, 0, -5]
    quantizer.params["pi"][...] = [0, -1e-9, 1, -1]
    quantizer.params["tau"][...] = -0.2
    quantizer.project()
    floor = quantizer.state["sigma_floor"]
    np.testing.assert_array_equal(quantizer.params["sigma"], np.array([floor, -floor, floor, -5], np.float32))
    np.testing.assert_allclose(quantizer.params["pi"], [2e-4, -2e-4, 1, -1], rtol=1e-6)
    assert quantizer.params["tau"] == np.float32(1e-3)


@pytest.mark.parametrize("options,message", [({"mode": "x"}, "mode='x'"), ({"init": "x"}, "init='x'"),
                                             ({"tau": -1.0}, "tau")])
def test_arguments_of_the_quantizer_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DGMSWeight(2, SHAPE, **options)


def test_use_before_the_start_bad_weights_bad_bits_and_the_gradient_of_evaluation_are_refused():
    quantizer = DGMSWeight(2, SHAPE)
    for call in (quantizer.forward, quantizer.encode, quantizer.assign):
        with pytest.raises(RuntimeError, match="no parameters yet"):
            call(weights())
    for value in (np.nan, np.inf):
        w = weights()
        w[0, 0, 0, 0] = value
        with pytest.raises(ValueError, match="NaN or infinite"):
            quantizer.init_from(w, np.random.default_rng(0))
    for bits in (0, 9, 2.5):
        with pytest.raises(ValueError, match="bits="):
            DGMSWeight(bits, SHAPE)
    ready = started()
    with pytest.raises(RuntimeError, match="train=True"):
        ready.backward(weights(), ready.forward(weights())[1])


@pytest.mark.parametrize("mode", ["annealed", "official"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", ["zero", "constant", "outlier", "single"])
def test_unusual_weights_train_and_store_without_nan(bits, kind, mode):
    w = {"zero": np.zeros(SHAPE, np.float32), "constant": np.full(SHAPE, -0.3, np.float32),
         "outlier": weights(), "single": np.full((1, 1), 0.4, np.float32)}[kind]
    if kind == "outlier":
        w[0, 0, 0, 0] = 1e6 * np.abs(w).max()
    quantizer = started(bits, w, mode=mode)
    for _ in range(3):
        y, cache = quantizer.forward(w, train=True)
        dx, grads = quantizer.backward(np.ones_like(y), cache)
        assert all(np.isfinite(part).all() for part in (y, dx, *grads.values()))
        for name, p in quantizer.params.items():
            p -= 1e-3 * np.sign(grads[name])
        quantizer.project()
    quantizer.harden()
    np.testing.assert_array_equal(quantizer.encode(w).decode(), quantizer.forward(w)[0])


def test_a_layer_of_millions_of_weights_needs_no_buffer_of_components_times_weights():
    w = weights(shape=(3, 3, 128, 256))
    quantizer = started(4, w)
    tracemalloc.start()
    y, cache = quantizer.forward(w, train=True)
    quantizer.backward(y, cache)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * w.nbytes + 4e6  # 16 components would need 16 buffers for every quantity
