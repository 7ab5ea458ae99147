"""The operations of a Program, each with its meaning in exact integers: the oracle that every kernel must equal.

    kind     dtype    what it is
    image    uint8    pixels (N, H, W, C)
    codes    uint8    activation codes; a table of levels belongs to the operation that reads them
    sums     int32    accumulators
    logits   float64  what arg-max is taken of

`result(*tensors)` checks the operands and gives the kind, the shape of one image and the largest code of what
`run(*arrays)` computes. All checks are made once, when a Program is built or loaded.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..nn import functional
from .endings import AddRequantize, Logits, Requantize
from .op import Op, Tensor, array
from .pack import packed_bytes, unpack
from .requantize import INT32_LIMIT


@dataclass(frozen=True, eq=False)
class QuantizeInput(Op):
    """codes = table[channel, pixel]: normalisation and the input quantizer together. table (C, 256)."""

    table: np.ndarray = array("|u1", 2)

    takes = ("image",)

    def result(self, x):
        self.need(self.table.shape == (x.shape[-1], 256), f"a table of shape {self.table.shape} for images {x.shape}")
        return Tensor("codes", x.shape, int(self.table.max()))

    def run(self, x):
        return self.table[np.arange(x.shape[-1]), x]


@dataclass(frozen=True, eq=False)
class Weighted(Op):
    """Common to convolution and linear: packed weight codes, their levels, and the levels of the input's codes.

    stream : `pack`ed codes of `shape`, `bits` each;  levels : what weight codes stand for
    input_levels : what the codes read stand for; padding is level 0
    """

    bits: int
    shape: tuple[int, ...]
    stream: np.ndarray = array("|u1", 1)
    levels: np.ndarray = array("|i1", 1)
    input_levels: np.ndarray = array("<i2", 1)

    def check_weights(self, ndim, top):
        self.need(len(self.shape) == ndim and min(self.shape) >= 1 and 1 <= self.bits <= 8,
                  f"weights of shape {self.shape} with {self.bits} bits")
        count = int(np.prod(self.shape, dtype=object))
        self.need(len(self.stream) == packed_bytes(count, self.bits),
                  f"{len(self.stream)} bytes are not {count} codes of {self.bits} bits")
        self.need(int(self.codes.max()) < len(self.levels), f"a weight code has none of the {len(self.levels)} levels")
        self.need(len(self.input_levels) > top, f"{len(self.input_levels)} input levels for codes up to {top}")
        self.need(self.input_levels.min() >= -128 and self.input_levels.max() <= 255, "input levels beyond 8 bits")
        low, high = self.bounds()
        self.need(low.min() >= -INT32_LIMIT and high.max() <= INT32_LIMIT,
                  f"sums from {low.min()} to {high.max()} exceed int32; use fewer bits or a smaller layer")

    @cached_property
    def codes(self):
        """Weight codes, uint8, unpacked."""
        return unpack(self.stream, self.bits, int(np.prod(self.shape))).reshape(self.shape)

    @cached_property
    def weights(self):
        """Weight levels as float64, whose sums of products are exact integers (far below 2^53) in any order."""
        return self.levels.astype(np.float64)[self.codes]

    def bounds(self):
        """(lowest, highest) accumulator per output channel, over all inputs and with padding; int64."""
        least, most = min(0, int(self.input_levels.min())), max(0, int(self.input_levels.max()))
        rows = self.levels.astype(np.int64)[self.codes].reshape(-1, self.shape[-1])
        positive, negative = np.maximum(rows, 0).sum(0), np.minimum(rows, 0).sum(0)
        return positive * least + negative * most, positive * most + negative * least

    def magnitude(self):
        """Largest sum |a w| per output channel, over all inputs; int64."""
        rows = self.levels.astype(np.int64)[self.codes].reshape(-1, self.shape[-1])
        return np.abs(rows).sum(0) * int(np.abs(self.input_levels.astype(int)).max())


@dataclass(frozen=True, eq=False)
class Convolution(Weighted):
    """sums = cross-correlation of the input's levels (NHWC) with the weights' (HWIO); groups = channels: depthwise."""

    stride: int
    padding: int
    groups: int

    def result(self, x):
        self.check_weights(4, x.top)
        self.need(len(x.shape) == 3, f"it takes images, not {x.shape}")
        kernel, width, inputs, outputs = self.shape
        self.need(kernel == width and self.stride >= 1 and 0 <= self.padding < kernel and self.groups >= 1,
                  f"kernel {kernel}x{width}, stride {self.stride}, padding {self.padding}, groups {self.groups}")
        self.need(x.shape[2] == inputs * self.groups and outputs % self.groups == 0,
                  f"weights {self.shape} in {self.groups} groups for {x.shape[2]} channels")
        h, w = ((n + 2 * self.padding - kernel) // self.stride + 1 for n in x.shape[:2])
        self.need(min(h, w) >= 1, f"a kernel of {kernel} does not fit {x.shape}")
        return Tensor("sums", (h, w, outputs))

    def run(self, x):
        levels = self.input_levels.astype(np.float64)[x]
        return functional.conv2d_forward(levels, self.weights, self.stride, self.padding, self.groups)[0].astype(
            np.int32)


@dataclass(frozen=True, eq=False)
class Linear(Weighted):
    """sums = levels of the input (N, in) @ levels of the weights (in, out)."""

    def result(self, x):
        self.check_weights(2, x.top)
        self.need(x.shape == self.shape[:1], f"weights {self.shape} for an input {x.shape}")
        return Tensor("sums", self.shape[1:])

    def run(self, x):
        return (self.input_levels.astype(np.float64)[x] @ self.weights).astype(np.int32)


@dataclass(frozen=True, eq=False)
class SumPool(Op):
    """sums = sum of levels over windows of (height, width) pixels, `stride` apart; the mean is in what follows.

    Stride 0 is the sum over the whole image, which drops both axes: (N, H, W, C) -> (N, C).
    """

    window: tuple[int, ...]
    stride: int
    input_levels: np.ndarray = array("<i2", 1)

    def result(self, x):
        self.need(len(self.window) == 2 and min(self.window) >= 1 and self.stride >= 0 and len(x.shape) == 3
                  and len(self.input_levels) > x.top, f"a window {self.window} or its levels do not fit {x}")
        self.need(max(self.bounds()[1], -self.bounds()[0]) <= INT32_LIMIT, "its sums exceed int32")
        if not self.stride:
            self.need(self.window == x.shape[:2], f"its window {self.window} is not the whole of {x.shape}")
            return Tensor("sums", x.shape[2:])
        h, w = ((n - k) // self.stride + 1 for n, k in zip(x.shape, self.window))
        self.need(min(h, w) >= 1, f"a window {self.window} does not fit {x.shape}")
        return Tensor("sums", (h, w, x.shape[2]))

    def run(self, x):
        levels = self.input_levels.astype(np.int32)[x]
        if not self.stride:
            return levels.sum((1, 2), dtype=np.int32)
        views = sliding_window_view(levels, self.window, axis=(1, 2))
        return views[:, ::self.stride, ::self.stride].sum((-1, -2), dtype=np.int32)

    def bounds(self):
        """(lowest, highest) sum."""
        count = self.window[0] * self.window[1]
        return count * min(0, int(self.input_levels.min())), count * max(0, int(self.input_levels.max()))


@dataclass(frozen=True, eq=False)
class MaxPool(Op):
    """Largest code of every size x size window; codes ascend with their levels."""

    size: int
    stride: int

    def result(self, x):
        self.need(len(x.shape) == 3 and 1 <= self.size <= min(x.shape[:2]) and self.stride >= 1,
                  f"a window of {self.size} does not fit {x.shape}")
        h, w = ((n - self.size) // self.stride + 1 for n in x.shape[:2])
        return Tensor("codes", (h, w, x.shape[2]), x.top)

    def run(self, x):
        views = sliding_window_view(x, (self.size, self.size), axis=(1, 2))
        return views[:, ::self.stride, ::self.stride].max((-1, -2))


@dataclass(frozen=True, eq=False)
class PadShortcut(Op):
    """Every stride-th pixel; channels beyond the input's hold `zero`, the code of level 0."""

    outputs: int
    stride: int
    zero: int

    def result(self, x):
        self.need(len(x.shape) == 3 and self.outputs >= x.shape[2] and self.stride >= 1 and 0 <= self.zero <= x.top,
                  f"it cannot make {self.outputs} channels of {x}")
        h, w = (-(-n // self.stride) for n in x.shape[:2])
        return Tensor("codes", (h, w, self.outputs), x.top)

    def run(self, x):
        kept = x[:, ::self.stride, ::self.stride]
        codes = np.full((*kept.shape[:3], self.outputs), self.zero, np.uint8)
        codes[..., :x.shape[3]] = kept
        return codes


@dataclass(frozen=True, eq=False)
class Flatten(Op):
    """(N, ...) -> (N, product of the rest), in NHWC order."""

    def result(self, x):
        return Tensor("codes", (int(np.prod(x.shape)),), x.top)

    def run(self, x):
        return x.reshape(len(x), int(np.prod(x.shape[1:])))


@dataclass(frozen=True, eq=False)
class Concat(Op):
    """codes of all operands side by side on the last axis; where there are tables, of operand i tables[i][codes].

    tables (operands, 256), or (0, 0): the codes are taken as they are
    """

    tables: np.ndarray = array("|u1", 2, optional=True)

    @property
    def takes(self):
        """Codes, of any number of operands."""
        return ("codes",) * max(1, len(self.inputs))

    def form(self):
        moved = sum(not np.array_equal(table, np.arange(256)) for table in self.tables)
        return f"table for {moved} of {len(self.inputs)}" if moved else ""

    def result(self, *operands):
        shapes = [x.shape for x in operands]
        self.need(len({shape[:-1] for shape in shapes}) == 1,
                  f"its operands {', '.join(map(str, shapes))} differ in more than their channels")
        self.need(self.tables.shape in ((0, 0), (len(operands), 256)),
                  f"tables of shape {self.tables.shape} for {len(operands)} operands")
        tops = [x.top for x in operands]
        if len(self.tables):
            tops = [int(table[:top + 1].max()) for table, top in zip(self.tables, tops)]
        return Tensor("codes", (*shapes[0][:-1], sum(shape[-1] for shape in shapes)), max(tops))

    def run(self, *operands):
        if len(self.tables):
            operands = [table[x] for table, x in zip(self.tables, operands, strict=True)]
        return np.concatenate(operands, axis=-1)


OPS = {kind.__name__: kind for kind in (QuantizeInput, Convolution, Linear, SumPool, Requantize, AddRequantize,
                                        MaxPool, PadShortcut, Flatten, Concat, Logits)}
