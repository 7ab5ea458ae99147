"""Additive powers of two (APoT): levels are sums of few powers of two, dense around zero, on a learned range.

1. Levels: sums of one element from each of a few sets of powers of two, divided by the largest sum. All are
   small integers over one denominator, so multiplying by a level is shifting and adding.
2. Weights are normalised, w_n = (w - mean)/std (std with N - 1), and divided by the learned clip alpha: r =
   w_n / alpha.
3. w_hat = alpha sign(r) proj(min(|r|, 1)), proj the nearest level, ties to the lower one. Activations, behind
   a ReLU: x_hat = alpha proj(clip(x / alpha, 0, 1)).
4. Backward: dw_n = g where |r| <= 1; dalpha = sum g {sign(r) if |r| > 1, w_hat/alpha - r otherwise}, 0 for r
   < 0 behind a ReLU; through the normalisation dw = (dw_n - mean(dw_n) - w_n sum(dw_n w_n)/(N - 1)) / std.
5. 2-bit weights have no power-of-two set: they are ternary, and their gradient is not clipped (dw_n = g).

Source: Li, Dong, Wang, ICLR 2020 (arXiv:1909.13144), read from the official code; the normalisation is
differentiated as in its ImageNet variant, the unclipped gradient is that of its CIFAR variant. Stored:
numerators (int8 or uint8) and alpha over the denominator; mean and std are gone.

Deviations. Bits are those whose numerators fit: 2..6 for weights, 2..5 for activations (6 bits of magnitude
need 448). A tensor that is constant up to rounding has std 1 and becomes 0. keep_scale multiplies the weights
by the std of the float network, so that a fine-tuning starts near that network's function; off, weights stay
at the unit variance of the paper, which keeps the last layer, where no batch norm undoes it, at 8 bits. The
initial activation clip is at most the largest activation seen, since above that levels are wasted. alpha
learns at 10 (weights) and 20 (activations) times the weights' rate, chosen for Adam, which moves every
parameter by about that rate; the code's 1/2 and 5/2 are for SGD. First and last layer: choose with
first_last.
"""

import numpy as np

from ..estimators.straight_through import clipped_ste_backward, identity_ste_backward, require_frozen
from .base import Method, Option, QTensor, Quantizer, Staircase, check_bits, check_finite
from .dorefa import refuse_signed

# Magnitude bits -> the additive sets, as integers: powers of two over the smallest one.
TERMS = {
    1: ((0, 1),),
    2: ((0, 4, 2, 1),),
    3: ((0, 8, 4, 1), (0, 2)),
    4: ((0, 32, 8, 2), (0, 16, 4, 1)),
    5: ((0, 64, 16, 2), (0, 32, 8, 1), (0, 4)),
    6: ((0, 256, 32, 4), (0, 128, 16, 2), (0, 64, 8, 1)),
}
SMALLEST_CLIP = 1e-3


def apot_numerators(bits):
    """Ascending integers of 2^bits magnitude levels; the last one is the denominator.

    >>> apot_numerators(3)
    array([ 0,  1,  2,  3,  4,  6,  8, 10])
    """
    sums = np.zeros(1, int)
    for terms in TERMS[bits]:
        sums = np.add.outer(sums, terms).ravel()
    return np.sort(sums)


def pot_numerators(bits):
    """The plain powers of two, for comparison: 0 and 2^0 .. 2^(2^bits - 2), which crowd at zero."""
    return np.r_[0, 2 ** np.arange(2 ** bits - 1)]


class _APoT(Quantizer):
    """What weights and activations share: magnitudes numerators/denominator on [0, alpha], alpha learned."""

    def __init__(self, bits, signed, magnitude_bits, start):
        super().__init__(bits, signed)
        self.numerators = apot_numerators(magnitude_bits)
        self.denominator = int(self.numerators[-1])
        sums = self.numerators[:-1] + self.numerators[1:]
        self.middles = sums / (2 * self.denominator)
        # the sums are integers, so the nearest level is a lookup: sums < y means the same as sums < ceil(y)
        self.index = np.searchsorted(sums, np.arange(2 * self.denominator + 1))
        self.start = start
        self.params["alpha"] = np.full((), start, np.float32)
        self.frozen = None  # slope, mask and alpha, set by `freeze` alone

    def nearest(self, r):
        """Index of the level nearest to r, 0 for r below 0, the last beyond 1; ties go to the lower one."""
        top = np.asarray(2 * self.denominator, r.dtype)
        return self.index[np.ceil(np.clip(r * top, 0, top)).astype(np.intp)]

    def step(self, dtype):
        """alpha / denominator: what one unit of a numerator is worth."""
        return self.params["alpha"].astype(dtype) / np.asarray(self.denominator, dtype)

    def _slope(self, r, level, inside):
        """d x_hat / d alpha: level - r inside, where the residual is frozen, and the level beyond."""
        return level - r * inside

    def freeze(self, x, rng=None):
        """Hold for `surrogate` what backward takes as constant at x: residuals, and their alpha."""
        *_, inside, slope = self.forward(x, True, rng)[1]
        self.frozen = slope, inside, self.params["alpha"].astype(x.dtype)

    def _clip_surrogate(self, x, low):
        """clip(x, low alpha, alpha) + alpha R with the residual R of `freeze`."""
        slope, inside, _ = require_frozen(self.frozen)
        alpha = self.params["alpha"].astype(x.dtype)
        return np.clip(x, low * alpha, alpha) + alpha * (slope * inside)

    def project(self):
        np.maximum(self.params["alpha"], SMALLEST_CLIP, out=self.params["alpha"])


class APoTWeight(_APoT):
    """Normalised weights on signed APoT levels (2 bits: ternary).

    clip_gradient : dw_n = g only where |r| <= 1; None chooses the recommended True, except at 2 bits
    keep_scale    : multiply by the std at initialisation, state["gain"], instead of 1
    """

    lr_scale = {"alpha": 10.0}

    def __init__(self, bits, keep_scale=False, clip_gradient=None, start=3.0):
        check_bits(bits, range(2, 7))
        super().__init__(bits, True, bits - 1, start)
        self.keep_scale = keep_scale
        self.clip_gradient = bits > 2 if clip_gradient is None else clip_gradient
        self.levels = np.r_[-self.numerators[:0:-1], self.numerators].astype(np.int8)
        self.state["gain"] = np.ones((), np.float32)

    def init_from(self, x, rng):
        check_finite(x)
        self.params["alpha"][...] = self.start
        self.state["gain"][...] = self.normalise(x)[1] if self.keep_scale else 1
        self.state["ready"][...] = True

    def normalise(self, x):
        """Return ((x - mean) / std, std); std is 1 for a tensor that is constant up to rounding."""
        centred = x - x.mean()
        std = np.sqrt(np.vdot(centred, centred) / max(x.size - 1, 1))
        if std <= 8 * np.finfo(x.dtype).eps * np.abs(x).max():
            return np.zeros_like(x), np.ones((), x.dtype)
        return centred / std, std

    def _codes(self, r):
        """Index into `levels` of every r."""
        half = len(self.numerators) - 1
        index = self.nearest(np.abs(r))
        return np.where(r < 0, half - index, half + index)

    def _scale(self, dtype):
        return self.step(dtype) * self.state["gain"].astype(dtype)

    def forward(self, x, train=False, rng=None):
        self.require_ready()
        normal, std = self.normalise(x)
        alpha = self.params["alpha"].astype(x.dtype)
        r = normal / alpha
        level = self.levels.astype(x.dtype)[self._codes(r)]
        inside = np.abs(r) <= 1
        slope = self._slope(r, level / np.asarray(self.denominator, x.dtype), inside)
        return level * self._scale(x.dtype), (normal, std, inside, slope)

    def backward(self, dy, cache):
        normal, std, inside, slope = cache
        g = dy * self.state["gain"].astype(dy.dtype)
        dalpha = np.asarray(np.vdot(g, slope), self.params["alpha"].dtype)
        # STE: d proj(v)/dv := 1 inside; at 2 bits outside as well
        dnormal = clipped_ste_backward(g, inside) if self.clip_gradient else identity_ste_backward(g)
        return normalise_backward(dnormal, normal, std), {"alpha": dalpha}

    def surrogate(self, x):
        """gain (clip(w_n, -alpha, alpha) + alpha R), R frozen; unclipped: and w_n beyond the frozen alpha."""
        normal, _ = self.normalise(x)
        y = self._clip_surrogate(normal, -1)
        if not self.clip_gradient:
            alpha = self.frozen[2]
            y = y + normal - np.clip(normal, -alpha, alpha)
        return self.state["gain"].astype(x.dtype) * y

    def encode(self, x):
        self.require_ready()
        normal, _ = self.normalise(x)
        codes = self._codes(normal / self.params["alpha"].astype(x.dtype))
        return QTensor(codes.astype(np.uint8), self.levels, self._scale(x.dtype), self.bits)


def normalise_backward(dnormal, normal, std):
    """dw = (dw_n - mean(dw_n) - w_n sum(dw_n w_n) / (N - 1)) / std."""
    inner = np.vdot(dnormal, normal) / max(dnormal.size - 1, 1)
    return (dnormal - dnormal.mean() - normal * inner) / std


class APoTActivation(_APoT):
    """Activations behind a ReLU on unsigned APoT levels."""

    saturates = True

    lr_scale = {"alpha": 20.0}

    def __init__(self, bits, start=8.0):
        check_bits(bits, range(2, 6))
        super().__init__(bits, False, bits, start)
        self.levels = self.numerators.astype(np.uint8)

    def init_from(self, x, rng):
        check_finite(x, "activations")
        largest = float(x.max())
        start = min(self.start, largest) if largest > 0 else self.start
        self.params["alpha"][...] = max(start, SMALLEST_CLIP)
        self.state["ready"][...] = True

    def forward(self, x, train=False, rng=None):
        self.require_ready()
        alpha = self.params["alpha"].astype(x.dtype)
        r = x / alpha
        level = self.levels.astype(x.dtype)[self.nearest(r)]
        inside = (r >= 0) & (r <= 1)
        slope = self._slope(r, level / np.asarray(self.denominator, x.dtype), inside)
        return level * self.step(x.dtype), (inside, slope)

    def backward(self, dy, cache):
        inside, slope = cache
        dx = clipped_ste_backward(dy, inside)  # STE: d proj(v)/dv := 1 inside [0, 1]
        return dx, {"alpha": np.asarray(np.vdot(dy, slope), self.params["alpha"].dtype)}

    def surrogate(self, x):
        """clip(x, 0, alpha) + alpha R, R frozen."""
        return self._clip_surrogate(x, 0)

    def encode(self, x):
        self.require_ready()
        codes = self.nearest(x / self.params["alpha"].astype(x.dtype))
        return QTensor(codes.astype(np.uint8), self.levels, self.step(x.dtype), self.bits)

    def staircase(self):
        alpha = self.params["alpha"]
        ties = np.zeros(len(self.middles), bool)
        return Staircase(self.middles.astype(alpha.dtype) * alpha, ties, self.levels, self.step(alpha.dtype))


class APoT(Method):
    """Additive-powers-of-two levels for weights and activations."""

    name = "apot"
    title = "Additive powers-of-two quantization"
    paper = "Li, Dong, Wang, ICLR 2020, arXiv:1909.13144"
    learns = "one clip alpha per weight tensor and per activation"
    weight_bits = tuple(range(2, 7))
    act_bits = (*range(2, 6), None)
    options = {"keep_scale": Option(True, bool, "keep the scale of the float weights; false: variance 1")}

    def weight_quantizer(self, bits, shape):
        return APoTWeight(bits, self.settings["keep_scale"])

    def activation_quantizer(self, bits, signed=False):
        refuse_signed(self.name, signed)
        return APoTActivation(bits)
