"""Requantization: from the int32 accumulator to the next code, with scale, bias, batch norm and activation folded in.

What is promised, and of what
-----------------------------
The *reference* is the evaluation-mode network in float64 whose sums of products are taken exactly (`reference`).
Between such a sum and the next quantizer it computes a chain of float64 operations, each rounded once
(`Expression`), and compares: code >= j if and only if value >= boundary_j (`boundaries`; ReLU, its cap and the
quantizer's way with ties are all inside the boundary).

    code(acc) = number of j with value(acc) >= boundary_j,   value(acc) = ((acc * scale + ...) * ...) + ...

Rounding to nearest is monotone, so value is monotone in acc, and each boundary is one integer threshold per channel.
`thresholds` finds it by bisection *on the reference expression itself*: no algebra is rearranged, nothing is
estimated, and the thresholds are exact by construction, however close to a tie.

The plain float64 forward of the network differs from the reference in one step: it adds rounded products of
level * scale one by one, where the reference rounds acc * scale once. The two are apart by at most

    slack = gamma(K + 6) * scale * max over inputs of sum |a_i w_i|,   gamma(n) = n u / (1 - n u),   u = 2^-53

for K products in whatever order they are added (2 roundings in the factors, 1 in the product, K - 1 in the sum, 2 in
scale and acc * scale). `unproven` counts the thresholds at which a value moved by that much would change its code.
Where it counts 0, the plain forward gives the Program's codes for *every* input. A threshold counted there is a near
tie: the plain forward's code depends on the order of its sum, the reference's does not. (DoReFa makes such ties: its
average of four activations n/3 can fall midway between two levels.) Where both scales are powers of two every sum is
exact and the slack is 0.

How it is computed on a device
------------------------------
The cheap form is float32: clip(rint(acc * multiplier + offset), 0, top), product and sum rounded separately. It is
monotone in acc as well, so it equals the definition everywhere if it does so on both sides of every threshold, which
`fit` verifies; the offset (and the multiplier by a few units in the last place) is moved to where that holds. Where the
quantizer's steps are unequal, rounding cannot be right; the code then is the number of the layer's boundaries, as
float32, that acc * multiplier + offset reaches, verified in the same way: `top` numbers per layer instead of a ladder
per channel. A channel where nothing helps keeps its thresholds: the ladder. A residual addition has a second operand,
the shortcut's code k: clip(rint((acc * multiplier + offset) + shortcut[k])), verified over all k and thresholds; a
channel that fails computes the reference expression in float64 instead, because a ladder per shortcut code would
outweigh the weights.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

INT32_LIMIT = 2 ** 31 - 2  # thresholds of "never" and "always" lie one beyond, still inside int32
STEPS = {"multiply": np.multiply, "divide": np.divide, "add": np.add}
UNIT = 2.0 ** -53


@dataclass(frozen=True)
class Expression:
    """The float64 value of an accumulator, step by step as the network computes it; every step rounds once.

    steps  : names of STEPS; the first multiplies by the scale
    values : (steps, channels) float64, the other operand of each step
    """

    steps: tuple
    values: np.ndarray

    def __call__(self, acc, slack=0.0):
        """Value of integers acc (..., channels); `slack` is added behind the first step."""
        value = np.asarray(acc, np.float64)
        for i, (step, operand) in enumerate(zip(self.steps, self.values)):
            value = STEPS[step](value, operand)
            if i == 0:
                value = value + slack
        return value

    def then(self, step, operand):
        """The expression with one more step."""
        operand = np.broadcast_to(np.asarray(operand, np.float64), self.values.shape[1:])
        return Expression((*self.steps, step), np.concatenate([self.values, operand[None]]))

    def channels(self, index):
        """The expression of some channels only."""
        return Expression(self.steps, np.ascontiguousarray(self.values[:, index]))


def scaled(scale, channels):
    """The expression acc * scale; scale () or (channels,)."""
    return Expression(("multiply",), np.broadcast_to(np.asarray(scale, np.float64), (1, channels)).copy())


def sum_slack(first, second, products, largest):
    """How far a float64 sum of `products` rounded products may be from the scaled integer sum.

    first, second : float64 scales of the two factors; largest : max of sum |a_i w_i| over inputs, per channel
    """
    exact = (np.frexp(first)[0] == 0.5) & (np.abs(np.frexp(second)[0]) == 0.5)
    gamma = (products + 6) * UNIT / (1 - (products + 6) * UNIT)
    return np.where(exact, 0.0, 1.001 * gamma * np.abs(first * second) * largest)


def boundaries(code_of, top):
    """For j = 1..top the smallest float64 v with code_of(v) >= j; -inf where every v has it, inf where none.

    code_of : monotone function, float64 array -> codes. Found by bisection over the float64 numbers in their order.
    """
    most = np.float64(np.finfo(np.float64).max).view(np.int64)
    low, high = np.full(top, -most), np.full(top, most)
    j = np.arange(1, top + 1)
    with np.errstate(over="ignore"):
        always = code_of(_from_rank(low)) >= j
        never = code_of(_from_rank(high)) < j
        for _ in range(64):
            middle = (low >> 1) + (high >> 1) + (low & high & 1)
            reached = code_of(_from_rank(middle)) >= j
            low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    return np.where(always, -np.inf, np.where(never, np.inf, _from_rank(high)))


def _from_rank(rank):
    """The float64 number at a place in the order of all finite ones; 0.0 has rank 0."""
    return np.where(rank < 0, -np.abs(rank).view(np.float64), np.abs(rank).view(np.float64))


@dataclass(frozen=True)
class Ladder:
    """Thresholds of every channel in *mirrored* accumulators direction * acc, in which each code rises.

    thresholds : (shortcut codes or 1, top, channels) int64: smallest mirrored acc whose code is at least j
    direction  : (channels,) +1 or -1;  low, high : (channels,) reachable range of the mirrored accumulator
    """

    thresholds: np.ndarray
    direction: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def sides(self):
        """(accumulators where code >= j must hold, where it applies, those where code < j must, where it does)."""
        up, down = np.clip(self.thresholds, self.low, self.high), np.clip(self.thresholds - 1, self.low, self.high)
        return up, self.thresholds <= self.high, down, self.thresholds > self.low


def thresholds(expression, boundary, low, high, shortcut=(0.0,)):
    """Return the `Ladder` of value(acc) + shortcut[k] >= boundary_j by bisection over all int32.

    low, high : (channels,) the reachable accumulators;  shortcut : values added behind the expression
    """
    direction = np.where(expression(high) >= expression(low), 1, -1)
    addend, boundary = np.asarray(shortcut, np.float64)[:, None, None], np.asarray(boundary)[:, None]
    shape = (len(addend), len(boundary), len(direction))
    below, above = np.full(shape, -INT32_LIMIT - 1), np.full(shape, INT32_LIMIT + 1)
    while (above - below > 1).any():
        middle = (below + above) >> 1
        reached = _value(expression, direction * middle, addend) >= boundary
        inside = above - below > 1
        above, below = np.where(inside & reached, middle, above), np.where(inside & ~reached, middle, below)
    mirrored_low, mirrored_high = np.where(direction > 0, low, -high), np.where(direction > 0, high, -low)
    return Ladder(above, direction, mirrored_low, mirrored_high)


def _value(expression, acc, addend, slack=0.0):
    value = expression(acc, slack)
    return value + addend if addend.any() else value


def unproven(ladder, expression, boundary, slack, shortcut=(0.0,)):
    """Number of thresholds at which a value that is off by `slack` behind the first step may get another code."""
    up, must_reach, down, must_stay = ladder.sides()
    addend, boundary = np.asarray(shortcut, np.float64)[:, None, None], np.asarray(boundary)[:, None]
    open_ = np.zeros(up.shape, bool)
    for shift in (slack, -slack):
        open_ |= must_reach & (_value(expression, ladder.direction * up, addend, shift) < boundary)
        open_ |= must_stay & (_value(expression, ladder.direction * down, addend, shift) >= boundary)
    return int(open_.sum())


def cheap_values(acc, multiplier, offset, shortcut=None):
    """acc * multiplier + offset [+ shortcut] in float32, every operation rounded on its own."""
    y = np.asarray(acc).astype(np.float32) * multiplier
    y = y + offset
    return y if shortcut is None else y + shortcut


def cheap_codes(acc, multiplier, offset, top, shortcut=None, edges=()):
    """clip(rint(y), 0, top) of y = `cheap_values`, or the number of ascending float32 edges with y >= edge."""
    y = cheap_values(acc, multiplier, offset, shortcut)
    if len(edges):
        return np.searchsorted(edges, y, side="right").astype(np.uint8)
    return np.clip(np.rint(y), 0, np.float32(top)).astype(np.uint8)


def fit(ladder, slope, shortcut=None, edges=()):
    """Return (multiplier, offset, fits): the cheap form of every channel, and where it equals the ladder everywhere.

    Where nothing fits, the factors are those of a line that is close: nearly all codes are right.

    slope    : (channels,) codes per mirrored accumulator step, a first guess; with edges values per step
    shortcut : None, or float32 (codes,) in units of the next code; with edges values
    edges    : nothing to round, or (top,) float32 boundaries of the codes
    """
    top, channels = ladder.thresholds.shape[1:]
    multiplier, offset = np.zeros(channels, np.float32), np.zeros(channels, np.float32)
    fits = np.zeros(channels, bool)
    for i, (trial, candidate) in enumerate(_trials(ladder, slope, shortcut, edges)):
        good = ~fits & verified(ladder, trial, candidate, top, shortcut, edges)
        taken = good if i else np.ones(channels, bool)
        multiplier[taken], offset[taken] = (ladder.direction * trial)[taken], candidate[taken]
        fits |= good
        if fits.all():
            break
    return multiplier, offset, fits


def _trials(ladder, slope, shortcut, edges):
    """Multipliers, of the mirrored accumulators, and offsets that may fit, the best guess first."""
    for nudge in (0, 1, -1, 2, -2):
        multiplier = _nudged(np.asarray(slope, np.float32), nudge)
        for offset in _offsets(ladder, multiplier, shortcut, edges):
            yield multiplier, offset


def _nudged(x, count):
    for _ in range(abs(count)):
        x = np.nextafter(x, np.float32(np.copysign(np.inf, count)))
    return x


def _offsets(ladder, multiplier, shortcut, edges):
    """Offsets worth a trial: inside the interval that all thresholds would allow, were the last sum not rounded."""
    up, must_reach, down, must_stay = ladder.sides()
    j = (np.asarray(edges, np.float64) if len(edges) else np.arange(1, up.shape[1] + 1) - 0.5)[:, None]
    added = 0.0 if shortcut is None else shortcut.astype(np.float64)[:, None, None]
    least = np.where(must_reach, j - added - up.astype(np.float32) * multiplier, -np.inf).max((0, 1))
    most = np.where(must_stay, j - added - down.astype(np.float32) * multiplier, np.inf).min((0, 1))
    least = np.where(np.isinf(least), most - 1, least)  # a channel may be bounded on one side only
    most = np.where(np.isinf(most), least + 1, most)
    for share in (0.5, 0.25, 0.75):
        for nudge in (0, 1, -1):
            yield _nudged((least + share * (most - least)).astype(np.float32), nudge)


def verified(ladder, multiplier, offset, top, shortcut, edges=()):
    """Where the cheap form is right on both sides of every threshold, and therefore between them."""
    up, must_reach, down, must_stay = ladder.sides()
    added = None if shortcut is None else shortcut[:, None, None]
    if len(edges):
        code_of, j = cheap_values, edges[:, None]
    else:
        code_of, j = partial(cheap_codes, top=top), np.arange(1, top + 1)[:, None]
    wrong = must_reach & (code_of(up, multiplier, offset, shortcut=added) < j)
    wrong |= must_stay & (code_of(down, multiplier, offset, shortcut=added) >= j)
    return ~wrong.any((0, 1))
