"""What the weight and activation quantizers of GDRQ share, and the ranges of its constants; notation in `gdrq.py`."""

import numpy as np

from ..estimators.straight_through import require_frozen
from .base import Quantizer, check_bits

BITS = range(2, 9)


class Clipped(Quantizer):
    """A grid, a clip value stored as `where["alpha"]` (None: not stored), a stage, a surrogate."""

    def __init__(self, bits, signed, k, grid, where, shape):
        check_bits(bits, BITS)
        super().__init__(bits, signed)
        if k is not None:
            check_k("k", k)
        self.k, self.grid, self.frozen = k, grid, None
        self.state["reshape"] = np.zeros((), bool)
        if where is not None:
            getattr(self, where)["alpha"] = np.zeros(shape, np.float32)

    def stored_alpha(self):
        """The array alpha itself, learned or state."""
        self.require_ready()
        return self.params["alpha"] if self.params else self.state["alpha"]

    def freeze(self, x, rng=None):
        """Fix the point whose codes and rounding residues `surrogate` keeps constant."""
        alpha = self.wide_alpha(x)
        self.frozen = x.copy(), alpha, self.grid.codes(x, alpha), self.grid.inside(x, alpha)

    def frozen_surrogate(self, x, moves, passes):
        """Inside x + Delta r0, outside Delta q0, plus x - x0 there if the gradient `passes` the clip.

        alpha `moves` with x and the parameters, or stays what it was at the frozen point.
        """
        x0, alpha0, q0, inside = require_frozen(self.frozen)
        step = self.grid.step(self.wide_alpha(x) if moves else alpha0)
        return np.where(inside, x + step * (q0 - x0 / self.grid.step(alpha0)),
                        step * q0 + (x - x0 if passes else 0))

    def project(self):
        if self.params:  # at zero the gradient of a learned clip value would vanish for good
            np.maximum(self.params["alpha"], 1e-6, out=self.params["alpha"])


def check_k(name, k):
    """Raise ValueError unless Scale-Clip's constant is positive."""
    if not (np.isfinite(k) and k > 0):
        raise ValueError(f"{name}={k} is not a positive number; Scale-Clip clips at k mean|x|, 2 is usual")


def check_lam(lam):
    """Raise ValueError for a rate with which the running clip value would not settle."""
    if not 0 < lam < 2:
        raise ValueError(f"lam={lam} is not in (0, 2), where alpha + lam (T - alpha) settles; 0.01 is usual")


def check_full(grad_mode, k, alpha_mode):
    """Raise ValueError where grad_mode "full" has no threshold to differentiate."""
    if grad_mode == "full" and (k is None or alpha_mode != "threshold"):
        raise ValueError("grad_mode='full' differentiates alpha = k mean|w|; it needs Scale-Clip and "
                         f"alpha 'threshold' (here k={k}, alpha '{alpha_mode}'); choose 'ste' or 'mask'")
