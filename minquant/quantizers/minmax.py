"""Min-max quantization with the plain straight-through estimator: the baseline every paper is measured against.

The step size is read off the largest value, nothing is learned, and rounding is differentiated as the identity.
It is fine at 8 bits and collapses at 2, where one outlier sets the step and almost everything else rounds to 0.
Rounding is half to even. Sources: Jacob et al. 2018 (arXiv:1712.05877), section 3, for the ranges and their moving
average; the estimator is Bengio et al. 2013 (arXiv:1308.3432).

Weights       s = max|w| / Q, Q = 2^(b-1) - 1;   k = clip(rint(w/s), -Q, Q);   w_hat = s k;   dw = dw_hat
Activations   lo = min(0, running min), hi = running max;  unsigned: s = hi / (2^b - 1), codes 0..2^b - 1;
              signed: s = max(|lo|, |hi|) / Q, codes -Q..Q;   dx = dy where the code was not clipped

Stored: codes, one scale per tensor (or per output channel); the integer kernels run them as they are.

Deviations. At 1 bit Q is 0: weights take the two levels -s and +s with s = mean|w| instead, the binary weight of
`baselines`, so that every bit-width is defined. Activations after a ReLU have lo = 0 and need no zero point.
"""

import numpy as np

from ..estimators.straight_through import clipped_ste, clipped_ste_backward
from .base import Method, Option, QTensor, Quantizer, check_finite, uniform_staircase


class MinMaxWeight(Quantizer):
    """Symmetric uniform weights, codes -Q..Q, per tensor or per output channel (the last axis)."""

    def __init__(self, bits, per_channel=False):
        super().__init__(bits, signed=True)
        self.per_channel = per_channel

    def init_from(self, x, rng):
        check_finite(x)
        self.state["ready"][...] = True

    def scale(self, x):
        """Step size of x: () per tensor, (O,) per output channel. An all-zero tensor or channel gets 1."""
        axes = tuple(range(x.ndim - 1)) if self.per_channel else None
        if self.bits == 1:
            step = np.abs(x).mean(axes)
        else:
            step = np.abs(x).max(axes) / np.asarray(2 ** (self.bits - 1) - 1, x.dtype)
        return np.where(step > 0, step, 1).astype(x.dtype)

    def _levels(self, x, step):
        if self.bits == 1:
            return np.where(x >= 0, 1, -1).astype(x.dtype)
        q = 2 ** (self.bits - 1) - 1
        return np.clip(np.rint(x / step), -q, q)

    def forward(self, x, train=False, rng=None):
        step = self.scale(x)
        return self._levels(x, step) * step, None

    def backward(self, dy, cache):
        return dy, {}  # STE: d rint(v)/dv := 1 and the step size is a constant; nothing is clipped

    def surrogate(self, x):
        return x

    def encode(self, x):
        step = self.scale(x)
        q = 2 ** (self.bits - 1) - 1
        levels = np.array([-1, 1], np.int8) if self.bits == 1 else np.arange(-q, q + 1, dtype=np.int8)
        codes = np.searchsorted(levels, self._levels(x, step)).astype(np.uint8)
        return QTensor(codes, levels, step, self.bits, axis=x.ndim - 1 if self.per_channel else None)


class MinMaxActivation(Quantizer):
    """Uniform activations on a range that follows the batches: running <- (1 - momentum) running + momentum batch."""

    def __init__(self, bits, signed=False, momentum=0.1):
        super().__init__(bits, signed)
        if signed and bits == 1:
            raise ValueError("bits=1 leaves a signed grid with zero in the middle no other level; choose 2..8")
        self.momentum = momentum
        self.state["high"] = np.ones((), np.float32)
        self.n_max = 2 ** (bits - 1) - 1 if signed else 2 ** bits - 1
        self.n_min = -self.n_max if signed else 0

    def init_from(self, x, rng):
        check_finite(x, "activations")
        self.state["high"][...] = self._high(x) or 1.0
        self.state["ready"][...] = True

    def _high(self, x):
        return max(float(x.max()), -float(x.min()) if self.signed else 0.0)

    def step(self):
        """The step size s, a scalar of the state's dtype."""
        return self.state["high"] / np.asarray(self.n_max, self.state["high"].dtype)

    def forward(self, x, train=False, rng=None):
        self.require_ready()
        if train:
            self.state["high"] += self.momentum * (max(self._high(x), 1e-12) - self.state["high"])
        step = self.step().astype(x.dtype)
        codes, inside = clipped_ste(x / step, self.n_min - 0.5, self.n_max + 0.5)
        return np.clip(codes, self.n_min, self.n_max) * step, inside

    def backward(self, dy, cache):
        return clipped_ste_backward(dy, cache), {}  # STE: 1 where the code was not clipped; the range is a constant

    def surrogate(self, x):
        step = self.step().astype(x.dtype)
        return np.clip(x, (self.n_min - 0.5) * step, (self.n_max + 0.5) * step)

    def encode(self, x):
        stairs = self.staircase()
        step = self.step().astype(x.dtype)
        codes = np.clip(np.rint(x / step), self.n_min, self.n_max) - self.n_min
        return QTensor(codes.astype(np.uint8), stairs.levels, step, self.bits)

    def staircase(self):
        return uniform_staircase(self.step(), self.n_min, self.n_max, ties="even")


class MinMax(Method):
    """Min-max step sizes and the plain straight-through estimator."""

    name = "minmax"
    title = "Min-max quantization with a straight-through estimator"
    paper = "Jacob et al., CVPR 2018, arXiv:1712.05877; Bengio et al. 2013, arXiv:1308.3432"
    learns = "nothing: the ranges follow the data"
    options = {"per_channel": Option(False, bool, "one weight scale per output channel instead of one per tensor")}

    def weight_quantizer(self, bits, shape):
        return MinMaxWeight(bits, self.settings["per_channel"])

    def activation_quantizer(self, bits, signed=False):
        return MinMaxActivation(bits, signed)
