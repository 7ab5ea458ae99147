"""The logistic grid compiled, for float32 arrays: what multiclass.py, dropbits.py and rq.py say in NumPy.

Every function returns None where the extension is missing or does not take the arrays or the grid; the caller
then computes the NumPy form, which is the oracle of the tests. Levels agree to the last bit. Slopes agree
with those in float64 to 1e-5 of the largest (samples: 3e-5) besides what float32 NumPy, too, loses by
rounding x / sigma. Sums are taken over blocks of fixed size, so that the number of threads changes no bit.
"""

import numpy as np

from ..nn import ops

SHARPEST, WIDEST = 32.0, 1 / 32  # alpha / sigma that the kernels take; quantizers keep it in 1/3..30
MOST_LEVELS = 32  # that a relaxed sample may choose from


def _module(grid, *arrays):
    if not WIDEST <= grid.alpha / grid.sigma <= SHARPEST:
        return None, 1
    return ops.element_wise(*arrays)


def _fields(grid):
    return grid.alpha, grid.sigma, grid.n_min, grid.n_max


def _flat(array):
    return np.ascontiguousarray(array).reshape(-1)


def nearest_level(x, grid):
    """alpha grid.nearest(x), to the last bit."""
    kernels, threads = _module(grid, x)
    if kernels is None:
        return None
    y = np.empty(x.shape, np.float32)
    kernels.logistic_round(_fields(grid), _flat(x), y.reshape(-1), threads)
    return y


def full(dy, x, grid, normalize):
    """(dx, [dalpha, dsigma]) under the rule "full"."""
    kernels, threads = _module(grid, x, dy)
    if kernels is None:
        return None
    dx = np.empty(x.shape, np.float32)
    sums = kernels.logistic_full(_fields(grid), normalize, _flat(dy), _flat(x), dx.reshape(-1), threads)
    return dx, np.array(sums)


def gated(dy, x, n, grid, intervals, gates):
    """(dx, [dalpha, dsigma, one per gate]) under the rule "imax" for the chosen codes n (None: the nearest).

    intervals : [(gate or -1, its value, first code, last code)] that share the probability; none of them:
                cell masses are not normalised
    """
    kernels, threads = _module(grid, x, dy)
    if kernels is None:
        return None
    dx, n = np.empty(x.shape, np.float32), None if n is None else _flat(n)
    sums = kernels.logistic_gated(_fields(grid), intervals, gates, _flat(dy), _flat(x), n, dx.reshape(-1),
                                  threads)
    return dx, np.array(sums)


def imax(dy, x, grid, normalize):
    """(dx, [dalpha, dsigma]) under the rule "imax"."""
    return gated(dy, x, None, grid, [(-1, 1.0, grid.n_min, grid.n_max)] if normalize else [], 0)


def sample(x, grid, settings, bits):
    """Relaxed samples of flat x; settings: (levels, local, hard, tau), bits: the noise of each level."""
    kernels, threads = _module(grid, x)
    if kernels is None or settings[0] > MOST_LEVELS:
        return None
    y = np.empty(x.size, np.float32)
    kernels.logistic_sample(_fields(grid), settings, _flat(x), bits, y, threads)
    return y


def sample_slopes(dy, x, grid, settings, bits):
    """(dx, [dalpha, dsigma]) of the same samples."""
    kernels, threads = _module(grid, x, dy)
    if kernels is None or settings[0] > MOST_LEVELS:
        return None
    dx = np.empty(x.size, np.float32)
    sums = kernels.logistic_sample_slopes(_fields(grid), settings, _flat(dy), _flat(x), bits, dx, threads)
    return dx, np.array(sums)
