"""The operations that the layers call: the compiled version where there is one, else the NumPy reference.

Compiled are float32 arrays whose shapes the kernels take; everything else, and everything under
MINQUANT_NO_EXTENSIONS=1, runs in `functional`, which says what each operation means. The number of threads
never changes a compiled result: the kernels cut their sums at fixed places. In NumPy the products are those of
a BLAS, which promises the same only for the same number of threads.

>>> import numpy as np
>>> y, cache = conv2d_forward(np.ones((1, 3, 3, 1), np.float32), np.ones((3, 3, 1, 1), np.float32), padding=1)
>>> y[0, :, :, 0]
array([[4., 6., 4.],
       [6., 9., 6.],
       [4., 6., 4.]], dtype=float32)
"""

from typing import NamedTuple

import numpy as np

from .. import _kernels
from . import functional
from .functional import col2im, im2col, pad

__all__ = ["add", "add_bias", "avgpool_backward", "avgpool_forward", "batchnorm_backward",
           "batchnorm_forward", "col2im", "compiled", "conv2d_backward", "conv2d_forward",
           "element_wise", "get_threads", "im2col", "matmul", "maxpool_backward", "maxpool_forward", "pad",
           "relu_backward", "relu_forward", "set_threads", "sum_rows"]

# Below this many multiply-adds (or floats touched) starting a thread costs more than it saves.
SMALL_PRODUCT, SMALL_ARRAY = 1 << 20, 1 << 16
LARGEST_WINDOW = 16  # positions of a pooling window are stored in a byte


_train = _kernels.extension("train")
_threads = _kernels.default_threads()


def compiled():
    """Whether the compiled operations are in use."""
    return _train is not None


def set_threads(n):
    """Let the compiled operations use up to n threads. Raises ValueError unless n is a positive integer."""
    global _threads
    if n != int(n) or n < 1:
        raise ValueError(f"threads={n} is not a positive integer; use 1 to compute without threads")
    _threads = int(n)


def get_threads():
    """Most threads a compiled operation uses: at first the cores of this process, at most OMP_NUM_THREADS."""
    return _threads


def _takes(*arrays):
    return _train is not None and all(a.dtype == np.float32 and a.size for a in arrays)


def element_wise(*arrays):
    """(compiled module, threads) for element-wise work on these arrays, or (None, 1) for NumPy."""
    return (_train, _array_threads(arrays[0])) if _takes(*arrays) else (None, 1)


def _product_threads(products):
    return _threads if products >= SMALL_PRODUCT else 1


def _array_threads(x):
    return _threads if x.size >= SMALL_ARRAY else 1


class _Conv(NamedTuple):
    x: np.ndarray
    w: np.ndarray
    stride: int
    padding: int
    groups: int

    def threads(self, dy):
        return _product_threads(dy.size * self.w[..., 0].size)


def conv2d_forward(x, w, stride=1, padding=0, groups=1):
    """Return (y, cache) as `functional.conv2d_forward`; compiled, without im2col and with x as cache."""
    oh, ow = ((x.shape[i] + 2 * padding - w.shape[i - 1]) // stride + 1 for i in (1, 2))
    if not _takes(x, w) or min(oh, ow) < 1:
        return functional.conv2d_forward(x, w, stride, padding, groups)
    cache = _Conv(np.ascontiguousarray(x), np.ascontiguousarray(w), stride, padding, groups)
    y = np.empty((len(x), oh, ow, w.shape[3]), np.float32)
    _train.conv_forward(cache.x, cache.w, y, stride, padding, groups, cache.threads(y))
    return y, cache


def conv2d_backward(dy, cache, need_dx=True):
    """Return (dx, dw) as `functional.conv2d_backward`; dx is None unless `need_dx`."""
    if not isinstance(cache, _Conv):
        return functional.conv2d_backward(dy, cache, need_dx)
    dy = np.ascontiguousarray(dy, np.float32)
    dx, dw, threads = None, np.empty_like(cache.w), cache.threads(dy)
    _train.conv_dw(cache.x, dy, dw, *cache[2:], threads)
    if need_dx:
        dx = np.empty_like(cache.x)
        _train.conv_dx(dy, cache.w, dx, *cache[2:], threads)
    return dx, dw


def matmul(a, b):
    """a @ b of two matrices, to the same bits at any number of threads (a BLAS does not promise that)."""
    if not _takes(a, b) or a.ndim != 2 or b.ndim != 2:
        return a @ b
    y = np.empty((len(a), b.shape[1]), np.float32)
    _train.matmul(np.ascontiguousarray(a), np.ascontiguousarray(b), y, _product_threads(a.size * b.shape[1]))
    return y


class _Norm(NamedTuple):
    x: np.ndarray
    mean: np.ndarray
    inv_std: np.ndarray
    gamma: np.ndarray


def _rows(x):
    """x as a contiguous matrix with the channels as columns."""
    return np.ascontiguousarray(x, np.float32).reshape(-1, x.shape[-1])


def batchnorm_forward(x, gamma, beta, eps):
    """Return (y, cache, mean, var) as `functional.batchnorm_forward`.

    Two passes inside blocks that fit the processor's cache, then the blocks merged by Chan's formula.
    """
    if not _takes(x, gamma, beta):
        return functional.batchnorm_forward(x, gamma, beta, eps)
    rows, y = _rows(x), np.empty(x.shape, np.float32)
    mean, var, inv_std = np.empty((3, x.shape[-1]), np.float32)
    gamma = np.ascontiguousarray(gamma)
    _train.norm_forward(rows, gamma, np.ascontiguousarray(beta), eps, _rows(y), mean, var, inv_std,
                        _array_threads(x))
    return y, _Norm(rows, mean, inv_std, gamma), mean, var


def batchnorm_backward(dy, cache):
    """Return (dx, dgamma, dbeta) as `functional.batchnorm_backward`."""
    if not isinstance(cache, _Norm):
        return functional.batchnorm_backward(dy, cache)
    dx = np.empty(dy.shape, np.float32)
    dgamma, dbeta = np.empty_like(cache.gamma), np.empty_like(cache.gamma)
    _train.norm_backward(_rows(dy), *cache, _rows(dx), dgamma, dbeta, _array_threads(dy))
    return dx, dgamma, dbeta


def _flat(x):
    """x as a contiguous vector."""
    return np.ascontiguousarray(x).reshape(-1)


def relu_forward(x, cap=None):
    """Return (clip(x, 0, cap), mask) as `functional.relu_forward`."""
    if not _takes(x):
        return functional.relu_forward(x, cap)
    y, mask = np.empty(x.shape, np.float32), np.empty(x.shape, bool)
    _train.relu_forward(_flat(x), cap, _flat(y), _flat(mask.view(np.uint8)), _array_threads(x))
    return y, mask


def relu_backward(dy, mask):
    """dx = dy where the mask is True, else 0."""
    if not _takes(dy) or dy.shape != mask.shape:
        return functional.relu_backward(dy, mask)
    dx = np.empty(dy.shape, np.float32)
    _train.relu_backward(_flat(dy), _flat(mask.view(np.uint8)), _flat(dx), _array_threads(dy))
    return dx


def add(a, b):
    """a + b of two arrays of one shape."""
    if not _takes(a, b) or a.shape != b.shape:
        return a + b
    out = np.empty(a.shape, np.float32)
    _train.add(_flat(a), _flat(b), _flat(out), _array_threads(a))
    return out


def add_bias(y, bias):
    """y += bias along the last axis, in place."""
    if _takes(y, bias) and y.flags.c_contiguous and bias.shape == y.shape[-1:]:
        _train.add_bias(_rows(y), np.ascontiguousarray(bias), _array_threads(y))
    else:
        y += bias


def sum_rows(x):
    """Sum over all axes but the last."""
    if not _takes(x):
        return x.sum(tuple(range(x.ndim - 1)))
    sums = np.empty(x.shape[-1], np.float32)
    _train.sum_rows(_rows(x), sums, _array_threads(x))
    return sums


class _Pool(NamedTuple):
    winner: np.ndarray
    shape: tuple
    size: int
    stride: int


def _pools(x, size):
    return _takes(x) and size <= LARGEST_WINDOW and min(x.shape[1:3]) >= size


def _pooled(x, size, stride):
    """An empty output for x."""
    oh, ow = ((x.shape[i] - size) // stride + 1 for i in (1, 2))
    return np.empty((len(x), oh, ow, x.shape[3]), np.float32)


def maxpool_forward(x, size, stride):
    """Return (y, cache) as `functional.maxpool_forward`."""
    if not _pools(x, size):
        return functional.maxpool_forward(x, size, stride)
    y = _pooled(x, size, stride)
    winner = np.empty(y.shape, np.uint8)
    _train.maxpool_forward(np.ascontiguousarray(x), y, winner, size, stride, _array_threads(x))
    return y, _Pool(winner, x.shape, size, stride)


def maxpool_backward(dy, cache):
    """Each dy goes to the position that won."""
    if not isinstance(cache, _Pool):
        return functional.maxpool_backward(dy, cache)
    dx = np.empty(cache.shape, np.float32)
    _train.maxpool_backward(np.ascontiguousarray(dy, np.float32), cache.winner, dx, cache.size, cache.stride,
                            _array_threads(dx))
    return dx


def avgpool_forward(x, size, stride):
    """Return (y, cache) as `functional.avgpool_forward`."""
    if not _pools(x, size):
        return functional.avgpool_forward(x, size, stride)
    y = _pooled(x, size, stride)
    _train.avgpool_forward(np.ascontiguousarray(x), y, size, stride, _array_threads(x))
    return y, (x.shape, size, stride)


def avgpool_backward(dy, cache):
    """dy / size^2 to every position of the window."""
    shape, size, stride = cache
    if not _takes(dy) or size > LARGEST_WINDOW:
        return functional.avgpool_backward(dy, cache)
    dx = np.empty(shape, np.float32)
    _train.avgpool_backward(np.ascontiguousarray(dy), dx, size, stride, _array_threads(dx))
    return dx
