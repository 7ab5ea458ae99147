"""Where lowering closes pending sums with a quantizer: boundaries, thresholds, the cheap form, and what is left."""

from functools import partial

import numpy as np

from ..nn.base import join
from . import ops
from .requantize import boundaries, fit, thresholds, unproven
from .values import Codes

NO_EDGES, FEW_EDGES = np.zeros(0, np.float32), 15
MAX_PAIRS = 1 << 12  # (shortcut code, threshold) pairs that the float32 form of an addition is tried on


class LoweringError(ValueError):
    """A model that cannot be lowered exactly; the message names the layer and the remedy."""


def close(lowering, quantizer, name, value, stairs):
    """Emit what turns a Pending value into the quantizer's codes; return the tensor that holds them.

    The operation that gives the quantizer's codes carries its name; where max-poolings waited, the last of them does.
    """
    code_of = partial(encoded, lowering, quantizer, name, value.nonlinear)
    boundary = reachable(boundaries(code_of, len(stairs.levels) - 1), name)
    check_against(stairs, boundary, value.nonlinear, name)
    own_name = f"{name}.requantize" if value.pools else name
    make = requantize if value.shortcut is None else add_requantize
    tensor = lowering.emit(make(lowering, own_name, value, boundary, stairs))
    for i, (pool_name, pool) in enumerate(value.pools, start=1):
        pooled_name = name if i == len(value.pools) else pool_name
        tensor = lowering.emit(ops.MaxPool(pooled_name, (tensor,), pool.size, pool.stride))
    return tensor


def close_parts(lowering, quantizer, name, value, stairs):
    """Emit what gives every part of a Concatenated value the codes of one quantizer; return the tensor of all.

    Pending parts are closed like any other; codes are looked up in a table of what the quantizer makes of them.
    """
    tensors, tables = [], np.tile(np.arange(256, dtype=np.uint8), (len(value.parts), 1))
    for (label, part), table in zip(value.parts.items(), tables, strict=True):
        if isinstance(part, Codes):
            table[:len(part.levels)] = encoded(lowering, quantizer, name, part.nonlinear, part.levels * part.scale)
            tensors.append(part.tensor)
        else:
            tensors.append(close(lowering, quantizer, join(name, label), part, stairs))
    if (tables == np.arange(256)).all():
        tables = tables[:0, :0]
    return lowering.emit(ops.Concat(name, tuple(tensors), tables))


def encoded(lowering, quantizer, name, nonlinear, x):
    """The codes of a quantizer for float64 values x that first pass through ReLUs."""
    for layer in nonlinear:
        x = layer.forward(x)[0]
    return lowering.asked(name, quantizer.encode, x).codes


def reachable(boundary, name):
    """The boundaries of codes that some value has (a cap may cut off the last ones), at least one; checked to rise."""
    if (boundary[1:] < boundary[:-1]).any():
        raise LoweringError(f"quantizer '{name}' is not monotone: its code falls where its input rises")
    return boundary[:max(1, int((boundary < np.inf).sum()))]


def check_against(stairs, boundary, nonlinear, name):
    """Raise LoweringError unless the boundaries of `encode` are those the quantizer publishes, within float rounding.

    A boundary at or below 0 is invisible behind a ReLU and not compared.
    """
    published = np.asarray(stairs.thresholds, np.float64)[:len(boundary)]
    seen = np.isfinite(boundary) & ((published > 0) | (not nonlinear))
    error = np.abs(np.where(seen, boundary, published) - published)
    if (error > 1e-9 * np.abs(published).max()).any():
        j = int(error.argmax())
        raise LoweringError(f"quantizer '{name}': encode reaches code {j + 1} at {boundary[j]!r}, its staircase says "
                         f"{published[j]!r}")


def step_of(boundary, stairs):
    """Mean distance of the finite boundaries; where there are fewer than two, of the levels."""
    finite = boundary[np.isfinite(boundary)]
    if len(finite) > 1 and finite[-1] > finite[0]:
        return (finite[-1] - finite[0]) / (len(finite) - 1)
    levels = stairs.levels.astype(float)
    return float(stairs.scale) * (levels[-1] - levels[0]) / (len(levels) - 1)


def are_even(boundary):
    """Whether all boundaries are finite and a step apart, to a thousandth of it."""
    steps = np.diff(boundary)
    return bool(np.isfinite(boundary).all() and len(steps) and np.ptp(steps) <= 1e-3 * np.abs(steps).mean())


def slope(value, direction, step):
    """Codes per step of the mirrored accumulator, per channel."""
    span = np.maximum(value.high - value.low, 1)
    rise = np.abs(value.expression(value.high) - value.expression(value.low))
    return np.broadcast_to(rise / span / step, direction.shape)


def cheap_form(ladder, value, boundary, step, addend=None):
    """(multiplier, offset, fits, edges, shortcut): rounding, or edges where more channels are right with them.

    Many edges take longer than rounding; they must be right where it is wrong in most channels. Of even boundaries
    rounding misses the code by one at most, which takes the executor no longer than to look at two thresholds.
    """
    short = None if addend is None else (addend / step).astype(np.float32)
    rounded = fit(ladder, slope(value, ladder.direction, step), short)
    right, channels = rounded[2].sum(), len(rounded[2])
    near = 2 * right >= channels or (addend is None and are_even(boundary))
    if right == channels or (len(boundary) > FEW_EDGES and near):
        return *rounded, NO_EDGES, short
    edges, values = boundary.astype(np.float32), None if addend is None else addend.astype(np.float32)
    compared = fit(ladder, slope(value, ladder.direction, 1.0), values, edges)
    if compared[2].sum() > right:
        return *compared, edges, values
    return *rounded, NO_EDGES, short


def requantize(lowering, name, value, boundary, stairs):
    """The operation for sums alone; channels that float32 does not get right keep their ladder."""
    ladder = thresholds(value.expression, boundary, value.low, value.high)
    multiplier, offset, fits, edges, _ = cheap_form(ladder, value, boundary, step_of(boundary, stairs))
    record(lowering, fits, ladder_channels=int((~fits).sum()), thresholds=ladder.thresholds.size,
           unproven=unproven(ladder, value.expression, boundary, value.slack))
    rows = (ladder.thresholds[0] * ladder.direction).T[~fits]
    direction = np.where(fits, 0, ladder.direction).astype(np.int8)
    return ops.Requantize(name, (value.tensor,), len(boundary), multiplier, offset, direction, rows.astype(np.int32),
                          edges)


def add_requantize(lowering, name, value, boundary, stairs):
    """The operation for sums plus a shortcut; channels that float32 does not get right go through float64.

    Beyond MAX_PAIRS (8 bits have 65,025 per channel) float32 cannot meet all thresholds, and none are computed.
    """
    addend, step, top = value.shortcut.levels * value.shortcut.scale, step_of(boundary, stairs), len(boundary)
    channels, pairs = len(value.low), len(addend) * len(boundary)
    short, edges = (addend / step).astype(np.float32), NO_EDGES
    multiplier, offset = np.zeros((2, channels), np.float32)
    fits = np.zeros(channels, bool)
    if pairs <= MAX_PAIRS:
        ladder = thresholds(value.expression, boundary, value.low, value.high, addend)
        multiplier, offset, fits, edges, short = cheap_form(ladder, value, boundary, step, addend)
        record(lowering, thresholds=ladder.thresholds.size,
               unproven=unproven(ladder, value.expression, boundary, value.slack, addend))
    else:
        record(lowering, unexamined=pairs * channels)
    record(lowering, fits, float64_channels=int((~fits).sum()))
    wide = value.expression.channels(~fits)
    if fits.all():
        addend, boundary = addend[:0], boundary[:0]
    return ops.AddRequantize(name, (value.tensor, value.shortcut.tensor), top, wide.steps, multiplier, offset, short,
                             (~fits).astype(np.uint8), wide.values, addend, boundary, edges)


def record(lowering, fits=(), **counts):
    """Add to the counts of the proof."""
    lowering.proof["channels"] += len(fits)
    for what, count in counts.items():
        lowering.proof[what] += count
