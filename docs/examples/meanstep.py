"""Mean-step quantization: the step size follows the mean magnitude of the weights.

1. s = c mean|w| / Q with Q = 2^(b-1) - 1 and c = 4: for Gaussian weights the range ends at 3.2 standard deviations.
2. k = clip(rint(w / s), -Q, Q), w_hat = s k. Rounding is half to even.
3. Backward: dw = dw_hat where the code was not clipped; s is a constant.

Stored: codes -Q..Q and s. Source: made up for this page. Activations are those of min-max.
"""

import numpy as np

from minquant.quantizers.base import Method, QTensor, Quantizer, check_finite
from minquant.quantizers.minmax import MinMaxActivation

REACH = 4.0


class MeanStepWeight(Quantizer):
    """Symmetric uniform weights of 2..8 bits on a grid that reaches to 4 mean|w|."""

    idempotent = False  # rounding moves mean|w|, and the grid with it
    saturates = True  # dx is 0 beyond the last level

    def __init__(self, bits):
        super().__init__(bits, signed=True)
        self.q = 2 ** (bits - 1) - 1
        self.frozen = None  # the step that `surrogate` holds fixed

    def init_from(self, x, rng):
        check_finite(x)
        self.state["ready"][...] = True

    def step(self, x):
        """s = c mean|x| / Q; 1 for an all-zero tensor."""
        mean = np.abs(x).mean()
        return np.asarray(REACH * mean / self.q if mean > 0 else 1.0, x.dtype)

    def forward(self, x, train=False, rng=None):
        step = self.step(x)
        ratio = x / step
        inside = np.abs(ratio) <= self.q
        return np.clip(np.rint(ratio), -self.q, self.q) * step, inside

    def backward(self, dy, cache):
        return dy * cache, {}  # STE: d rint(v)/dv := 1 inside the range; the step is a constant

    def freeze(self, x, rng=None):
        self.frozen = self.step(x)

    def surrogate(self, x):
        return np.clip(x, -self.q * self.frozen, self.q * self.frozen)

    def encode(self, x):
        step = self.step(x)
        codes = np.clip(np.rint(x / step), -self.q, self.q) + self.q
        return QTensor(codes.astype(np.uint8), np.arange(-self.q, self.q + 1, dtype=np.int8), step, self.bits)


class MeanStep(Method):
    """Weights on a grid that follows their mean magnitude."""

    name = "meanstep"
    title = "Mean-step quantization"
    paper = "none: the example of the documentation"
    learns = "nothing: the step follows mean|w|"
    weight_bits = tuple(range(2, 9))

    def weight_quantizer(self, bits, shape):
        return MeanStepWeight(bits)

    def activation_quantizer(self, bits, signed=False):
        return MinMaxActivation(bits, signed)
