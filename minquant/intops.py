"""Integer operations on codes, in NumPy: what the compiled kernels compute, and their stand-in.

Activations are uint8 or int8 codes of zero point z; weights are codes of 1..8 bits with a table of int8
levels (a uniform grid has the levels code - offset, a codebook any). Sums are exact in int32: K <= MAX_K
terms, for 255 * 128 * 65793 = 2^31 - 128. `minquant.kernels` has the same operations with the same arguments,
compiled.

>>> import numpy as np
>>> weights = pack_weights(np.array([[0, 3], [1, 2]], np.uint8), np.array([-2, -1, 0, 1], np.int8), 2)
>>> matmul(np.array([[10, 100]], np.uint8), weights)
array([[-120,   10]], dtype=int32)
>>> matmul(np.array([[10, 100]], np.uint8), weights, requantization=requantization([-0.5, 0.25], [0.5, 0], 4))
array([[15,  2]], dtype=uint8)
"""

from typing import NamedTuple

import numpy as np

from .intchecks import (
    MAX_K,
    addition_factors,
    check_bits,
    check_channels,
    check_codes_in,
    check_floats,
    check_groups,
    check_promise,
    checked_codes,
    checked_stream,
    geometry,
    pool_geometry,
)


class Weights(NamedTuple):
    """Codes (K, N) of a matrix or HWIO of a convolution, the int8 level of every code, bits of activations."""

    codes: np.ndarray
    levels: np.ndarray
    bits: int
    groups: int
    activation_bits: int = 8

    @property
    def shape(self):
        return self.codes.shape

    @property
    def nbytes(self):
        """Bytes of codes (one each here, unpacked) and levels."""
        return self.codes.nbytes + self.levels.nbytes


class Requantization(NamedTuple):
    """How accumulators become codes, see `requantize`."""

    multiplier: np.ndarray
    offset: np.ndarray
    bits: int
    direction: np.ndarray | None
    thresholds: np.ndarray | None


def pack_bits(codes, bits):
    """Codes of 1..8 bits as one little-endian stream of ceil(bits * count / 8) bytes.

    Bit i of code e is bit e * bits + i of the stream, bit j of the stream is bit j % 8 of byte j // 8; rows
    are not padded. Raises ValueError for a code that needs more bits.

    >>> pack_bits(np.array([1, 2, 3, 1], np.uint8), 2)
    array([121], dtype=uint8)
    """
    codes = checked_codes(codes, bits).ravel()
    each = codes[:, None] >> np.arange(bits, dtype=np.uint8) & 1
    return np.packbits(each, bitorder="little")


def unpack_bits(stream, bits, shape):
    """The inverse of `pack_bits`: codes of the given shape."""
    stream, count = checked_stream(stream, bits, shape), int(np.prod(shape, dtype=np.int64))
    each = np.unpackbits(stream, count=count * bits, bitorder="little").reshape(count, bits)
    return (each << np.arange(bits, dtype=np.uint8)).sum(axis=1, dtype=np.uint8).reshape(shape)


def pack_weights(codes, levels, bits, groups=1, activation_bits=8):
    """Checked weights: codes (K, N) or (KH, KW, C / groups, O), levels int8 of at most 2^bits codes.

    activation_bits below 8 promise activations of so many bits, uint8: products then refuse others, and on
    processors without an 8-bit dot product they add longer in 8 and 16 bits.

    Raises ValueError for codes without a level, K beyond MAX_K or channels that groups do not divide.
    """
    codes = checked_codes(codes, bits)
    levels = np.asarray(levels)
    if levels.ndim != 1 or not 1 <= levels.size <= 1 << bits:
        raise ValueError(f"levels of shape {levels.shape} for bits={bits}; give 1 to {1 << bits} levels")
    if np.any(levels != levels.astype(np.int8)):
        raise ValueError(f"levels {levels.min()}..{levels.max()} are not integers in -128..127; scale "
                         "and round")
    if codes.size and codes.max() >= levels.size:
        raise ValueError(f"code {codes.max()} has no level: there are {levels.size}; give as many as codes")
    check_groups(codes, groups)
    check_bits(activation_bits, "activation_bits")
    k = codes[..., :1].size if codes.shape[-1] else int(np.prod(codes.shape[:-1]))
    if k > MAX_K:
        raise ValueError(f"K={k} is beyond {MAX_K}, where sums leave int32; split the product and add "
                         "the parts")
    padded = np.zeros(1 << bits, np.int8)
    padded[:levels.size] = levels
    return Weights(codes, padded, bits, groups, activation_bits)


def requantization(multiplier, offset, bits, direction=None, thresholds=None):
    """Checked `Requantization`: float32 (N,) each; direction int8 (N,) of -1, 0, +1; thresholds int32 (N, T).

    Raises ValueError for shapes that differ, values that are not finite, or bits outside 1..8.
    """
    multiplier = np.ascontiguousarray(multiplier, np.float32)
    offset = np.ascontiguousarray(offset, np.float32)
    check_bits(bits)
    if multiplier.ndim != 1 or offset.shape != multiplier.shape:
        raise ValueError(f"multiplier of shape {multiplier.shape}, offset {offset.shape}; give one per "
                         "channel")
    if not (np.isfinite(multiplier).all() and np.isfinite(offset).all()):
        raise ValueError("multiplier or offset is not finite in float32; use thresholds for such a channel")
    if (direction is None) != (thresholds is None):
        raise ValueError("direction and thresholds belong together; give both or neither")
    if direction is not None:
        direction = np.ascontiguousarray(direction, np.int8)
        thresholds = np.ascontiguousarray(thresholds, np.int32)
        if direction.shape != multiplier.shape or thresholds.shape[:-1] != multiplier.shape:
            raise ValueError(f"direction of shape {direction.shape}, thresholds {thresholds.shape} for "
                             f"{multiplier.size} channels; give (N,) and (N, T)")
        if thresholds.shape[1] > (1 << bits) - 1:
            raise ValueError(f"{thresholds.shape[1]} thresholds for bits={bits}; at most {(1 << bits) - 1}")
        if np.abs(direction).max(initial=0) > 1:
            raise ValueError("direction holds other values than -1, 0 (no thresholds) and +1")
    return Requantization(multiplier, offset, bits, direction, thresholds)


def requantize(acc, q):
    """Codes of accumulators (..., N), by channel n:

        direction 0:   clip(rint(float32(acc) * multiplier + offset), 0, 2^bits - 1), each operation rounded
                       to float32, rint half to even
        direction +1:  number of the channel's thresholds t with acc >= t;  -1: with acc <= t
    """
    scaled = acc.astype(np.float32) * q.multiplier
    codes = np.clip(np.rint(scaled + q.offset), 0, (1 << q.bits) - 1).astype(np.uint8)
    if q.direction is None:
        return codes
    for n in np.flatnonzero(q.direction):
        sums, thresholds = acc[..., n, None], q.thresholds[n]
        reached = sums >= thresholds if q.direction[n] > 0 else sums <= thresholds
        codes[..., n] = reached.sum(axis=-1)
    return codes


def matmul(a, weights, zero_point=0, requantization=None):
    """sum_k (a[m, k] - zero_point) * levels[codes[k, n]]: int32 (M, N), or uint8 codes.

    a: uint8 or int8 (M, K). Raises ValueError for other types and shapes.
    """
    check_codes_in(a, zero_point, 2)
    check_promise(a, zero_point, weights.activation_bits)
    if a.shape[1] != weights.shape[0] or len(weights.shape) != 2:
        raise ValueError(f"a of shape {a.shape} times weights of shape {weights.shape}; K must be the same")
    return finish(product(shifted(a, zero_point), weights.levels[weights.codes]), requantization)


def conv2d(x, weights, stride=1, padding=0, zero_point=0, requantization=None):
    """Convolution of codes NHWC with HWIO weights: int32 (N, OH, OW, O), or uint8 codes.

    Padding ((top, bottom), (left, right)), (height, width) or one number holds the zero point, so it adds
    nothing. Each of the groups of weights sees its share of the channels; groups = channels is depthwise.
    """
    check_codes_in(x, zero_point, 4)
    check_promise(x, zero_point, weights.activation_bits)
    (sh, sw), pads, shape = geometry(x.shape, weights.shape, weights.groups, stride, padding)
    kh, kw, each, columns = weights.shape
    patches = windows(np.pad(shifted(x, zero_point), ((0, 0), *pads, (0, 0))), (kh, kw), (sh, sw))
    levels, out = weights.levels[weights.codes].reshape(-1, columns), np.empty((*shape, columns), np.int32)
    for g in range(weights.groups):
        part = slice(g * columns // weights.groups, (g + 1) * columns // weights.groups)
        rows = patches[..., g * each:(g + 1) * each].reshape(-1, kh * kw * each)
        out[..., part] = product(rows, levels[:, part]).reshape(*shape, -1)
    return finish(out, requantization)


def product(a, levels):
    """Exact a @ levels: every partial sum is an integer below 2^53, so float64 and its BLAS are exact."""
    return (a.astype(np.float64) @ levels.astype(np.float64)).astype(np.int32)


def windows(x, size, stride):
    """(N, OH, OW, KH, KW, C) of NHWC, a view."""
    n, h, w, c = x.shape
    shape = (n, max(0, (h - size[0]) // stride[0] + 1), max(0, (w - size[1]) // stride[1] + 1), *size, c)
    s = x.strides
    return np.lib.stride_tricks.as_strided(
        x, shape, (s[0], s[1] * stride[0], s[2] * stride[1], s[1], s[2], s[3]), writeable=False)


def shifted(a, zero_point):
    return a.astype(np.int16) - np.int16(zero_point)


def finish(acc, q):
    """acc as it is, or its codes."""
    if q is None:
        return acc
    check_channels(q, acc.shape[-1])
    return requantize(acc, q)


def max_pool2d(x, size, stride=None, padding=0):
    """Largest code of every size x size window of NHWC, `stride` (default: size) apart; no padding counts."""
    check_codes_in(x, 0, 4)
    size, stride, pads = pool_geometry(x.shape, size, stride, padding)
    lowest = np.iinfo(x.dtype).min
    return windows(np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=lowest), size, stride).max(axis=(3, 4))


def average_pool2d(x, size, stride=None, padding=0, requantization=None):
    """Sum of every window, int32 (N, OH, OW, C), or uint8 codes: 1 / size^2 belongs into the multiplier.

    Codes outside the image count as 0.
    """
    check_codes_in(x, 0, 4)
    size, stride, pads = pool_geometry(x.shape, size, stride, padding)
    padded = np.pad(x.astype(np.int32), ((0, 0), *pads, (0, 0)))
    return finish(windows(padded, size, stride).sum(axis=(3, 4), dtype=np.int32), requantization)


def add(a, b, multiplier_a, multiplier_b, offset, bits):
    """Codes clip(rint((a * multiplier_a + b * multiplier_b) + offset), 0, 2^bits - 1) of two arrays (..., C).

    Each multiplication and addition is rounded to float32; the factors are one number or one per channel.
    """
    factors = addition_factors(a, b, multiplier_a, multiplier_b, offset, bits)
    left, right = (x.astype(np.float32) * m for x, m in zip((a, b), factors))
    return to_codes((left + right) + factors[2], bits)


def quantize(x, q):
    """Codes clip(rint(x * multiplier + offset), 0, 2^bits - 1) of float32 (..., C); not-a-number gives 0."""
    check_floats(x, q)
    with np.errstate(over="ignore", invalid="ignore"):
        return to_codes(x * q.multiplier + q.offset, q.bits)


def to_codes(y, bits):
    top = np.float32((1 << bits) - 1)
    return np.rint(np.where(y > 0, np.minimum(y, top), np.float32(0))).astype(np.uint8)
