"""DoReFa-Net and PACT: squash the weights by tanh, clip the activations, and round both uniformly.

DoReFa (weights, activations, and the gradients too):
1. t = tanh(w), M = max|t|, u = t/(2M) + 1/2 in [0, 1]; w_hat = 2 rint(n u)/n - 1, n = 2^b - 1: 2^b levels,
   none of them 0. Backward is the straight-through one through rint and the exact one through tanh and
   (option) the maximum.
2. At 1 bit w_hat = E sign(w) with E = mean|w| of the tensor, and dw = dw_hat.
3. Activations: y = clip(x, 0, 1), x_hat = rint(n y)/n, dx = dy where 0 <= x <= 1.
4. Gradients (option grad_bits): per image M = max|dr|, u = clip(dr/(2M) + 1/2 + N/n_G, 0, 1), N ~ U(-1/2,
   1/2), dr_hat = 2M (rint(n_G u)/n_G - 1/2): unbiased where nothing is clipped.
PACT (activations; its weights are DoReFa's):
5. y = clip(x, 0, alpha), x_hat = rint(y n/alpha) alpha/n; dx = dy where 0 < x < alpha, dalpha = sum of dy
   where x >= alpha, + 2 lambda alpha from its L2 penalty. The step alpha/n is a constant of the backward:
   unlike LSQ, alpha does not see the rounding residual.

Sources. DoReFa: Zhou et al. 2016 (arXiv:1606.06160), formulas from the official code (tensorpack). PACT: Choi
et al. 2018 (arXiv:1805.06085), formulas from third-party code (distiller), lambda from memory. Rounding is
half to even. Stored: weights as the odd integers 2 rint(n u) - n (int8) with scale 1/n, activations as 0..n
with scale 1/n or alpha/n.

Deviations. 8-bit weights are refused: odd integers up to 255 do not fit int8. An all-zero tensor has M = 1
and falls on the level next to 0, because there is no level 0. Gradients are quantized where they leave an
activation quantizer, the official code does it at the convolution's output, one batch norm further.
keep_scale multiplies the weights by the M that the float network had, so that a fine-tuning starts from the
function of that network; off, the range is [-1, 1] as in the paper, which trains from scratch and leaves the
last layer, which has no batch norm to undo it, in float. The initial alpha is at most the largest activation
seen, since above that it gets no gradient; alpha stays >= 0.001, and learns at 20 times the weights' rate,
chosen for Adam, which moves every parameter by about that rate.
"""

import numpy as np

from ..estimators.straight_through import clipped_ste_backward, identity_ste_backward, require_frozen
from .base import Method, Option, QTensor, Quantizer, check_bits, check_finite
from .minmax import RangeActivation

SMALLEST_CLIP = 1e-3
FLOAT_GRADIENTS = 32


class DoReFaWeight(Quantizer):
    """w_hat = gain (2 rint(n u) - n) / n with u = tanh(w) / (2 max|tanh w|) + 1/2; at 1 bit mean|w| sign(w).

    through_max : let the gradient flow through the maximum, as the official code does
    keep_scale  : gain is max|tanh w| at initialisation instead of 1
    """

    def __init__(self, bits, through_max=True, keep_scale=False):
        check_bits(bits, range(1, 8))
        super().__init__(bits, signed=True)
        self.through_max, self.keep_scale = through_max, keep_scale
        self.n = 2 ** bits - 1
        self.state["gain"] = np.ones((), np.float32)
        self.frozen = None  # max|tanh w|, set by `freeze` alone

    def init_from(self, x, rng):
        check_finite(x)
        self.state["gain"][...] = self._squash(x)[1] if self.keep_scale and self.bits > 1 else 1
        self.state["ready"][...] = True

    def _squash(self, x):
        t = np.tanh(x)
        return t, np.abs(t).max() or np.ones((), x.dtype)

    def _codes(self, x):
        """Return (codes 0..n as floats, scale of the levels 2 code - n, (t, M))."""
        if self.bits == 1:
            return (x >= 0).astype(x.dtype), np.asarray(np.abs(x).mean(), x.dtype), None
        t, top = self._squash(x)
        u = t / (2 * top) + np.asarray(0.5, x.dtype)
        return np.rint(self.n * u), self.state["gain"].astype(x.dtype) / np.asarray(self.n, x.dtype), (t, top)

    def forward(self, x, train=False, rng=None):
        codes, scale, cache = self._codes(x)
        return (2 * codes - self.n) * scale, cache

    def backward(self, dy, cache):
        if self.bits == 1:
            return identity_ste_backward(dy), {}  # STE: d sign(v)/dv := 1, and E is a constant
        t, top = cache
        g = dy * self.state["gain"].astype(dy.dtype)
        dt = g / top  # STE: d rint(v)/dv := 1
        if self.through_max:
            place = np.unravel_index(np.abs(t).argmax(), t.shape)
            dt[place] -= np.sign(t[place]) * np.vdot(g, t / top) / top  # a small top squared would be 0
        return dt * (1 - t * t), {}

    def freeze(self, x, rng=None):
        """Hold for `surrogate` the maximum of x, a constant of backward if no gradient flows through it."""
        self.frozen = self._squash(x)[1]

    def surrogate(self, x):
        """gain tanh(w) / M, M that of `freeze` if no gradient flows through it; 1 bit: w."""
        if self.bits == 1:
            return x
        t, top = self._squash(x)
        top = top if self.through_max else require_frozen(self.frozen)
        return self.state["gain"].astype(x.dtype) * t / top

    def encode(self, x):
        codes, scale, _ = self._codes(x)
        return QTensor(codes.astype(np.uint8), np.arange(-self.n, self.n + 1, 2, np.int8), scale, self.bits)


class DoReFaActivation(RangeActivation):
    """rint(n clip(x, 0, 1)) / n; `grad_bits` below 32 quantizes the gradient that leaves it."""

    def __init__(self, bits, grad_bits=FLOAT_GRADIENTS):
        super().__init__(bits, signed=False)
        self.grad_bits = grad_bits
        self.state["high"] = np.ones((), np.float32)

    def init_from(self, x, rng):
        check_finite(x, "activations")
        self.state["ready"][...] = True

    def forward(self, x, train=False, rng=None):
        y, _ = super().forward(x)
        seed = None
        if train and self.grad_bits < FLOAT_GRADIENTS:
            if rng is None:
                raise ValueError("quantized gradients draw noise; pass rng=numpy.random.Generator to forward")
            seed = int(rng.integers(2 ** 63))  # backward draws the noise, so that memory stays that of a mask
        return y, ((x >= 0) & (x <= 1), seed)

    def backward(self, dy, cache):
        inside, seed = cache
        dx = clipped_ste_backward(dy, inside)  # STE: d rint(v)/dv := 1 inside [0, 1]
        if seed is not None:
            noise = np.random.default_rng(seed).random(dx.shape, np.float32).astype(dx.dtype)
            dx = quantize_gradient(dx, self.grad_bits, noise - np.asarray(0.5, dx.dtype))
        return dx, {}

    def surrogate(self, x):
        """clip(x, 0, 1), what backward differentiates as long as gradients are not quantized."""
        return np.clip(x, 0, 1)


def quantize_gradient(dr, bits, noise):
    """dr on 2^bits levels between -M and M, M = max|dr| of each image (first axis); noise in [-1/2, 1/2)."""
    n = np.asarray(2 ** bits - 1, dr.dtype)
    top = np.abs(dr).max(tuple(range(1, dr.ndim)), keepdims=True)
    top = np.where(top > 0, top, 1).astype(dr.dtype)
    half = np.asarray(0.5, dr.dtype)
    u = np.clip(dr / (2 * top) + half + noise / n, 0, 1)
    return 2 * top * (np.rint(n * u) / n - half)


class PACTActivation(RangeActivation):
    """Activations with a learned clip, params["alpha"]; lambda is `decay`, the factor of its L2 penalty."""

    lr_scale = {"alpha": 20.0}

    def __init__(self, bits, decay=0.0, start=8.0):
        super().__init__(bits, signed=False)
        self.decay, self.initial = decay, start
        self.params["alpha"] = np.full((), start, np.float32)

    def high(self):
        return self.params["alpha"]

    def init_from(self, x, rng):
        check_finite(x, "activations")
        largest = float(x.max())
        start = min(self.initial, largest) if largest > 0 else self.initial
        self.params["alpha"][...] = max(start, SMALLEST_CLIP)
        self.state["ready"][...] = True

    def forward(self, x, train=False, rng=None):
        y, _ = super().forward(x)
        alpha = self.params["alpha"].astype(x.dtype)
        return y, ((x > 0) & (x < alpha), x >= alpha)

    def backward(self, dy, cache):
        inside, above = cache
        dalpha = np.asarray(dy.sum(where=above), self.params["alpha"].dtype)
        # STE: d rint(v)/dv := 1, and alpha/n is a constant
        return clipped_ste_backward(dy, inside), {"alpha": dalpha}

    def surrogate(self, x):
        """clip(x, 0, alpha) = (|x| - |x - alpha| + alpha) / 2."""
        return np.clip(x, 0, self.params["alpha"].astype(x.dtype))

    def penalty(self):
        """lambda alpha^2 and its gradient 2 lambda alpha."""
        alpha = self.params["alpha"]
        return self.decay * float(alpha) ** 2, {"alpha": np.asarray(2 * self.decay * alpha, alpha.dtype)}

    def project(self):
        np.maximum(self.params["alpha"], SMALLEST_CLIP, out=self.params["alpha"])


WEIGHT_OPTIONS = {
    "through_max": Option(True, bool, "let the weight gradient flow through max|tanh w|, as official"),
    "keep_scale": Option(True, bool, "keep the range of the float weights; false is the paper's [-1, 1]"),
}


class DoReFa(Method):
    """Tanh-squashed weights, activations clipped at 1, optionally quantized gradients."""

    name = "dorefa"
    title = "DoReFa-Net: low-bit weights, activations and gradients"
    paper = "Zhou et al. 2016, arXiv:1606.06160"
    learns = "nothing: tanh and a fixed clip at 1"
    weight_bits = tuple(range(1, 8))
    options = {**WEIGHT_OPTIONS,
               "grad_bits": Option(FLOAT_GRADIENTS, int, "bits of gradients, 2..8; 32: float")}

    def __init__(self, **options):
        super().__init__(**options)
        bits = self.settings.get("grad_bits", FLOAT_GRADIENTS)
        if bits != FLOAT_GRADIENTS and bits not in range(2, 9):
            raise ValueError(f"option grad_bits={bits} is not in 2..8, nor {FLOAT_GRADIENTS} (float)")

    def weight_quantizer(self, bits, shape):
        return DoReFaWeight(bits, self.settings["through_max"], self.settings["keep_scale"])

    def activation_quantizer(self, bits, signed=False):
        refuse_signed(self.name, signed)
        return DoReFaActivation(bits, self.settings["grad_bits"])


class PACT(DoReFa):
    """DoReFa's weights, activations clipped at a learned alpha."""

    name = "pact"
    title = "PACT: parameterized clipping activation"
    paper = "Choi et al. 2018, arXiv:1805.06085"
    learns = "one clip alpha per activation"
    options = {**WEIGHT_OPTIONS,
               "alpha_decay": Option(2e-4, float, "factor of the L2 penalty on alpha, >= 0"),
               "alpha_init": Option(8.0, float, "largest initial alpha, > 0")}

    def __init__(self, **options):
        super().__init__(**options)
        decay, start = self.settings["alpha_decay"], self.settings["alpha_init"]
        if not 0 <= decay < np.inf:
            raise ValueError(f"option alpha_decay={decay} must be >= 0 and finite")
        if not SMALLEST_CLIP <= start < np.inf:
            raise ValueError(f"option alpha_init={start} must be at least {SMALLEST_CLIP} and finite")

    def activation_quantizer(self, bits, signed=False):
        refuse_signed(self.name, signed)
        return PACTActivation(bits, self.settings["alpha_decay"], self.settings["alpha_init"])


def refuse_signed(name, signed):
    """Raise ValueError for signed activations, which a clip at 0 would halve."""
    if signed:
        raise ValueError(f"method '{name}' clips activations at 0; use it behind a ReLU (signed=False)")
