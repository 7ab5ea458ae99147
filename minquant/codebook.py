"""Weight-only products in NumPy: float32 activations, weights that are codes into a codebook of float32 values.

What `minquant.kernels` computes with the same functions, compiled, and its stand-in. A codebook holds any values:
the means of DGMS, a uniform grid, powers of two.

>>> import numpy as np
>>> weights = pack_codebook(np.array([[0, 3], [1, 2]], np.uint8), [-0.5, 0, 0.25, 1], 2)
>>> matmul_codebook(np.array([[2, 10]], np.float32), weights)
array([[-1. ,  4.5]], dtype=float32)
"""

from typing import NamedTuple

import numpy as np

from .intchecks import check_float_rows, checked_codes


class CodebookWeights(NamedTuple):
    """Codes (K, N) of a matrix, and the float32 value of every code."""

    codes: np.ndarray
    codebook: np.ndarray
    bits: int

    @property
    def shape(self):
        return self.codes.shape

    @property
    def nbytes(self):
        """Bytes of codes (one each here, unpacked) and values."""
        return self.codes.nbytes + self.codebook.nbytes


def pack_codebook(codes, values, bits):
    """Checked weight-only weights: codes (K, N) of 1..8 bits, values float32, at most 2^bits.

    Raises ValueError for codes without a value and values that are not finite.
    """
    codes = checked_codes(codes, bits)
    table = np.zeros(1 << bits, np.float32)
    given = np.asarray(values, np.float32)
    if codes.ndim != 2:
        raise ValueError(f"codes of shape {codes.shape}; give (K, N)")
    if given.ndim != 1 or not 1 <= given.size <= 1 << bits or not np.isfinite(given).all():
        raise ValueError(f"a codebook of shape {given.shape} for bits={bits}; give 1 to {1 << bits} finite values")
    if codes.size and codes.max() >= given.size:
        raise ValueError(f"code {codes.max()} has no value: there are {given.size}; give as many as codes")
    table[:given.size] = given
    return CodebookWeights(codes, table, bits)


def matmul_codebook(a, weights):
    """sum_k a[m, k] * codebook[codes[k, n]]: float32 (M, N) of float32 (M, K), for weight-only quantization.

    Each output is one chain acc = fma(a, w, acc) in the order of k, rounded to float32 once per step: the same
    bits on every instruction set and for any number of threads, within about K 2^-24 sum_k |a w| of the exact sum.
    """
    check_float_rows(a, weights.shape)
    acc, w = np.zeros((len(a), weights.shape[1]), np.float32), weights.codebook[weights.codes]
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
