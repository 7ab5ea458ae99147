"""DropBits: gates that remove levels from the logistic grid while it is trained, and their gradients.

Layout "bits": the k-bit grids R_k = {-2^(k-1)..2^(k-1)-1} are nested, all with the same step size. The codes
that R_k adds to R_(k-1) are level k; one gate G_k multiplies their probability, and dropping the top level
leaves exactly the grid of one bit less. Layout "endpoints": one gate for the outermost pair of codes, one for
the next pair, and so on.

    pi~_i = G_i e^l_i / W,    W = sum_j G_j e^l_j,    chosen: the code of largest pi~, ties up

For "bits" everything is O(bits) per element, for every level is two intervals of cells whose mass has a
closed form; `expanded_*` spell the same out level by level. Gates come from hard concrete masks Z: G = Z, or
nested G_k = Z_1..Z_k.
"""

import math

import numpy as np

from . import compiled
from .concrete import log_sigmoid
from .multiclass import contract, log_mass, log_mass_slopes

LAYOUTS = ("bits", "endpoints")


def gate_groups(bits, layout, min_bits=1):
    """(2^bits,) ints: the gate of every code from -2^(b-1) on, -1 where a code is never dropped.

    >>> gate_groups(3, "bits").tolist(), gate_groups(3, "endpoints").tolist()
    ([1, 1, 0, -1, -1, 0, 1, 1], [0, 1, 2, -1, -1, 2, 1, 0])
    """
    half = 2 ** (bits - 1)
    n = np.arange(-half, half)
    magnitude = np.where(n < 0, -n - 1, n)  # the code mirrored to the upper side
    if layout == "endpoints":
        return np.where(magnitude > 0, half - 1 - magnitude, -1)
    level = np.array([int(m).bit_length() + 1 for m in magnitude])
    return np.where(level > min_bits, level - min_bits - 1, -1)


def gates_from_masks(masks, nested):
    """G_k = Z_k; with nested=True the product Z_1..Z_k: no level survives the loss of a lower one."""
    return np.cumprod(masks) if nested else masks


def gates_from_masks_backward(dgates, masks, nested):
    """dZ_l = sum_{k >= l} dG_k prod_{j <= k, j != l} Z_j (nested), or dG. No product is divided out."""
    if not nested:
        return dgates
    dmasks = np.zeros_like(masks)
    for lower in range(len(masks)):
        others = np.cumprod(np.where(np.arange(len(masks)) == lower, 1, masks))
        dmasks[lower] = (dgates * others)[lower:].sum()
    return dmasks


def _levels(bits, min_bits):
    """[(gate, upper first, upper last)] of the droppable levels; the lower half mirrors it: -1 - code."""
    return [(gate, 2 ** (min_bits + gate - 1), 2 ** (min_bits + gate) - 1) for gate in range(bits - min_bits)]


def bits_codes(x, grid, gates, min_bits):
    """Codes (floats) of the largest gated probability for layout "bits", in O(bits) per element.

    With all gates 1 this is grid.nearest(x) to the last bit; with gates of 0 and 1 the nearest surviving
    code.
    """
    intact = int(np.cumprod(gates == 1).sum())  # these levels and the permanent grid round as one plain grid
    half = 2 ** (min_bits + intact - 1)
    plain = grid.nearest(x)
    best = np.clip(plain, -half, half - 1)
    if intact == len(gates):
        return best
    score = _log_cell(x, best, grid)
    upper = x >= -grid.alpha / 2
    for gate, first, last in _levels(min_bits + len(gates), min_bits)[intact:]:
        if gates[gate] == 0:
            continue
        rival = np.where(upper, np.clip(plain, first, last), np.clip(plain, -1 - last, -1 - first))
        rival_score = _log_cell(x, rival, grid) + math.log(gates[gate])
        better = (rival_score > score) | ((rival_score == score) & (rival > best))
        best, score = np.where(better, rival, best), np.where(better, rival_score, score)
    return best


def _log_cell(x, n, grid):
    """l = S(h - u) + S(h + u), the log mass of a cell without the factor that all cells share."""
    u, h = (x - grid.alpha * n) / grid.sigma, grid.alpha / (2 * grid.sigma)
    return log_sigmoid(h - u) + log_sigmoid(h + u)


def _spans(gates, min_bits):
    """[(gate or -1, its value, first code, last code)]: the grid as intervals of equal gates."""
    half, levels = 2 ** (min_bits - 1), _levels(min_bits + len(gates), min_bits)
    return [(-1, 1.0, -half, half - 1)] + [
        (gate, float(gates[gate]), *ends) for gate, first, last in levels
        for ends in ((first, last), (-1 - last, -1 - first))]


def bits_backward(dy, x, n, grid, gates, min_bits):
    """Return (dx, [dalpha, dsigma, one per gate]): dy times `bits_slopes`."""
    done = compiled.gated(dy, x, n, grid, _spans(gates, min_bits), len(gates))
    return done or contract(lambda x, n: bits_slopes(x, n, grid, gates, min_bits), dy, x, n)


def bits_slopes(x, n, grid, gates, min_bits):
    """Derivatives of x_hat by (x, alpha, sigma, each gate) under "imax", layout "bits", for chosen codes n.

    alpha n_m pi~_m D with D = d log e^l_m - sum over intervals of (their share of W) d log mass.
    """
    x = grid.confine(x)
    levels, spans = _levels(min_bits + len(gates), min_bits), _spans(gates, min_bits)
    masses = [log_mass(x, grid, *ends) for _, _, *ends in spans]
    log_w = _log_sum(masses, [g for _, g, *_ in spans])
    cell, magnitude = log_mass(x, grid, n, n), np.where(n < 0, -n - 1, n)
    own = [(magnitude >= first) & (magnitude <= last) for _, first, last in levels]
    log_gate = sum(np.where(mine, _log(g), 0) for mine, g in zip(own, gates))
    # STE: dL/dpi_m := dL/dx_hat g_m, the other classes get 0
    weight = grid.alpha * n * np.exp(cell + log_gate - log_w)
    slopes = log_mass_slopes(x, grid, n, n)
    by_gate = [grid.alpha * n * np.where(mine, np.exp(np.minimum(cell - log_w, LIMIT)), 0) for mine in own]
    for (gate, g, *ends), mass in zip(spans, masses):
        share = np.exp(np.minimum(mass - log_w, LIMIT))
        if g > 0:
            common = log_mass_slopes(x, grid, *ends)
            slopes = [slope - g * share * d for slope, d in zip(slopes, common)]
        if gate >= 0:
            by_gate[gate] = by_gate[gate] - weight * share
    dx, dalpha, dsigma = (weight * slope for slope in slopes)
    return dx, dalpha + n, dsigma, *by_gate


def _log_sum(logs, factors):
    """log sum_i factors_i e^logs_i over the factors > 0."""
    kept = [log + math.log(g) for log, g in zip(logs, factors) if g > 0]
    peak = np.max(kept, axis=0)
    return peak + np.log(sum(np.exp(log - peak) for log in kept))


# A dropped level may outweigh the surviving ones by any factor; its gate's derivative is cut at e^60. It
# never reaches a parameter (a mask at exactly 0 passes no gradient), and it must not become infinity times
# zero on the way.
LIMIT = 60.0


def _log(value):
    return math.log(value) if value > 0 else -math.inf


def expanded_log_weights(x, grid, gates, groups):
    """(l, log G + l) of every level, shape (..., K): the readable form, K times the memory of x."""
    l = _log_cell(x[..., None], np.arange(grid.n_min, grid.n_max + 1, dtype=x.dtype), grid)
    with np.errstate(divide="ignore"):
        log_gates = np.log(np.asarray([1.0, *gates], x.dtype))[groups + 1]
    return l, l + log_gates


def expanded_probabilities(x, grid, gates, groups):
    """pi~, shape (..., K)."""
    _, v = expanded_log_weights(x, grid, gates, groups)
    w = np.exp(v - v.max(-1, keepdims=True))
    return w / w.sum(-1, keepdims=True)


def expanded_codes(x, grid, gates, groups, chunk=2 ** 18):
    """Codes (floats) of the largest gated probability, any layout; with all gates 1 plain rounding."""
    if np.all(np.asarray(gates) == 1):
        return grid.nearest(x)
    flat, codes = x.reshape(-1), np.empty(x.size, x.dtype)
    rows = max(1, chunk // grid.size)
    for start in range(0, x.size, rows):
        _, v = expanded_log_weights(flat[start:start + rows], grid, gates, groups)
        codes[start:start + rows] = grid.n_max - v[:, ::-1].argmax(-1)  # reversed: ties to the larger code
    return codes.reshape(x.shape)


def expanded_slopes(x, n, grid, gates, groups, rule):
    """Derivatives of x_hat by (x, alpha, sigma, each gate), any rule, layout: pi~_i (c_i - sum pi~ c) by l_i.

    c_i = g_i for all levels ("full") or for the chosen one only ("imax").
    """
    x = grid.confine(x)
    codes, h = np.arange(grid.n_min, grid.n_max + 1, dtype=x.dtype), grid.alpha / (2 * grid.sigma)
    l, v = expanded_log_weights(x, grid, gates, groups)
    peak = v.max(-1, keepdims=True)
    pi = np.exp(v - peak)
    total = pi.sum(-1, keepdims=True)
    pi /= total
    c = grid.alpha * codes if rule == "full" else np.where(codes == n[:, None], grid.alpha * codes, 0)
    centred = c - (pi * c).sum(-1, keepdims=True)  # STE: dL/dpi_i := dL/dx_hat g_i for every i that c keeps
    dl = pi * centred
    u = (x[:, None] - grid.alpha * codes) / grid.sigma
    left, right = np.tanh(0.5 * (u - h)), np.tanh(0.5 * (u + h))
    t, q = 0.5 * (left + right), 1 + 0.5 * (left - right)
    ungated = centred * np.exp(np.minimum(l - peak, LIMIT)) / total
    by_gate = [ungated[:, groups == gate].sum(-1) for gate in range(len(gates))]
    return (-(dl * t).sum(-1) / grid.sigma, (dl * (codes * t + q / 2)).sum(-1) / grid.sigma + n,
            (dl * (t * u - q * h)).sum(-1) / grid.sigma, *by_gate)
