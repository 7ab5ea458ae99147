"""Post-training quantization: read step sizes off the float network and a calibration batch, train nothing.

1. Every rule picks a magnitude threshold T; then signed s = T/Q, Q = 2^(b-1) - 1, codes -Q..Q, or behind a
   ReLU s = T/n, n = 2^b - 1, codes 0..n; x_hat = s clip(rint(x/s), ...).
2. minmax: T = max|x|.   percentile: the p-th percentile of |x|, linear interpolation.
3. mse: the first minimiser of mean|x_hat - x|^p among T = max|x| j/100, j = 1..100. `refine` follows it by
   alternating least squares: k = clip(rint(x/s)), s <- sum kx / sum k^2. That never raises the error, but
   from a bad start it stops in a poor minimum.
4. kl: the clip of a histogram of |x| that loses least information (`kl_threshold`).
5. Rounding of the weights: to nearest, or learned layer by layer against the layer's own output (AdaRound,
   `adaround`).

Sources. The MSE grid is of the kind used in BRECQ's code (80 points there); p = 2.4 is its second choice. The
KL rule is defined here, after NVIDIA's published pseudo-code, which returns (i + 1/2) w where we return i w;
other code smooths the histogram or truncates the merged one to integers, we do neither. Rounding is half to
even. Alternating least squares is derived. Stored: codes, one scale per output channel (or tensor);
activations one scale.

Deviations. `kl` is a rule for activations, with min-max for weights as in its source; below 4 bits it is kept
as a demonstration only. Thresholds of activations are taken from at most 65536 values drawn from the batch,
except min-max. Batch norms are re-estimated on request (batchnorm=reestimate); bias correction is not done.
Trained further, step sizes stay fixed and rounding is differentiated straight-through inside the range.
"""

import math

import numpy as np

from ..estimators.straight_through import clipped_ste_backward
from ..nn import BatchNorm
from .adaround import round_layers
from .base import Method, Option, QTensor, Quantizer, check_bits, check_finite
from .minmax import RangeActivation, affine

SAMPLE = 2 ** 16
BINS = 2048
CANDIDATES = 100


def top_code(bits, signed):
    """Q = 2^(b-1) - 1 for signed grids, n = 2^b - 1 for unsigned ones."""
    return 2 ** (bits - 1) - 1 if signed else 2 ** bits - 1


def rounded(x, step, bits, signed):
    """s clip(rint(x/s), -Q, Q), or with codes 0..n where unsigned."""
    top = top_code(bits, signed)
    return step * np.clip(np.rint(x / step), -top if signed else 0, top)


def percentile_threshold(x, percentile):
    """T = the percentile (0..100) of |x|, linear interpolation."""
    return float(np.percentile(np.abs(x), percentile))


def mse_curve(x, bits, signed=True, power=2.0):
    """mean|x_hat - x|^power at T = max|x| j/100, j = 1..100; (100,) floats. Cost: 100 passes over x."""
    candidates = np.abs(x).max() * np.arange(1, CANDIDATES + 1) / CANDIDATES
    steps = candidates / top_code(bits, signed)
    return np.array([(np.abs(rounded(x, step, bits, signed) - x) ** power).mean() for step in steps])


def mse_threshold(x, bits, signed=True, power=2.0):
    """T of the first minimum of `mse_curve`; 0 for an all-zero x."""
    peak = float(np.abs(x).max())
    if peak == 0:
        return 0.0
    return peak * (int(mse_curve(x / peak, bits, signed, power).argmin()) + 1) / CANDIDATES


def least_squares_step(x, bits, signed, step, iterations=50):
    """Alternate k = clip(rint(x/s)) and s = sum kx / sum k^2 from `step` until k stays the same."""
    codes = None
    for _ in range(iterations):
        before, codes = codes, np.rint(rounded(x, step, bits, signed) / step)
        energy = float((codes * codes).sum())
        if energy == 0 or np.array_equal(codes, before):
            break
        step = float((codes * x).sum()) / energy
    return step


def kl_threshold(histogram, width, levels):
    """Return (T, i*, curve) from counts of |x| in bins of `width`: T = i* width, i* the curve's minimum.

    curve[i], i = levels..B: KL divergence of the first i bins, with the counts beyond added to the last one,
    from the same bins merged into `levels` groups and spread evenly over the occupied ones; -1 where it is
    undefined or infinite. levels = 2^(b-1) for signed values, 2^b for unsigned.
    """
    histogram = np.asarray(histogram, float)
    total, curve = histogram.sum(), np.full(len(histogram) + 1, -1.0)
    for i in range(levels, len(histogram) + 1):
        kept = histogram[:i]
        p = kept.copy()
        p[-1] += total - kept.sum()
        occupied = p > 0
        group = np.arange(i) * levels // i
        merged = np.bincount(group, kept, levels)
        count = np.bincount(group, occupied, levels)
        q = np.where(occupied, (merged / np.maximum(count, 1))[group], 0)
        if occupied.any() and (q[occupied] > 0).all():
            p, q = p[occupied] / p.sum(), q[occupied] / q.sum()
            curve[i] = max(float((p * np.log(p / q)).sum()), 0.0)
    defined = np.flatnonzero(curve >= 0)
    if not len(defined):
        return len(histogram) * width, len(histogram), curve
    best = int(defined[curve[defined].argmin()])
    return best * width, best, curve


class FixedWeight(Quantizer):
    """Symmetric uniform weights on fixed step sizes, () per tensor or (O,) per output channel: state["step"].

    threshold : function of a flat array -> T;   refine : alternating least squares from there
    """

    def __init__(self, bits, threshold, channels=None, refine=False):
        check_bits(bits, range(2, 9))
        super().__init__(bits, signed=True)
        self.threshold, self.refine, self.channels = threshold, refine, channels
        self.top = top_code(bits, signed=True)
        self.state["step"] = np.ones(() if channels is None else channels, np.float32)

    def init_from(self, x, rng):
        check_finite(x)
        rows = x.reshape(1, -1) if self.channels is None else x.reshape(-1, self.channels).T
        steps = [self._step(row.astype(np.float64)) for row in rows]
        self.state["step"][...] = steps[0] if self.channels is None else steps
        self.state["ready"][...] = True

    def _step(self, row):
        step = self.threshold(row) / self.top or 1.0
        step = least_squares_step(row, self.bits, True, step) if self.refine else step
        return max(step, float(np.finfo(np.float32).tiny))

    def _codes(self, x):
        self.require_ready()
        step = self.state["step"].astype(x.dtype)
        return *affine(x, step, self.top, 2 * self.top), step

    def forward(self, x, train=False, rng=None):
        codes, inside, step = self._codes(x)
        return (codes - self.top) * step, inside

    def backward(self, dy, cache):
        # STE: 1 where the code was not clipped; the step is a constant
        return clipped_ste_backward(dy, cache), {}

    def surrogate(self, x):
        reach = (self.top + 0.5) * self.state["step"].astype(x.dtype)
        return np.clip(x, -reach, reach)

    def encode(self, x):
        codes, _, step = self._codes(x)
        levels = np.arange(-self.top, self.top + 1, dtype=np.int8)
        axis = None if self.channels is None else x.ndim - 1
        return QTensor(codes.astype(np.uint8), levels, step, self.bits, axis)


class FixedActivation(RangeActivation):
    """Uniform activations on a range fixed by calibration; `threshold` is a function of a flat array -> T."""

    def __init__(self, bits, threshold, signed=False, sample=SAMPLE):
        super().__init__(bits, signed)
        self.threshold, self.sample = threshold, sample
        self.state["high"] = np.ones((), np.float32)

    def init_from(self, x, rng):
        check_finite(x, "activations")
        values = x.reshape(-1) if self.signed else np.maximum(x.reshape(-1), 0)
        if self.sample is not None and values.size > self.sample:
            values = rng.choice(values, self.sample, replace=False)
        self.state["high"][...] = self.threshold(values.astype(np.float64))
        self.state["ready"][...] = True


class PTQ(Method):
    """Calibrated step sizes for weights and activations, and optionally learned rounding."""

    name = "ptq"
    title = "Post-training quantization"
    paper = "Nagel et al. 2021, arXiv:2106.08295 (survey); AdaRound: ICML 2020, arXiv:2004.10568"
    learns = "nothing, or which way each weight is rounded (rounding=adaround)"
    weight_bits = tuple(range(2, 9))
    act_bits = (*range(2, 9), None)
    training = {"epochs": 0}
    options = {
        "calibrate": Option("mse", ("mse", "minmax", "percentile", "kl"), "rule of thresholds"),
        "rounding": Option("nearest", ("nearest", "adaround"), "weights to the nearest level, or as learned"),
        "percentile": Option(99.9, float, "of calibrate=percentile, in (0, 100]; 99 suits 4 bits and less"),
        "power": Option(2.0, float, "exponent of the error of calibrate=mse, > 0"),
        "refine": Option(False, bool, "alternating least squares for the weights' step sizes after the rule"),
        "per_channel": Option(True, bool, "one weight scale per output channel instead of one per tensor"),
        "steps": Option(1000, int, "Adam steps per layer of rounding=adaround, >= 1"),
        "batchnorm": Option("keep", ("keep", "reestimate"), "statistics: of float or quantized network"),
    }

    def __init__(self, **options):
        super().__init__(**options)
        percentile, power, steps = (self.settings[key] for key in ("percentile", "power", "steps"))
        if not 0 < percentile <= 100:
            raise ValueError(f"option percentile={percentile} is not in (0, 100]")
        if not 0 < power < math.inf:
            raise ValueError(f"option power={power} must be > 0 and finite")
        if steps < 1:
            raise ValueError(f"option steps={steps} must be at least 1")

    def _threshold(self, bits, signed, weights):
        """The rule as a function of a flat float64 array."""
        rule = self.settings["calibrate"]
        if rule == "mse":
            return lambda x: mse_threshold(x, bits, signed, self.settings["power"])
        if rule == "percentile":
            return lambda x: percentile_threshold(x, self.settings["percentile"])
        if rule == "kl" and not weights:
            return lambda x: kl_of_values(x, 2 ** (bits - 1) if signed else 2 ** bits)
        return lambda x: float(np.abs(x).max())

    def weight_quantizer(self, bits, shape):
        channels = shape[-1] if self.settings["per_channel"] else None
        return FixedWeight(bits, self._threshold(bits, True, True), channels, self.settings["refine"])

    def activation_quantizer(self, bits, signed=False):
        sample = None if self.settings["calibrate"] == "minmax" else SAMPLE
        return FixedActivation(bits, self._threshold(bits, signed, False), signed, sample)

    def calibrate(self, model, images, rng):
        """Learn the rounding and re-estimate batch norms, where the options ask for it."""
        if self.settings["rounding"] == "adaround":
            round_layers(model, images, rng, FixedWeight, self.settings["steps"])
        if self.settings["batchnorm"] == "reestimate":
            reestimate_batchnorm(model, images, rng)
        super().calibrate(model, images, rng)


def kl_of_values(x, levels):
    """`kl_threshold` of a histogram of |x| with 2048 bins on [0, max|x|]; 0 for an all-zero x."""
    magnitude = np.abs(x)
    peak = float(magnitude.max())
    if peak == 0:
        return 0.0
    histogram, _ = np.histogram(magnitude / peak, BINS, (0, 1))
    return kl_threshold(histogram, peak / BINS, levels)[0]


def reestimate_batchnorm(model, images, rng):
    """Set the running statistics of every batch norm to those of `images` in the model as it is now."""
    norms = [layer for _, layer in model.named_layers() if isinstance(layer, BatchNorm)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 1.0
    try:
        model.forward(images, train=True, rng=rng)
    finally:
        for layer, momentum in zip(norms, momenta):
            layer.momentum = momentum
