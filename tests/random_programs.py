"""Random Programs whose operations fit each other: every kind, every form, odd shapes, shared tensors."""

import numpy as np

from minquant.deploy.endings import AddRequantize, Logits, Requantize
from minquant.deploy.ops import Concat, Convolution, Flatten, Linear, MaxPool, PadShortcut, QuantizeInput, SumPool
from minquant.deploy.op import Tensor
from minquant.deploy.pack import pack
from minquant.deploy.program import Program


def random_program(rng, operations=8):
    """A Program of about so many operations on small images."""
    return _Builder(rng).build(operations)


def near_ties(rng, image=(16, 16, 1), additions=1):
    """A Program whose additions, all of the same sums, have float64 values on boundaries and next to them."""
    return _Builder(rng, image).near_ties(additions)


def few_channels(rng):
    """A Program of a convolution from one channel to few: kernels may compute several of its pixels at a time."""
    return _Builder(rng, (7, int(rng.integers(4, 13)), 1)).few_channels()


def side_by_side(rng):
    """A Program that concatenates what products of every kind make, between borders of other widths."""
    return _Builder(rng, (int(rng.integers(1, 9)), int(rng.integers(1, 9)), int(rng.integers(1, 3)))).side_by_side()


def many_panels(rng):
    """A Program of products by point of small images, to many channels: kernels may copy their rows side by side."""
    size = int(rng.integers(1, 12))
    return _Builder(rng, (size, int(rng.integers(1, 12)), 3)).many_panels()


def large_images(rng):
    """A Program whose activations are large at first and small later, where an addition reads an early tensor."""
    return _Builder(rng, (120, 130, 3)).large_images()


def even_ladders(rng, depthwise):
    """A Program whose sums have ladders of nearly even steps, rising or falling, in some channels."""
    return _Builder(rng, (16, 16, 1)).even_ladders(depthwise)


def pooled(rng, channels, size, stride):
    """A Program that takes the maxima of windows of its image."""
    return _Builder(rng, (7, 50, channels)).pooled(size, stride)


class _Builder:
    def __init__(self, rng, image=None):
        self.rng, self.ops = rng, []
        self.tensors = [Tensor("image", image or tuple(int(n) for n in rng.integers(1, (9, 9, 4))))]

    def build(self, operations):
        table = self.rng.integers(0, self.one_of(2, 4, 16, 256), (self.tensors[0].shape[2], 256), dtype=np.uint8)
        self.emit(QuantizeInput("input", (0,), table))
        kinds = (self.convolution, self.convolution, self.convolution, self.max_pool, self.sum_pool, self.pad_shortcut,
                 self.flat, self.concat)
        while len(self.ops) < operations:
            self.one_of(*kinds)(int(self.rng.choice(self.of_kind("codes"))))
        return self.finished()

    def near_ties(self, additions):
        codes = self.emit(QuantizeInput("input", (0,), np.arange(256, dtype=np.uint8)[None]))
        fields = self.weights(codes, (1, 1, 1, 20)) | {"input_levels": np.arange(256, dtype=np.int16)}
        sums = self.emit(Convolution("conv", **fields, stride=1, padding=0, groups=1))
        shortcut = self.emit(PadShortcut("short", (codes,), 20, 1, 0))
        for _ in range(additions):
            self.add_near_ties(sums, shortcut)
        return self.finished()

    def few_channels(self):
        codes = self.emit(QuantizeInput("input", (0,), np.arange(256, dtype=np.uint8)[None]))
        kernel = int(self.rng.integers(1, 5))
        fields = self.weights(codes, (kernel, kernel, 1, int(self.rng.integers(1, 9))))
        fields["levels"][self.rng.integers(len(fields["levels"]))] = 0
        self.requantize(self.emit(Convolution("conv", **fields, stride=int(self.rng.integers(1, 3)),
                                              padding=int(self.rng.integers(0, kernel)), groups=1)))
        return self.finished()

    def side_by_side(self):
        tensor = self.emit(QuantizeInput("input", (0,), self.rng.integers(0, 16, (self.tensors[0].shape[2], 256),
                                                                          dtype=np.uint8)))
        for _ in range(2):
            parts = [self.same_size(tensor) for _ in range(self.rng.integers(1, 5))]
            parts = [self.emit(MaxPool(self.name("max"), (part,), 1, 1)) if self.rng.random() < 0.2 else part
                     for part in (*parts, *self.one_of((), (tensor,)))]
            tensor = self.emit(Concat(self.name("concat"), tuple(parts)))
        self.requantize(self.same_size(tensor, ending=False))
        return self.finished()

    def same_size(self, tensor, ending=True):
        """Codes, or the sums, of a convolution that keeps the size of its input."""
        channels, padding = self.tensors[tensor].shape[2], int(self.rng.integers(0, 3))
        groups = self.one_of(1, 1, channels)
        fields = self.weights(tensor, (1 + 2 * padding, 1 + 2 * padding, channels // groups,
                                       groups * self.one_of(1, int(self.rng.integers(1, 70 // groups + 2)))))
        sums = self.emit(Convolution(self.name("conv"), **fields, stride=1, padding=padding, groups=groups))
        if not ending:
            return sums
        shortcuts = self.of_kind("codes", self.tensors[sums].shape)
        if shortcuts and self.rng.random() < 0.3:
            return self.add(sums, int(self.rng.choice(shortcuts)))
        return self.requantize(sums)

    def many_panels(self):
        tensor = self.emit(QuantizeInput("input", (0,), self.rng.integers(0, 16, (3, 256), dtype=np.uint8)))
        tensor = self.by_point(tensor, 16 * int(self.rng.integers(1, 9)), kernel=3)
        for _ in range(3):
            tensor = self.by_point(tensor, int(self.rng.integers(97, 170)))
        return self.finished()

    def by_point(self, tensor, outputs, kernel=1):
        shape = (kernel, kernel, self.tensors[tensor].shape[2], outputs)
        stride = int(self.rng.integers(1, 3)) if kernel == 1 else 1
        sums = self.emit(Convolution(self.name("conv"), **self.weights(tensor, shape), stride=stride,
                                     padding=kernel // 2, groups=1))
        shortcuts = self.of_kind("codes", self.tensors[sums].shape)
        return self.add(sums, int(self.rng.choice(shortcuts))) if shortcuts else self.requantize(sums)

    def large_images(self):
        tensor = self.emit(QuantizeInput("input", (0,), self.rng.integers(0, 16, (3, 256), dtype=np.uint8)))
        early = self.emit(MaxPool("early", (self.by_point(tensor, 10, kernel=3),), 7, 9))
        late = self.emit(MaxPool("late", (early,), 1, 1))
        self.add(self.emit(Convolution("conv", **self.weights(late, (3, 3, 10, 10)), stride=1, padding=1, groups=1)),
                 early)
        return self.finished()

    def even_ladders(self, depthwise):
        tensor, channels = self.emit(QuantizeInput("input", (0,), np.arange(256, dtype=np.uint8)[None])), 50
        if depthwise:
            tensor = self.emit(Concat("wide", (tensor,) * channels))
        fields = self.weights(tensor, (3, 3, 1, channels))
        sums = self.emit(Convolution("conv", **fields, stride=1, padding=1, groups=channels if depthwise else 1))
        low, high = self.ops[-1].bounds()
        top, direction = self.one_of(3, 15, 255), self.rng.choice([0, 1, -1], channels).astype(np.int8)
        direction[self.one_of(channels, 3):] = 0  # in all channels, or in few
        ladders = np.flatnonzero(direction)
        rows = np.linspace(low[ladders] / 8, high[ladders] / 8 + 4 * top, top, axis=1).astype(int)
        rows += self.rng.integers(0, 2, rows.shape)
        multiplier, offset = self.lines(channels, top, sums, rows, direction)
        rows = np.where(direction[direction != 0, None] > 0, rows, rows[:, ::-1])
        self.emit(Requantize("codes", (sums,), top, multiplier, offset, direction, rows.astype(np.int32)))
        return self.finished()

    def lines(self, channels, top, sums, rows, direction):
        """Factors of a Requantize: of channels with a ladder those of a line near it, in some programs one of them 0."""
        multiplier = np.full(channels, top * self.scale(sums), np.float32)
        offset = np.full(channels, top / 2, np.float32)
        ladders = np.flatnonzero(direction)
        slope = (top - 1) / (rows[:, -1] - rows[:, 0])
        near = 0.5 - slope * rows[:, 0]
        multiplier[ladders] = slope * direction[ladders]
        offset[ladders] = np.where(direction[ladders] > 0, near, top - near)
        multiplier[ladders[:1]] *= self.one_of(0, 1)
        return multiplier, offset

    def pooled(self, size, stride):
        table = self.rng.permuted(np.tile(np.arange(256, dtype=np.uint8), (self.tensors[0].shape[2], 1)), axis=1)
        self.emit(MaxPool("max", (self.emit(QuantizeInput("input", (0,), table)),), size, stride))
        return self.finished()

    def finished(self):
        last = self.emit(Flatten(self.name("flatten"), (int(self.of_kind("codes")[-1]),)))
        self.logits(self.linear(last, 3))
        return Program(self.tensors[0].shape, tuple(self.ops))

    def emit(self, op):
        self.tensors.append(op.result(*(self.tensors[i] for i in op.inputs)))
        self.ops.append(op)
        return len(self.ops)

    def one_of(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def name(self, kind):
        return f"{kind}{len(self.ops)}"

    def of_kind(self, kind, shape=None):
        return [i for i, t in enumerate(self.tensors) if t.kind == kind and shape in (None, t.shape)]

    def levels(self, count):
        """Of codes: code - zero point, any ascending ones of 8 bits, or more than 8 bits hold."""
        low, high = self.one_of((0, 255), (-128, 127), (-100, 155), (-128, 255))
        if self.rng.random() < 0.5:
            return (np.arange(count) + self.rng.integers(low, high + 2 - count)).astype(np.int16)
        return np.sort(self.rng.choice(np.arange(low, high + 1), count, replace=False)).astype(np.int16)

    def weights(self, tensor, shape):
        bits, count = int(self.rng.integers(1, 9)), self.tensors[tensor].top + 1
        levels = self.rng.integers(-128, 128, 2 ** bits).astype(np.int8)
        codes = self.rng.integers(0, 2 ** bits, shape, dtype=np.uint8)
        return dict(inputs=(tensor,), bits=bits, shape=shape, stream=pack(codes, bits), levels=levels,
                    input_levels=self.levels(count))

    def convolution(self, tensor):
        if len(self.tensors[tensor].shape) != 3:
            return self.requantize(self.linear(tensor, int(self.rng.integers(1, 70))))
        h, w, channels = self.tensors[tensor].shape
        kernel = int(self.rng.integers(1, min(h, w, 5) + 1))
        padding = int(self.rng.integers(0, kernel))
        groups = self.one_of(1, channels, self.one_of(*(g for g in range(1, channels + 1) if channels % g == 0)))
        outputs = channels if self.rng.random() < 0.3 else groups * int(self.rng.integers(1, 40 // groups + 2))
        fields = self.weights(tensor, (kernel, kernel, channels // groups, outputs))
        self.end(self.emit(Convolution(self.name("conv"), **fields, stride=int(self.rng.integers(1, 4)),
                                       padding=padding, groups=groups)))

    def linear(self, tensor, outputs):
        if len(self.tensors[tensor].shape) == 3:
            tensor = self.emit(Flatten(self.name("flatten"), (tensor,)))
        return self.emit(Linear(self.name("fc"), **self.weights(tensor, (self.tensors[tensor].shape[0], outputs))))

    def flat(self, tensor):
        self.requantize(self.linear(tensor, int(self.rng.integers(1, 40))))

    def max_pool(self, tensor):
        if len(self.tensors[tensor].shape) == 3:
            size = int(self.rng.integers(1, min(*self.tensors[tensor].shape[:2], 3) + 1))
            self.emit(MaxPool(self.name("max"), (tensor,), size, int(self.rng.integers(1, 4))))

    def sum_pool(self, tensor):
        if len(self.tensors[tensor].shape) == 3:
            h, w, _ = self.tensors[tensor].shape
            window = (int(self.rng.integers(1, h + 1)), int(self.rng.integers(1, w + 1)))
            stride = int(self.rng.integers(0, 3))
            window = window if stride else (h, w)
            levels = self.levels(self.tensors[tensor].top + 1)
            self.end(self.emit(SumPool(self.name("sum"), (tensor,), window, stride, levels)))

    def pad_shortcut(self, tensor):
        if len(self.tensors[tensor].shape) == 3:
            outputs = self.tensors[tensor].shape[2] + int(self.rng.integers(0, 5))
            zero = int(self.rng.integers(0, self.tensors[tensor].top + 1))
            self.emit(PadShortcut(self.name("short"), (tensor,), outputs, int(self.rng.integers(1, 4)), zero))

    def concat(self, tensor):
        """Of up to four tensors of the same pixels, one of them at times twice; at times with tables, some of which
        change nothing."""
        pixels = self.tensors[tensor].shape[:-1]
        same = [i for i in self.of_kind("codes") if self.tensors[i].shape[:-1] == pixels]
        operands = tuple(int(i) for i in self.rng.choice(same, self.rng.integers(1, 5)))
        if sum(self.tensors[i].shape[-1] for i in operands) < 200:
            tables = np.tile(np.arange(256, dtype=np.uint8), (len(operands), 1))
            changed = self.rng.random(len(operands)) < 0.6
            tables[changed] = self.rng.integers(0, self.one_of(2, 16, 256), (int(changed.sum()), 256))
            self.emit(Concat(self.name("concat"), operands, self.one_of(tables, tables, tables[:0, :0])))

    def end(self, sums):
        """Requantize sums, at times twice, at times with a shortcut or as logits that nobody reads."""
        for _ in range(self.one_of(1, 1, 1, 2)):
            shortcuts = self.of_kind("codes", self.tensors[sums].shape)
            if shortcuts and self.rng.random() < 0.5:
                self.add(sums, int(self.rng.choice(shortcuts)))
            elif self.rng.random() < 0.1:
                self.logits(sums)
            else:
                self.requantize(sums)

    def scale(self, sums):
        """A multiplier that spreads the sums over the codes, of either sign, and now and then 0."""
        op = self.ops[sums - 1]
        reach = max(float(np.max(np.abs(op.bounds()))), 1.0)
        return self.rng.choice([0.0, 1.0, -1.0, 4.0, 30.0]) / reach

    def requantize(self, sums):
        channels, top = self.one_of(1, self.tensors[sums].shape[-1]), int(self.one_of(1, 3, 7, 15, 255))
        multiplier = np.array([top * self.scale(sums) for _ in range(channels)], np.float32)
        direction = self.rng.choice([0, 0, 1, -1], channels).astype(np.int8) * self.one_of(0, 1)
        reach = int(np.max(np.abs(self.ops[sums - 1].bounds()))) + 2
        rows = np.sort(self.rng.integers(-reach, reach, (np.count_nonzero(direction), top)), 1)
        return self.emit(Requantize(self.name("codes"), (sums,), top, multiplier,
                                    self.rng.normal(top / 2, top, channels).astype(np.float32), direction,
                                    rows.astype(np.int32), self.edges(top)))

    def edges(self, top):
        """Of a code each, one of them at times -infinity; at times none."""
        edges = np.sort(self.rng.normal(top / 2, top, top)).astype(np.float32)
        edges[:1] = self.one_of(edges[0], -np.inf)
        return edges if self.rng.random() < 0.4 else edges[:0]

    def expression(self, sums, columns):
        scale = np.array([[self.scale(sums) for _ in range(columns)]])
        more = self.rng.normal(0, 1, (int(self.rng.integers(0, 4)), columns))
        steps = ("multiply", *(self.one_of("add", "multiply", "divide") for _ in more))
        return steps, np.concatenate([scale, more]).reshape(len(steps), columns)

    def add(self, sums, shortcut):
        if self.rng.random() < 0.3:
            return self.add_near_ties(sums, shortcut)
        channels, top = self.tensors[sums].shape[-1], int(self.one_of(1, 3, 15, 255))
        count = self.tensors[shortcut].top + 1
        wide = self.rng.integers(0, 2, channels).astype(np.uint8) * np.uint8(self.one_of(0, 1))
        steps, values = self.expression(sums, int(wide.sum()))
        return self.emit(AddRequantize(
            self.name("add"), (sums, shortcut), top, steps,
            np.array([top * self.scale(sums) for _ in range(channels)], np.float32),
            self.rng.normal(0, top, channels).astype(np.float32), self.rng.normal(0, 3, count).astype(np.float32),
            wide, values, *self.wide_tables(wide, count, top), self.edges(top)))

    def add_near_ties(self, sums, shortcut):
        """All channels in float64, even steps, and values that lie on boundaries or next to them."""
        channels, top, count = self.tensors[sums].shape[-1], int(self.one_of(3, 255)), self.tensors[shortcut].top + 1
        reach = float(np.max(np.abs(self.ops[sums - 1].bounds()))) + 1
        step = 2.0 ** np.round(np.log2(reach / top / 4)) * self.one_of(1, 1, 0.1)
        values = np.stack([np.full(channels, step / self.one_of(2, 4, 1e3)), self.rng.integers(-3, 4, channels) * step,
                           self.rng.choice([1.0, -1.0], channels), self.rng.choice([0, step / 2], channels)])
        boundaries = (np.arange(top) - top // 2) * step * self.one_of(1, 1 + 2.0 ** -40, 1 + 2.0 ** -22)
        none = np.zeros(channels, np.float32)
        return self.emit(AddRequantize(
            self.name("near"), (sums, shortcut), top, ("multiply", "add", "multiply", "add"), none, none,
            np.zeros(count, np.float32), np.ones(channels, np.uint8), values,
            np.arange(count) * step * self.one_of(0, 0.5, 1 / 3), boundaries))

    def wide_tables(self, wide, count, top):
        """Shortcut and boundaries of channels in float64, both empty where there are none."""
        shortcut, boundaries = self.rng.normal(0, 1, count), np.sort(self.rng.normal(0, 2, top))
        return (shortcut, boundaries) if wide.any() else (shortcut[:0], boundaries[:0])

    def logits(self, sums):
        return self.emit(Logits(self.name("logits"), (sums,),
                                *self.expression(sums, self.tensors[sums].shape[-1])))
