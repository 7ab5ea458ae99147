"""Ternary (TWN) and binary (BWN, XNOR-Net) weights: a sign, a scale, and nothing learned.

1. TWN: a threshold Delta = 0.7 mean|w|; weights beyond it become alpha sign(w), the rest 0, with alpha the
   mean magnitude of those beyond. Per tensor or per output channel.
2. The exact minimiser of |w - alpha t|^2 sorts |w| with cumulative sums c_j: j* = argmax c_j^2 / j, alpha =
   c_j* / j*. The rule of thumb is within 0.8 % of its error for Gaussian weights.
3. Binary: alpha = mean|w| of an output channel, w_hat = alpha sign(w), sign(0) = +1. It is L2-optimal.
4. Backward. TWN: dw = g, Delta and alpha are constants. Binary, with n weights in a channel:
       ste    dw = g
       paper  dw = g (1/n + alpha 1[|w| < 1])
       exact  dw = g alpha 1[|w| < 1] + sign(w)/n sum_j g_j sign(w_j)
   The last is the chain rule, with STE for sign alone.
5. The latent binary weights are clamped to [-1, 1] after every step, inside which sign has a gradient.

Sources. TWN: Li, Zhang, Liu 2016 (arXiv:1605.04711), from memory of the paper; the exact minimiser is derived
here. Binary: Rastegari et al., ECCV 2016 (arXiv:1603.05279), read from the official Lua code; BinaryConnect
is `ste`. Stored: codes into the levels -1, 0, 1 or -1, 1 and alpha per tensor or output channel; a later
batch norm absorbs it.

Deviations. sign(0) = +1, where the official code makes a third level. Its mean-centering of the weights
before each step is left out. A channel without any weight beyond Delta has alpha = 1 instead of 0 (all its
codes are 0). Neither paper's activations are multi-bit: with act_bits they are the learned step sizes of
`lsq`, our addition; the sign activation of XNOR-Net is `sign_ste` in `estimators/straight_through.py`. Both
train from scratch in the papers, here they start from a float network.
"""

import numpy as np

from ..estimators.straight_through import (identity_ste_backward, require_frozen, sign_ste,
                                           sign_ste_backward, sign_ste_surrogate)
from .base import Method, Option, QTensor, Quantizer, check_bits, check_finite
from .lsq import LearnedStep

THRESHOLD = 0.7  # Delta / mean|w|
GRADIENTS = ("exact", "ste", "paper")


def ternary_threshold(rows, rule="paper"):
    """Return (Delta, alpha), each (C,), of |w| as rows (C, N): weights above Delta become alpha.

    rule : "paper", Delta = 0.7 mean|w|, or "exact", the minimiser of the squared error
    """
    if rule == "paper":
        delta = rows.dtype.type(THRESHOLD) * rows.mean(1)
        beyond = rows > delta[:, None]
        count = beyond.sum(1)
        alpha = np.where(beyond, rows, 0).sum(1) / np.maximum(count, 1)
    else:
        order = -np.sort(-rows, axis=1)
        sums, j = np.cumsum(order, axis=1, dtype=np.float64), np.arange(1, rows.shape[1] + 1)
        best = (sums / np.sqrt(j)).argmax(1)  # of c_j^2 / j, without its overflow
        alpha = sums[np.arange(len(rows)), best] / (best + 1)
        delta = alpha / 2  # at the minimum every weight is at its nearest level
    return delta.astype(rows.dtype), np.where(alpha > 0, alpha, 1).astype(rows.dtype)


class TernaryWeight(Quantizer):
    """alpha sign(w) where |w| > Delta, else 0; per tensor or per output channel (the last axis)."""

    def __init__(self, rule="paper", per_channel=False):
        super().__init__(bits=2, signed=True)
        self.rule, self.per_channel = rule, per_channel

    def init_from(self, x, rng):
        check_finite(x)
        self.state["ready"][...] = True

    def threshold(self, x):
        """(Delta, alpha) of x: () per tensor, (O,) per output channel."""
        magnitude = np.abs(x)
        if self.per_channel:
            return ternary_threshold(magnitude.reshape(-1, x.shape[-1]).T, self.rule)
        delta, alpha = ternary_threshold(magnitude.reshape(1, -1), self.rule)
        return delta[0], alpha[0]

    def forward(self, x, train=False, rng=None):
        delta, alpha = self.threshold(x)
        return np.sign(x) * (np.abs(x) > delta) * alpha, None

    def backward(self, dy, cache):
        return identity_ste_backward(dy), {}  # STE: d w_hat/dw := 1; Delta and alpha are constants

    def surrogate(self, x):
        return x

    def encode(self, x):
        delta, alpha = self.threshold(x)
        codes = (np.sign(x) * (np.abs(x) > delta) + 1).astype(np.uint8)
        return QTensor(codes, np.array([-1, 0, 1], np.int8), np.asarray(alpha), self.bits,
                       axis=x.ndim - 1 if self.per_channel else None)


class BinaryWeight(Quantizer):
    """alpha sign(w), alpha = mean|w| per output channel (the last axis); `gradient` as in the file text."""

    idempotent = False  # mean|w| is taken again, and rounds

    def __init__(self, gradient="exact"):
        super().__init__(bits=1, signed=True)
        self.gradient = gradient
        self.frozen = None  # sign and alpha, set by `freeze` alone

    def init_from(self, x, rng):
        check_finite(x)
        self.state["ready"][...] = True

    def scale(self, x):
        """alpha (O,); 0 for a channel of zeros."""
        return np.abs(x).mean(tuple(range(x.ndim - 1)))

    def forward(self, x, train=False, rng=None):
        sign, inside = sign_ste(x)
        alpha = self.scale(x)
        return sign * alpha, (sign, inside, alpha)

    def backward(self, dy, cache):
        sign, inside, alpha = cache
        if self.gradient == "ste":
            return identity_ste_backward(dy), {}  # STE: d w_hat/dw := 1
        n = np.asarray(sign[..., 0].size, dy.dtype)
        through_sign = alpha * sign_ste_backward(dy, inside)  # STE: d sign(w)/dw := 1[|w| < 1]
        if self.gradient == "paper":
            return through_sign + dy / n, {}
        return through_sign + sign / n * (dy * sign).sum(tuple(range(dy.ndim - 1))), {}

    def freeze(self, x, rng=None):
        """Hold for `surrogate` the signs and scales of x, which backward holds in turn."""
        sign, _, alpha = self.forward(x, True, rng)[1]
        self.frozen = sign, alpha

    def surrogate(self, x):
        """exact: alpha(w) sign_0 + alpha_0 clip(w, -1, 1), sign_0 and alpha_0 of `freeze`.

        paper: w/n + alpha_0 clip(w, -1, 1);   ste: w.
        """
        if self.gradient == "ste":
            return x
        sign, alpha = require_frozen(self.frozen)
        direct = x / sign[..., 0].size if self.gradient == "paper" else self.scale(x) * sign
        return direct + alpha * sign_ste_surrogate(x)

    def encode(self, x):
        codes = (x >= 0).astype(np.uint8)
        return QTensor(codes, np.array([-1, 1], np.int8), self.scale(x), self.bits, axis=x.ndim - 1)


class TWN(Method):
    """Ternary weights."""

    name = "twn"
    title = "Ternary weight networks"
    paper = "Li, Zhang, Liu 2016, arXiv:1605.04711"
    learns = "nothing: threshold and scale follow the weights (activations: one step size each)"
    weight_bits = (2,)
    options = {
        "threshold": Option("paper", ("paper", "exact"), "0.7 mean|w|, or that of least squared error"),
        "per_channel": Option(False, bool, "threshold and scale per output channel instead of per tensor"),
    }

    def weight_quantizer(self, bits, shape):
        check_bits(bits, self.weight_bits)
        return TernaryWeight(self.settings["threshold"], self.settings["per_channel"])

    def activation_quantizer(self, bits, signed=False):
        return LearnedStep(bits, signed)


class Binary(Method):
    """Binary weights."""

    name = "binary"
    title = "Binary weights (BWN, XNOR-Net)"
    paper = "Rastegari, Ordonez, Redmon, Farhadi, ECCV 2016, arXiv:1603.05279"
    learns = "nothing: the scale follows the weights (activations: one step size each)"
    weight_bits = (1,)
    options = {"gradient": Option("exact", GRADIENTS, "chain rule, identity, or the paper's short form")}

    def weight_quantizer(self, bits, shape):
        check_bits(bits, self.weight_bits)
        return BinaryWeight(self.settings["gradient"])

    def activation_quantizer(self, bits, signed=False):
        return LearnedStep(bits, signed)

    def step_end(self, model):
        """Clamp the latent binary weights to [-1, 1]."""
        super().step_end(model)
        for _, layer in model.named_layers():
            if isinstance(layer.children.get("weight_quantizer"), BinaryWeight):
                np.clip(layer.params["weight"], -1, 1, out=layer.params["weight"])
