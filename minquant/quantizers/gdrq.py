"""GDRQ: Group-based Distribution Reshaping for Quantization (Yu et al. 2019, arXiv:1908.01477).

1. A uniform grid wastes the fewest levels on a uniform distribution, so that is what weights are made before.
2. Scale-Clip puts walls at T = k mean|w|, recomputed from the current values at every step.
3. A uniform law on [-T, T] has mean|w| = T/2: k = 2 leaves it alone, and all else drifts towards it.
4. Filters form groups, each with its wall and step size; activations have one clip value per layer.
5. Group scales multiply whole channels and vanish in the batch norm: they cost nothing at inference.

Paper -> here. n_w, n_a: `bits`; T: `threshold`, `wall`; k_w, k_a: `k`; alpha, the grid's clip value: `alpha`;
Delta = alpha / L: `step`; L, step sizes from zero to the clip value: `clip_level`; Qn, Qp: `q_min`, `q_max`;
g(c) = c // group_size: `group`; 1_in, bounds included: `inside`.

    T_g = k mean|w| over group g;    w <- clip(w, -T_g, T_g) after every step        Scale-Clip
    q = clip(rint(clip(w, -alpha_g, alpha_g) / Delta_g), Qn, Qp),    Delta_g = alpha_g / L
    alpha_g = T_g, or argmin |w - Q(w)|_2 / |w|_2 (equation 3), or learned

Recipe: for the first quarter of the steps clip without rounding (stage one), then quantize (stage two).
Stored: int8 codes and one scale per output channel (equal within a group), or one in all; one per activation
tensor. `scale_clip.merge_group_scales` turns scales, bias and batch norm into a multiplier and an offset.

Where the formulas come from. There is no official code, and the full text was not at hand. From the paper
(abstract; a reader's notes of sections 3.2-3.4 and figure 5): Scale-Clip, k = 2, the two stages, groups of
filters, the search by quantized-loss (equation 3), the sixteen bins of `twos`. From re-implementations by
others: T per group, the passed and masked gradients, grid `sym`, the running activation clip. Derived: grid
`tile`, the in-place clip, the gradients, the batch-norm algebra, k_a. Nothing rests on memory alone.

Deviations.
- The clip overwrites the weights after every optimizer step, the reading under which the paper's remark about
  k (smaller collapses, larger stays Gaussian) holds; the re-implementations clip in the forward pass only.
- They move the running clip by lam (alpha - T), which diverges; here it moves by lam (T - alpha).
- Their masked gradient passes values below -T, or is strict at T; here it masks both sides, bounds included.
- Figure 5 draws 2^n bins but its losses fit 2^n + 1 levels (grid `full`), which n bits cannot store.
- "Groups learn parameters" (abstract) leaves the way open; `alpha=learned` takes the LSQ/PACT gradient.
- Evaluation always rounds, in the first stage too: the accuracy seen is that of the stored network.
- Activations have no groups: a scale per input channel cannot leave the sum over channels.
- The paper's hyper-parameters could not be obtained: k_a = bits, lam, group_size and the share of stage one
  were measured or chosen at small scale.
"""

import warnings

import numpy as np

from ..estimators.scale_clip import Grid, group_count, group_index, group_reduce, project, search_alpha, threshold
from .base import Method, Option, QTensor, Staircase, check_bits, check_finite, quantizers, uniform_staircase
from .gdrq_clipped import BITS, Clipped, check_full, check_k, check_lam

ALPHAS = ("threshold", "search", "learned")
GRADS = ("ste", "mask", "full")
GRIDS = ("twos", "sym", "tile")
SEARCH_EVERY = 100  # steps between two searches of alpha
COLLAPSE_K = 1.8    # below it, repeated projection shrinks the weights towards zero


class GDRQWeight(Clipped):
    """Weights on a uniform grid with one clip value per group of filters (the last axis).

    k          : Scale-Clip's constant; None, without Scale-Clip, puts the wall at max|w|
    grid       : `twos` | `sym` | `tile`; a layer without batch norm wants `tile`, which has no bias
    alpha_mode : `threshold` T of the current weights | `search` (equation 3), kept in state | `learned`
    grad_mode  : `ste` passes every gradient | `mask` those inside the clip | `full` differentiates T as well

    An outlier lifts the wall of its group at first; projection after projection brings both down again.
    """

    idempotent = False  # the wall follows mean|w|, which rounding changes

    def __init__(self, bits, channels, group_size=-1, k=2.0, grid="twos", alpha_mode="threshold",
                 grad_mode="ste"):
        for name, value, allowed in (("grid", grid, GRIDS), ("alpha_mode", alpha_mode, ALPHAS),
                                     ("grad_mode", grad_mode, GRADS)):
            if value not in allowed:
                raise ValueError(f"{name}={value!r} is not one of {', '.join(allowed)}")
        check_full(grad_mode, k, alpha_mode)
        check_bits(bits, BITS)
        self.group = group_index(channels, group_size)
        where = {"threshold": None, "search": "state", "learned": "params"}[alpha_mode]
        super().__init__(bits, True, k, Grid.signed(bits, grid), where, self.group[-1] + 1)
        self.alpha_mode, self.grad_mode = alpha_mode, grad_mode
        self.state["age"] = np.zeros((), np.int64)

    def init_from(self, x, rng):
        check_finite(x)
        self.state["ready"][...] = True
        self.search(x)

    def search(self, weight):
        """Set a stored or learned alpha by the search of equation 3; `threshold` stores none."""
        self.state["age"][...] = 0
        if self.alpha_mode != "threshold":
            alpha, _ = search_alpha(weight, self.group, self.grid)
            start = np.where(alpha > 0, alpha, 1) if self.alpha_mode == "learned" else alpha
            self.stored_alpha()[...] = start  # a learned clip value of 0 would never move

    def threshold(self, x):
        """T_g of x, (G,)."""
        if x.shape[-1] != len(self.group):
            raise ValueError(f"weight of shape {x.shape} has {x.shape[-1]} filters on its last axis, "
                             f"the groups are made for {len(self.group)}")
        return threshold(x, self.k, self.group)

    def alpha(self, x):
        """The clip values alpha_g in use, (G,)."""
        return self.threshold(x) if self.alpha_mode == "threshold" else self.stored_alpha().astype(x.dtype)

    def wide_alpha(self, x):
        """alpha of every filter, (C,)."""
        return self.alpha(x)[self.group]

    def forward(self, x, train=False, rng=None):
        if train and self.state["reshape"]:
            wall = self.threshold(x)
            return np.clip(x, -wall[self.group], wall[self.group]), (x, wall, None)
        alpha = self.alpha(x)
        q = self.grid.codes(x, alpha[self.group])
        return q * self.grid.step(alpha)[self.group], (x, alpha, q)

    def dalpha(self, dy, cache):
        """D_g = dL/dalpha_g, (G,); while reshaping dL/dT_g, which is exact."""
        x, alpha, q = cache
        wide = alpha[self.group]
        inside = self.grid.inside(x, wide)
        slope = np.where(inside, 0, np.sign(x)) if q is None else self.grid.slope(x, wide, q, inside)
        return group_reduce(np.add, dy * slope, self.group)

    def backward(self, dy, cache):
        x, alpha, q = cache
        grads = {}
        if self.params:
            grads["alpha"] = np.zeros_like(alpha) if q is None else self.dalpha(dy, cache)
        if self.grad_mode == "ste":
            return dy, grads  # STE: clip and rounding are the identity, T is a constant
        dx = dy * self.grid.inside(x, alpha[self.group])  # STE: rounding is the identity
        if self.grad_mode == "full":
            dmean = self.k * self.dalpha(dy, cache) / group_count(x, self.group)
            dx += dmean[self.group] * np.sign(x)
        return dx, grads

    def surrogate(self, x):
        if self.grad_mode == "ste" and not self.params:
            return x
        moves = bool(self.params) or self.grad_mode == "full"
        return self.frozen_surrogate(x, moves, passes=self.grad_mode == "ste")

    def encode(self, x):
        alpha = self.alpha(x)
        step, q = self.grid.step(alpha), self.grid.codes(x, alpha[self.group])
        levels = np.arange(self.grid.q_min, self.grid.q_max + 1, dtype=np.int8)
        scale, axis = (step[0], None) if len(step) == 1 else (step[self.group], x.ndim - 1)
        return QTensor((q - self.grid.q_min).astype(np.uint8), levels, scale, self.bits, axis)


class GDRQActivation(Clipped):
    """Activations after a ReLU on the unsigned grid of [0, alpha], one alpha per layer.

    Running: training moves alpha by lam (T - alpha) before it is used, T = k mean|x| over all elements, zeros
    included; alpha = 0 counts as not started, and the next batch that is not all zero sets it. Learned: alpha
    is a parameter. k=None, without Scale-Clip: T = max x.
    """

    saturates = True

    def __init__(self, bits, k=4.0, lam=0.01, learned=False):
        check_bits(bits, BITS)
        levels = 2 ** bits - 1
        super().__init__(bits, False, k, Grid(0, levels, levels), "params" if learned else "state", ())
        check_lam(lam)
        self.lam = lam

    def init_from(self, x, rng):
        check_finite(x, "activations")
        self.state["ready"][...] = True
        self.stored_alpha()[...] = self.threshold(x) or float(bool(self.params))

    def threshold(self, x):
        """T = k mean|x| over the whole batch, or max x without Scale-Clip."""
        return max(x.max(), 0) if self.k is None else self.k * np.abs(x).mean()

    def wide_alpha(self, x):
        """alpha as a scalar in the dtype of x."""
        return self.stored_alpha().astype(x.dtype)

    def forward(self, x, train=False, rng=None):
        stored = self.stored_alpha()
        if train and not self.params:
            wall = self.threshold(x)
            stored[...] = wall if stored == 0 else stored + self.lam * (wall - stored)
        alpha = self.wide_alpha(x)
        inside, kept = self.grid.inside(x, alpha), x if self.params else None
        if train and self.state["reshape"]:
            return np.clip(x, 0, alpha), (kept, alpha, None, inside)
        q = self.grid.codes(x, alpha)
        return q * self.grid.step(alpha), (kept, alpha, q if self.params else None, inside)

    def backward(self, dy, cache):
        x, alpha, q, inside = cache
        dx = dy * inside  # STE: rounding is the identity; a running alpha is a constant
        if not self.params:
            return dx, {}
        slope = x > alpha if q is None else self.grid.slope(x, alpha, q, inside)
        return dx, {"alpha": (dy * slope).sum()}

    def surrogate(self, x):
        return self.frozen_surrogate(x, True, False) if self.params else np.clip(x, 0, self.wide_alpha(x))

    def encode(self, x):
        alpha = self.wide_alpha(x)
        levels = np.arange(self.grid.q_max + 1, dtype=np.uint8)
        codes = self.grid.codes(x, alpha).astype(np.uint8)
        return QTensor(codes, levels, self.grid.step(alpha)[()], self.bits)

    def staircase(self):
        alpha = self.stored_alpha()
        stairs = uniform_staircase(self.grid.step(alpha)[()], 0, self.grid.q_max, ties="even")
        if alpha > 0:
            return stairs
        never = np.full_like(stairs.thresholds, np.finfo(alpha.dtype).max)  # every code is 0
        return Staircase(never, np.zeros_like(stairs.inclusive), stairs.levels, stairs.scale)


class GDRQ(Method):
    """Stage one reshapes (clip, no rounding), stage two quantizes; every step ends with a projection."""

    name = "gdrq"
    title = "Group-based Distribution Reshaping for Quantization"
    paper = "Yu, Wen, Cheng, Sun, Han, Shi 2019, arXiv:1908.01477 (two pages at CVPR-W 2020)"
    learns = "weights of nearly uniform distribution; clip values follow mean|x|, are searched, or learned"
    weight_bits = tuple(BITS)
    act_bits = tuple(BITS) + (None,)
    options = {
        "scale_clip": Option("both", ("both", "weights", "activations", "none"),
                             "what is clipped at k mean|x|; the rest is clipped at max|x|"),
        "group_size": Option(4, int, "filters per group; -1: one group per layer; the last may be short"),
        "groups": Option(0, int, "if positive: at most so many groups per layer, of ceil(filters / groups)"),
        "k_w": Option(2.0, float, "Scale-Clip constant of weights; below 1.8 they shrink to zero"),
        "k_a": Option(0.0, float, "Scale-Clip constant of activations; 0 takes their number of bits"),
        "lam": Option(0.01, float, "rate of the running clip value of activations"),
        "grid": Option("twos", GRIDS, "two's complement, symmetric, or symmetric cells that tile [-T, T]"),
        "alpha": Option("threshold", ALPHAS, "clip value of weights: T, searched (equation 3), or learned"),
        "act_alpha": Option("running", ("running", "learned"), "clip value of activations"),
        "grad_mode": Option("ste", GRADS, "gradient of weights: passed, masked by the clip, through T too"),
        "project": Option(True, bool, "clip the stored weights after every step, or in forward only"),
        "reshape": Option(0.25, float, "share of the training that clips without rounding (stage one)"),
    }

    def __init__(self, **options):
        super().__init__(**options)
        given = self.settings
        if given["groups"] < 0:
            raise ValueError(f"option groups={given['groups']} is negative; 0 leaves it to group_size")
        if not 0 <= given["reshape"] < 1:
            raise ValueError(f"option reshape={given['reshape']} is not in [0, 1), the share of stage one")
        self.k_w = given["k_w"] if given["scale_clip"] in ("both", "weights") else None
        check_k("k_w", given["k_w"])
        check_k("k_a", given["k_a"] or 1.0)
        check_lam(given["lam"])
        check_full(given["grad_mode"], self.k_w, given["alpha"])
        group_index(1, given["group_size"])
        self.projects = given["project"] and self.k_w is not None
        if self.projects and self.k_w < COLLAPSE_K:
            warnings.warn(f"k_w={self.k_w} with projection shrinks the weights towards zero; "
                          f"keep k_w >= {COLLAPSE_K} for long training", stacklevel=2)

    def weight_quantizer(self, bits, shape):
        given, filters = self.settings, shape[-1]
        size = -(-filters // given["groups"]) if given["groups"] else given["group_size"]
        return GDRQWeight(bits, filters, size, self.k_w, given["grid"], given["alpha"], given["grad_mode"])

    def activation_quantizer(self, bits, signed=False):
        if signed:
            raise ValueError("signed=True: method 'gdrq' quantizes activations after a ReLU; place it there")
        clips = self.settings["scale_clip"] in ("both", "activations")
        k = (self.settings["k_a"] or float(bits)) if clips else None
        return GDRQActivation(bits, k, self.settings["lam"], self.settings["act_alpha"] == "learned")

    def step_begin(self, model, epoch, progress):
        reshape = progress < self.settings["reshape"]
        for layer, quantizer in _own_weights(model):
            if not reshape:
                self._refresh(quantizer, layer.params["weight"])
        self._set_stage(model, reshape)

    def _refresh(self, quantizer, weight):
        """Search alpha when stage two begins, and a stored one again every SEARCH_EVERY steps."""
        quantizer.state["age"] += 1
        stale = quantizer.alpha_mode == "search" and quantizer.state["age"] > SEARCH_EVERY
        if quantizer.state["reshape"] or stale:
            quantizer.search(weight)

    def _set_stage(self, model, reshape):
        for _, quantizer in quantizers(model):
            if isinstance(quantizer, Clipped):
                quantizer.state["reshape"][...] = reshape

    def step_end(self, model):
        super().step_end(model)
        if self.projects:
            for layer, quantizer in _own_weights(model):
                weight = layer.params["weight"]
                project(weight, quantizer.threshold(weight), quantizer.group)

    def finish(self, model):
        self._set_stage(model, False)
        super().finish(model)


def _own_weights(model):
    """[(layer, quantizer)] of every layer whose weight this method quantizes."""
    pairs = [(layer, layer.children.get("weight_quantizer")) for _, layer in model.named_layers()]
    return [(layer, quantizer) for layer, quantizer in pairs if isinstance(quantizer, GDRQWeight)]
