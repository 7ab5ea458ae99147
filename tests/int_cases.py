"""What the tests of the integer kernels share: instruction sets, weights of every kind, hostile values."""

import numpy as np

from minquant import intops, isa, kernels

COMPILED = isa.compiled()
ISAS = COMPILED.isas() if COMPILED else ["numpy"]


def grid(bits, kind, rng):
    """A table of 2^bits levels: uniform, a random codebook, its extremes, or a full one without a zero."""
    count = 1 << bits
    if kind == "uniform":
        return (np.arange(count) - count // 2).astype(np.int8)
    if kind == "codebook":
        return np.sort(rng.integers(-127, 128, count)).astype(np.int8)
    if kind == "extremes":
        return np.where(np.arange(count) % 2, 127, -128).astype(np.int8)
    return np.resize(np.array([-3, -1, 1, 3], np.int8), count)


GRIDS = ("uniform", "codebook", "extremes", "no zero")


def activations(shape, dtype, rng, kind="random"):
    limits = np.iinfo(dtype)
    if kind == "random":
        return rng.integers(limits.min, limits.max + 1, shape).astype(dtype)
    return np.full(shape, limits.max if kind == "max" else limits.min, dtype)


def requantizer(acc, bits, rng, ladders=False):
    """Arguments of `requantization` that spread these accumulators over the codes, with ties."""
    n, spread = acc.shape[-1], max(1.0, float(np.abs(acc).max(initial=0)))
    powers = bits - np.ceil(np.log2(spread)) - rng.integers(0, 2, n)
    multiplier = rng.choice([-1.0, 0.5, 1.0], n) * np.exp2(powers)
    offset = rng.integers(-4, 2 << bits, n) / 2.0
    if not ladders:
        return multiplier, offset, bits
    steps = (1 << bits) - 1
    thresholds = np.sort(rng.integers(-spread, spread + 1, (n, steps)), axis=1)
    return multiplier, offset, bits, rng.integers(-1, 2, n), thresholds


def both(arguments):
    """The same requantization for the oracle and for the kernels."""
    return intops.requantization(*arguments), kernels.requantization(*arguments)


def packed(codes, levels, bits, isa, groups=1):
    return kernels.pack_weights(codes, levels, bits, groups, isa=isa)


def strided(a, rng):
    """The same values at an odd address, with gaps between the rows."""
    gap = int(rng.integers(1, 9))
    room = np.zeros((*a.shape[:-1], a.shape[-1] + gap), a.dtype)
    if not a.size:
        return a
    rows = np.lib.stride_tricks.as_strided(room.reshape(-1)[1:], a.shape, (a.shape[-1] + gap, 1))
    rows[...] = a
    return rows
