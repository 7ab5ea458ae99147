"""Mixed-precision DNNs (DQ): step size and range are learned, bit-widths inferred from them, memory bounded.

1. Step d, range q_max and bits b of a quantizer are linked: two give the third. So there are three ways to
   parametrize a uniform quantizer (U1, U2, U3), and three for one with power-of-two levels (P1, P2, P3).
2. Straight-through gradients exist for all; those of [d, q_max] (U3) and [q_min, q_max] (P3) are bounded and
   decoupled, anything that contains b is large or coupled.
3. So d and q_max of every tensor are learned, and b = ceil(log2(q_max/d + 1)) + 1 is read off them.
4. A memory budget enters the loss as a squared hinge on sum N_l b_l, whose gradient reaches d and q_max.
5. d is used rounded to a power of two: rescaling between integer layers is a shift.

Notation: R rounds half away from zero, P2(v) = 2^R(log2 v); parameters are clamped before use, chi are the
gates of the clamps; step = P2(d); k = R(q_max/step) the largest code; L = 2^m - 1 with m magnitude bits; A
and B the smallest and largest power of two. E, T and T1, T3 are the sums behind all parameter gradients.

    uniform          step             largest value hi
    u1  [b, d]       P2(d)            step L
    u2  [b, q_max]   P2(q_max / L)    q_max, maybe off the grid
    u2snap           P2(q_max / L)    step L
    u3  [d, q_max]   P2(d)            q_max, maybe off the grid
    u3snap           P2(d)            step k
    fixed            as u1, nothing learned

    power of two         A                B
    p1  [b, q_min]       P2(q_min)        A 2^(2^m - 1)
    p2  [b, q_max]       B 2^(1 - 2^m)    P2(q_max)
    p3  [q_min, q_max]   P2(q_min)        P2(q_max)
    fixedp               as p2, nothing learned

Stored: codes, step (or A) and bits per tensor; levels -k..k or 0..k, or +-1, 2, 4 .. (activations: and 0).

Recipe: d of least squared error from the float network, then everything together.
Which bits. By default they stay as given: "u3" and "p3" then run as "u2snap" and "p2" with b held, a learned
range at fixed bits (what the official README advises). Bits are learned where a budget or learn_bits asks
for it, from those given on; for the last share `hold` of the steps they are held, once the budget is met.

Sources and deviations. Paper body and official code were available, the paper's appendices were not.
- Where paper and code differ we follow the code: saturated values contribute to dd when q_max is off the
  grid; x at +-hi counts as saturated; sign(0) = +1. u3snap replaces q_max by step k and decouples.
- Gradient clip to +-d, projection and clamp ranges are from code. d is clamped to 2^-12 .. 2^8, not 2^-8 ..
  1: a linear layer's 8-bit step is smaller, and networks without batch norm have larger ones.
- u2 with its rounded step needs up to sqrt(2) times the codes of b bits; `bits` reports what is needed.
- Capped for storage, by projection: k <= 2^(max_bits - 1) - 1 signed, 2^max_bits - 1 unsigned, by raising d
  (lowering q_max, the other way, lets a falling d drag the range down); seven powers of two signed, eight
  unsigned (int8 and uint8 levels), so that 4-bit weights have 14 levels. The paper has no cap.
- lam is relative: lam max(0, S/S0 - 1)^2 (derived; lambda of eq. 10 is lam/S0^2: 0.1 is lam = 490), and grows
  by `ramp` over the training, so that short ones meet their budget; `ramp=1`: constant, as in the paper.
- init_step="mse" tries powers of two for d and keeps the least squared error; "paper" takes floor (above 4
  bits: ceil) of log2(max|W|/L) for weights and d = 1/8 for activations, which at 2 bits clips them at 0.375.
- Under Adam b, and all parameters of activations, move at ten times the weights' rate (paper: SGD, one).
- Holding the bits at the end is ours. No logit scale, no quantized biases, no decay on d and q_max. Official
  runs picked the best iterate on the test set; here `feasible` keeps a state over budget from being stored.
"""

import math

import numpy as np

from ..estimators.straight_through import require_frozen, round_half_away
from ..nn.base import prefixed
from . import dq_budget
from .base import Method, Option, QTensor, quantizers, uniform_staircase
from .dq_parameters import FORMS, STATIC, UNIFORM, MixedPrecision, Rounder
from .dq_power import PowerOfTwo


class Uniform(MixedPrecision):
    """step R(clip(x, lo, hi) / step), lo = -hi or 0 (eq. 1)."""

    def set_range(self, max_bits):
        overflows = self.parametrization == "u2" and max_bits == 8
        self.b_min, self.max_bits = 1 + self.signed, max_bits - overflows
        self.why_capped = "; u2 needs more than 255 codes at 8 bits, choose u2snap" if overflows else ""

    def start_values(self, d):
        return {"d": d, "q_max": d * (2 ** self.magnitude_bits() - 1), "b": float(self.state["b"])}

    def cap(self):
        """Raise d until the codes fit max_bits. Deviation: the paper has no cap."""
        if self.form in ("u3", "u3snap"):
            bar, _ = self.theta()
            needed = 2.0 ** math.ceil(math.log2(bar["q_max"] / (2 ** (self.max_bits - self.signed) - 0.51)))
            if self.grid(bar, Rounder())[0] < needed:
                self.params["d"][...] = needed * 0.7072  # just above the border to needed / 2

    def grid(self, bar, rounder):
        """(step, hi) of the current form from clamped parameters."""
        form = self.form
        if form in ("u3", "u3snap"):
            step, hi = rounder.power(bar["d"]), bar["q_max"]
            if form == "u3snap":  # STE: d (step k) / d q_max := 1
                hi = rounder.apply(hi, step * float(round_half_away(np.float64(hi / step))))
            return step, hi
        largest = 2 ** (rounder.nearest(bar["b"]) - self.signed) - 1
        if form in ("u1", "fixed"):
            step = rounder.power(bar["d"])
            return step, step * largest
        step = rounder.power(bar["q_max"] / largest)
        return step, bar["q_max"] if form == "u2" else step * largest

    def slopes(self, bar, step):
        """{name: (factor of E, factor of T)}, eqs. (3a)-(3c); STE: d P2(v)/dv := P2(v)/v and R' := 1."""
        form = self.form
        if form in ("u3", "u3snap"):
            return {"d": (1 / bar["d"], 0.0), "q_max": (0.0, 1.0)}
        full = 2.0 ** (math.floor(bar["b"] + 0.5) - self.signed)
        largest, dfull = full - 1, full * math.log(2)
        if form in ("u1", "fixed"):
            return {"d": (1 / bar["d"], largest * step / bar["d"]), "b": (0.0, step * dfull)}
        dhi = 1.0 if form == "u2" else step * largest / bar["q_max"]
        return {"q_max": (1 / bar["q_max"], dhi), "b": (-dfull / largest, 0.0)}

    def largest_code(self):
        """k = R(hi / step)."""
        step, hi = self.grid(self.theta()[0], Rounder())
        return int(round_half_away(np.float64(hi / step)))

    def inferred_bits(self):
        """b = max(ceil(log2(k + 1)) + [signed], b_min), by integers."""
        return max(self.largest_code().bit_length() + self.signed, self.b_min)

    def bits_slopes(self):
        """db/dparameter, for the memory penalty. STE through ceil, R and P2; 0 at the floor b_min."""
        bar, chi = self.theta()
        on = float(self.learning and self.bits > self.b_min)
        if self.form not in ("u3", "u3snap"):
            return {"b": on * chi["b"]}
        step = self.grid(bar, Rounder())[0]
        dq_max = on / (math.log(2) * step * (self.largest_code() + 1))
        return {"d": -chi["d"] * dq_max * bar["q_max"] / bar["d"], "q_max": chi["q_max"] * dq_max}

    def forward(self, x, train=False, rng=None):
        self.require_ready()
        bar, chi = self.theta()
        step, hi = (np.asarray(v, x.dtype) for v in self.grid(bar, Rounder()))
        clipped = np.clip(x, -hi if self.signed else 0, hi)
        y = round_half_away(clipped / step) * step
        return y, (x, y, hi, chi, self.slopes(bar, float(step)))

    def backward(self, dy, cache):
        x, y, hi, chi, slopes = cache
        lo = -hi if self.signed else np.zeros_like(hi)
        if self.form == "fixed":
            return dy * ((x >= lo) & (x <= hi)), {}
        dx = dy * ((x > lo) & (x < hi))  # STE: d R(v)/dv := 1 strictly inside (eq. 2)
        e = float(np.vdot(dy, y - np.clip(x, lo, hi)))  # over all elements, saturated ones included
        t = float(dy[x >= hi].sum()) - (float(dy[x <= lo].sum()) if self.signed else 0.0)
        return dx, self.named_grads((e, t), slopes, chi)

    def freeze(self, x, rng=None):
        """Hold for `surrogate` the residuals of all roundings at x: those of x/step and of the grid."""
        rounder = Rounder()
        step, _ = self.grid(self.theta()[0], rounder)
        _, y, hi, *_ = self.forward(x, True, rng)[1]
        self.frozen = (y - np.clip(x, -hi if self.signed else 0, hi)) / step, rounder

    def surrogate(self, x):
        """clip(x, lo, hi) + step r; the residuals of x/step, b, log2 d are those of `freeze`."""
        residual, rounder = require_frozen(self.frozen)
        step, hi = self.grid(self.theta()[0], rounder.replay())
        return np.clip(x, -hi if self.signed else 0, hi) + step * residual

    def encode(self, x):
        """Codes of x. Raises ValueError when the levels exceed int8 (weights) or uint8."""
        step, hi = (np.asarray(v, x.dtype) for v in self.grid(self.theta()[0], Rounder()))
        stairs, offset = self.staircase(), self.largest_code() if self.signed else 0
        code = round_half_away(np.clip(x, -hi if self.signed else 0, hi) / step) + offset
        return QTensor(code.astype(np.uint8), stairs.levels, step, self.bits)

    def staircase(self):
        self.require_ready()
        k, most = self.largest_code(), 127 if self.signed else 255
        if k > most:
            raise ValueError(f"codes up to {k} need {self.bits} bits, 8 are stored (at most {most}); "
                             "build the quantizer with max_bits=8 and call project()")
        step = np.asarray(self.grid(self.theta()[0], Rounder())[0], self.state["b"].dtype)
        return uniform_staircase(step, -k if self.signed else 0, k, ties="away")


class DQ(Method):
    """Mixed precision: learned range at fixed bits, or learned bits under a memory budget."""

    name = "dq"
    title = "Mixed Precision DNNs: All you need is a good parametrization"
    paper = "Uhlich et al., ICLR 2020, arXiv:1905.11452"
    learns = "range per tensor; with a budget or learn_bits=true step size and range, and so the bits"
    weight_bits = tuple(range(2, 9))
    options = {
        "parametrization": Option("u3", tuple(FORMS),
                                  "what is learned; at fixed bits u3 and p3 run as u2snap and p2"),
        "learn_bits": Option(False, bool, "learn the bits of all tensors (a budget does so for its own)"),
        "budget_w_kb": Option(0.0, float, "budget of all weights in KB, eq. 8a (0: none)"),
        "budget_a_kb": Option(0.0, float, "budget of the activations of one image in KB (0: none)"),
        "constraint": Option("max", ("sum", "max"), "budget_a_kb bounds the sum (8b) or the largest (8c)"),
        "lam": Option(1.0, float, "weight of the penalty lam max(0, size/budget - 1)^2"),
        "ramp": Option(1000.0, float, "the weight grows by this factor over the training; 1: constant (paper)"),
        "clip": Option(True, bool, "clip gradients of d and q_max to +-d while a budget is given"),
        "hold": Option(0.3, float, "share of the steps, at the end, with bits held (once the budget is met)"),
        "max_bits": Option(8, int, "no tensor learns more bits than this"),
        "init_step": Option("mse", ("mse", "paper"), "initial step: least squared error, or the paper's"),
    }

    def __init__(self, **options):
        super().__init__(**options)
        s = self.settings
        for name in ("budget_w_kb", "budget_a_kb", "lam"):
            if not 0 <= s[name] < math.inf:
                raise ValueError(f"option {name}={s[name]} must be finite and at least 0")
        if not 1 <= s["ramp"] < math.inf:
            raise ValueError(f"option ramp={s['ramp']} must be finite and at least 1; it is a factor of growth")
        if not 0 <= s["hold"] <= 1:
            raise ValueError(f"option hold={s['hold']} is not in 0..1; it is a share of the steps")
        if not 2 <= s["max_bits"] <= 8:
            raise ValueError(f"option max_bits={s['max_bits']} is not in 2..8 (codes are stored in uint8)")
        self.pressure = 1.0  # of `lam`, set by every step
        learns = s["learn_bits"] or s["budget_w_kb"] or s["budget_a_kb"]
        if learns and s["parametrization"] in STATIC:
            raise ValueError(f"option parametrization={s['parametrization']} learns nothing and meets no "
                             "budget; choose u3 or p3")

    def weight_quantizer(self, bits, shape):
        return self.make(bits, True, True, "budget_w_kb")

    def activation_quantizer(self, bits, signed=False):
        return self.make(bits, signed, False, "budget_a_kb")

    def make(self, bits, signed, weights, budget):
        s = self.settings
        kind = Uniform if s["parametrization"] in UNIFORM else PowerOfTwo
        learn = s["learn_bits"] or s[budget] > 0
        return kind(bits, s["parametrization"], signed, weights, learn, s["max_bits"], s["init_step"])

    def constraints(self, model):
        """[(name of the option, rows, budget in KB, "sum" or "max")] of the budgets that are given."""
        s, found = self.settings, []
        if s["budget_w_kb"]:
            found.append(("budget_w_kb", dq_budget.weight_memory(model), s["budget_w_kb"], "sum"))
        if s["budget_a_kb"]:
            rows = dq_budget.activation_memory(model)
            found.append(("budget_a_kb", rows, s["budget_a_kb"], s["constraint"]))
        return found

    def start(self, model, rng):
        """Raises ValueError for a budget that no choice of bits can meet."""
        for option, rows, budget, how in self.constraints(model):
            if not rows:
                raise ValueError(f"option {option}={budget} bounds nothing: the model has no quantized "
                                 "activations; give act_bits")
            least, now = dq_budget.least(rows, how), dq_budget.total(rows, how)
            if least > budget:
                raise ValueError(f"option {option}={budget} cannot be met: {least:.4g} KB remain with every "
                                 f"tensor at its fewest bits ({now:.4g} KB at the start); choose more")

    def penalty(self, model):
        """sum_j lambda_j max(0, g_j)^2 with lambda_j = lam ramp^progress / budget_j^2 (eq. 10)."""
        total, grads = 0.0, {}
        lam = self.settings["lam"] * self.pressure
        for _, rows, budget, how in self.constraints(model):
            value, own = dq_budget.penalty(rows, budget, lam / budget ** 2, how)
            total += value
            grads.update(own)
        return total, grads

    def feasible(self, model):
        """True while every budget is met."""
        return all(dq_budget.total(rows, how) <= budget for _, rows, budget, how in self.constraints(model))

    def step_begin(self, model, epoch, progress):
        # Deviation: the hinge has no slope at the budget, and a constant lambda stalls just above it
        self.pressure = self.settings["ramp"] ** progress
        if progress >= 1 - self.settings["hold"]:
            learning = [q for _, q in quantizers(model) if getattr(q, "learning", False)]
            if learning and self.feasible(model):
                for quantizer in learning:
                    quantizer.hold_bits()

    def edit_gradients(self, model, grads):
        """Clip the gradients of steps and ranges, penalty included (from code; not in the paper)."""
        s = self.settings
        if s["clip"] and (s["budget_w_kb"] or s["budget_a_kb"]):
            for name, quantizer in quantizers(model):
                if getattr(quantizer, "learning", False):
                    own = {key: grads[f"{name}.{key}"] for key in quantizer.params}
                    grads.update(prefixed(name, quantizer.clip_gradients(own)))
        return grads
