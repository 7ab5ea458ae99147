"""Min-max quantization with the plain straight-through estimator: what every paper is measured against.

The step size is read off the largest value, nothing is learned, and rounding is differentiated as the
identity. It is fine at 8 bits and collapses at 2, where one outlier sets the step and almost everything else
rounds to 0. Rounding is half to even. Sources: Jacob et al. 2018 (arXiv:1712.05877), section 3, for the
ranges and their moving average (its decay, 0.9 here, is from memory); the estimator is Bengio et al. 2013
(arXiv:1308.3432).

Weights       s = max|w| / Q, Q = 2^(b-1) - 1;   k = clip(rint(w/s), -Q, Q);   w_hat = s k;   dw = dw_hat
Activations   range [lo, hi] widened to hold 0;   s = (hi - lo) / n, z = clip(rint(-lo/s), 0, n), n = 2^b - 1;
              v = rint(x/s) + z;   x_hat = s (clip(v, 0, n) - z);   dx = dy where 0 <= v <= n
              behind a ReLU lo = 0 and z = 0; signed: the codes -Q..Q on max|x|, which is z = Q, n = 2Q

Stored: codes, one scale per tensor (or per output channel); the integer kernels run them as they are.

Deviations. At 1 bit Q is 0: weights take the two levels -s and +s with s = mean|w| instead, the binary weight
of `ternary`, so that every bit-width is defined. Signed activations use the symmetric codes -Q..Q, because a
general zero point moves 8-bit levels out of int8; `affine_grid` and `affine` give the general form.
"""

import numpy as np

from ..estimators.straight_through import clipped_ste_backward
from .base import Method, Option, QTensor, Quantizer, check_finite, uniform_staircase


def affine_grid(low, high, bits):
    """Step size and zero point (s, z) of codes 0..2^b - 1 on [low, high] widened to hold 0; s = 1 on [0, 0].

    >>> affine_grid(-0.5, 1.0, 2)
    (0.5, 1)
    """
    low, high, n = min(low, 0), max(high, 0), 2 ** bits - 1
    step = (high - low) / n if high > low else 1.0
    return step, int(np.clip(np.rint(-low / step), 0, n))


def affine(x, step, zero, n):
    """Return (codes as floats, inside): clip(rint(x/s) + z, 0, n), and the mask 0 <= rint(x/s) + z <= n."""
    v = x / step
    np.rint(v, out=v)
    if zero:
        v += zero
    inside = (v >= 0) & (v <= n)
    return np.clip(v, 0, n, out=v), inside


class MinMaxWeight(Quantizer):
    """Symmetric uniform weights, codes -Q..Q, per tensor or per output channel (the last axis)."""

    def __init__(self, bits, per_channel=False):
        super().__init__(bits, signed=True)
        self.per_channel = per_channel

    def init_from(self, x, rng):
        check_finite(x)
        self.state["ready"][...] = True

    def scale(self, x):
        """Step size of x: () per tensor, (O,) per output channel; for zeros 1, at 1 bit 0."""
        axes = tuple(range(x.ndim - 1)) if self.per_channel else None
        if self.bits == 1:
            return np.asarray(np.abs(x).mean(axes), x.dtype)
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


class RangeActivation(Quantizer):
    """Uniform activations on [0, high], codes 0..2^b - 1, or signed on [-high, high], codes -Q..Q.

    What activation grids with one upper end share. A subclass creates state["high"] and sets it, or says in
    `high()` what takes its place; the range is a constant of the backward unless it says otherwise.
    """

    saturates = True

    def __init__(self, bits, signed=False):
        super().__init__(bits, signed)
        if signed and bits == 1:
            raise ValueError("bits=1 leaves a signed grid around zero no other level; choose 2..8")
        self.zero = 2 ** (bits - 1) - 1 if signed else 0
        self.n = 2 * self.zero if signed else 2 ** bits - 1

    def high(self):
        """The upper end of the range, a scalar array."""
        return self.state["high"]

    def step(self):
        """The step size s, a scalar of the range's dtype; 1 where the range is empty."""
        high = self.high()
        return np.where(high > 0, high / np.asarray(self.n - self.zero, high.dtype), 1).astype(high.dtype)

    def _codes(self, x):
        self.require_ready()
        step = self.step().astype(x.dtype)
        return *affine(x, step, self.zero, self.n), step

    def forward(self, x, train=False, rng=None):
        codes, inside, step = self._codes(x)
        if self.zero:
            codes -= self.zero
        codes *= step
        return codes, inside

    def backward(self, dy, cache):
        # STE: 1 where the code was not clipped; the range is a constant
        return clipped_ste_backward(dy, cache), {}

    def surrogate(self, x):
        step = self.step().astype(x.dtype)
        return np.clip(x, (-self.zero - 0.5) * step, (self.n - self.zero + 0.5) * step)

    def encode(self, x):
        codes, _, step = self._codes(x)
        return QTensor(codes.astype(np.uint8), self.staircase().levels, step, self.bits)

    def staircase(self):
        return uniform_staircase(self.step(), -self.zero, self.n - self.zero, ties="even")


class MinMaxActivation(RangeActivation):
    """The range follows the batches: running <- (1 - momentum) running + momentum batch in training."""

    def __init__(self, bits, signed=False, momentum=0.1):
        super().__init__(bits, signed)
        self.momentum = momentum
        self.state["high"] = np.ones((), np.float32)

    def init_from(self, x, rng):
        check_finite(x, "activations")
        self.state["high"][...] = self._reach(x)
        self.state["ready"][...] = True

    def _reach(self, x):
        return max(float(x.max()), -float(x.min()) if self.signed else 0.0)

    def forward(self, x, train=False, rng=None):
        if train:
            self.require_ready()
            self.state["high"] += self.momentum * (self._reach(x) - self.state["high"])
        return super().forward(x)


class MinMax(Method):
    """Min-max step sizes and the plain straight-through estimator."""

    name = "minmax"
    title = "Min-max quantization with a straight-through estimator"
    paper = "Jacob et al., CVPR 2018, arXiv:1712.05877; Bengio et al. 2013, arXiv:1308.3432"
    learns = "nothing: the ranges follow the data"
    options = {"per_channel": Option(False, bool, "one weight scale per output channel, not one per tensor")}

    def weight_quantizer(self, bits, shape):
        return MinMaxWeight(bits, self.settings["per_channel"])

    def activation_quantizer(self, bits, signed=False):
        return MinMaxActivation(bits, signed)
