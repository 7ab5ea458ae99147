"""Relaxed Quantization: sample the level of every value, and relax the sample so that it has a gradient.

1. A value plus logistic noise of scale sigma falls into one of the cells of a grid alpha * {n_min..n_max}:
   the cell masses pi are a categorical distribution over the levels, smooth in x, alpha, sigma (Alg. 1).
2. RQ replaces the one-hot sample by a concrete (Gumbel-softmax) one of temperature tau: sum_i z_i g_i.
3. RQ-ST takes the arg-max of the same noisy logits forward and differentiates as if z had been used.
4. Large grids are cut to the levels within delta sigma of the nearest one and renormalised (eq. 6-7).
5. Evaluation rounds: x_hat = clip(alpha floor(x / alpha + 1/2)), without noise (Algorithm 2).

Notation: n codes, alpha step size, sigma noise scale, K levels, tau temperature, eps the fuzz against 0/0.
Learned: log alpha and log sigma per tensor.

    z = softmax((log pi + Gumbel noise) / tau),    x_hat = sum_i z_i alpha n_i (RQ) or alpha n_argmax z (RQ-ST)

Recipe: grid from the range of the float tensors, then everything together at a tenth of the usual learning rate.
Stored: the codes and alpha; sigma and the noise are training only.

Deviations and sources. From the paper: grid, cell masses, both samplers, local grid, test-time rounding. The
values of tau and eps are not in the text that was read: tau = 1 is from memory; eps = 0 is our choice, since
log masses in closed form need no fuzz. delta = 3 comes from a published summary, and the half width max(1,
floor(delta sigma / alpha)) in codes is our reading of it; it is applied at every bit-width, to bound the
cost. The initialisation alpha = t + 3t / 2^b, t the range over 2^b, is that of third-party code. Learning log
alpha and log sigma, and sigma within [alpha/30, 3 alpha], are ours. One step size per tensor. No code of the
authors is public.
"""

import math

import numpy as np

from ..estimators import compiled
from ..estimators.concrete import concrete, concrete_backward, gumbel_of_bits, noise_bits
from ..estimators.multiclass import Grid, grid_codes, log_mass, log_mass_slopes, nearest_level
from ..estimators.straight_through import require_frozen
from .base import Method, Option, QTensor, Quantizer, check_finite, uniform_staircase

SIGMA_RANGE = 1 / 30, 3.0  # sigma / alpha is kept inside
LEAST_STEP = 1e-30  # float32 still divides by it
ROWS = 2 ** 18  # entries of elements x levels that are alive at a time


class LogisticGrid(Quantizer):
    """What RQ and CPQ share: the grid alpha * {n_min..n_max}, its parameters, evaluation by rounding.

    init : "range" (RQ) or "mse" (the candidate step of least squared error)
    """

    def __init__(self, bits, signed=True, init="range"):
        super().__init__(bits, signed)
        self.init = init
        self.params["log_alpha"] = np.zeros((), np.float32)
        self.params["log_sigma"] = np.full((), math.log(1 / 3), np.float32)
        self.frozen = None  # what `surrogate` holds fixed, set by `freeze` alone

    def grid(self, bits=None):
        """The Grid of the current parameters; `bits` defaults to the quantizer's own."""
        alpha, sigma = np.exp(self.params["log_alpha"]), np.exp(self.params["log_sigma"])
        return Grid(float(alpha), float(sigma), *grid_codes(bits or self.bits, self.signed))

    def init_from(self, x, rng):
        check_finite(x, "weights" if self.signed else "activations")
        alpha = {"range": range_step, "mse": mse_step}[self.init](x, self.bits, self.signed)
        alpha = max(alpha, LEAST_STEP)
        self.params["log_alpha"][...] = math.log(alpha)
        self.params["log_sigma"][...] = math.log(alpha / 3)
        self.state["ready"][...] = True

    def forward(self, x, train=False, rng=None):
        """Evaluation: x_hat = alpha clip(floor(x / alpha + 1/2), n_min, n_max)."""
        self.require_ready()
        grid = self.grid()
        return nearest_level(x, grid), (x, grid)

    def project(self):
        low, high = (self.params["log_alpha"] + math.log(factor) for factor in SIGMA_RANGE)
        np.clip(self.params["log_sigma"], low, high, out=self.params["log_sigma"])

    def encode(self, x):
        self.require_ready()
        grid = self.grid()
        codes = (grid.nearest(x) - grid.n_min).astype(np.uint8)
        levels = np.arange(grid.n_min, grid.n_max + 1, dtype=np.int8 if self.signed else np.uint8)
        return QTensor(codes, levels, np.asarray(grid.alpha, x.dtype), self.bits)

    def staircase(self):
        self.require_ready()
        alpha = np.exp(self.params["log_alpha"])
        return uniform_staircase(alpha, *grid_codes(self.bits, self.signed), ties="up")

    def log_grads(self, dalpha, dsigma, grid):
        """Gradients of log alpha and log sigma from those of alpha and sigma."""
        dtype = self.params["log_alpha"].dtype
        return {"log_alpha": np.asarray(grid.alpha * dalpha, dtype),
                "log_sigma": np.asarray(grid.sigma * dsigma, dtype)}


def range_step(x, bits, signed):
    """alpha = t + 3t / 2^b, t = (max x - min x) / 2^b; `mse_step` for a constant tensor: no range."""
    t = (float(x.max()) - float(x.min())) / 2 ** bits
    return t + 3 * t / 2 ** bits if t > 0 else mse_step(x, bits, signed)


def mse_step(x, bits, signed):
    """The step of least squared error among f max|x| / n_max, f = 0.10, 0.15 .. 1.20; 1 where all x are 0.

    n_max is 2^(b-1) for signed and 2^b - 1 for unsigned grids. x is scaled by its peak first: no overflow.
    """
    peak = float(np.abs(x).max())
    if peak == 0:
        return 1.0
    x, n_top, codes = x / peak, 2 ** (bits - 1) if signed else 2 ** bits - 1, grid_codes(bits, signed)

    def error(step):
        difference = Grid(step, step, *codes).nearest(x)
        difference *= step
        difference -= x
        return float(np.square(difference, out=difference).sum(dtype=np.float64))

    return peak * min((percent / 100 / n_top for percent in range(10, 125, 5)), key=error)


def local_levels(grid, delta):
    """(levels, local): 2 max(1, floor(delta sigma / alpha)) + 1 codes about the nearest, or all K."""
    width = max(1, int(delta * grid.sigma / grid.alpha)) if delta else grid.size
    return (grid.size, False) if 2 * width + 1 >= grid.size else (2 * width + 1, True)


def local_codes(x, grid, delta):
    """These codes: (levels, N), or (K, 1) where all are looked at."""
    levels, local = local_levels(grid, delta)
    if not local:
        return np.arange(grid.n_min, grid.n_max + 1, dtype=x.dtype)[:, None]
    return grid.nearest(x) + np.arange(-(levels // 2), levels // 2 + 1, dtype=x.dtype)[:, None]


def relaxed_sample(x, grid, codes, noise, tau, eps=0.0):
    """Concrete weights z (levels, N) over `codes` for flat x (N,); a code outside the grid has weight 0.

    pi_i = (p_i + eps) / (T + K eps): its normalisation cancels in the softmax.
    """
    log_p = log_mass(x, grid, codes, codes)
    if eps:
        log_p = np.log(np.exp(log_p) + eps)
    outside = (codes < grid.n_min) | (codes > grid.n_max)
    if outside.any():
        log_p = np.where(outside, -np.inf, log_p)
    return concrete(log_p, noise, tau, axis=0)


def chosen_codes(z, codes, hard):
    """Codes as floats (N,): the arg-max of z (RQ-ST), or the mean sum_i z_i n_i (RQ)."""
    if hard:
        return np.take_along_axis(np.broadcast_to(codes, z.shape), z.argmax(0)[None], 0)[0]
    return (z * codes).sum(0)


def relaxed_slopes(x, grid, codes, noise, tau, hard, eps=0.0):
    """Derivatives of x_hat by x, alpha, sigma: sum_i (dx_hat/dl_i)(dl_i/d.), plus sum_i z_i n_i for alpha."""
    z = relaxed_sample(x, grid, codes, noise, tau, eps)
    dl = concrete_backward(grid.alpha * codes, z, tau, axis=0)  # STE for RQ-ST: as if z had been the output
    if eps:
        p = np.exp(log_mass(x, grid, codes, codes))
        dl *= p / (p + eps)
    dx, dalpha, dsigma = ((dl * slope).sum(0) for slope in log_mass_slopes(x, grid, codes, codes))
    return dx, dalpha + chosen_codes(z, codes, hard), dsigma


class RelaxedQuantizer(LogisticGrid):
    """RQ (hard=False) or RQ-ST (hard=True) of weights or activations.

    tau: temperature; delta: half width of the local grid in sigmas, 0 for the whole grid; eps: fuzz added to
    cell masses. Gumbel noise is not kept for backward: it is drawn again from the same seed, so memory stays
    that of x.
    """

    def __init__(self, bits, signed=True, tau=1.0, delta=3.0, eps=0.0, hard=False, init="range"):
        super().__init__(bits, signed, init)
        self.tau, self.delta, self.eps, self.hard = tau, delta, eps, hard

    def forward(self, x, train=False, rng=None):
        if not train:
            return super().forward(x)
        self.require_ready()
        if rng is None:
            raise ValueError("RQ draws noise in training; pass rng=numpy.random.Generator to forward")
        grid, seed = self.grid(), int(rng.integers(2 ** 63))
        y, flat = np.empty(x.size, x.dtype), x.reshape(-1)
        for part, bits in self._noise(x.size, grid, seed):
            y[part] = self._sample(flat[part], grid, bits)
        return y.reshape(x.shape), (x, grid, seed)

    def _noise(self, size, grid, seed):
        """Yield (slice, random bits for each of its levels and elements), the same for the same seed."""
        rng, (levels, _) = np.random.default_rng(seed), local_levels(grid, self.delta)
        rows = max(1, ROWS // levels)
        for start in range(0, size, rows):
            part = slice(start, min(start + rows, size))
            yield part, noise_bits(rng, (levels, part.stop - start))

    def _settings(self, grid):
        """What the compiled sampler takes, or None where it cannot."""
        return None if self.eps else (*local_levels(grid, self.delta), self.hard, self.tau)

    def _sample(self, x, grid, bits):
        """x_hat of flat x under this noise."""
        settings = self._settings(grid)
        y = compiled.sample(x, grid, settings, bits) if settings else None
        if y is None:
            codes = local_codes(x, grid, self.delta)
            z = relaxed_sample(x, grid, codes, gumbel_of_bits(bits, x.dtype), self.tau, self.eps)
            y = grid.alpha * chosen_codes(z, codes, self.hard)
        return y

    def _sample_backward(self, dy, x, grid, bits):
        """(dx, [dalpha, dsigma]) of `_sample`."""
        settings = self._settings(grid)
        done = compiled.sample_slopes(dy, x, grid, settings, bits) if settings else None
        if done:
            return done
        codes, noise = local_codes(x, grid, self.delta), gumbel_of_bits(bits, x.dtype)
        slopes = relaxed_slopes(x, grid, codes, noise, self.tau, self.hard, self.eps)
        return dy * slopes[0], np.array([float((dy * slope).sum()) for slope in slopes[1:]])

    def backward(self, dy, cache):
        if len(cache) == 2:
            raise ValueError("RQ is differentiated at the noise of a training forward: pass train=True, rng")
        x, grid, seed = cache
        flat, upstream, dx, total = x.reshape(-1), dy.reshape(-1), np.empty(dy.size, dy.dtype), 0.0
        for part, bits in self._noise(x.size, grid, seed):
            dx[part], sums = self._sample_backward(upstream[part], flat[part], grid, bits)
            total = total + sums
        return dx.reshape(dy.shape), self.log_grads(*total, grid)

    def freeze(self, x, rng=None):
        """Hold for `surrogate` what a training forward of x that draws from rng takes as constant."""
        self.frozen = x.reshape(-1).copy(), self.grid(), int(rng.integers(2 ** 63))

    def surrogate(self, x):
        """RQ-ST: sum_i z_i(x, alpha, sigma) g_i + alpha n_i*, with g, n_i* and the noise of `freeze`.

        RQ is differentiated exactly and needs none: there this is the forward at the noise of `freeze`.
        """
        (x0, frozen, seed), grid = require_frozen(self.frozen), self.grid()
        flat, y = x.reshape(-1), np.empty(x.size, x.dtype)
        for part, bits in self._noise(x.size, frozen, seed):
            codes, noise = local_codes(x0[part], frozen, self.delta), gumbel_of_bits(bits, x.dtype)
            z = relaxed_sample(flat[part], grid, codes, noise, self.tau, self.eps)
            mean = chosen_codes(z, codes, hard=False)
            if self.hard:
                at_frozen = relaxed_sample(x0[part], frozen, codes, noise, self.tau, self.eps)
                y[part] = frozen.alpha * mean + grid.alpha * chosen_codes(at_frozen, codes, hard=True)
            else:
                y[part] = grid.alpha * mean
        return y.reshape(x.shape)


class RQ(Method):
    """RQ: sampled, relaxed rounding. Its gradients are noisy: train at a tenth of the usual rate."""

    name = "rq"
    title = "Relaxed Quantization for Discretized Neural Networks"
    paper = "Louizos, Reisser, Blankevoort, Gavves, Welling, ICLR 2019, arXiv:1810.01875"
    learns = "step size and noise scale per tensor, through sampled (concrete) rounding"
    hard = False
    training = {"lr": 1e-4}  # a tenth of what other methods take: the gradient varies too much at 2 to 4 bits
    options = {
        "tau": Option(1.0, float, "temperature of the relaxation, > 0; lower is closer to sampling, noisier"),
        "delta": Option(3.0, float, "local grid: levels within delta sigma of the nearest; 0 for all"),
        "eps": Option(0.0, float, "fuzz added to every cell's probability, >= 0"),
        "init": Option("range", ("range", "mse"), "initial step: from the range, or of least squared error"),
    }

    def __init__(self, **options):
        super().__init__(**options)
        for key, least, strict in (("tau", 0, True), ("delta", 0, False), ("eps", 0, False)):
            value = self.settings[key]
            if not math.isfinite(value) or value < least or strict and value == least:
                raise ValueError(f"option {key}={value} must be {'>' if strict else '>='} {least} and finite")

    def weight_quantizer(self, bits, shape):
        return RelaxedQuantizer(bits, True, hard=self.hard, **self.settings)

    def activation_quantizer(self, bits, signed=False):
        return RelaxedQuantizer(bits, signed, hard=self.hard, **self.settings)


class RQST(RQ):
    """RQ-ST: a true categorical sample forward, the concrete gradient backward."""

    name = "rq-st"
    title = "Relaxed Quantization, straight-through variant"
    learns = "step size and noise scale per tensor, through sampled rounding with a straight-through gradient"
    hard = True
