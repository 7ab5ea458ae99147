"""The compiled training operations equal the NumPy reference on every shape, at every number of threads.

The references are computed in float64; a float32 result may differ by the rounding of its sums. Without the
extension the same statements hold of the fallback.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minquant import _kernels, models, optim, training
from minquant.nn import functional, ops

CONVOLUTIONS = [  # n, h, w, c, kernel, o, stride, padding, groups
    (3, 7, 9, 5, 3, 17, 1, 1, 1), (9, 8, 8, 16, 3, 32, 2, 1, 1), (2, 9, 8, 6, 1, 40, 2, 0, 1),
    (5, 12, 11, 4, 5, 6, 3, 2, 2), (3, 10, 10, 12, 3, 12, 1, 1, 12), (3, 9, 10, 12, 3, 12, 2, 1, 12),
    (2, 7, 7, 1, 5, 6, 1, 2, 1), (17, 4, 4, 64, 3, 70, 1, 1, 1), (2, 6, 6, 8, 2, 8, 4, 0, 2),
    (1, 5, 300, 64, 3, 64, 1, 1, 1), (2, 3, 3, 2, 3, 1, 1, 3, 1), (1, 1, 1, 1, 1, 1, 1, 0, 1),
    (2, 8, 8, 4, 3, 8, 1, 0, 4), (1, 6, 5, 3, 2, 130, 5, 4, 1)]


@pytest.fixture(autouse=True)
def restore_threads():
    before = ops.get_threads()
    yield
    ops.set_threads(before)


@pytest.fixture(params=[1, 2, 3])
def threads(request, monkeypatch):
    """A number of threads, used also where the work is small."""
    monkeypatch.setattr(ops, "SMALL_PRODUCT", 0)
    monkeypatch.setattr(ops, "SMALL_ARRAY", 0)
    ops.set_threads(request.param)
    return request.param


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def wide(*arrays):
    return [a.astype(np.float64) for a in arrays]


def assert_close(ours, reference, terms, what=""):
    """Equal up to the rounding of a float32 sum of `terms` products."""
    assert ours.dtype == np.float32 and ours.shape == reference.shape, what
    limit = 2e-7 * (8 + np.sqrt(terms)) * max(1.0, np.abs(reference).max())
    assert np.abs(ours - reference).max() <= limit, what


def convolve(x, w, dy, *settings):
    y, cache = ops.conv2d_forward(x, w, *settings)
    return y, *ops.conv2d_backward(dy, cache)


def check_convolution(rng, n, h, w, c, kernel, o, stride, padding, groups):
    x, weight = normal(rng, n, h, w, c), normal(rng, kernel, kernel, c // groups, o)
    y0, cache = functional.conv2d_forward(*wide(x, weight), stride, padding, groups)
    dy = normal(rng, *y0.shape)
    dx0, dw0 = functional.conv2d_backward(dy.astype(np.float64), cache)
    y, dx, dw = convolve(x, weight, dy, stride, padding, groups)
    assert_close(y, y0, weight[..., 0].size, "y")
    assert_close(dx, dx0, kernel * kernel * o // groups, "dx")
    assert_close(dw, dw0, dy[..., 0].size, "dw")


@pytest.mark.parametrize("shape", CONVOLUTIONS)
def test_convolution_and_its_gradients_equal_the_reference(shape, threads):
    check_convolution(np.random.default_rng(0), *shape)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.integers(1, 3),
       st.integers(1, 6), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 3))
def test_any_small_convolution_equals_the_reference(seed, n, h, w, c, o, kernel, stride, padding, groups):
    if min(h, w) + 2 * padding >= kernel:
        rng = np.random.default_rng(seed)
        check_convolution(rng, n, h, w, c * groups, kernel, o * groups, stride, padding, groups)


@pytest.mark.parametrize("shape", [(20, 14, 14, 6, 5, 16, 1, 0, 1), (11, 8, 8, 24, 3, 24, 2, 1, 24),
                                   (130, 6, 6, 16, 3, 48, 1, 1, 1)])
def test_number_of_threads_does_not_change_a_bit_of_a_convolution(shape, monkeypatch):
    n, h, w, c, kernel, o, stride, padding, groups = shape
    monkeypatch.setattr(ops, "SMALL_PRODUCT", 0)
    rng = np.random.default_rng(1)
    x, weight = normal(rng, n, h, w, c), normal(rng, kernel, kernel, c // groups, o)
    y, _ = functional.conv2d_forward(x, weight, stride, padding, groups)
    results = []
    for count in (1, 2, 5):
        ops.set_threads(count)
        results.append(convolve(x, weight, y, stride, padding, groups))
    for other in results[1:]:
        for a, b in zip(results[0], other):
            np.testing.assert_array_equal(a, b)


def test_every_instruction_set_of_this_machine_equals_the_reference():
    kernels = _kernels.extension("train")
    for isa in kernels.isas() if kernels else []:
        chosen = kernels.isa()
        kernels.use_isa(isa)
        try:
            for shape in CONVOLUTIONS:
                check_convolution(np.random.default_rng(14), *shape)
        finally:
            kernels.use_isa(chosen)


def test_an_instruction_set_that_is_not_there_is_refused():
    kernels = _kernels.extension("train")
    if kernels:
        with pytest.raises(ValueError, match="'sparc' is not among the instruction sets of this machine"):
            kernels.use_isa("sparc")


def test_number_of_threads_does_not_change_a_bit_of_whole_training_steps(monkeypatch):
    monkeypatch.setattr(ops, "SMALL_PRODUCT", 0)
    monkeypatch.setattr(ops, "SMALL_ARRAY", 0)
    images, labels = normal(np.random.default_rng(15), 24, 28, 28, 1), np.arange(24) % 10
    results = []
    for count in (1, 2, 5):
        ops.set_threads(count)
        model = models.lenet5((28, 28, 1), 10, np.random.default_rng(16))
        optimizer = optim.SGD(model.named_params())
        for _ in range(2):
            training.step(model, optimizer, images, labels, 0.1, np.random.default_rng(17))
        results.append(model.named_params())
    for other in results[1:]:
        for name, array in results[0].items():
            np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_backward_leaves_out_dx_when_it_is_not_needed():
    rng = np.random.default_rng(2)
    y, cache = ops.conv2d_forward(normal(rng, 2, 5, 5, 3), normal(rng, 3, 3, 3, 4))
    assert ops.conv2d_backward(y, cache, need_dx=False)[0] is None


def test_transposed_and_sliced_inputs_are_read_by_their_strides():
    rng = np.random.default_rng(3)
    x, w = normal(rng, 4, 3, 9, 8).transpose(0, 3, 2, 1), normal(rng, 6, 3, 3, 3).transpose(1, 2, 3, 0)
    dy = normal(rng, 4, 6, 7, 12)[..., ::2]
    copies = map(np.ascontiguousarray, (x, w, dy))
    for ours, of_copies in zip(convolve(x, w, dy, 1, 0, 1), convolve(*copies, 1, 0, 1)):
        np.testing.assert_array_equal(ours, of_copies)


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (64, 120), (7, 1), (3, 30, 30, 70), (2, 3, 3, 33),
                                   (40, 40, 40, 3)])
def test_batch_normalization_and_its_gradients_equal_the_reference(shape, threads):
    rng = np.random.default_rng(5)
    x, dy, gamma, beta = 3 * normal(rng, *shape) + 2, normal(rng, *shape), *normal(rng, 2, shape[-1])
    y0, cache0, mean0, var0 = functional.batchnorm_forward(*wide(x, gamma, beta), 1e-5)
    y, cache, mean, var = ops.batchnorm_forward(x, gamma, beta, 1e-5)
    gradients0 = functional.batchnorm_backward(dy.astype(np.float64), cache0)
    gradients = zip(ops.batchnorm_backward(dy, cache), gradients0)
    for ours, reference in [*zip((y, mean, var), (y0, mean0, var0)), *gradients]:
        assert_close(ours, reference, dy.size / shape[-1])


def test_variance_survives_a_mean_ten_thousand_times_the_deviation(threads):
    """The one-pass formula E[x^2] - E[x]^2 would lose every digit here."""
    x = (np.random.default_rng(6).standard_normal((50000, 3)) + 1e4).astype(np.float32)
    _, _, mean, var = ops.batchnorm_forward(x, *np.ones((2, 3), np.float32), 1e-5)
    np.testing.assert_allclose(var, x.astype(np.float64).var(0), rtol=1e-5)
    np.testing.assert_allclose(mean, x.astype(np.float64).mean(0), rtol=1e-7)


def test_number_of_threads_does_not_change_a_bit_of_a_sum_over_rows(monkeypatch):
    monkeypatch.setattr(ops, "SMALL_ARRAY", 0)
    rng = np.random.default_rng(7)
    x, dy, gamma, beta = normal(rng, 9000, 10), normal(rng, 9000, 10), *normal(rng, 2, 10)
    results = []
    for count in (1, 2, 5):
        ops.set_threads(count)
        y, cache, *moments = ops.batchnorm_forward(x, gamma, beta, 1e-5)
        results.append((y, *moments, *ops.batchnorm_backward(dy, cache), ops.sum_rows(x)))
    for other in results[1:]:
        for a, b in zip(results[0], other):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("cap", [None, 6.0, 0.5])
def test_relu_and_its_mask_equal_the_reference_to_the_bit(cap, threads):
    rng = np.random.default_rng(8)
    x, dy = 2 * normal(rng, 5, 11, 7, 3), normal(rng, 5, 11, 7, 3)
    x[0, 0, :2] = (0, np.nan, 6), (-0.0, np.inf, -np.inf)
    for ours, reference in zip(ops.relu_forward(x, cap), functional.relu_forward(x, cap)):
        np.testing.assert_array_equal(ours, reference)
        assert ours.dtype == reference.dtype
    mask = functional.relu_forward(x, cap)[1]
    np.testing.assert_array_equal(ops.relu_backward(dy, mask), functional.relu_backward(dy, mask))


@pytest.mark.parametrize("shape, size, stride", [
    ((3, 8, 8, 16), 2, 2), ((2, 9, 7, 5), 3, 2), ((2, 7, 9, 1), 2, 3), ((4, 6, 6, 33), 3, 1),
    ((1, 17, 18, 2), 15, 1)])
def test_pooling_and_its_gradients_equal_the_reference(shape, size, stride, threads):
    rng = np.random.default_rng(9)
    x = np.round(normal(rng, *shape))  # rounded, so that windows hold equal values and the first must win
    for kind in ("maxpool", "avgpool"):
        y, cache = getattr(ops, f"{kind}_forward")(x, size, stride)
        y0, cache0 = getattr(functional, f"{kind}_forward")(x, size, stride)
        assert_close(y, y0, size * size)
        dy = normal(rng, *y.shape)
        dx = getattr(ops, f"{kind}_backward")(dy, cache)
        assert_close(dx, getattr(functional, f"{kind}_backward")(dy, cache0), 1)


def test_average_pooling_takes_windows_too_large_for_the_kernels():
    x = normal(np.random.default_rng(10), 1, 20, 20, 2)
    y, cache = ops.avgpool_forward(x, 18, 1)
    assert_close(y, functional.avgpool_forward(x, 18, 1)[0], 18 * 18)
    assert ops.avgpool_backward(y, cache).shape == x.shape


@pytest.mark.parametrize("m, k, n", [(1, 1, 1), (8, 5, 16), (13, 40, 33), (128, 70, 10), (3, 2, 200)])
def test_matrix_product_equals_the_reference(m, k, n, threads):
    rng = np.random.default_rng(11)
    a, b = normal(rng, m, k), normal(rng, n, k).T
    assert_close(ops.matmul(a, b), a.astype(np.float64) @ b.astype(np.float64), k)


def test_sums_and_biases_equal_the_reference(threads):
    rng = np.random.default_rng(12)
    a, b, bias = normal(rng, 4, 9, 5, 7), normal(rng, 4, 9, 5, 7), normal(rng, 7)
    np.testing.assert_array_equal(ops.add(a, b), a + b)
    assert_close(ops.sum_rows(a), a.astype(np.float64).sum((0, 1, 2)), 180)
    y, view = a.copy(), np.asfortranarray(a)
    ops.add_bias(y, bias)
    ops.add_bias(view, bias)
    np.testing.assert_array_equal(y, a + bias)
    np.testing.assert_array_equal(view, a + bias)


def test_float64_and_empty_arrays_run_in_the_reference():
    rng = np.random.default_rng(13)
    x, w = rng.standard_normal((2, 5, 5, 3)), rng.standard_normal((3, 3, 3, 4))
    assert ops.conv2d_forward(x, w)[0].dtype == np.float64
    assert ops.conv2d_forward(x[:0].astype(np.float32), w.astype(np.float32))[0].shape == (0, 3, 3, 4)
    assert ops.matmul(np.ones((2, 0), np.float32), np.ones((0, 3), np.float32)).tolist() == [[0] * 3] * 2


@pytest.mark.parametrize("wrong", [0, -1, 1.5])
def test_a_number_of_threads_that_is_no_positive_integer_is_refused(wrong):
    with pytest.raises(ValueError, match=f"threads={wrong} is not a positive integer"):
        ops.set_threads(wrong)


def test_kernels_refuse_arrays_whose_sizes_do_not_belong_together():
    """The wrappers check by themselves: a wrong call must not read or write beyond an array."""
    kernels, x = _kernels.extension("train"), np.zeros((1, 4, 4, 2), np.float32)
    if kernels is None:
        assert not ops.compiled()
        return
    w, y = np.zeros((3, 3, 2, 5), np.float32), np.zeros((1, 4, 4, 5), np.float32)
    with pytest.raises(ValueError, match="output 4x4 does not belong to input 4x4, kernel 3x3"):
        kernels.conv_forward(x, w, y, 1, 0, 1, 1)
    with pytest.raises(ValueError, match="channels or batch do not match"):
        kernels.conv_dx(y, w, np.zeros((1, 4, 4, 3), np.float32), 1, 1, 1, 1)
    with pytest.raises(ValueError, match="winner must have the shape of y"):
        kernels.maxpool_forward(x, x[:, :2, :2].copy(), np.zeros((1, 2, 2, 1), np.uint8), 2, 2, 1)
    with pytest.raises(ValueError, match="arrays of different size"):
        kernels.add(x.reshape(-1), y.reshape(-1), x.reshape(-1), 1)


def test_switching_the_extensions_off_computes_the_same_in_numpy():
    code = ("import numpy as np; from minquant.nn import ops; assert not ops.compiled();"
            "r = np.random.default_rng(0);"
            "x, w = (r.standard_normal(s).astype('f') for s in ((2, 5, 5, 3), (3, 3, 3, 4)));"
            "print(float(np.abs(ops.conv2d_forward(x, w)[0]).sum()))")
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "MINQUANT_NO_EXTENSIONS": "1"},
                          capture_output=True, text=True, check=True)
    rng = np.random.default_rng(0)
    x, w = normal(rng, 2, 5, 5, 3), normal(rng, 3, 3, 3, 4)
    assert float(done.stdout) == pytest.approx(float(np.abs(ops.conv2d_forward(x, w)[0]).sum()), rel=1e-5)
