"""Power-of-two levels of the mixed-precision paper: P1, P2, P3. Notation, sources and recipe are in `dq.py`.

Every weight is a sign and an exponent, so that a product with an integer is a shift. Signed grids have no level 0,
activations do. Sums behind the gradients: T1 over values raised to A, T3 over values at B and beyond.
"""

import math

import numpy as np

from ..estimators.straight_through import require_frozen
from .base import QTensor, Staircase
from .dq_parameters import MixedPrecision, Rounder, at_least, nearest_exponent


class PowerOfTwo(MixedPrecision):
    """sign(x) times the power of two in A..B that is nearest in the log domain (eq. 4).

    with_zero : values below A / sqrt 2 become 0 (activations); without it (weights) they become +-A, and 0
                becomes +A
    """

    def set_range(self, max_bits):
        self.with_zero = not (self.signed and self.weights)
        self.b_min = extra = self.signed + self.with_zero
        fitting = self.doublings() if max_bits <= 8 else 23  # from 2^-16 to 2^7, the clamps
        self.span = min(2 ** max(max_bits - extra, 0) - 1, fitting)
        self.max_bits = self.span.bit_length() + extra
        self.why_capped = f": {self.span + 1} powers of two; choose a uniform parametrization for more bits"

    def doublings(self):
        """The largest span that fits the table: levels up to 2^6 in int8, 2^7 in uint8."""
        return 6 if self.signed else 7

    def start_values(self, d):
        """q_max = 2^round(log2(uniform q_max)), q_min as far below it as the bits allow."""
        largest = 2.0 ** int(nearest_exponent(np.float64(d * (2 ** self.magnitude_bits() - 1))))
        (low, high), b = self.limits["q_max"], float(self.state["b"])
        q_max = min(max(largest, low), high)
        return {"q_max": q_max, "q_min": q_max / 2.0 ** self.exponents(b), "b": b}

    def exponents(self, b):
        """log2(B/A) = 2^m - 1 with m = b - [signed] - [with_zero], at most `span`."""
        return min(2.0 ** (b - self.signed - self.with_zero) - 1, self.span)

    def cap(self):
        if self.form == "p3":
            a, b = self.grid(self.theta()[0], Rounder())
            if a * 2.0 ** self.span < b:
                self.params["q_min"][...] = b / 2.0 ** self.span

    def grid(self, bar, rounder):
        """(A, B) of the current form from clamped parameters."""
        if self.form == "p3":
            return rounder.power(bar["q_min"]), rounder.power(bar["q_max"])
        ratio = 2.0 ** self.exponents(rounder.nearest(bar["b"]))
        if self.form == "p1":
            a = rounder.power(bar["q_min"])
            return a, a * ratio
        b = rounder.power(bar["q_max"])
        return b / ratio, b

    def slopes(self, bar, a, b):
        """{name: (factor of T1, factor of T3)}, eq. (6) with the sign(x) that the paper's print lacks."""
        if self.form == "p3":
            return {"q_min": (a / bar["q_min"], 0.0), "q_max": (0.0, b / bar["q_max"])}
        exponents = math.floor(bar["b"] + 0.5) - self.signed - self.with_zero
        dratio = 2.0 ** exponents * math.log(2) ** 2 if 2 ** exponents - 1 <= self.span else 0.0
        if self.form == "p1":
            return {"q_min": (a / bar["q_min"], b / bar["q_min"]), "b": (0.0, b * dratio)}
        return {"q_max": (a / bar["q_max"], b / bar["q_max"]), "b": (-a * dratio, 0.0)}

    def exponent_range(self):
        """(log2 A, log2 B) as integers."""
        a, b = self.grid(self.theta()[0], Rounder())
        return round(math.log2(a)), round(math.log2(b))

    def inferred_bits(self):
        """b = max(ceil(log2(K + 1)) + [signed] + [zero], b_min), K = log2(B/A), by integers."""
        low, high = self.exponent_range()
        return max((high - low).bit_length() + self.signed + self.with_zero, self.b_min)

    def bits_slopes(self):
        """db/dparameter, for the memory penalty. STE through ceil, R and P2; 0 at the floor b_min."""
        bar, chi = self.theta()
        on = float(self.learning and self.bits > self.b_min)
        if self.form != "p3":
            return {"b": on * chi["b"]}
        low, high = self.exponent_range()
        slope = on / (math.log(2) ** 2 * (high - low + 1))
        return {"q_min": -chi["q_min"] * slope / bar["q_min"], "q_max": chi["q_max"] * slope / bar["q_max"]}

    def forward(self, x, train=False, rng=None):
        self.require_ready()
        bar, chi = self.theta()
        a, b = self.grid(bar, Rounder())
        y = self.quantize(x, a, b)
        regions = self.regions(x, y, a, b)
        return y, (x, y, b, regions, chi, self.slopes(bar, a, b))

    def quantize(self, x, a, b):
        """Clipping the magnitude to A..B first makes its nearest power of two one of the levels."""
        size = np.abs(x) if self.signed else np.maximum(x, 0)
        clipped = np.clip(size, np.asarray(a, x.dtype), np.asarray(b, x.dtype))
        power = np.ldexp(np.ones((), x.dtype), nearest_exponent(clipped))
        if self.with_zero:
            power *= size >= at_least(a / math.sqrt(2), x.dtype)
        return np.where(x < 0, -power, power) if self.signed else power

    def regions(self, x, y, a, b):
        """(mask of values raised to A, q/x between A and B and 0 elsewhere, mask of |x| >= B), eq. (5)."""
        size = np.abs(x) if self.signed else np.maximum(x, 0)
        below, above = size < a, size >= b
        return below & (y != 0), np.divide(y, x, out=np.zeros_like(y), where=~(below | above)), above

    def backward(self, dy, cache):
        x, y, b, (below, ratio, above), chi, slopes = cache
        if self.form == "fixedp":
            size = np.abs(x) if self.signed else np.maximum(x, 0)
            over = np.ldexp(1.0, nearest_exponent(np.maximum(size, np.finfo(x.dtype).tiny))) > b
            return dy * ~(over | ((x < 0) & (not self.signed))), {}
        signed = dy * np.sign(y)
        t1, t3 = float(signed[below].sum()), float(signed[above].sum())
        # STE: d 2^R(log2 |x|)/dx := q/x between A and B, 0 elsewhere (eq. 5)
        return dy * ratio, self.named_grads((t1, t3), slopes, chi)

    def freeze(self, x, rng=None):
        """Hold for `surrogate` the signs, regions and q/x of x, and the residuals of the grid's roundings."""
        rounder = Rounder()
        self.grid(self.theta()[0], rounder)
        _, y, _, regions, *_ = self.forward(x, True, rng)[1]
        self.frozen = y, regions, rounder

    def surrogate(self, x):
        """sign A, x (q/x), sign B or 0; ratio, regions and signs are those of `freeze`."""
        y_0, (below, ratio, above), rounder = require_frozen(self.frozen)
        a, b = self.grid(self.theta()[0], rounder.replay())
        return x * ratio + np.sign(y_0) * (a * below + b * above)

    def levels(self):
        """Ascending integer table in units of A. Raises ValueError beyond int8 (uint8 without sign)."""
        low, high = self.exponent_range()
        if high - low > self.doublings():
            raise ValueError(f"powers of two from 2^{low} to 2^{high} span {high - low} doublings; "
                             f"{'int8' if self.signed else 'uint8'} levels hold {self.doublings()}; "
                             "build the quantizer with max_bits=8 and call project()")
        powers = 2 ** np.arange(high - low + 1)
        zero = [0] if self.with_zero else []
        return (np.r_[-powers[::-1], zero, powers].astype(np.int8) if self.signed
                else np.r_[zero, powers].astype(np.uint8))

    def encode(self, x):
        """Codes of x: the place of sign and exponent in the ascending levels."""
        self.require_ready()
        levels, a = self.levels(), np.asarray(self.grid(self.theta()[0], Rounder())[0], x.dtype)
        y = self.quantize(x, float(a), float(a) * float(levels[-1]))
        return QTensor(np.searchsorted(levels, y / a).astype(np.uint8), levels, a, self.bits)

    def staircase(self):
        """Borders A/sqrt 2 and sqrt 2 A 2^j, float64 for x of any dtype; a tie goes away from zero."""
        self.require_ready()
        levels, a = self.levels(), self.grid(self.theta()[0], Rounder())[0]
        borders = a * np.r_[1 / math.sqrt(2), levels[levels > 0][:-1] * 2 * math.sqrt(0.5)]
        if self.signed:
            borders = np.r_[-borders[::-1], borders]
        return Staircase(borders, borders > 0, levels, np.asarray(a, self.state["b"].dtype))
