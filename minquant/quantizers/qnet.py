"""QNet: Quantization Networks (Yang et al., CVPR 2019, arXiv:1911.09464).

1. A quantizer to ordered integers Y_1 < ... < Y_{n+1} is a staircase, a sum of n unit steps.
2. Training replaces every step by a sigmoid of temperature T: a smooth function, differentiated exactly.
3. T grows linearly with the epoch, from a ramp to practically a staircase; inference takes true steps.
4. The scales alpha and beta are learned, a pair per tensor; the biases come from k-means on the scaled values
   and stay. So the thresholds are non-uniform, while the levels remain integers times alpha.
5. Start from a float network; with quantized activations: weights first, then activations, then both.

Paper -> here. Y: `levels`; b_i: `biases`, in the scaled domain beta x; b_i / beta: `thresholds`; alpha, beta:
exp of `log_alpha`, `log_beta`; T: state["temperature"]; p, q: largest |level|, largest |x|; s_i: heights.

    y = alpha (Y_1 + sum_i s_i sigma(T (beta x - b_i)))     training (eq. 7)
    y = alpha (Y_1 + sum_i s_i [x > b_i / beta])            evaluation, always

Recipe: start as `initial_steps` says, T = T0 epoch, gradients clipped before the quantizer's chain rule.
Stored: codes into the level table and alpha. Biases and beta live on in the thresholds of activations.

Where the formulas come from. From the paper: staircase, relaxation, T = T0 epoch, beta = 5p/4q,
alpha = 1/beta, k-means, three phases. From its code: the clamp, strict comparison, T <= 2000, the wide
gradient, the order of gradient clipping. Derived: the closed form of eqs. 8-11 (as printed, g_i must be
alpha s_i sigma, not the sigma the text says) and the offset Y_1. Measured at small scale: the backward cap.
From memory: the fraction bar of eqs. 8-11.

Deviations.
- The paper has no clamp; its code has |u| <= 10 and lets saturated steps keep their slope at 10, a
  straight-through term that moves far weights late in training. Default: the code; `clip=0`: the paper.
- The code differentiates weights at temperature 1, times T (`surrogate=wide`); paper and default: exactly.
- The code's activation gradient is wrong for heights other than 1, even negative; it is not reproduced.
- A(0) = 1 in the paper, 0 in the code and here: a tie goes down, and a 1-bit weight of 0 becomes -1.
- The paper forces the two biases around level 0 to -+0.05 (`zero_halfwidth=0.05`); its code does not, nor
  does the default. One-bit activations get k-means as well; the code sets 0.05.
- Boundaries are midpoints of centres (paper), not of neighbouring data (code); our k-means draws nothing.
- The paper starts from k-means biases and alpha = 1/beta. With many evenly spaced levels that spreads values
  out: at 4 bits a network starts at chance. Default: alpha fitted to the tensor, and the biases of less
  squared error: k-means with few levels, uniform ones with many. `biases=kmeans`, `alpha=inverse`: the paper.
- Biases are frozen, as the text says; `learn_biases` trains them by eq. 11, as Algorithm 1 lists them.
- alpha and beta are learned as logarithms: they stay positive and Adam's steps are relative to their size.
  They never decay, nor fall below 1/1000 of their start.
- A short training is divided into 55 parts (`schedule_epochs`) that count as the paper's epochs, so that T
  still ends at 550 for T0 = 10; `schedule_epochs=0` counts real epochs.
- The gradient of activations is taken at a temperature of at most `act_cap`: the true one, amplified by up to
  alpha beta T s / 4 per layer, destroys short runs.
- `phases=joint` trains all from the start, the better use of a few epochs; `three` is the paper. What "fixed"
  freezes in phase two it leaves open: here weights and their scales, with the hard forward.
"""

import math

import numpy as np

from ..estimators.kmeans import midpoints
from ..estimators.level_sets import KINDS, SETS, initial_steps, level_set
from ..estimators.sigmoids import (Steps, biases_backward, hard_codes, relaxed, scale_gradients, soft,
                                   soft_backward)
from ..estimators.straight_through import require_frozen
from .base import (Method, Option, QTensor, Quantizer, Staircase, check_bits, check_finite,
                   quantizers)

HOTTEST = 2000.0  # cap of the temperature, from the code
SMALLEST = 1e-30  # a tensor below it counts as all zero: 1 / q would leave float32
FLOOR = math.log(1e-3)  # how far alpha and beta may fall, relative to their start


def temperature(t0, epoch):
    """T = T0 epoch, epoch from 1, at most 2000.

    >>> [temperature(10.0, epoch) for epoch in (1, 2, 300)]
    [10.0, 20.0, 2000.0]
    """
    return min(t0 * epoch, HOTTEST)


class SigmoidSteps(Quantizer):
    """Sum of sigmoids in training, staircase in evaluation; what weights and activations share.

    levels       : (n+1,) ascending int8 or uint8
    biases, fit  : how biases and alpha start, see `initial_steps`
    learn_biases : params instead of state hold the biases
    clip, leak   : clamp of |T (beta x - b)|, 0 for none; whether steps beyond it keep the slope they had
    wide, cap    : gradients at temperature 1, times T; gradients at temperature min(T, cap), 0 for T
    mode         : training forward: "soft" | "hard" (frozen, all gradients zero) | "off" (the identity)
    """

    idempotent = False  # a level need not lie between the thresholds around it

    def __init__(self, bits, signed, levels, biases="kmeans", zero_halfwidth=0.0, learn_biases=False,
                 clip=10.0, leak=True, wide=False, cap=0.0, fit=False):
        super().__init__(bits, signed)
        self.levels, self.mode, self.frozen = levels, "soft", None
        self.kind, self.zero_halfwidth, self.fit = biases, zero_halfwidth, fit
        self.clip, self.leak, self.wide, self.cap = clip or None, leak, wide, cap
        self.params.update(log_alpha=np.zeros((), np.float32), log_beta=np.zeros((), np.float32))
        store = self.params if learn_biases else self.state
        store["biases"] = midpoints(levels.astype(np.float32))
        self.state.update(start=np.zeros(2, np.float32), temperature=np.full((), 10, np.float32))

    def init_from(self, x, rng):
        """beta = 5p/4q, or 1 for an all-zero tensor; the biases; alpha = 1/beta, or fitted to the tensor."""
        check_finite(x, "weights" if self.signed else "activations")
        q = float(np.abs(x).max())
        p = float(np.abs(self.levels.astype(np.int64)).max())
        beta = 1.25 * p / q if q > SMALLEST else 1.0
        self.biases[...], product = initial_steps(x * beta, self.levels, rng, self.kind, self.zero_halfwidth,
                                                  self.fit)
        self.params["log_beta"][...] = math.log(beta)
        self.params["log_alpha"][...] = math.log(product) - self.params["log_beta"]
        self.state["start"][...] = self.params["log_alpha"], self.params["log_beta"]
        self.state["ready"][...] = True

    @property
    def biases(self):
        """b, (n,): the stored array."""
        return self.params.get("biases", self.state.get("biases"))

    def scales(self):
        """(alpha, beta), in the dtype of the parameters."""
        self.require_ready()
        return np.exp(self.params["log_alpha"]), np.exp(self.params["log_beta"])

    def steps(self):
        """The staircase in the scaled domain."""
        return Steps(self.levels, self.biases)

    def heat(self):
        """(T of the forward, T of the gradients, their gain)."""
        t = float(self.state["temperature"])
        cooler = 1.0 if self.wide else min(t, self.cap or t)
        return t, cooler, t if self.wide else cooler

    def forward(self, x, train=False, rng=None):
        alpha, beta = self.scales()
        if not train or self.mode == "hard":
            y = (self.levels.astype(x.dtype) * alpha.astype(x.dtype))[hard_codes(x, self.thresholds(x.dtype))]
            if x.size and np.isnan(x.min()):
                y[np.isnan(x)] = np.nan
            return y, (x, y, "hard" if train else "soft")
        if self.mode == "off":
            return x, (x, x, "off")
        y = soft(x, alpha, beta, self.steps(), self.heat()[0], self.clip)  # eq. (7)
        return y, (x, y, "soft")

    def backward(self, dy, cache):
        x, y, mode = cache
        if mode != "soft":
            dx = dy if mode == "off" else np.zeros_like(dy)
            return dx, {name: np.zeros_like(array) for name, array in self.params.items()}
        alpha, beta = self.scales()
        _, t, gain = self.heat()
        how = dict(gain=gain, clip=self.clip, leak=self.leak)
        # STE: with leak, wide or cap the slope is that of `surrogate`, not of eq. (7)
        dx = soft_backward(dy, x, alpha, beta, self.steps(), t, **how)  # eqs. (8)-(10), with those below
        dlog_alpha, dlog_beta = scale_gradients(dy, x, y, dx)  # each times its scale
        grads = {"log_alpha": dlog_alpha, "log_beta": dlog_beta}
        if "biases" in self.params:
            grads["biases"] = biases_backward(dy, x, alpha, beta, self.steps(), t, **how)  # eq. (11)
        return dx, {name: np.asarray(grad, self.params[name].dtype) for name, grad in grads.items()}

    def freeze(self, x, rng=None):
        """Keep for `surrogate` what backward takes as constant at x: the slopes' alpha, and y / alpha."""
        alpha, beta = self.scales()
        self.frozen = alpha.copy(), soft(x, 1.0, beta, self.steps(), self.heat()[0], self.clip)

    def surrogate(self, x):
        """alpha_0 r(x; beta, b) + alpha h_0: r has backward's slopes, alpha_0 and h_0 are from `freeze`."""
        (alpha0, h0), (alpha, beta), (_, t, gain) = require_frozen(self.frozen), self.scales(), self.heat()
        return alpha0 * relaxed(x, beta, self.steps(), t, gain, self.clip, self.leak) + alpha * h0

    def project(self):
        for name, start in zip(("log_alpha", "log_beta"), self.state["start"]):
            np.maximum(self.params[name], start + np.asarray(FLOOR, start.dtype), out=self.params[name])
        self.biases.sort()  # out of order, unequal heights would make sums that are no level

    def thresholds(self, dtype):
        """b / beta, ascending."""
        # Deviation: x > b / beta for beta x > b, equal but for one rounding; lowering needs thresholds of x.
        return (self.biases / self.scales()[1]).astype(dtype)

    def encode(self, x):
        if np.isnan(x).any():
            raise ValueError(f"{int(np.isnan(x).sum())} of {x.size} values are NaN, which has no code")
        scale = np.asarray(self.scales()[0], x.dtype)
        return QTensor(hard_codes(x, self.thresholds(x.dtype)), self.levels, scale, self.bits)


class QNetWeight(SigmoidSteps):
    """Weights of one layer on a `level_set`; `upstream` is |dL/dy|^2 of the last backward, for clipping."""

    def __init__(self, bits, levels="uniform", wide=False, **shared):
        check_bits(bits)
        super().__init__(bits, True, level_set(bits, levels), wide=wide, **shared)
        self.upstream = 0.0

    def backward(self, dy, cache):
        self.upstream = float(np.vdot(dy, dy))
        return super().backward(dy, cache)


class QNetActivation(SigmoidSteps):
    """Activations of one layer on {0 .. 2^bits - 1}, or on the uniform signed set where they have a sign."""

    def __init__(self, bits, signed=False, cap=10.0, **shared):
        check_bits(bits)
        if signed and bits == 1:
            raise ValueError("bits=1 leaves signed activations without a level 0, which zero padding needs; "
                             "choose 2..8")
        levels = level_set(bits) if signed else np.arange(2 ** bits, dtype=np.uint8)
        super().__init__(bits, signed, levels, cap=cap, **shared)

    def staircase(self):
        thresholds = self.thresholds(self.biases.dtype)
        strict = np.zeros(len(thresholds), bool)
        return Staircase(thresholds, strict, self.levels, np.asarray(self.scales()[0]))


class QNet(Method):
    """Sums of sigmoids that harden with a rising temperature.

    Gradients are clipped in the order of the paper's code: before the quantizer's chain rule. So their joint
    norm has dL/d(quantized weight) in the place of dL/d(weight), and nothing of the weights' scales; as the
    rule is linear, min(1, clip_norm / norm) then scales everything. The training loop's clipping comes after.
    Accuracy in the first of `three` phases is low: evaluation rounds activations that nothing has trained.
    """

    name = "qnet"
    title = "Quantization Networks"
    paper = "Yang, Shen, Xing, Tian, Li, Deng, Huang, Hua, CVPR 2019, arXiv:1911.09464"
    learns = "input and output scale per tensor, through sigmoids of rising temperature; k-means biases"
    options = {
        "levels": Option("uniform", str, f"of weights: {', '.join(SETS)}, or integers such as -2,-1,0,1,2"),
        "biases": Option("auto", KINDS, "k-means on the tensor, midway between levels, or what errs less"),
        "alpha": Option("fit", ("fit", "inverse"), "start: least squares on the tensor, or 1/beta (paper)"),
        "zero_halfwidth": Option(0.0, float, "> 0: force the biases around level 0 to -+ this (paper 0.05)"),
        "learn_biases": Option(False, bool, "train the biases too (eq. 11)"),
        "t0": Option(10.0, float, "temperature of weights grows by this every epoch of the schedule"),
        "act_t0": Option(10.0, float, "the same for activations"),
        "schedule_epochs": Option(55, int, "epochs of the schedule over the whole training; 0: real epochs"),
        "temperature": Option(0.0, float, "> 0: fixed temperature without annealing, for the ablation"),
        "clip": Option(10.0, float, "clamp of T (beta x - b) before the sigmoid; 0: none, as in the paper"),
        "leak": Option(True, bool, "saturated steps keep the slope they have at the clamp"),
        "surrogate": Option("exact", ("exact", "wide"), "gradient of weights: exact, or at T = 1 times T"),
        "act_cap": Option(10.0, float, "highest temperature of the gradients of activations; 0: none"),
        "phases": Option("joint", ("joint", "three"), "all at once, or thirds: weights, activations, both"),
        "clip_norm": Option(5.0, float, "joint norm to which gradients are clipped, see the class; 0: none"),
    }

    def __init__(self, **options):
        super().__init__(**options)
        s, self.held = self.settings, {}
        for key, option in self.options.items():
            positive = key.endswith("t0")
            if option.takes in (int, float) and not (0 <= s[key] < math.inf and (s[key] or not positive)):
                raise ValueError(f"option {key}={s[key]} must be {'> 0' if positive else '>= 0'} and finite")
        if s["phases"] == "three" and s["schedule_epochs"] == 0:
            raise ValueError("option schedule_epochs=0 counts real epochs, which phases=three cannot "
                             "restart; give 1 or more, or phases=joint")
        if s["levels"] not in SETS:
            level_set(8, s["levels"])
        self.shared = {key: s[key] for key in ("biases", "zero_halfwidth", "learn_biases", "clip", "leak")}
        self.shared["fit"] = s["alpha"] == "fit"

    def weight_quantizer(self, bits, shape):
        wide = self.settings["surrogate"] == "wide"
        return QNetWeight(bits, self.settings["levels"], wide, **self.shared)

    def activation_quantizer(self, bits, signed=False):
        return QNetActivation(bits, signed, self.settings["act_cap"], **self.shared)

    def step_begin(self, model, epoch, progress):
        """Set every mode and temperature."""
        ours = [q for _, q in quantizers(model) if isinstance(q, SigmoidSteps)]
        three = self.settings["phases"] == "three" and any(isinstance(q, QNetActivation) for q in ours)
        phase = int(3 * progress + 1e-9) if three else 2
        for q in ours:
            is_weight = isinstance(q, QNetWeight)
            q.mode = (("off", "soft"), ("soft", "hard"), ("soft", "soft"))[phase][is_weight]
            idle = 1 / 3 if three and (phase or not is_weight) else 0.0  # the third that this kind sat out
            share = max(progress - idle, 0.0) * (1.5 if three else 1.0)
            q.state["temperature"][...] = self._temperature(q, epoch, share)

    def _temperature(self, quantizer, epoch, share):
        """T at `share` of the quantizer's own training time."""
        s = self.settings
        scheduled = 1 + int(share * s["schedule_epochs"] + 1e-9) if s["schedule_epochs"] else epoch
        t0 = s["t0"] if isinstance(quantizer, QNetWeight) else s["act_t0"]
        return s["temperature"] or temperature(t0, scheduled)

    def edit_gradients(self, model, grads):
        """Clip, and keep what is frozen: momentum would move it, so that `step_end` puts it back."""
        weights = [(name, q) for name, q in quantizers(model) if isinstance(q, QNetWeight)]
        own = {f"{name}.{key}" for name, q in weights for key in q.params}
        replaced = own | {name.removesuffix("_quantizer") for name, _ in weights}
        if self.settings["clip_norm"]:
            square = sum(float(np.vdot(g, g)) for name, g in grads.items() if name not in replaced)
            norm = math.sqrt(square + sum(q.upstream for _, q in weights if q.mode == "soft"))
            factor = min(1.0, self.settings["clip_norm"] / (norm + 1e-6))
            if factor < 1:
                grads = {name: g * np.asarray(factor, g.dtype) for name, g in grads.items()}
        if any(q.mode == "hard" for _, q in weights):
            params = model.named_params()
            self.held = {name: params[name].copy() for name in replaced}
        return grads

    def step_end(self, model):
        params = model.named_params()
        for name, array in self.held.items():
            params[name][...] = array
        self.held = {}
        super().step_end(model)
