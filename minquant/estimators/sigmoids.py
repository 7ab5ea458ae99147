"""Sum of sigmoids: a staircase whose unit steps are relaxed by a temperature, with its exact gradients.

    y = alpha (Y_1 + sum_i s_i sigma(u_i)),   u_i = T (beta x - b_i),   s_i = Y_{i+1} - Y_i

T -> infinity gives the hard staircase  code = #{i : beta x > b_i}. A `clip` bounds |u_i| before the sigmoid:
a saturated step then counts sigma(clip) or sigma(-clip) instead of 1 or 0.

Gradients may be taken at another temperature than the forward's and be multiplied by a `gain`; with `leak` a
saturated step keeps the slope it has at the clip. Both make the backward that of another function, `relaxed`;
without them (clip=None, or leak=False, and the forward's temperature) it is the derivative of `soft`.

Nothing of the size elements x steps is ever made: steps add up in blocks that stay in the cache, and of many
steps only those are evaluated that are not saturated at an element.
"""

from typing import NamedTuple

import numpy as np

BLOCK = 2 ** 15  # elements at a time: a block's five buffers fit a second-level cache
FAR = 40.0  # clip=None: sigma(-40) = 4e-18 vanishes beside 1, and exp(40) is finite in float32
COMPARED = 40  # up to this many biases counting by comparison beats binary search


class Steps(NamedTuple):
    """A staircase in the scaled domain z = beta x.

    levels : (n+1,) ascending integers Y
    biases : (n,) ascending floats b; equal ones make one higher step
    """

    levels: np.ndarray
    biases: np.ndarray

    @property
    def heights(self):
        """s, (n,) integers."""
        return np.diff(self.levels.astype(np.int64))


def soft(x, alpha, beta, steps, temperature, clip=10.0):
    """y of the formula above, in the shape and dtype of x (eq. 7 of Quantization Networks if clip=None)."""
    near = _Near(steps, temperature, clip, x.dtype)
    alpha, beta = np.asarray(alpha, x.dtype), np.asarray(beta, x.dtype)
    y = np.empty(x.shape, x.dtype)
    for part, out in _blocks(x, y):
        near.values(part * beta, out)
        out *= alpha
    return y


def soft_backward(dy, x, alpha, beta, steps, temperature, gain=None, clip=10.0, leak=True):
    """dx = dy alpha beta d,  d = gain sum_i s_i sigma(u_i) (1 - sigma(u_i));  gain=None: the temperature.

    `scale_gradients` has the other gradients from it and y:  alpha dalpha = sum dy y,  beta dbeta = sum x dx.
    """
    near = _Near(steps, temperature, clip, x.dtype)
    factor = np.asarray((temperature if gain is None else gain) * alpha * beta, x.dtype)
    beta, dx = np.asarray(beta, x.dtype), np.empty(x.shape, x.dtype)
    for part, out, upstream in _blocks(x, dx, dy):
        near.slopes(part * beta, out, leak)
        out *= upstream
        out *= factor
    return dx


def scale_gradients(dy, x, y, dx):
    """(alpha dalpha, beta dbeta), the gradients of ln alpha and ln beta."""
    return np.vdot(dy, y), np.vdot(x, dx)


def biases_backward(dy, x, alpha, beta, steps, temperature, gain=None, clip=10.0, leak=True):
    """db_i = -alpha sum dy gain s_i sigma(u_i) (1 - sigma(u_i)) (eq. 11), (n,) float64."""
    factor, beta = float(alpha * (temperature if gain is None else gain)), np.asarray(beta, x.dtype)
    db = np.zeros(len(steps.biases))
    for i, (bias, height) in enumerate(zip(steps.biases, steps.heights)):
        near = _Near(Steps(np.array([0, height]), np.array([bias])), temperature, clip, x.dtype)
        for part, upstream in _blocks(x, dy):
            slope = np.empty_like(part)
            near.slopes(part * beta, slope, leak)
            db[i] -= factor * float(np.vdot(upstream, slope))
    return db


def relaxed(x, beta, steps, temperature, gain=None, clip=10.0, leak=True):
    """A function of x with the derivative gain beta sum_i s_i sigma'(u_i), the slope of `soft_backward`.

    With leak every sigmoid continues beyond the clip as its tangent. For checks: one temporary per step.
    """
    bound, total = clip or FAR, np.zeros_like(x)
    edge = sigmoid(bound) * sigmoid(-bound) if leak and clip else 0.0
    for bias, height in zip(steps.biases, steps.heights):
        u = temperature * (beta * x - bias)
        inside = np.clip(u, -bound, bound)
        total += height * (sigmoid(inside) + edge * (u - inside))
    return total * ((temperature if gain is None else gain) / temperature)


def sigmoid(u):
    """1 / (1 + exp(-u)) without overflow."""
    e = np.exp(-np.abs(u))
    return np.where(u >= 0, 1 / (1 + e), e / (1 + e))


def hard_codes(x, thresholds):
    """Number of thresholds strictly below every x, uint8: a tie takes the lower code. NaN gets 0."""
    thresholds = np.asarray(thresholds)
    codes = np.empty(x.shape, np.uint8)
    for part, out in _blocks(x, codes):
        _count(part, thresholds, out)
    return codes


def _count(x, thresholds, out):
    if len(thresholds) > COMPARED:
        out[...] = np.searchsorted(thresholds, x, side="left")
        return
    out[...] = 0
    for threshold in thresholds:
        out += x > threshold


def _blocks(*arrays):
    """Flat pieces of equally shaped arrays; those of contiguous arrays are views and may be written to."""
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, flat[0].size, BLOCK):
        yield tuple(array[start:start + BLOCK] for array in flat)


class _Near:
    """The steps that can be unsaturated at an element, and what all others add up to.

    Between two biases at most `width` steps on either side have |u| < clip. Of many steps only these 2 width
    are evaluated, gathered by the element's code from tables that infinitely far steps pad; `base` and `rest`
    hold, by code, the values and slopes of all others. Few steps are all evaluated, without gathering.
    """

    def __init__(self, steps, temperature, clip, dtype):
        biases, heights = np.asarray(steps.biases, dtype), steps.heights
        n, self.first = len(biases), float(steps.levels[0])
        self.biases, self.heights, self.dtype = biases, heights, dtype
        self.temperature, self.bound = np.asarray(temperature, dtype), np.asarray(clip or FAR, dtype)
        self.clipped = bool(clip)
        reach = float(self.bound) / float(temperature) * (1 + 1e-6)
        width = int((np.searchsorted(biases, biases + reach, side="right") - np.arange(n)).max())
        self.gathered = 3 * width + 2 < n
        if self.gathered:
            self._tables(width)
        else:
            self.entries, self.base, self.rest = list(zip(biases, heights)), self.first, 0.0

    def _tables(self, width):
        low = float(sigmoid(-self.bound.astype(np.float64))) if self.clipped else 0.0
        heights, n = self.heights, len(self.heights)
        equal = bool((heights == heights[0]).all())
        far = np.full(width, np.inf)
        pad = np.full(width, heights[0] if equal else 0)
        biases = np.concatenate([-far, self.biases, far]).astype(self.dtype)
        padded = np.concatenate([pad, heights, pad])
        below = np.concatenate([[0], np.cumsum(heights)])
        gathered = np.lib.stride_tricks.sliding_window_view(padded, 2 * width)  # row: what code k evaluates
        lower = below - gathered[:, :width].sum(1)
        upper = heights.sum() - below - gathered[:, width:].sum(1)
        self.base = (self.first + (1 - low) * lower + low * upper).astype(self.dtype)
        self.rest = (low * (1 - low) * (lower + upper)).astype(self.dtype)
        self.entries = [(biases[j:j + n + 1], heights[0] if equal else padded[j:j + n + 1].astype(self.dtype))
                        for j in range(2 * width)]

    def _start(self, z, out, table):
        """Write the saturated rest into out; return the codes that gather, or None."""
        if not self.gathered:
            out[...] = table
            return None
        codes = np.empty(z.shape, np.uint8)
        _count(z, self.biases, codes)
        codes = codes.astype(np.intp)
        np.take(table, codes, out=out, mode="clip")
        return codes

    def _sigmoids(self, z, codes, masked=False):
        """Yield (height, exp(-u), sigma(u), |u| <= clip if masked) of every evaluated step; buffers recur."""
        e, p = np.empty_like(z), np.empty_like(z)
        for bias, height in self.entries:
            if codes is None:
                np.subtract(bias, z, out=e)
            else:
                np.take(bias, codes, out=e, mode="clip")
                e -= z
                height = height if np.ndim(height) == 0 else height[codes]
            e *= self.temperature
            inside = np.abs(e) <= self.bound if masked else None
            np.minimum(e, self.bound, out=e)
            np.maximum(e, -self.bound, out=e)
            np.exp(e, out=e)
            np.add(e, 1, out=p)
            np.reciprocal(p, out=p)
            yield height, e, p, inside

    def values(self, z, out):
        """out = Y_1 + sum_i s_i sigma(u_i)."""
        codes = self._start(z, out, self.base)
        for height, _, p, _ in self._sigmoids(z, codes):
            if np.ndim(height) or height != 1:
                p *= height
            out += p

    def slopes(self, z, out, leak):
        """out = sum_i s_i sigma(u_i) (1 - sigma(u_i)); saturated steps count only with leak."""
        leak = leak and self.clipped
        codes = self._start(z, out, self.rest if leak else np.zeros_like(self.rest))
        for height, e, p, inside in self._sigmoids(z, codes, masked=not leak):
            e *= p
            e *= p
            if not leak:
                e *= inside
            if np.ndim(height) or height != 1:
                e *= height
            out += e
