"""Integer level sets, and where the steps between them start: biases and scale of a sum of sigmoids.

K-means puts its centres where the values are dense, while the levels stay evenly spaced integers. With few levels
that is the better start; with many, the thresholds near zero are so close that values are spread out to levels far
beyond them, and thresholds midway between the levels do better. The squared error of the start tells which.
"""

import numpy as np

from .kmeans import kmeans1d, midpoints, subsample
from .sigmoids import hard_codes

SETS = ("uniform", "pow2", "ternary", "full")
KINDS = ("auto", "kmeans", "uniform")


def level_set(bits, name="uniform"):
    """Integer levels for weights of `bits` bits, ascending int8.

    uniform  {-1, 1} at 1 bit, else -h..h with h = 2^(bits-1) - 1
    pow2     0 and +-1, +-2, +-4 ...: 2^bits - 1 levels, at most 4 bits
    ternary  {-1, 0, 1} from 2 bits on;   full  -2^(bits-1)..2^(bits-1) - 1
    Anything else lists the integers, such as "-2,-1,0,1,2".

    >>> level_set(3, "pow2")
    array([-4, -2, -1,  0,  1,  2,  4], dtype=int8)
    """
    half = 2 ** (bits - 1)
    if name not in SETS:
        return _own_levels(bits, name)
    if name == "full":
        return np.arange(-half, half, dtype=np.int8)
    if bits == 1:
        return np.array([-1, 1], np.int8)
    if name == "pow2" and bits > 4:
        raise ValueError(f"levels=pow2 with bits={bits} needs the level 2^{half - 2}, int8 ends at 127; "
                         "use at most 4 bits")
    top = {"uniform": np.arange(1, half), "pow2": 2 ** np.arange(half - 1), "ternary": np.array([1])}[name]
    return np.concatenate([-top[::-1], [0], top]).astype(np.int8)


def _own_levels(bits, text):
    try:
        levels = np.unique([int(word) for word in text.split(",")])
    except ValueError:
        raise ValueError(f"levels={text!r} is not one of {', '.join(SETS)}, nor a list of integers "
                         "such as -2,-1,0,1,2") from None
    if not 2 <= len(levels) <= 2 ** bits or levels[0] < -128 or levels[-1] > 127:
        raise ValueError(f"levels={text!r}: {bits} bits take 2..{2 ** bits} different integers in -128..127")
    return levels.astype(np.int8)


def initial_biases(z, levels, rng, kind="kmeans", zero_halfwidth=0.0):
    """b from the scaled values z, (n,) ascending: midpoints of k-means centres, or of the levels.

    {-1, 1} always gets b = 0; a tensor with fewer distinct values than levels gets the uniform biases.
    zero_halfwidth > 0 forces the biases around an inner level 0 to -+ this, that of {0, 1} to this.
    """
    b = midpoints(levels.astype(np.float64))
    if kind == "kmeans" and not (len(b) == 1 and b[0] == 0):
        v = subsample(z, rng)
        if len(np.unique(v)) >= len(levels):
            b = midpoints(kmeans1d(v, len(levels)))
    place = int(np.searchsorted(levels, 0))
    if zero_halfwidth > 0 and len(b) == 1 and levels[0] == 0:
        b[0] = zero_halfwidth
    elif zero_halfwidth > 0 and 0 < place < len(b) and levels[place] == 0:
        b = np.concatenate([np.minimum(b[:place], -zero_halfwidth), np.maximum(b[place:], zero_halfwidth)])
        b[place - 1:place + 1] = -zero_halfwidth, zero_halfwidth
    return b


def initial_steps(z, levels, rng, kind="auto", zero_halfwidth=0.0, fit=True):
    """(biases, alpha beta) for the scaled values z = beta x: biases of `kind`, for "auto" those of least error.

    fit : alpha beta = <z, y> / <y, y>, the least squares fit of the levels y that z takes; otherwise it is 1
    """
    best, least = None, np.inf
    for name in ("kmeans", "uniform") if kind == "auto" else (kind,):
        biases = initial_biases(z, levels, rng, name, zero_halfwidth)
        y = levels.astype(np.float64)[hard_codes(z, biases)]
        product = float(np.vdot(z, y) / np.vdot(y, y)) if fit and y.any() else 1.0
        product = product if product > 0 else 1.0
        error = float(np.square(z - product * y).sum())
        if best is None or error < least:
            best, least = (biases, product), error
    return best
