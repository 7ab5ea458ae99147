"""Parameters of the mixed-precision quantizers: which ones a parametrization has, clamps, start, projection.

A parameter is kept raw (a float master copy) and used clamped; its gradient passes only strictly inside the
clamp range. Formulas and names are explained in `dq.py`.
"""

import math

import numpy as np

from ..estimators.straight_through import round_half_away
from .base import Quantizer, check_finite

UNIFORM = {"u1": ("b", "d"), "u2": ("b", "q_max"), "u2snap": ("b", "q_max"), "u3": ("d", "q_max"),
           "u3snap": ("d", "q_max"), "fixed": ("b", "d")}
POWER = {"p1": ("b", "q_min"), "p2": ("b", "q_max"), "p3": ("q_min", "q_max"), "fixedp": ("b", "q_max")}
FORMS = UNIFORM | POWER
STATIC = "fixed", "fixedp"
HELD = {"u3": "u2snap", "u3snap": "u2snap", "p3": "p2"}  # the form with b, for bits that no longer move
MARGIN = 1e-5
DEFAULT_STEP = 2.0 ** -3
WEIGHT_LIMITS = {"d": (2.0 ** -12, 2.0 ** 8), "q_max": (2.0 ** -8, 127.0), "q_min": (2.0 ** -16, 127.0)}
ACT_LIMITS = {"d": (2.0 ** -12, 2.0 ** 8), "q_max": (2.0 ** -8, 255.0), "q_min": (2.0 ** -14, 255.0)}
INIT_SAMPLE = 2 ** 17
# Adam steps by about the learning rate whatever the gradient: bits are counted in ones, ranges of activations
# are some ten times those of weights. At the weights' own rate neither gets anywhere in a few epochs.
WEIGHT_RATES = {"b": 10.0}
ACT_RATES = {"b": 10.0, "d": 10.0, "q_max": 10.0, "q_min": 10.0}


def at_least(value, dtype):
    """The smallest float of `dtype` not below `value`: comparing with it is comparing with `value`."""
    rounded = np.asarray(value, dtype)
    return rounded if float(rounded) >= value else np.nextafter(rounded, np.asarray(np.inf, dtype))


def nearest_exponent(a):
    """R(log2 a) for positive a, by comparison with 2^(j - 1/2), which no float equals."""
    fraction, exponent = np.frexp(a)
    return exponent - (fraction < at_least(math.sqrt(0.5), fraction.dtype))


class Rounder:
    """The scalar roundings of a grid; `replay` gives one that adds the same residuals instead: the STE."""

    def __init__(self):
        self.residuals, self.replayed = [], None

    def replay(self):
        """A copy that turns every R(v) into v + [R(v_0) - v_0], in the order of the first run."""
        other = Rounder()
        other.replayed = iter(self.residuals)
        return other

    def apply(self, v, rounded):
        """`rounded`, or v plus the residual that the first run had at this place."""
        if self.replayed is not None:
            return v + next(self.replayed)
        self.residuals.append(rounded - v)
        return rounded

    def nearest(self, v):
        """R(v)."""
        return self.apply(v, float(round_half_away(np.float64(v))))

    def power(self, v):
        """P2(v) = 2^R(log2 v)."""
        return 2.0 ** self.apply(math.log2(v), int(nearest_exponent(np.float64(v))))


class MixedPrecision(Quantizer):
    """What uniform and power-of-two quantizers share: parameters with clamps, bits, projection.

    parametrization : a key of FORMS;  learn_bits : b, or the pair it is inferred from, is learned
    weights         : True for a weight tensor; False counts the elements of one image
    max_bits        : the cap by projection; above 8 `encode` may refuse
    init            : "mse" or "paper", the initial step
    """

    def __init__(self, bits, parametrization, signed=True, weights=True, learn_bits=False, max_bits=8,
                 init="mse"):
        self.weights, self.init, self.parametrization = weights, init, parametrization
        self.limits = dict(WEIGHT_LIMITS if weights else ACT_LIMITS)
        self.saturates = parametrization != "fixedp"  # whose gradient ends half an octave above the last level
        self.lr_scale = WEIGHT_RATES if weights else ACT_RATES
        super().__init__(bits, signed)
        self.set_range(max_bits)
        if bits not in range(self.b_min, self.max_bits + 1):
            kind = f"parametrization={parametrization} ({'signed' if signed else 'unsigned'})"
            raise ValueError(f"bits={bits} is not in {self.b_min}..{self.max_bits}, which is what {kind} can "
                             f"store{self.why_capped}")
        self.limits["b"] = self.b_min, self.max_bits
        learned = learn_bits and parametrization not in STATIC
        self.state["held"] = np.asarray(not learned)
        self.state["b"] = np.asarray(bits, np.float32)
        self.state["elements"] = np.zeros((), np.int64)
        kept = self.state if parametrization in STATIC else self.params
        for name in FORMS[self.form]:
            if name != "b" or learned:
                kept[name] = np.zeros((), np.float32)
        self.frozen = None  # what `surrogate` holds fixed, set by `freeze` alone
        self.start(DEFAULT_STEP)

    @property
    def bits(self):
        """The present bit-width, read off the parameters."""
        return self.inferred_bits()

    @bits.setter
    def bits(self, value):
        """The base class announces the initial bits here; `state["b"]` keeps them."""

    @property
    def form(self):
        """The parametrization in use; another one when bits are held."""
        return self.parametrization if self.learning else HELD.get(self.parametrization, self.parametrization)

    @property
    def learning(self):
        """True while the bit-width may move."""
        return not self.state["held"]

    def array(self, name):
        """The array that holds a parameter of the current form."""
        if name == "b" and not self.learning:
            return self.state["b"]
        return self.params[name] if name in self.params else self.state[name]

    def theta(self):
        """Clamped values of the current form, and their gates chi: 1 strictly inside the range, else 0."""
        bar, chi = {}, {}
        for name in FORMS[self.form]:
            value, (low, high) = float(self.array(name)), self.limits[name]
            bar[name], chi[name] = min(max(value, low), high), float(low < value < high)
        return bar, chi

    def hold_bits(self):
        """Fix the bit-width at its present value; the range goes on learning. Idempotent."""
        if self.learning:
            b = self.array("b") if "b" in self.params else self.bits
            self.state["b"][...] = min(max(float(b), self.b_min), self.max_bits)
            self.state["held"][...] = True

    def init_from(self, x, rng):
        """Start from a tensor: see `init_step` in the deviations of `dq.py`; d = 1/8 for an all-zero one."""
        check_finite(x, "weights" if self.weights else "activations")
        self.state["elements"][...] = x.size if self.weights else x[:1].size
        self.state["ready"][...] = True
        peak = float(np.abs(x).max() if self.signed else max(x.max(), 0))
        if peak == 0 or (self.init == "paper" and not self.weights):
            self.start(DEFAULT_STEP)
        elif self.init == "paper":
            self.start(self.paper_step(peak))
        else:
            sample = x.ravel()[::-(-x.size // INIT_SAMPLE)].astype(np.float64)
            top = math.ceil(math.log2(peak / (2 ** self.magnitude_bits() - 1)))
            steps = [2.0 ** j for j in range(top, top - 7, -1)]
            self.start(min(steps, key=lambda d: self.error_from(d, sample)))

    def magnitude_bits(self):
        """m of a uniform grid with the initial bits, at least 1."""
        return max(int(self.state["b"]) - self.signed, 1)

    def paper_step(self, peak):
        """d = 2^floor(log2(max|W| / (2^m - 1))) up to 4 bits, ceil above (section on experiments; code)."""
        rounding = math.floor if self.state["b"] <= 4 else math.ceil
        full = 2 ** self.magnitude_bits() - 1
        return 2.0 ** rounding(math.log2((peak + np.finfo(np.float32).eps) / full))

    def error_from(self, d, x):
        """Squared error on x when started from step d."""
        self.start(d)
        return float(np.square(self.forward(x)[0] - x).mean())

    def start(self, d):
        """Set all parameters to the grid of step d with the initial bits, within their limits."""
        for name, value in self.start_values(d).items():
            if name in self.params or name in self.state:
                self.array(name)[...] = value
        self.project()

    def project(self):
        """d, q_max <- min(d, q_max - delta), max(d + delta, q_max) at once: a crossed pair is swapped.

        Likewise q_min, q_max; delta = 1e-5. Then the clamps (both from code), then the cap for storage.
        """
        if "b" not in FORMS[self.form]:
            low, high = (self.params[name] for name in FORMS[self.form])
            low[...], high[...] = np.minimum(low, high - MARGIN), np.maximum(low + MARGIN, high)
        for name, value in self.params.items():
            value[...] = np.clip(value, self.limits[name][0] + MARGIN, self.limits[name][1] - MARGIN)
        self.cap()

    def clip_gradients(self, grads):
        """Bound both gradients by the present d (u3) or q_min (p3); from code, not in the paper."""
        bound = self.params.get("d", self.params.get("q_min"))
        if bound is None:
            return grads
        return {name: np.clip(grad, -bound, bound) if name != "b" else grad for name, grad in grads.items()}

    def named_grads(self, sums, slopes, chi):
        """Gradient per parameter: its slopes times the sums, through its gate; zero for those out of use."""
        grads = {name: np.zeros_like(array) for name, array in self.params.items()}
        for name, row in slopes.items():
            if name in grads and (name != "b" or self.learning):
                value = chi[name] * sum(slope * s for slope, s in zip(row, sums))
                grads[name] = np.asarray(value, self.params[name].dtype)
        return grads
