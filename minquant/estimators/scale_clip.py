"""Scale-Clip on groups of filters: walls, clip values and the uniform grid between them, as GDRQ uses them.

A group is a run of output channels (the last axis); every reduction is per group. Equation 3 is that of the paper,
arXiv:1908.01477; see `minquant.quantizers.gdrq` for what its text left open.
"""

from typing import NamedTuple

import numpy as np


class Grid(NamedTuple):
    """Uniform grid with codes q_min..q_max; the clip value lies `clip_level` step sizes from zero."""

    q_min: int
    q_max: int
    clip_level: float

    @classmethod
    def signed(cls, bits, name):
        """h = 2^(bits-1): `twos` -h..h-1; `sym`, `tile` -(h-1)..h-1; `full` -h..h, for analysis only."""
        h = 2 ** (bits - 1)
        return {"twos": cls(-h, h - 1, h), "sym": cls(1 - h, h - 1, h - 1),
                "tile": cls(1 - h, h - 1, h - 0.5), "full": cls(-h, h, h)}[name]

    def step(self, alpha):
        """Delta = alpha / L; 1 where alpha is 0: all codes are 0 there, and nothing divides by zero."""
        step = alpha / np.asarray(self.clip_level, alpha.dtype)
        return np.where(step > 0, step, np.ones_like(step))

    def inside(self, x, alpha):
        """1_in: -alpha <= x <= alpha, or 0 <= x <= alpha on an unsigned grid."""
        return (x >= (-alpha if self.q_min else 0)) & (x <= alpha)

    def codes(self, x, alpha):
        """q = clip(rint(clip(x, -alpha, alpha) / Delta), q_min, q_max), as floats."""
        q = np.clip(x, -alpha, alpha)
        q /= self.step(alpha)
        np.rint(q, out=q)
        return np.clip(q, self.q_min, self.q_max, out=q)

    def slope(self, x, alpha, q, inside):
        """STE: d(q Delta)/dalpha = (q - x/Delta 1_in) / L; inside the clip rounding is the identity."""
        return (q - np.where(inside, x / self.step(alpha), 0)) / np.asarray(self.clip_level, x.dtype)


def group_index(channels, group_size):
    """g(c) = c // group_size, (channels,) int; -1 is one group; the last group may be short."""
    if group_size != -1 and group_size < 1:
        raise ValueError(f"group_size={group_size} is neither positive nor -1; give the filters per group, "
                         "or -1 for one group per layer")
    return np.arange(channels) // (channels if group_size == -1 else group_size)


def group_reduce(ufunc, values, group):
    """Reduce (..., C) to (G,) by np.add or np.maximum: every channel first, then the channels of a group.

    A channel is one contiguous row, so that its result does not depend on its neighbours.
    """
    rows = np.ascontiguousarray(values.reshape(-1, values.shape[-1]).T)
    return ufunc.reduceat(ufunc.reduce(rows, axis=1), np.searchsorted(group, np.arange(group[-1] + 1)))


def group_count(weight, group):
    """N_g, the weights in every group, (G,) in the dtype of the weight."""
    return (np.bincount(group) * (weight.size // weight.shape[-1])).astype(weight.dtype)


def threshold(weight, k, group):
    """Scale-Clip's T_g = k mean|w| over every group, (G,); k=None, without Scale-Clip: max|w|.

    >>> threshold(np.array([[1.0, -2.0, 3.0]]), 2.0, group_index(3, 2))
    array([3., 6.])
    """
    if k is None:
        return group_reduce(np.maximum, np.abs(weight), group)
    return k * (group_reduce(np.add, np.abs(weight), group) / group_count(weight, group))


def project(weight, wall, group):
    """Clip the stored weights to [-T_g, T_g] in place; no gradient belongs to it."""
    np.clip(weight, -wall[group], wall[group], out=weight)


def search_alpha(weight, group, grid, norm=2):
    """Return (alpha, loss), (G,) each, of the least quantized-loss |w - Q(w)|_p / |w|_p (equation 3).

    Candidates are 0.10, 0.11 ... 1.00 times max|w|; the smallest of equals wins, an all-zero group gets 0.
    """
    largest = group_reduce(np.maximum, np.abs(weight), group)
    unit = weight / np.where(largest > 0, largest, 1)[group]  # in units of max|w| no power overflows
    best, least = np.zeros_like(largest), np.full_like(largest, np.inf)
    for hundredth in range(10, 101):
        clip = np.asarray(hundredth / 100, weight.dtype)
        error = group_reduce(np.add, np.abs(unit - grid.codes(unit, clip) * grid.step(clip)) ** norm, group)
        best, least = np.where(error < least, clip, best), np.minimum(error, least)
    total = group_reduce(np.add, np.abs(unit) ** norm, group)
    return best * largest, (least / np.where(total > 0, total, 1)) ** (1 / norm)


def merge_group_scales(weight_scale, act_scale, gamma, beta, mean, var, eps, bias=0.0):
    """Fold scales, bias and batch norm into (M, B) per channel: BN(fake-quantized layer) = M acc + B.

    M_c = gamma_c act_scale weight_scale_c / sqrt(var_c + eps)
    B_c = beta_c + gamma_c (bias_c - mean_c) / sqrt(var_c + eps)

    acc sums activation code x weight code, an integer; weight_scale is () or (C,), as a QTensor carries it.
    An identity of real numbers for any number of groups: groups cost neither storage nor time.
    """
    gain = gamma / np.sqrt(var + eps)
    return gain * act_scale * weight_scale, beta + gain * (bias - mean)
