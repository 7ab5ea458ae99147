"""Learned step size quantization (LSQ): the baseline that low-bit papers have to beat.

1. One step size s per layer and tensor, learned with the weights.
2. Forward rounds to the nearest of the levels -Q_N s .. Q_P s.
3. x gets the clipped straight-through gradient.
4. s gets the gradient of s round(x/s) with the rounding residual frozen: how far x is from its level.
5. That gradient is scaled by 1/sqrt(N Q_P), so that s and the weights move at comparable relative speed.

Source: Esser et al., ICLR 2020, arXiv:1902.08153; equation numbers are the paper's, read from an excerpt;
details were read off third-party code. Rounding is half to even.

    v_bar = round(clip(v/s, -Q_N, Q_P))      (1)        v_hat = v_bar s      (2)
    Q_N, Q_P: signed 2^(b-1), 2^(b-1) - 1; unsigned 0, 2^b - 1

Stored: codes, one step size per tensor.

Deviations. N of an activation is its features per image, C H W, as in the paper's text, for a loss that is
the mean over the batch (much code counts the batch too). Inside means strictly between the bounds. Signed
grids need at least 2 bits.
"""

import numpy as np

from ..estimators.straight_through import clipped_ste, clipped_ste_backward, require_frozen
from .base import Method, Option, QTensor, Quantizer, check_finite, uniform_staircase

SMALLEST_STEP = 1e-8


class LearnedStep(Quantizer):
    """Uniform quantizer of weights (signed) or activations (unsigned) with one learned params["step"].

    symmetric : Q_N = Q_P for signed grids, which leaves one code of 2^b unused
    features  : what N of the gradient scale counts: "all" elements (weights) or those of an "image"
    """

    saturates = True

    def __init__(self, bits, signed=True, symmetric=False):
        super().__init__(bits, signed)
        if signed and bits < 2:
            raise ValueError(f"bits={bits} leaves a signed grid without a positive level; choose 2..8")
        self.q_n, self.q_p = (2 ** (bits - 1), 2 ** (bits - 1) - 1) if signed else (0, 2 ** bits - 1)
        if signed and symmetric:
            self.q_n = self.q_p
        self.features = "all" if signed else "image"
        self.params["step"] = np.ones((), np.float32)
        self.frozen = None  # what `surrogate` holds fixed, set by `freeze` alone

    def init_from(self, x, rng):
        """s = 2 mean|x| / sqrt(Q_P) (section 2.1); 1 for an all-zero tensor."""
        check_finite(x, "weights" if self.signed else "activations")
        step = 2 * float(np.abs(x).mean(dtype=np.float64)) / np.sqrt(self.q_p)
        self.params["step"][...] = max(step, SMALLEST_STEP) if step > 0 else 1.0
        self.state["ready"][...] = True

    def gradient_scale(self, x):
        """1 / sqrt(N Q_P) (section 2.2)."""
        n = x.size if self.features == "all" else x[:1].size
        return 1 / np.sqrt(n * self.q_p)

    def forward(self, x, train=False, rng=None):
        self.require_ready()
        step = self.params["step"].astype(x.dtype)
        ratio = x / step
        code, inside = clipped_ste(ratio, -self.q_n, self.q_p)  # eq. (1)
        slope, scale = code - ratio * inside, self.gradient_scale(x)  # eq. (3)
        return code * step, (inside, slope, scale)  # eq. (2)

    def backward(self, dy, cache):
        inside, slope, scale = cache
        dx = clipped_ste_backward(dy, inside)  # eq. (5). STE: d round(v)/dv := 1 inside the range
        # eq. (3): d v_hat/ds = round(v/s) - v/s inside, the bound outside. STE: the residual is a constant
        dstep = np.asarray(np.vdot(dy, slope) * scale, self.params["step"].dtype)
        return dx, {"step": dstep}

    def freeze(self, x, rng=None):
        """Hold for `surrogate` what backward takes as constant at x: residuals, and their step."""
        inside, slope, scale = self.forward(x, True, rng)[1]
        self.frozen = self.params["step"].astype(x.dtype), slope, inside, scale

    def surrogate(self, x):
        """clip(x, -Q_N s, Q_P s) + s R, with the rounding residual R of `freeze`.

        The gradient scale is part of it: s stands for s_0 + (s - s_0) / sqrt(N Q_P), s_0 the step then.
        """
        frozen, slope, inside, scale = require_frozen(self.frozen)
        step = frozen + scale * (self.params["step"].astype(x.dtype) - frozen)
        return np.clip(x, -self.q_n * step, self.q_p * step) + step * (slope * inside)

    def project(self):
        np.maximum(self.params["step"], SMALLEST_STEP, out=self.params["step"])

    def encode(self, x):
        stairs, step = self.staircase(), self.params["step"].astype(x.dtype)
        code = np.rint(np.clip(x / step, -self.q_n, self.q_p)) + self.q_n
        return QTensor(code.astype(np.uint8), stairs.levels, step, self.bits)

    def staircase(self):
        return uniform_staircase(self.params["step"], -self.q_n, self.q_p, ties="even")


class LSQ(Method):
    """Learned step sizes for weights and activations."""

    name = "lsq"
    title = "Learned Step Size Quantization"
    paper = "Esser et al., ICLR 2020, arXiv:1902.08153"
    learns = "one step size per weight tensor and per activation"
    weight_bits = tuple(range(2, 9))
    options = {"symmetric": Option(False, bool, "weight codes -Q..Q instead of -Q-1..Q")}

    def weight_quantizer(self, bits, shape):
        return LearnedStep(bits, True, self.settings["symmetric"])

    def activation_quantizer(self, bits, signed=False):
        return LearnedStep(bits, signed)
