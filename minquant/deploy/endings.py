"""The operations that end a sum: requantization, alone or with a shortcut, and the logits. See `requantize`."""

from dataclasses import dataclass

import numpy as np

from .op import Op, Tensor, array
from .requantize import STEPS, Expression, cheap_codes


def cheap_form(op):
    """How a cheap form finds the code, in a word or two."""
    return "float32 edges" if len(op.edges) else "float32"


def check_edges(op):
    """Raise ValueError unless there are no edges, or one per code above 0, ascending."""
    op.need(op.edges.shape in ((0,), (op.top,)) and not np.isnan(op.edges).any()
            and (op.edges[1:] >= op.edges[:-1]).all(), f"{len(op.edges)} edges are not {op.top} ascending numbers")


@dataclass(frozen=True, eq=False)
class Requantize(Op):
    """codes of sums, per channel (or one for all): the cheap form, or a ladder where `direction` is not 0.

    cheap  : clip(rint(acc * multiplier + offset), 0, top) in float32; with edges, the number of them that are reached
    ladder : number of this channel's thresholds t with acc >= t (direction 1) or acc <= t (direction -1); its
             multiplier and offset are a line near the ladder, which saves the executor most of the search
    thresholds (channels with a ladder, top), in the order of the channels;  edges (0,) or (top,), ascending
    """

    top: int
    multiplier: np.ndarray = array("<f4", 1)
    offset: np.ndarray = array("<f4", 1)
    direction: np.ndarray = array("|i1", 1)
    thresholds: np.ndarray = array("<i4", 2)
    edges: np.ndarray = array("<f4", 1, optional=True)

    takes = ("sums",)

    def form(self):
        ladders = len(self.thresholds)
        return f"ladder in {ladders} of {len(self.direction)}" if ladders else cheap_form(self)

    def result(self, x):
        self.check_top(self.top)
        channels, rows = len(self.multiplier), int(np.count_nonzero(self.direction))
        self.need(channels in (1, x.shape[-1]) and len(self.offset) == len(self.direction) == channels
                  and self.thresholds.shape == (rows, self.top) and np.isin(self.direction, (-1, 0, 1)).all(),
                  f"its arrays do not fit {x.shape[-1]} channels and codes up to {self.top}")
        self.need(np.isfinite(self.multiplier).all() and np.isfinite(self.offset).all(), "a factor is not finite")
        check_edges(self)
        return Tensor("codes", x.shape, self.top)

    def run(self, x):
        codes = cheap_codes(x, self.multiplier, self.offset, self.top, edges=self.edges)
        for row, channel in zip(self.thresholds.astype(np.int64), np.flatnonzero(self.direction)):
            place = np.s_[...] if len(self.direction) == 1 else np.s_[..., channel]
            acc, side = x[place].astype(np.int64), int(self.direction[channel])
            codes[place] = np.searchsorted(np.sort(side * row), side * acc, side="right")
        return codes


@dataclass(frozen=True, eq=False)
class AddRequantize(Op):
    """codes of sums plus a shortcut's codes k: the residual addition and everything up to the next quantizer.

    cheap : clip(rint((acc * multiplier + offset) + shortcut[k]), 0, top) in float32; with edges (0,) or (top,), the
            number of them that are reached
    exact : where `wide`, number of j with value(acc) + wide_shortcut[k] >= boundaries[j] in float64, value as in
            `Expression` of `steps` and `values` (steps, wide channels); all empty where no channel is wide
    """

    top: int
    steps: tuple[str, ...]
    multiplier: np.ndarray = array("<f4", 1)
    offset: np.ndarray = array("<f4", 1)
    shortcut: np.ndarray = array("<f4", 1)
    wide: np.ndarray = array("|u1", 1)
    values: np.ndarray = array("<f8", 2)
    wide_shortcut: np.ndarray = array("<f8", 1)
    boundaries: np.ndarray = array("<f8", 1)
    edges: np.ndarray = array("<f4", 1, optional=True)

    takes = ("sums", "codes")

    def form(self):
        wide = int(np.count_nonzero(self.wide))
        return f"float64 in {wide} of {len(self.wide)}" if wide else cheap_form(self)

    def result(self, x, k):
        self.check_top(self.top)
        channels, rows = x.shape[-1], int(np.count_nonzero(self.wide))
        self.need(x.shape == k.shape, f"sums {x.shape} and shortcut {k.shape} differ")
        self.need(len(self.multiplier) == len(self.offset) == len(self.wide) == channels
                  and len(self.shortcut) > k.top and self.wide.max() <= 1
                  and len(self.wide_shortcut) == (len(self.shortcut) if rows else 0)
                  and self.values.shape == (len(self.steps), rows)
                  and self.boundaries.shape == (self.top if rows else 0,)
                  and set(self.steps) <= set(STEPS), "its arrays do not fit its operands")
        self.need(not np.isnan(self.boundaries).any() and (self.boundaries[1:] >= self.boundaries[:-1]).all()
                  and all(np.isfinite(a).all() for a in (self.multiplier, self.offset, self.shortcut, self.values,
                                                         self.wide_shortcut)), "a factor or boundary is no number")
        check_edges(self)
        return Tensor("codes", x.shape, self.top)

    def run(self, x, k):
        codes = cheap_codes(x, self.multiplier, self.offset, self.top, self.shortcut[k], self.edges)
        wide = np.flatnonzero(self.wide)
        if len(wide):
            value = Expression(self.steps, self.values)(x[..., wide]) + self.wide_shortcut[k[..., wide]]
            codes[..., wide] = np.searchsorted(self.boundaries, value, side="right")
        return codes


@dataclass(frozen=True, eq=False)
class Logits(Op):
    """The last sums as float64, by the reference's own expression (`steps`, `values` (steps, channels)).

    Sums of a linear layer give (channels,), those of a convolution a map of logits (H, W, channels).
    """

    steps: tuple[str, ...]
    values: np.ndarray = array("<f8", 2)

    takes = ("sums",)

    def result(self, x):
        self.need(self.values.shape == (len(self.steps), x.shape[-1]) and set(self.steps) <= set(STEPS)
                  and np.isfinite(self.values).all(), f"its values do not fit {x.shape[-1]} channels")
        return Tensor("logits", x.shape)

    def run(self, x):
        return Expression(self.steps, self.values)(x)
