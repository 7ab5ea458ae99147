"""Weight-only products in NumPy: float32 activations, weights that are codes into a codebook of float32 values.

What `minquant.kernels` computes with the same functions, compiled, and its stand-in. A codebook holds any values:
the means of DGMS, a uniform grid, powers of two.

>>> import numpy as np
>>> weights = pack_codebook(np.array([[0, 3], [1, 2]], np.uint8), [-0.5, 0, 0.25, 1], 2)
>>> matmul_codebook(np.array([[2, 10]], np.float32), weights)
array([[-1. ,  4.5]], dtype=float32)
"""

import math
from typing import NamedTuple

import numpy as np

from .intchecks import check_float_images, check_float_rows, check_groups, checked_codes, geometry
from .intops import windows


class CodebookWeights(NamedTuple):
    """Codes (K, N) of a matrix or HWIO of a convolution, and the float32 value of every code."""

    codes: np.ndarray
    codebook: np.ndarray
    bits: int
    groups: int = 1

    @property
    def shape(self):
        return self.codes.shape

    @property
    def nbytes(self):
        """Bytes of codes (one each here, unpacked) and values."""
        return self.codes.nbytes + self.codebook.nbytes


def pack_codebook(codes, values, bits, groups=1):
    """Checked weight-only weights: codes (K, N) or (KH, KW, C / groups, O) of 1..8 bits, at most 2^bits float32 values.

    Raises ValueError for codes without a value, values that are not finite or channels that groups do not divide.
    """
    codes = checked_codes(codes, bits)
    table = np.zeros(1 << bits, np.float32)
    given = np.asarray(values, np.float32)
    check_groups(codes, groups)
    if given.ndim != 1 or not 1 <= given.size <= 1 << bits or not np.isfinite(given).all():
        raise ValueError(f"a codebook of shape {given.shape} for bits={bits}; give 1 to {1 << bits} finite values")
    if codes.size and codes.max() >= given.size:
        raise ValueError(f"code {codes.max()} has no value: there are {given.size}; give as many as codes")
    table[:given.size] = given
    return CodebookWeights(codes, table, bits, groups)


def matmul_codebook(a, weights):
    """sum_k a[m, k] * codebook[codes[k, n]]: float32 (M, N) of float32 (M, K), for weight-only quantization.

    Each output is one chain acc = fma(a, w, acc) in the order of k, rounded to float32 once per step: the same
    bits on every instruction set and for any number of threads, within about K 2^-24 sum_k |a w| of the exact sum.
    """
    check_float_rows(a, weights.shape)
    return chain(a, weights.codebook[weights.codes])


def conv2d_codebook(x, weights, stride=1, padding=0):
    """Convolution of float32 NHWC with HWIO weights, float32 (N, OH, OW, O); arguments as those of `intops.conv2d`.

    Each output is one chain as in `matmul_codebook`, in the order of kernel row, kernel column and channel. Padding is
    zeros that take part in it.
    """
    check_float_images(x)
    (sh, sw), pads, shape = geometry(x.shape, weights.shape, weights.groups, stride, padding)
    kh, kw, each, columns = weights.shape
    patches = windows(np.pad(x, ((0, 0), *pads, (0, 0))), (kh, kw), (sh, sw))
    w, out = weights.codebook[weights.codes].reshape(kh * kw * each, columns), np.empty((*shape, columns), np.float32)
    for g in range(weights.groups):
        part = slice(g * columns // weights.groups, (g + 1) * columns // weights.groups)
        rows = patches[..., g * each:(g + 1) * each].reshape(math.prod(shape), kh * kw * each)
        out[..., part] = chain(rows, w[:, part]).reshape(*shape, columns // weights.groups)
    return out


def chain(a, w):
    """a @ w, float32, one fused multiply-add after the other."""
    acc = np.zeros((len(a), w.shape[1]), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(len(w)):
            acc = fused_multiply_add(a[:, k, None], w[k], acc)
    return acc


def fused_multiply_add(x, w, acc):
    """float32 of x * w + acc, rounded once.

    In float64 the product is exact; the sum is rounded to odd (of two neighbours the one whose last bit is 1),
    after which rounding to float32 equals rounding once (Boldo and Melquiond, 2008).
    """
    product, acc = np.multiply(x, w, dtype=np.float64), acc.astype(np.float64)
    total = product + acc
    back = total - product
    error = (product - (total - back)) + (acc - back)
    even = total.view(np.int64) & 1 == 0
    away = np.isfinite(error) & (error != 0) & even
    return np.where(away, np.nextafter(total, np.copysign(np.inf, error)), total).astype(np.float32)
