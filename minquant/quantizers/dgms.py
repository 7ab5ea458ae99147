"""DGMS: share the weights of a layer through a Gaussian mixture (Dong et al., ICML 2022, arXiv:2112.15139).

1. Every layer has a codebook of K = 2^b values: one is 0 (pruning comes free), K - 1 are learned.
2. They are the means of a Gaussian mixture over the layer's weights; its shares and widths are learned too.
3. In training a weight is the average of the means under its temperature-sharpened responsibilities:
   differentiable, without a straight-through step, without sampling (`minquant.estimators.mixture`).
4. In evaluation it is the mean of its most probable component; a low temperature makes the two nearly equal.
5. Weights and mixture are trained together by the loss of the task.

Notation: w latent weights; mu_k means, mu_0 = 0 is never a parameter and `params["mu"]` holds the others;
p_k raw shares `pi`; sigma_k widths `sigma`; tau temperature; gamma posterior; phi sharpened posterior; S
soft, Q hard weights.

    gamma_k = pi_k N(w; mu_k, sigma_k) / sum_j pi_j N(w; mu_j, sigma_j),    pi_k = |p_k| / sum_j |p_j|
    phi = softmax(gamma / tau),    S = sum_k mu_k phi_k (training),    Q = mu_k of the largest gamma_k (evaluation)

Recipe: mixture from the float weights, then weights and mixture together; tau falls geometrically over the steps.
Stored: b-bit codes and the codebook, rounded to int8 levels times one scale (`harden`); p, sigma and w are dropped.

What the formulas rest on. From the paper (abstract and one caption; its text was not at hand): mixture,
zero component, temperature, joint training, transfer of a mixture. From the published code, executed:
forward, k-means start, exempt layers, settings. Derived, and checked against automatic differentiation of
that code: every gradient. No result table of the paper was available, so no published accuracy is claimed
here.

Deviations.
- `mode=annealed` (default) is ours: posterior in logarithms, weights clipped to the codebook's ends first.
  The code adds 1e-11 to the densities, by which the largest weights of a layer become 0; `mode=official`
  keeps that.
- The code trains tau from 0.01. A useful learning rate lets it grow: the soft network stays good, the hard
  one collapses. Here tau falls geometrically from 1 / ln(9 (K - 1)) to 0.01; `official` trains it, slowly.
- The code runs k-means from random weights and then moves the centre nearest to 0 onto it, which tears a
  hole into the codebook; a cluster of one weight gives NaN, an empty one an endless loop. Here the zero is
  pinned during k-means, the start is deterministic, empty clusters keep their centre, and widths, shares
  and a trained tau have floors. `init=kmeans | empirical` are the code's starts with these guards; `em`
  adds EM.
- Its optimizer steps a parameter once per enclosing module and decays the mixture; here once, without
  decay.
- Its first convolution and linear layers stay float; here `first_last=float` asks for that.
- Activations are float in the paper. Learned step sizes (LSQ), the int8 codebook, `means_stage` and the
  scaling of a transferred mixture by the weights' standard deviation are our additions.
- Batch norm saw soft weights. `means_stage` ends the training on hard ones, and its statistics follow.
At 1 bit the codebook is {0, mu_1}: defined, but accuracy collapses; use a binary method.
"""

import math

import numpy as np

from ..estimators.mixture import (PI_FLOOR, Mixture, hard, initial_mixture, smallest_width, soft,
                                  soft_backward)
from .base import Method, Option, QTensor, Quantizer, check_finite
from .dgms_transfer import load_mixture, read_arrays
from .lsq import LearnedStep

MODES = ("annealed", "official")
INITS = ("auto", "anchored", "em", "kmeans", "empirical")
TAU_FLOOR = 1e-3  # smallest trained temperature
TAU_END = 0.01


def start_temperature(components):
    """tau_0 = 1 / ln(9 (K - 1)): the highest temperature at which a certain weight gets 0.9 of its own mean.

    >>> round(start_temperature(4), 3)
    0.303
    """
    return 1 / math.log(9 * (components - 1))


def snap(mu, limit=127):
    """Round a codebook to integers: (levels int8, |level| <= limit; step = max|mu| / limit in mu's dtype).

    |step level - mu| <= step / 2, half goes to even, and 0 stays 0; an all-zero codebook has step 1.

    >>> levels, step = snap(np.array([0.0, -1.0, 0.26]), limit=4)
    >>> levels.tolist(), float(step)
    ([0, -4, 1], 0.25)
    """
    step = np.abs(mu).max() / np.asarray(limit, mu.dtype)
    step = step if step > 0 else np.ones((), mu.dtype)[()]
    return np.clip(np.rint(mu / step), -limit, limit).astype(np.int8), step


class DGMSWeight(Quantizer):
    """Weights of one layer that share the K = 2^bits means of a Gaussian mixture, one of them 0.

    shape      : of the weight
    mode       : `annealed` (logarithms, tau set from outside) | `official` (as the code, tau learned)
    init       : `anchored` | `em` | `kmeans` | `empirical`; `auto` is anchored, or kmeans in official mode
    tau        : first temperature; None takes 1 / ln(9 (K - 1)), or 0.01 in official mode
    keep_codes : hold the codes that a last stage for the means alone needs: one byte per weight

    params : mu (K-1,) means without mu_0, pi (K,) and sigma (K,) of either sign, tau () in official mode
    """

    idempotent = False  # int8 levels that coincide at 8 bits leave codes to choose from

    def __init__(self, bits, shape, mode="annealed", init="auto", tau=None, keep_codes=False):
        super().__init__(bits, signed=True)
        for name, value, allowed in (("mode", mode, MODES), ("init", init, INITS)):
            if value not in allowed:
                raise ValueError(f"{name}={value!r} is not one of {', '.join(allowed)}")
        self.official, self.components, self.shape = mode == "official", 2 ** self.bits, tuple(shape)
        self.init = init if init != "auto" else "kmeans" if self.official else "anchored"
        if tau is None:
            tau = TAU_END if self.official else start_temperature(self.components)
        if not tau > 0:
            raise ValueError(f"tau={tau} is not a temperature; it must be positive")
        ones = np.ones(self.components, np.float32)
        self.params.update(mu=np.zeros(self.components - 1, np.float32), pi=ones, sigma=ones.copy())
        (self.params if self.official else self.state)["tau"] = np.asarray(tau, np.float32)
        self.state.update(sigma_floor=np.zeros((), np.float32), step=np.ones((), np.float32),
                          hardened=np.zeros((), bool))
        if keep_codes:
            self.state.update(frozen=np.zeros((), bool), codes=np.zeros(self.shape, np.uint8))
        pace = 0.1 if self.components <= 4 else 0.01  # few components bear, and need, faster means
        self.lr_scale = {"mu": pace, "pi": pace, "sigma": pace, "tau": 1e-3}
        self.walls = None

    def init_from(self, x, rng):
        check_finite(x)
        self.set_mixture(*initial_mixture(x, self.components, self.init, rng), smallest_width(x))
        self.state["ready"][...] = True

    def set_mixture(self, mu, pi, sigma, sigma_floor):
        """Take a mixture, zero component first, and its floor of widths; undo hardening and freezing."""
        self.params["mu"][...], self.params["pi"][...], self.params["sigma"][...] = mu[1:], pi, sigma
        self.state["sigma_floor"][...], self.state["hardened"][...] = sigma_floor, False
        if "codes" in self.state:
            self.state["frozen"][...] = False
        self.project()

    def means(self, dtype):
        """mu (K,), with mu_0 = 0."""
        return np.concatenate([np.zeros(1, dtype), self.params["mu"].astype(dtype)])

    def mixture(self, dtype, walls=None):
        """The current Mixture; its walls are the smallest and the largest mean unless given."""
        tau = float((self.params if self.official else self.state)["tau"])
        parts = (self.means(dtype), self.params["pi"].astype(dtype), self.params["sigma"].astype(dtype), tau)
        if self.official or walls:
            return Mixture(*parts, walls)
        return Mixture.robust(*parts)

    def table(self, dtype):
        """(levels, scale) in the order of the components: int8 once hardened, until then the means and 1."""
        if not self.state["hardened"]:
            return self.means(dtype), np.ones((), dtype)
        step = self.state["step"]
        levels = np.rint(self.means(np.float64) / step.astype(np.float64))
        return np.clip(levels, -127, 127).astype(np.int8), step.astype(dtype)

    def codebook(self, dtype):
        """The K values that evaluation uses, in the order of the components."""
        levels, scale = self.table(dtype)
        return levels.astype(dtype) * scale

    @property
    def frozen(self):
        """True in the last stage, in which codes are fixed and the means alone learn."""
        return "codes" in self.state and bool(self.state["frozen"])

    def freeze_codes(self, x):
        """Fix every weight's component to that of x: from now on training uses the hard weights, mu_code."""
        self.state["codes"][...] = self.assign(x)
        self.state["frozen"][...] = True

    def assign(self, x):
        """The component of every weight (uint8, shape of x), the zero component being 0.

        Compared in float64, so that a network has the same codes in single and in double precision.
        """
        self.require_ready()
        if not self.frozen:
            return hard(x, self.mixture(np.float64))
        if x.shape != self.shape:
            raise ValueError(f"codes are frozen for a weight of shape {self.shape}, this one has {x.shape}")
        return self.state["codes"]

    def usage(self, x):
        """Diagnosis: weights per component (K,), indices of dead components, share of weights that are not 0.

        One component may also win in two intervals, around a narrower one.
        """
        counts = np.bincount(self.assign(x).reshape(-1), minlength=self.components)
        return {"counts": counts, "dead": np.flatnonzero(counts == 0), "nonzero": 1 - counts[0] / x.size}

    def forward(self, x, train=False, rng=None):
        """Training: S = sum_k mu_k phi_k, or Q of the float means once codes are frozen. Evaluation: Q."""
        self.require_ready()
        if not train:
            return self.codebook(x.dtype)[self.assign(x)], None
        if self.frozen:
            return self.means(x.dtype)[self.assign(x)], (None, self.state["codes"])
        mixture = self.mixture(x.dtype)
        return soft(x, mixture), (x, mixture)

    def backward(self, dy, cache):
        if cache is None:
            raise RuntimeError("the arg-max of evaluation has no gradient; run forward with train=True first")
        x, held = cache
        if x is None:  # frozen codes: dL/dmu_k = sum of dL/dQ_n over code_n = k, and nothing else moves
            dmu = np.bincount(held.reshape(-1), dy.reshape(-1), self.components)[1:]
            return np.zeros_like(dy), {name: np.zeros_like(p) for name, p in self.params.items()} | {
                "mu": dmu.astype(self.params["mu"].dtype)}
        dx, dmu, dpi, dsigma, dtau = soft_backward(dy, x, held)
        grads = {"mu": dmu[1:], "pi": dpi, "sigma": dsigma}
        return dx, grads | {"tau": dtau} if self.official else grads

    def freeze(self, x, rng=None):
        """Hold the walls of the clipping for `surrogate`."""
        self.walls = self.mixture(x.dtype).walls

    def surrogate(self, x):
        """S with the walls of `freeze`: backward treats them as constants although they are means."""
        return soft(x, self.mixture(x.dtype, self.walls))

    def project(self):
        """|sigma_k| >= its floor, |p_k| >= 1e-4 sum |p|, signs kept; a trained tau >= 0.001."""
        floors = {"pi": PI_FLOOR * np.abs(self.params["pi"]).sum(), "sigma": self.state["sigma_floor"]}
        for name, floor in floors.items():  # Deviation: the code has none, and an empty component ends in 0/0
            p = self.params[name]
            p[...] = np.where(p < 0, -1, 1) * np.maximum(np.abs(p), floor)
        if self.official:
            np.maximum(self.params["tau"], TAU_FLOOR, out=self.params["tau"])

    def harden(self):
        """Fix the int8 grid of the codebook, step max|mu| / 127; the float means stay in `params`."""
        self.require_ready()
        self.state["step"][...] = snap(self.means(self.params["mu"].dtype))[1]
        self.state["hardened"][...] = True

    def encode(self, x):
        components = self.assign(x)
        table, scale = self.table(x.dtype)
        levels, rank = np.unique(table, return_inverse=True)
        return QTensor(rank.astype(np.uint8)[components], levels, scale, self.bits)


def mixtures(model):
    """[(layer name, layer, DGMSWeight)] of a model."""
    found = ((name, layer, layer.children.get("weight_quantizer")) for name, layer in model.named_layers())
    return [(name, layer, quantizer) for name, layer, quantizer in found if isinstance(quantizer, DGMSWeight)]


class DGMS(Method):
    """Gaussian-mixture weight sharing with an annealed temperature."""

    name = "dgms"
    title = "Differentiable Gaussian mixture weight sharing"
    paper = "Dong, Tan, Wu, Zhang, Ma, ICML 2022, arXiv:2112.15139"
    learns = "a codebook per layer, as the means of a Gaussian mixture over its weights"
    options = {
        "mode": Option("annealed", MODES, "annealed: tau falls in training; official: as the published code"),
        "init": Option("auto", INITS, "first mixture; auto is anchored, or kmeans in official mode"),
        "mixture": Option("learned", ("learned", "fixed"), "fixed: only the weights learn"),
        "tau_start": Option(0.0, float, "first temperature; 0 is 1/ln(9(K-1)), or 0.01 in official mode"),
        "tau_end": Option(TAU_END, float, "last temperature of the annealed mode"),
        "means_stage": Option(0.0, float, "share of the steps, at the end, that train only the means"),
        "init_mixture": Option("", str, "run folder or .npz whose mixtures start layers of the same name"),
    }

    def __init__(self, **options):
        super().__init__(**options)
        for name, ok, takes in (("tau_start", lambda v: 0 <= v < math.inf, "0 or a positive number"),
                                ("tau_end", lambda v: 0 < v < math.inf, "a positive number"),
                                ("means_stage", lambda v: 0 <= v < 1, "a share from 0 to below 1")):
            if not ok(self.settings[name]):
                raise ValueError(f"option {name}={self.settings[name]} does not work; it takes {takes}")

    def weight_quantizer(self, bits, shape):
        settings = self.settings
        return DGMSWeight(bits, shape, settings["mode"], settings["init"], settings["tau_start"] or None,
                          settings["means_stage"] > 0)

    def activation_quantizer(self, bits, signed=False):
        return LearnedStep(bits, signed)  # Deviation: the paper leaves activations float

    def start(self, model, rng):
        if self.settings["init_mixture"]:
            load_mixture(read_arrays(self.settings["init_mixture"]), mixtures(model))

    def temperature(self, components, progress):
        """tau(t) = tau_0 (tau_1 / tau_0)^t, t the share done of the steps before the stage of the means."""
        first, last = self.settings["tau_start"] or start_temperature(components), self.settings["tau_end"]
        return first * (last / first) ** min(1.0, progress / (1 - self.settings["means_stage"]))

    def step_begin(self, model, epoch, progress):
        share = self.settings["means_stage"]
        last_stage = share > 0 and progress >= 1 - share
        for _, layer, quantizer in mixtures(model):
            if not quantizer.official:
                quantizer.state["tau"][...] = self.temperature(quantizer.components, progress)
            if last_stage and not quantizer.frozen:
                quantizer.freeze_codes(layer.params["weight"])

    def edit_gradients(self, model, grads):
        if self.settings["mixture"] == "fixed":
            for name, _, quantizer in mixtures(model):
                for part in quantizer.params:
                    grads[f"{name}.weight_quantizer.{part}"] = np.zeros_like(quantizer.params[part])
        return grads
