"""Cluster-promoting quantization with bit-drop (CPQ + DropBits); SRQ is its earlier name.

1. As in Relaxed Quantization, a value plus logistic noise has a distribution pi over the levels alpha n.
2. Forward takes the most probable level, which is plain nearest rounding: no sampling, no train/test gap.
3. Backward differentiates pi of the chosen level only (multi-class STE). That derivative is zero on a level
   and large at a cell border, so weights settle on levels: clusters form without a clustering loss.
4. The mode is biased. DropBits drops levels of the weight grid at random during training: one hard concrete
   mask per bit-level, a fresh draw per tensor and step, no rescaling by the keep probability.
5. With an L0 penalty on the masks the bit-width of every layer is learned: leading levels that stay open.

Notation: alpha step size, sigma noise scale, m the chosen level with code n_m, Z masks, G gates, omega logits
of the keep probabilities Pi. Learned: log alpha, log sigma, omega.

    x_hat = alpha n_m,    m = argmax_n G(n) pi(n);    dL/dpi_m := alpha n_m dL/dx_hat, 0 for the others ("imax")

Recipe: step of least squared error from the float network; masks until the last `masks_off` of the steps.
Stored: codes, alpha and bits; sigma and masks are training only.

Deviations and sources. The paper's text was not available: its abstracts were (existence and purpose of each
part), the nearest-level forward is confirmed by third-party code, and the "imax" backward, the two mask
layouts and the hard concrete form are from memory. What could not be recovered is ours:
- normalize=True divides cell masses by their sum over the grid, as RQ does; normalize=False is the bare one.
- Activations use the rule "full" (expectation over all levels): under "imax" the factor passed to earlier
  layers has the wrong sign half of the time and costs accuracy. act_ste="imax" is the literal reading.
- Weights keep "imax". At 2 bits it costs about 2 points in training longer than a few epochs: code 0 has no
  gradient and holds what falls into it. ste="full" has no such trap (results/README.md has both).
- A "bit-level" k is what the k-bit two's complement grid adds to that of k-1 bits, at one step size. Masks
  are drawn per tensor; Pi starts at 0.9; nested gates (products) while bits are learned, since only grids
  without holes can be stored.
- Masks are switched off for the last share `masks_off` of the steps, where learned bits are fixed too:
  batch-norm statistics gathered under masks are biased. alpha is kept, for the smaller grid is nested in the
  larger.
- init="mse" (least squared error over 23 steps) instead of RQ's range: the imax rule cannot repair a bad
  start at 2 bits.
- log alpha, log sigma are learned, sigma within [alpha/30, 3 alpha], omega within [-6, 6]; one step size per
  tensor.
- At 1 bit the signed grid is {-alpha, 0}; it has no level to drop.
"""

import math

import numpy as np

from ..estimators import concrete, dropbits, multiclass
from ..estimators.straight_through import require_frozen
from .base import Method, Option, quantizers
from .rq import LogisticGrid

OMEGA_RANGE = -6.0, 6.0
LEARN_BITS_OMEGA_RATE = 150.0  # 0.045 at the recommended 3e-4; at the weights' own rate masks hardly move in an epoch
RULES = tuple(multiclass.RULES)


class ClusterPromoting(LogisticGrid):
    """Nearest level forward, multi-class STE backward; weights without masks, and activations.

    ste : "imax" (the chosen level only) or "full" (all levels);  normalize : divide cell masses by their sum
    """

    def __init__(self, bits, signed=True, ste="imax", normalize=True, init="mse"):
        super().__init__(bits, signed, init)
        self.ste, self.normalize = ste, normalize

    def freeze(self, x, rng=None):
        """Hold for `surrogate` what a training forward of x that draws from rng takes as constant."""
        grid = self.grid()
        self.frozen = grid, grid.nearest(x), None

    def backward(self, dy, cache):
        x, grid = cache
        dx, dalpha, dsigma = multiclass.backward(dy, x, grid, self.ste, self.normalize)
        return dx, self.log_grads(dalpha, dsigma, grid)

    def surrogate(self, x):
        """sum_i c_i pi_i(x, alpha, sigma) + alpha n_m; c_i = g_i for all i ("full") or for m ("imax").

        g and n_m are those of `freeze`, pi is live. K times the memory of x: for checks.
        """
        frozen, n, _ = require_frozen(self.frozen)
        return self._surrogate(x, frozen, n, (), np.full(frozen.size, -1))

    def _surrogate(self, x, frozen, n, gates, groups):
        grid = self.grid(int(frozen.size).bit_length() - 1)
        codes = np.arange(grid.n_min, grid.n_max + 1, dtype=x.dtype)
        if self.normalize or len(gates):
            pi = dropbits.expanded_probabilities(x, grid, gates, groups)
        else:
            pi = np.exp(multiclass.log_mass(x[..., None], grid, codes, codes))
        kept = True if self.ste == "full" else codes == n[..., None]
        return (pi * np.where(kept, frozen.alpha * codes, 0)).sum(-1) + grid.alpha * n


class DropBits(ClusterPromoting):
    """CPQ weights with masks on their levels; `bits` turns into the learned number when `fix_bits` is called.

    layout    : "bits" (one mask per bit-level above min_bits) or "endpoints" (one per pair of outer codes)
    keep      : initial keep probability Pi, in (0, 1)
    nested    : G_k = Z_1..Z_k instead of G_k = Z_k
    learn_bits: the L0 penalty lambda sum phi is charged, and fix_bits keeps the leading open levels
    """

    def __init__(self, bits, ste="imax", normalize=True, init="mse", layout="bits", keep=0.9, nested=False,
                 min_bits=1, learn_bits=False, penalty=0.0):
        self.max_bits = bits
        super().__init__(bits, True, ste, normalize, init)
        self.layout, self.nested, self.learn_bits = layout, nested, learn_bits
        self.min_bits, self.strength = min(min_bits, bits), penalty
        self.groups = dropbits.gate_groups(bits, layout, self.min_bits)
        self.state["masked"] = np.ones((), bool)
        if self.groups.max() >= 0:
            self.params["omega"] = np.full(self.groups.max() + 1, math.log(keep / (1 - keep)), np.float32)
        if learn_bits:
            self.lr_scale = {"omega": LEARN_BITS_OMEGA_RATE}

    @property
    def bits(self):
        """Bits of the grid in use: all of them until fix_bits. Kept in state, for checkpoints."""
        return int(self.state["bits"])

    @bits.setter
    def bits(self, value):
        self.state["bits"] = np.array(value, np.int64)

    def masked(self):
        """True while training forwards draw masks."""
        return bool(self.state["masked"]) and "omega" in self.params

    def learned_bits(self):
        """min_bits plus the leading levels whose gate is open without noise, up to the first that is not.

        A gate is zero exactly where Pi <= -gamma / (zeta - gamma) = 1/12.
        """
        if "omega" not in self.params or self.layout != "bits":
            return self.bits
        return self.min_bits + int(np.cumprod(concrete.deterministic_gate(self.params["omega"]) > 0).sum())

    def expected_bits(self):
        """min_bits + sum_k prod_{l <= k} phi_l, the expectation of the bit-width under nested gates."""
        if "omega" not in self.params or self.layout != "bits":
            return float(self.bits)
        return self.min_bits + float(np.cumprod(concrete.open_probability(self.params["omega"])).sum())

    def fix_bits(self):
        """End the masks; with learn_bits keep the learned bits, at the same step size. Idempotent."""
        if self.state["masked"]:
            if self.learn_bits:
                self.bits = self.learned_bits()
            self.state["masked"][...] = False

    def harden(self):
        """What is stored has no masks: see fix_bits."""
        self.fix_bits()

    def forward(self, x, train=False, rng=None):
        """Training draws one mask vector from rng while masks are on; nothing else draws."""
        if not train or not self.masked():
            return super().forward(x, train)
        self.require_ready()
        if rng is None:
            raise ValueError("DropBits draws masks in training; pass rng=numpy.random.Generator to forward")
        return self.forward_masked(x, self._draw(rng))

    def _draw(self, rng):
        """U in (0, 1), one per mask."""
        margin, omega = concrete.UNIFORM_MARGIN, self.params["omega"]
        return rng.uniform(margin, 1 - margin, omega.shape).astype(omega.dtype)

    def forward_masked(self, x, uniform):
        """The training forward for given draws U in (0, 1), one per mask: alpha argmax_n G(n) pi(n)."""
        grid = self.grid(self.max_bits)
        masks, s = concrete.hard_concrete(self.params["omega"], uniform)
        gates = dropbits.gates_from_masks(masks, self.nested)
        n = self._codes(x, grid, gates)
        return n * grid.alpha, (x, grid, n, masks, s, gates)

    def _codes(self, x, grid, gates):
        if self.layout == "bits":
            return dropbits.bits_codes(x, grid, gates, self.min_bits)
        return dropbits.expanded_codes(x, grid, gates, self.groups)

    def backward(self, dy, cache):
        if len(cache) == 2:
            dx, grads = super().backward(dy, cache)
            if "omega" in self.params:
                grads["omega"] = np.zeros_like(self.params["omega"])
            return dx, grads
        x, grid, n, masks, s, gates = cache
        if self.layout == "bits" and self.ste == "imax":
            dx, sums = dropbits.bits_backward(dy, x, n, grid, gates, self.min_bits)
        else:
            dx, sums = multiclass.contract(
                lambda x, n: dropbits.expanded_slopes(x, n, grid, gates, self.groups, self.ste), dy, x, n,
                chunk=max(1, multiclass.CHUNK // grid.size))
        grads = self.log_grads(sums[0], sums[1], grid)
        dmasks = dropbits.gates_from_masks_backward(sums[2:], masks, self.nested)
        grads["omega"] = concrete.hard_concrete_backward(dmasks, s).astype(s.dtype)
        return dx, grads

    def freeze(self, x, rng=None):
        if not self.masked():
            super().freeze(x)
            return
        uniform = self._draw(rng)
        _, (_, grid, n, *_) = self.forward_masked(x, uniform)
        self.frozen = grid, n, uniform

    def surrogate(self, x):
        """As without masks, with pi~ under gates that follow omega at the draw of `freeze`; n_m is frozen."""
        frozen, n, uniform = require_frozen(self.frozen)
        if uniform is None:
            return super().surrogate(x)
        masks, _ = concrete.hard_concrete(self.params["omega"], uniform)
        live = dropbits.gates_from_masks(masks, self.nested)
        return self._surrogate(x, frozen, n, live, self.groups)

    def penalty(self):
        """lambda sum_k phi_k, phi_k = P(Z_k > 0), while bits are being learned."""
        if not self.learn_bits or not self.masked():
            return 0.0, {}
        phi = concrete.open_probability(self.params["omega"])
        domega = concrete.open_probability_backward(self.strength, phi)
        return self.strength * float(phi.sum()), {"omega": domega}

    def project(self):
        super().project()
        if "omega" in self.params:
            np.clip(self.params["omega"], *OMEGA_RANGE, out=self.params["omega"])


class CPQ(Method):
    """CPQ weights with DropBits, CPQ activations; optionally a learned bit-width per layer."""

    name = "cpq"
    title = "Cluster-Promoting Quantization with Bit-Drop for Minimizing Network Quantization Loss"
    paper = "Lee et al., ICCV 2021, arXiv:2109.02100 (SRQ, arXiv:1911.12990, is its earlier form)"
    learns = "step size and noise scale per tensor; with learn_bits=true the bits of every layer"
    # Weights of code 0 have no gradient under imax; Adam would turn their decay alone into full steps.
    training = {"lr": 3e-4, "quantized_weight_decay": 0.0}
    options = {
        "ste": Option("imax", RULES, "multi-class STE of weights: the chosen level only, or all levels"),
        "act_ste": Option("full", RULES, "multi-class STE of activations"),
        "dropbits": Option("bits", (*dropbits.LAYOUTS, "off"),
                           "weight masks per bit-level, per outer pair, none"),
        "keep": Option(0.9, float, "initial keep probability of a mask, in (0, 1)"),
        "nested": Option(False, bool, "a level survives only with all lower ones (always with learn_bits)"),
        "min_bits": Option(0, int, "bit-levels that are never dropped; 0 means 1, or 2 with learn_bits"),
        "learn_bits": Option(False, bool, "learn the bits of every layer, up to the bits given"),
        "penalty": Option(0.03, float, "lambda, the price of an open mask; charged with learn_bits only"),
        "budget": Option("layer", ("layer", "params"), "price layers alike, or by share of the weights"),
        "normalize": Option(True, bool, "divide cell probabilities by their sum over the grid"),
        "init": Option("mse", ("mse", "range"), "initial step: least squared error, or from the range (RQ)"),
        "masks_off": Option(0.15, float, "share of the steps, at the end, without masks and with fixed bits"),
    }

    def __init__(self, **options):
        super().__init__(**options)
        s = self.settings
        if not 0 < s["keep"] < 1:
            raise ValueError(f"option keep={s['keep']} is not in (0, 1); it is a probability")
        if not 0 <= s["masks_off"] <= 1 or s["learn_bits"] and not s["masks_off"]:
            raise ValueError(f"option masks_off={s['masks_off']} is not a share of the steps in 0..1, above 0 with "
                             "learn_bits: bits are fixed when masks end")
        if not 0 <= s["penalty"] < math.inf:
            raise ValueError(f"option penalty={s['penalty']} must be finite and at least 0")
        if not 0 <= s["min_bits"] <= 8:
            raise ValueError(f"option min_bits={s['min_bits']} is not in 0..8")
        if s["learn_bits"] and s["dropbits"] != "bits":
            raise ValueError(f"option learn_bits=true needs dropbits=bits, not {s['dropbits']!r}: "
                             "only grids of whole bits can be stored")

    def weight_quantizer(self, bits, shape):
        s = self.settings
        if s["dropbits"] == "off":
            return ClusterPromoting(bits, True, s["ste"], s["normalize"], s["init"])
        min_bits = s["min_bits"] or (2 if s["learn_bits"] else 1)
        return DropBits(bits, s["ste"], s["normalize"], s["init"], s["dropbits"], s["keep"],
                        s["nested"] or s["learn_bits"], min_bits, s["learn_bits"], s["penalty"])

    def activation_quantizer(self, bits, signed=False):
        s = self.settings
        return ClusterPromoting(bits, signed, s["act_ste"], s["normalize"], s["init"])

    def step_begin(self, model, epoch, progress):
        if progress >= 1 - self.settings["masks_off"]:
            for _, quantizer in quantizers(model):
                if isinstance(quantizer, DropBits):
                    quantizer.fix_bits()

    def feasible(self, model):
        """While bits are being learned the network still has all its levels: what is stored comes after fix_bits."""
        return not any(isinstance(q, DropBits) and q.learn_bits and q.masked() for _, q in quantizers(model))

    def penalty(self, model):
        """lambda sum over layers of sum_k phi_k; under budget=params a layer counts by its size."""
        if self.settings["budget"] == "layer":
            return super().penalty(model)
        sizes = {f"{name}.weight_quantizer": layer.params["weight"].size
                 for name, layer in model.named_layers() if "weight_quantizer" in layer.children}
        total, grads = 0.0, {}
        for name, quantizer in quantizers(model):
            value, own = quantizer.penalty()
            share = sizes.get(name, 0) / sum(sizes.values())
            total += share * value
            grads.update({f"{name}.{key}": (share * grad).astype(grad.dtype) for key, grad in own.items()})
        return total, grads
