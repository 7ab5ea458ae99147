"""The public face of the compiled kernels: operations on codes, what was built, what is available.

    python -m minquant.kernels [--json]

The operations are those of `minquant.intops`, which says what each means, computed by the instruction set
that MINQUANT_ISA names or by the best of this machine. Without the compiled module they are `intops` itself.
On every instruction set and at any number of threads the integers are the same.

>>> import numpy as np
>>> weights = pack_weights(np.array([[0, 3], [1, 2]], np.uint8), np.array([-2, -1, 0, 1], np.int8), 2)
>>> matmul(np.array([[10, 100]], np.uint8), weights)
array([[-120,   10]], dtype=int32)
"""
import argparse
import functools
import json
import math
import os

import numpy as np

from . import _kernels, codebook, intchecks, intops
from .cpu import cpu_features  # noqa: F401, a name of this module
from .isa import asked_or_active, compiled, isa
from .kernelinfo import info, table

# Below so many nanoseconds of a product, float32 multiply-adds, or outputs of other operations, one thread is quicker:
# waking another takes some 8 us.
SMALL_PRODUCT, SMALL_FLOAT_PRODUCT, SMALL_ARRAY = 30_000, 1 << 21, 1 << 19

_threads = _kernels.default_threads()


def _single_threaded():
    """OpenMP's threads do not survive a fork, and waiting for them would hang the child."""
    global _threads
    _threads = 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_single_threaded)


def pack_bits(codes, bits):
    """`intops.pack_bits`, compiled."""
    codes = intchecks.checked_codes(codes, bits)
    if compiled() is None:
        return intops.pack_bits(codes, bits)
    stream = np.empty((codes.size * bits + 7) // 8, np.uint8)
    compiled().pack_bits(codes.ravel(), bits, stream)
    return stream


def unpack_bits(stream, bits, shape):
    """`intops.unpack_bits`, compiled."""
    stream = intchecks.checked_stream(stream, bits, shape)
    if compiled() is None:
        return intops.unpack_bits(stream, bits, shape)
    codes = np.empty(shape, np.uint8)
    compiled().unpack_bits(stream, bits, codes.reshape(-1))
    return codes


def pack_weights(codes, levels, bits, groups=1, activation_bits=8, isa=None):
    """Weights in the layout of an instruction set: the active one unless `isa` names another.

    codes: (K, N), or HWIO with groups; levels: int8, the level of each code; activation_bits: as many bits
    as the activations have. Raises as `intops.pack_weights`.
    """
    weights = intops.pack_weights(codes, levels, bits, groups, activation_bits)
    active = asked_or_active(isa)
    if active == "numpy":
        return weights
    module, shape = compiled(), _as_kernel(weights.shape)
    if 1 < groups == shape[3] and shape[2] == 1:
        taps = weights.levels[weights.codes].reshape(-1, groups).astype(np.int16)
        padded = np.pad(taps, ((0, 0), (0, -groups % module.BLOCK)))
        return module.DepthwiseWeights(padded, taps.sum(0, dtype=np.int32), bits, shape, active, activation_bits)
    return module.Weights(weights.codes.reshape(shape), weights.levels, bits, weights.shape, groups, active,
                          activation_bits)


def _as_kernel(shape):
    """(KH, KW, C / groups, O) of the weights of a convolution or a product."""
    return shape if len(shape) == 4 else (1, 1, *shape)


def requantization(multiplier, offset, bits, direction=None, thresholds=None):
    """How products of this module become codes; arguments and errors as in `intops.requantization`."""
    q = intops.requantization(multiplier, offset, bits, direction, thresholds)
    if isa() == "numpy":
        return q
    return compiled().Requantization(q.multiplier, q.offset, (1 << bits) - 1, q.direction, q.thresholds)


def _as_bytes(a, ndim):
    """(a as uint8, whether it is int8); anything else is an error."""
    kind = a.dtype.char
    if (kind != "B" and kind != "b") or a.ndim != ndim:
        raise ValueError(f"activations of type {a.dtype}, shape {a.shape}; give uint8 or int8 with "
                         f"{ndim} axes")
    return (a, False) if kind == "B" else (a.view(np.uint8), True)


def default_threads():
    """Threads that operations use unless told otherwise."""
    return _threads


def _team(size, num_threads, small):
    return (num_threads or _threads) if size >= small else 1


def matmul(a, weights, zero_point=0, requantization=None, num_threads=None):
    """`intops.matmul`: a (M, K) uint8 or int8 times packed weights, int32 (M, N) or uint8 codes.

    Uses up to num_threads threads (default: the cores of this process, at most OMP_NUM_THREADS); one where
    the product is small.
    """
    if type(weights) is intops.Weights:
        return intops.matmul(a, weights, zero_point, requantization)
    rows, signed = _as_bytes(a, 2)
    if weights.activation_bits < 8:
        intchecks.check_promise(a, zero_point, weights.activation_bits)
    if rows.strides[1] != 1:
        rows = np.ascontiguousarray(rows)
    out = np.empty((len(a), weights.shape[-1]), np.int32 if requantization is None else np.uint8)
    threads = _team(rows.size * out.shape[1], num_threads, SMALL_PRODUCT * weights.rate)
    compiled().matmul(rows, weights, out, zero_point, signed, requantization, threads)
    return out


@functools.lru_cache(1024)  # in Python it takes longer than a small convolution
def _known_plan(x_shape, w_shape, groups, stride, padding):
    """Arguments of the compiled convolution: (strides, (top, left), shape of the result), and its multiply-adds."""
    strides, pads, shape = intchecks.geometry(x_shape, w_shape, groups, stride, padding)
    out_shape = (*shape, w_shape[3])
    return strides, (pads[0][0], pads[1][0]), out_shape, math.prod(out_shape) * math.prod(w_shape[:3])


def _plan(x, weights, stride, padding):
    try:
        return _known_plan(x.shape, weights.shape, weights.groups, stride, padding)
    except TypeError:  # a list as stride or padding
        return _known_plan.__wrapped__(x.shape, weights.shape, weights.groups, stride, padding)


def conv2d(x, weights, stride=1, padding=0, zero_point=0, requantization=None, num_threads=None):
    """`intops.conv2d`: x NHWC uint8 or int8, packed HWIO weights, int32 (N, OH, OW, O) or uint8 codes."""
    if type(weights) is intops.Weights:
        return intops.conv2d(x, weights, stride, padding, zero_point, requantization)
    image, signed = _as_bytes(x, 4)
    if weights.activation_bits < 8:
        intchecks.check_promise(x, zero_point, weights.activation_bits)
    strides, corner, shape, products = _plan(x, weights, stride, padding)
    out, module = np.empty(shape, np.int32 if requantization is None else np.uint8), compiled()
    if type(weights) is module.Weights:
        run, threads = module.conv2d, _team(products, num_threads, SMALL_PRODUCT * weights.rate)
    else:
        run, threads = module.depthwise_conv2d, _team(out.size, num_threads, SMALL_ARRAY)
    run(np.ascontiguousarray(image), weights, out, strides, corner, zero_point, signed, requantization, threads)
    return out


def pack_codebook(codes, values, bits, groups=1, isa=None):
    """Weights of float32 values in the layout of an instruction set; arguments as `codebook.pack_codebook`."""
    weights = codebook.pack_codebook(codes, values, bits, groups)
    active = asked_or_active(isa)
    if active == "numpy":
        return weights
    module, shape = compiled(), _as_kernel(weights.shape)
    if 1 < groups == shape[3] and shape[2] == 1:
        taps = weights.codebook[weights.codes].reshape(-1, groups)
        return module.DepthwiseCodebookWeights(taps, bits, shape, active)
    return module.CodebookWeights(weights.codes.reshape(shape), weights.codebook, bits, weights.shape, groups, active)


def matmul_codebook(a, weights, num_threads=None):
    """`codebook.matmul_codebook`: a float32 (M, K) times codebook weights, float32 (M, N), the same bits everywhere."""
    if type(weights) is codebook.CodebookWeights:
        return codebook.matmul_codebook(a, weights)
    intchecks.check_float_rows(a, weights.shape)
    if a.strides[1] != 4 or a.strides[0] % 4:
        a = np.ascontiguousarray(a)
    out = np.empty((len(a), weights.shape[1]), np.float32)
    threads = _team(a.size * out.shape[1], num_threads, SMALL_FLOAT_PRODUCT)
    compiled().matmul_codebook(a, weights, out, threads)
    return out


def conv2d_codebook(x, weights, stride=1, padding=0, num_threads=None):
    """`codebook.conv2d_codebook`: x float32 NHWC, codebook weights HWIO, float32 (N, OH, OW, O)."""
    if type(weights) is codebook.CodebookWeights:
        return codebook.conv2d_codebook(x, weights, stride, padding)
    intchecks.check_float_images(x)
    strides, corner, shape, products = _plan(x, weights, stride, padding)
    out, threads = np.empty(shape, np.float32), _team(products, num_threads, SMALL_FLOAT_PRODUCT)
    compiled().conv2d_codebook(np.ascontiguousarray(x), weights, out, strides, corner, threads)
    return out


def pack_lookup(codes, levels, bits, activation_bits=8, isa=None):
    """Weights (K, N) of 1 or 2 bits for `matvec_lookup`, on instruction sets without an 8-bit dot product.

    Look-ups of partial sums (lut.h) take one row at a time. `python -m minquant.bench kernels --isa avx2 --bits 2,1
    --activation-bits 2` times them beside `matmul`: faster for 1 bit, and for 2 bits with 2-bit activations; slower
    for 2 bits with 8.
    Raises as `pack_weights`, and ValueError where the instruction set has no such kernel (avx2 and neon have it) or
    4 / bits * greatest activation * greatest level is beyond 8191.
    """
    weights = intops.pack_weights(codes, levels, bits, 1, activation_bits)
    active = asked_or_active(isa)
    if active == "numpy":
        return weights
    intchecks.check_matrix(weights)
    return compiled().LookupWeights(weights.codes, weights.levels, bits, activation_bits, active)


def matvec_lookup(a, weights, zero_point=0):
    """(a - zero_point) @ levels[codes] of one row a (K,) of uint8 codes, int32 (N,), by look-up of partial sums."""
    if type(weights) is intops.Weights:
        return intops.matmul(a[None], weights, zero_point)[0]
    intchecks.check_codes_in(a, zero_point, 1)
    intchecks.check_unsigned(a)
    intchecks.check_promise(a, zero_point, weights.activation_bits)
    out = np.empty(weights.shape[1], np.int32)
    compiled().matvec_lookup(np.ascontiguousarray(a), weights, out, zero_point)
    return out


def max_pool2d(x, size, stride=None, padding=0, num_threads=None):
    """`intops.max_pool2d`: the largest code of every window of NHWC."""
    if compiled() is None:
        return intops.max_pool2d(x, size, stride, padding)
    return _pool(x, size, stride, padding, None, num_threads, x.dtype)


def average_pool2d(x, size, stride=None, padding=0, requantization=None, num_threads=None):
    """`intops.average_pool2d`: the sum of every window of NHWC, int32 or uint8 codes."""
    if compiled() is None:
        return intops.average_pool2d(x, size, stride, padding, requantization)
    return _pool(x, size, stride, padding, requantization, num_threads)


def _pool(x, size, stride, padding, requantization, num_threads, maximum_of=None):
    image, signed = _as_bytes(x, 4)
    size, strides, pads = intchecks.pool_geometry(x.shape, size, stride, padding)
    shape = intchecks.geometry(x.shape, (*size, 1), x.shape[3], strides, pads)[2]
    sums = np.int32 if requantization is None else np.uint8
    out = np.empty((*shape, x.shape[3]), np.uint8 if maximum_of else sums)
    threads = _team(out.size * size[0] * size[1], num_threads, SMALL_ARRAY)
    compiled().pool2d(np.ascontiguousarray(image), out, size, strides, (pads[0][0], pads[1][0]), signed,
                       maximum_of is not None, requantization, threads, isa())
    return out.view(maximum_of) if maximum_of else out


def add(a, b, multiplier_a, multiplier_b, offset, bits, num_threads=None):
    """`intops.add`: codes of a weighted sum of two arrays of codes (..., C), as in a residual block."""
    if compiled() is None:
        return intops.add(a, b, multiplier_a, multiplier_b, offset, bits)
    factors, module = intchecks.addition_factors(a, b, multiplier_a, multiplier_b, offset, bits), compiled()
    out = np.empty(a.shape, np.uint8)
    if a.size:
        factors = np.tile(factors, module.BLOCK // math.gcd(module.BLOCK, a.shape[-1]))
        left, right = (np.ascontiguousarray(x).view(np.uint8).reshape(-1) for x in (a, b))
        module.add(left, right, factors, (1 << bits) - 1, a.dtype == np.int8, b.dtype == np.int8,
                   out.reshape(-1), _team(a.size, num_threads, SMALL_ARRAY), isa())
    return out


def quantize(x, requantization, num_threads=None):
    """`intops.quantize`: the codes of float32 inputs (..., C)."""
    if type(requantization) is intops.Requantization:
        return intops.quantize(x, requantization)
    if x.dtype != np.float32 or not x.ndim:
        raise ValueError(f"x of type {x.dtype}, shape {x.shape}; give float32 with channels last")
    out = np.empty(x.shape, np.uint8)
    rows = np.ascontiguousarray(x).reshape(-1, max(1, x.shape[-1]))
    threads = _team(x.size, num_threads, SMALL_ARRAY)
    compiled().quantize(rows, requantization, out.reshape(rows.shape), threads, isa())
    return out


def main(arguments=None):
    """Print `info()` as a table, or as JSON."""
    parser = argparse.ArgumentParser(prog="python -m minquant.kernels", description=main.__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    facts = info()
    print(json.dumps(facts, indent=1) if parser.parse_args(arguments).json else table(facts))


if __name__ == "__main__":
    main()
