"""The logistic grid of Relaxed Quantization and the multi-class straight-through estimator of CPQ.

A value x plus logistic noise of scale sigma falls into the cell of level g_i = alpha n_i with probability
pi_i(x), a smooth function of x, alpha and sigma. CPQ's forward takes the most probable level, its backward
differentiates pi:

    rule "imax"   dL/dpi_m := dL/dy_m for the level m that was chosen, 0 for the others (y the one-hot choice)
    rule "full"   dL/dpi_i := dL/dy_i for all levels: x_hat is differentiated as the mean sum_i pi_i g_i

That substitution is the only straight-through step. Nothing here has a buffer of elements x levels: with
u = (x - alpha n) / sigma and h = alpha / 2 sigma, the log mass of an interval of cells of half width H is

    L(u, H) = S(H - u) + S(H + u) + log(1 - e^-2H),   S the log-sigmoid,   log pi_m = L(u_m, h) - L(u_c, K h)

which never subtracts two nearly equal probabilities (u_c: distance from the centre of all K levels).
"""

import math
from dataclasses import dataclass

import numpy as np

from . import compiled
from .concrete import log_sigmoid
from .straight_through import round_half_up

CHUNK = 65536  # elements worked on at a time, so that temporaries do not grow with x
TAIL = 30.0  # beyond TAIL sigmas outside the grid every slope is at its limit to within e^-30 = 1e-13


@dataclass(frozen=True)
class Grid:
    """Levels alpha * {n_min..n_max} under logistic noise of scale sigma; both are Python floats > 0."""

    alpha: float
    sigma: float
    n_min: int
    n_max: int

    @property
    def size(self):
        """K, the number of levels."""
        return self.n_max - self.n_min + 1

    @property
    def centre(self):
        """n_c, the middle of the codes; a multiple of 1/2."""
        return (self.n_min + self.n_max) / 2

    def nearest(self, x):
        """n_m = clip(floor(x / alpha + 1/2), n_min, n_max) as floats: the mode of pi, ties up."""
        with np.errstate(over="ignore"):
            v = x / self.alpha
        return np.clip(round_half_up(v), self.n_min, self.n_max)

    def confine(self, x):
        """x moved to at most TAIL sigmas outside the grid, where the slopes have reached their limits."""
        margin = self.alpha / 2 + TAIL * self.sigma
        return np.clip(x, self.alpha * self.n_min - margin, self.alpha * self.n_max + margin)


def grid_codes(bits, signed):
    """(n_min, n_max): two's complement for signed (RQ eq. 1), 0..2^b - 1 for unsigned.

    >>> grid_codes(3, True), grid_codes(3, False)
    ((-4, 3), (0, 7))
    """
    return (-2 ** (bits - 1), 2 ** (bits - 1) - 1) if signed else (0, 2 ** bits - 1)


def log_mass(x, grid, first, last):
    """L(u, H): log probability of the cells of codes first..last, which are scalars or arrays like x."""
    _, _, half, u = _interval(x, grid, first, last)
    return log_sigmoid(half - u) + log_sigmoid(half + u) + math.log(-math.expm1(-2 * half))


def log_mass_slopes(x, grid, first, last):
    """Derivatives of `log_mass` by x, alpha and sigma.

    With t = s(u-H) + s(u+H) - 1, r = s(u-H) + s(-u-H) + 2/(e^2H - 1), n the middle code and `count` codes:
    dL/dx = -t / sigma,    dL/dalpha = (n t + (count/2) r) / sigma,    dL/dsigma = (u t - H r) / sigma.
    """
    middle, count, half, u = _interval(x, grid, first, last)
    left, right = np.tanh(0.5 * (u - half)), np.tanh(0.5 * (u + half))
    t = 0.5 * (left + right)
    r = 0.5 * (left - right) + (1 - 2 * math.exp(-2 * half) / math.expm1(-2 * half))
    return t / -grid.sigma, (middle * t + count / 2 * r) / grid.sigma, (u * t - half * r) / grid.sigma


def _interval(x, grid, first, last):
    """Middle code, number of codes, half width H and distance u (in sigmas) of the cells first..last."""
    middle, count = (first + last) / 2, int(np.max(last - first)) + 1
    return middle, count, count * grid.alpha / (2 * grid.sigma), (x - grid.alpha * middle) / grid.sigma


def imax_slopes(x, grid, normalize=True):
    """Derivatives of x_hat by x, alpha and sigma under "imax": alpha n_m pi_m D, and n_m more for alpha.

    D is the derivative of log pi_m; normalize=False takes the cell mass p_m itself instead of p_m / sum p.
    Exact up to e^-30 beyond 30 sigmas outside the grid.
    """
    n = grid.nearest(x)
    x = grid.confine(x)
    log_pi, slopes = log_mass(x, grid, n, n), log_mass_slopes(x, grid, n, n)
    if normalize:
        log_pi -= log_mass(x, grid, grid.n_min, grid.n_max)
        slopes = [own - all_ for own, all_ in zip(slopes, log_mass_slopes(x, grid, grid.n_min, grid.n_max))]
    weight = grid.alpha * n * np.exp(log_pi)  # STE: dL/dpi_m := dL/dx_hat g_m, the other classes get 0
    dx, dalpha, dsigma = (weight * slope for slope in slopes)
    return dx, dalpha + n, dsigma


def full_slopes(x, grid, normalize=True):
    """Derivatives of x_hat by x, alpha, sigma under "full": of sum_i pi_i g_i at fixed g, and n_m for alpha.

    Summation by parts turns the expectation into sigmoids at the K + 1 cell borders. In units of sigma, with
    w = |x - alpha n_c| / sigma, kappa = alpha / sigma, v_j = w - j kappa and c_j = 1 / (1 + e^v_j) for the
    borders j = -K/2..K/2, the expectation is alpha (n_c + sign M), nu = (K - 1) / 2,

        M = (nu (c_top + c_bottom) - sum_inner c_j) / T,   T = c_top - c_bottom

    By b_j = c_j (1 - c_j):  dc_j/dw = -b_j  and  sigma dc_j/dsigma = b_j v_j; dalpha follows because x_hat /
    alpha does not change when x, alpha and sigma are scaled together. Mirroring x to the upper side keeps T
    free of cancellation. Cost: at most K - 1 sigmoids per element, in place; exact to rounding.
    """
    n, x = grid.nearest(x), grid.confine(x)
    kappa, edge, nu = grid.alpha / grid.sigma, grid.size / 2 * grid.alpha / grid.sigma, (grid.size - 1) / 2
    w = (x - grid.alpha * grid.centre) / grid.sigma
    sign = np.copysign(np.ones_like(w), w)
    w *= sign
    with np.errstate(over="ignore"):
        inner, slope, stretch = _inner_borders(w, kappa, grid.size)
        top, bottom = 1 / (1 + np.exp(w - edge)), 1 / (1 + np.exp(w + edge))
    b_top, b_bottom = top - top * top, bottom - bottom * bottom
    bv_top, bv_bottom = b_top * (w - edge), b_bottom * (w + edge)
    slope -= nu * (b_top + b_bottom)
    stretch = nu * (bv_top + bv_bottom) - stretch
    mass = top - bottom
    mean = (nu * (top + bottom) - inner) / mass if normalize else -sign * grid.centre
    slope += mean * (b_top - b_bottom)
    stretch -= mean * (bv_top - bv_bottom)
    if normalize:
        slope /= mass
        stretch /= mass
    stretch *= sign
    return kappa * slope, n - stretch - slope * x / grid.sigma, kappa * stretch


def _inner_borders(w, kappa, size):
    """Sums of c_j, b_j and b_j v_j over the inner borders j = -K/2+1..K/2-1, for w >= 0.

    To within 4 roundings c_j is 0 or 1 where |v_j| > -log(4 eps): where the grid is larger than that reach,
    only a window of 2 reach borders about each element is visited, and the borders above it count as 1.
    """
    last = size // 2 - 1
    reach = math.ceil(-math.log(4 * np.finfo(w.dtype).eps) / kappa)
    if 2 * reach >= size - 1:
        highest, count, above = last, size - 1, 0
    else:
        highest, count = np.minimum(np.floor(w / kappa) + reach, last), 2 * reach
        above = last - highest
    start = w - highest * kappa
    inner, slope, stretch = _sums_inside(start, kappa, count)
    inner += above
    outside = np.flatnonzero(w > size / 2 * kappa)
    if len(outside):  # every c_j is small there, and their ratios matter: relative precision is needed
        for total, own in zip((inner, slope, stretch), _sums_outside(start[outside], kappa, count)):
            total[outside] = own
    return inner, slope, stretch


def _sums_inside(start, kappa, count):
    """The sums by c = (1 - tanh(v/2)) / 2, b = (1 - tanh(v/2)^2) / 4 at v = start + k kappa."""
    half, v, square = 0.5 * start, np.empty_like(start), np.empty_like(start)
    first, second, weighted = np.zeros_like(start), np.zeros_like(start), np.zeros_like(start)
    for k in range(count):
        np.add(half, 0.5 * k * kappa, out=v)
        np.tanh(v, out=square)
        first += square
        square *= square
        second += square
        square *= v
        weighted += square
    total = count * half + 0.25 * kappa * count * (count - 1)  # sum of v / 2
    return 0.5 * (count - first), 0.25 * (count - second), 0.5 * (total - weighted)


def _sums_outside(start, kappa, count):
    """The sums by c = 1 / (1 + e^v) and b = c - c^2: relative precision where all c are small."""
    inner, slope, stretch = np.zeros_like(start), np.zeros_like(start), np.zeros_like(start)
    for k in range(count):
        v = start + k * kappa
        c = 1 / (1 + np.exp(v))
        inner += c
        c -= c * c
        slope += c
        stretch += c * v
    return inner, slope, stretch


def nearest_level(x, grid):
    """alpha n_m, the level nearest to x."""
    y = compiled.nearest_level(x, grid)
    return grid.nearest(x) * grid.alpha if y is None else y


RULES = {"imax": imax_slopes, "full": full_slopes}


def backward(dy, x, grid, rule, normalize=True):
    """Return (dx, dalpha, dsigma) of the multi-class STE; rule is "imax" or "full", dy has the shape of x."""
    done = {"imax": compiled.imax, "full": compiled.full}[rule](dy, x, grid, normalize)
    dx, (dalpha, dsigma) = done or _contracted(dy, x, grid, rule, normalize)
    return dx, dalpha, dsigma


def _contracted(dy, x, grid, rule, normalize):
    """(dx, [dalpha, dsigma]) from the element-wise slopes of the rule."""
    at_zero = RULES[rule](np.zeros(1, x.dtype), grid, normalize)

    def slopes(part):
        places = np.flatnonzero(part != 0)
        if len(places) == 0 or 4 * len(places) > 3 * len(part):
            return RULES[rule](part, grid, normalize)
        result = [np.full_like(part, value[0]) for value in at_zero]  # behind a ReLU half of all values are 0
        for values, own in zip(result, RULES[rule](part[places], grid, normalize)):
            values[places] = own
        return result

    return contract(slopes, dy, x)


def contract(slopes, dy, *arrays, chunk=CHUNK):
    """Apply element-wise slopes to dy, chunk by chunk: return (dy * slope_0, [sum(dy * slope_k) for k >= 1]).

    slopes(*parts of arrays) returns the derivatives of x_hat by x, and by each shared parameter. No BLAS is
    involved: its number of threads would show in the sums.
    """
    flat = [array.reshape(-1) for array in arrays]
    upstream, dx, sums = dy.reshape(-1), np.empty(dy.size, dy.dtype), 0.0
    for start in range(0, dy.size, chunk):
        part = slice(start, start + chunk)
        first, *shared = slopes(*(array[part] for array in flat))
        np.multiply(upstream[part], first, out=dx[part])
        sums = sums + np.array([float((upstream[part] * slope).sum()) for slope in shared])
    return dx.reshape(dy.shape), sums
