"""Each operation of a Program as ONNX nodes that give the same integers. See `onnx_export` for what is promised."""

import numpy as np

from . import ops
from .onnx_graph import BITS, DOUBLE, EXACT, FLOAT, INT32, Graph, signed_type, unsigned_type
from .onnx_plan import consecutive, exact_slices, stored_as_bytes, wanted_zeros


class Translator:
    """Walks a Program and continues the graph; images become (N, C, H, W).

    names : of every tensor, float32: codes minus their zero, or sums (double where `wide_sums` has the index)
    zeros : what has been subtracted from the codes, so that a tensor holds the levels that its readers want; None
            where those are not consecutive or not the same: readers then look levels up in a table
    as_bytes : indices of tensors whose codes take 8 bits however few there are (`stored_as_bytes`)
    """

    def __init__(self, program):
        self.program, self.graph = program, Graph()
        self.zeros, self.as_bytes = wanted_zeros(program), stored_as_bytes(program)
        self.names, self.wide_sums = ["images"], set()
        known = {ops.QuantizeInput: self.quantize_input, ops.Convolution: self.weighted, ops.Linear: self.weighted,
                 ops.SumPool: self.sum_pool, ops.Requantize: self.requantize, ops.AddRequantize: self.add_requantize,
                 ops.MaxPool: self.max_pool, ops.PadShortcut: self.pad_shortcut, ops.Flatten: self.flatten,
                 ops.Concat: self.concat, ops.Logits: self.logits}
        for i, op in enumerate(program.ops, start=1):
            if type(op) not in known:
                raise ValueError(f"operation '{op.name}' is a {type(op).__name__}, which the ONNX export does not know")
            if op.name in RESERVED and type(op) is not ops.Logits:
                raise ValueError(f"an operation is called '{op.name}', like an input or result of the ONNX model; "
                                 "rename the layer")
            self.graph.notes[op.name] = note(op)
            self.names.append(known[type(op)](op, i))

    def shape(self, i):
        """Shape of tensor i in the Program, without the batch."""
        return self.program.tensors[i].shape

    def spread(self, i):
        """A function that gives values per channel (or one value) the shape that broadcasts over tensor i in NCHW."""
        axes = (1,) * (len(self.shape(i)) - 1)
        return lambda values: np.asarray(values).reshape(-1, *axes)

    def codes(self, name, codes, kind, i):
        """The tensor of codes that have just been computed, as float32 without their zero."""
        return self.graph.dequantize(codes, name, kind, self.zeros[i] or 0)

    def index(self, name, i):
        """Codes of tensor i as indices."""
        x = self.names[i]
        if self.zeros[i]:
            x = self.graph.node("Add", [x, self.graph.constant(f"/zero.{self.zeros[i]}", np.float32(self.zeros[i]))],
                                f"{name}/unshifted")
        return self.graph.cast(x, f"{name}/index", INT32)

    def levels(self, op, i):
        """What the codes of tensor i stand for, as `op` reads them, float32."""
        if self.zeros[i] is not None:
            return self.names[i]
        table = self.graph.constant(f"{op.name}/input_levels", op.input_levels.astype(np.float32))
        return self.graph.gather(table, self.index(f"{op.name}/input", i), f"{op.name}/input")

    def double(self, name, i):
        """Sums of tensor i in double."""
        return self.names[i] if i in self.wide_sums else self.graph.cast(self.names[i], f"{name}/double", DOUBLE)

    def quantize_input(self, op, i):
        g, channels = self.graph, len(op.table)
        pixels = g.cast("images", f"{op.name}/pixels", INT32)
        if channels > 1:
            rows = g.constant(f"{op.name}/rows", 256 * np.arange(channels, dtype=np.int32))
            pixels = g.node("Add", [pixels, rows], f"{op.name}/places")
        table = g.constant(f"{op.name}/table", op.table.ravel())
        codes = g.gather(table, pixels, f"{op.name}/codes_nhwc")
        codes = g.node("Transpose", [codes], f"{op.name}/codes", perm=[0, 3, 1, 2])
        return self.codes(op.name, codes, unsigned_type(255)[0], i)

    def weighted(self, op, i):
        """Convolution or linear layer on levels; a sum that float32 may not hold is taken in parts, added in double."""
        g, x, slices = self.graph, self.levels(op, op.inputs[0]), exact_slices(op)
        if len(slices) == 1:
            return self.products(op, x, op.codes, op.name)
        total = None
        for n, (start, stop) in enumerate(slices):
            part = f"{op.name}/part{n}"
            ends = [g.constant(f"/at.{k}", np.array([k], np.int64)) for k in (start, stop, 1)]  # of axis 1
            own = g.node("Slice", [x, *ends], f"{part}/input")
            sums = g.cast(self.products(op, own, op.codes[..., start:stop, :], part), f"{part}/double", DOUBLE)
            total = sums if total is None else g.node("Add", [total, sums], f"{part}/sum")
        self.wide_sums.add(i)
        return total

    def products(self, op, x, codes, name):
        """Rounded sums of products: exact already, and whole again where a runtime's fast convolution is not."""
        g = self.graph
        if isinstance(op, ops.Linear):
            zeros = g.constant(f"{name}/zeros", np.zeros(op.shape[1], np.float32))
            sums = g.node("Gemm", [x, self.weight(op, codes.T, name), zeros], f"{name}/products", transB=1)
        else:
            weight = self.weight(op, codes.transpose(3, 2, 0, 1), name)
            sums = g.node("Conv", [x, weight], f"{name}/products", kernel_shape=list(op.shape[:2]), group=op.groups,
                          strides=[op.stride] * 2, pads=[op.padding] * 4)
        return g.node("Round", [sums], name)

    def weight(self, op, codes, name):
        """Float32 levels of the weights, from integers of 2, 4 or 8 bits: by a zero point, or from a codebook."""
        g, levels = self.graph, op.levels.astype(int)
        low, high, (unsigned, largest) = int(levels[0]), int(levels[-1]), unsigned_type(len(levels) - 1)
        signed = signed_type(low, high)
        if consecutive(levels) and BITS[signed] == BITS[unsigned]:
            stored = g.constant(f"{name}.weight", levels[codes], signed)
            return g.dequantize(stored, f"{name}/weight", signed, 0)
        stored = g.constant(f"{name}.weight", codes, unsigned)
        if consecutive(levels) and 0 <= -low <= largest:  # such as -1..2, which fits 2 bits only with a zero point
            return g.dequantize(stored, f"{name}/weight", unsigned, -low)
        table = g.constant(f"{op.name}.codebook", op.levels)
        entries = g.gather(table, g.cast(stored, f"{name}/weight/index", INT32), f"{name}/weight/entries")
        return g.cast(entries, f"{name}/weight", FLOAT)

    def sum_pool(self, op, i):
        g, x = self.graph, self.levels(op, op.inputs[0])
        if max(op.bounds()[1], -op.bounds()[0]) >= EXACT:
            raise ValueError(f"operation '{op.name}' sums beyond 2^24, which float32 does not hold exactly")
        if not op.stride:
            return g.node("ReduceSum", [x, g.constant("/height_and_width", np.array([2, 3]))], op.name, keepdims=0)
        channels = self.shape(op.inputs[0])[-1]
        ones = g.constant(f"{op.name}/ones", np.ones((channels, 1, *op.window), np.float32))
        sums = g.node("Conv", [x, ones], f"{op.name}/sums", kernel_shape=list(op.window), group=channels,
                      strides=[op.stride] * 2)
        return g.node("Round", [sums], op.name)

    def cheap(self, op, i):
        """acc * multiplier + offset in float32, each rounded on its own."""
        g, spread, source = self.graph, self.spread(i), op.inputs[0]
        acc = self.names[source]
        if source in self.wide_sums:
            acc = g.cast(acc, f"{op.name}/float32", FLOAT)
        y = g.node("Mul", [acc, g.constant(f"{op.name}.multiplier", spread(op.multiplier))], f"{op.name}/scaled")
        return g.node("Add", [y, g.constant(f"{op.name}.offset", spread(op.offset))], f"{op.name}/shifted")

    def found(self, op, y):
        """y, which will be rounded, or the number of edges that it reaches."""
        return self.graph.reached(y, f"{op.name}/edges", op.edges[None], lambda x: x) if len(op.edges) else y

    def merged(self, op, y, exact, places):
        """y with the channels at `places` replaced by those of `exact`."""
        g, channels = self.graph, len(op.multiplier)
        source = np.arange(channels)
        source[places] = channels + np.arange(len(places))
        both = g.node("Concat", [y, exact], f"{op.name}/both", axis=1)
        return g.channels(both, source, f"{op.name}/merged")

    def closed(self, op, y, i):
        """The codes of y, rounded and clipped."""
        kind, largest = unsigned_type(255 if i in self.as_bytes else op.top)
        if op.top < largest:
            y = self.graph.at_most(y, f"{op.name}/at_most_{op.top}", op.top)
        return self.codes(op.name, self.graph.quantize(y, f"{op.name}/codes", kind), kind, i)

    def requantize(self, op, i):
        places = np.flatnonzero(op.direction)
        if not len(places):
            return self.closed(op, self.found(op, self.cheap(op, i)), i)
        exact = self.ladder(op, places, i)
        if len(places) < len(op.direction):
            exact = self.merged(op, self.found(op, self.cheap(op, i)), exact, places)
        return self.closed(op, exact, i)

    def ladder(self, op, places, i):
        """The channels that keep their thresholds: how many a mirrored sum has reached."""
        g, name, source = self.graph, f"{op.name}/ladder", op.inputs[0]
        acc, kind = self.names[source], np.float64 if source in self.wide_sums else np.float32
        if len(places) < len(op.direction):
            acc = g.channels(acc, places, name)
        side = op.direction[places].astype(np.int64)
        if (side < 0).any():
            acc = g.node("Mul", [acc, g.constant(f"{name}/sides", self.spread(i)(side.astype(kind)))],
                         f"{name}/mirrored")
        thresholds = np.sort(side[:, None] * op.thresholds.astype(np.int64))
        if kind is np.float32:  # its sums lie strictly within +-2^24; what lies beyond is never or always reached
            thresholds = np.clip(thresholds, -EXACT, EXACT)
        return g.reached(acc, name, thresholds.astype(kind), self.spread(i))

    def add_requantize(self, op, i):
        """(acc * multiplier + offset) + shortcut[k]; the channels that float32 does not get right in double."""
        g, places = self.graph, np.flatnonzero(op.wide)
        index = self.index(f"{op.name}/shortcut", op.inputs[1])
        if len(places) == len(op.wide):
            return self.closed(op, self.wide(op, places, index, i), i)
        short = g.gather(g.constant(f"{op.name}.shortcut", op.shortcut), index, f"{op.name}/shortcut")
        y = self.found(op, g.node("Add", [self.cheap(op, i), short], f"{op.name}/sum"))
        return self.closed(op, self.merged(op, y, self.wide(op, places, index, i), places) if len(places) else y, i)

    def wide(self, op, places, index, i):
        g, name = self.graph, f"{op.name}/wide"
        acc = self.double(name, op.inputs[0])
        if len(places) < len(op.wide):
            acc, index = g.channels(acc, places, f"{name}/sums"), g.channels(index, places, f"{name}/k")
        value = g.expression(acc, name, op.steps, op.values, self.spread(i))
        short = g.gather(g.constant(f"{name}/levels", op.wide_shortcut), index, f"{name}/shortcut")
        value = g.node("Add", [value, short], f"{name}/value")
        return g.reached(value, name, op.boundaries[None], self.spread(i))

    def max_pool(self, op, i):
        return self.graph.node("MaxPool", [self.names[op.inputs[0]]], op.name, kernel_shape=[op.size] * 2,
                               strides=[op.stride] * 2)

    def pad_shortcut(self, op, i):
        g, x, source = self.graph, self.names[op.inputs[0]], op.inputs[0]
        if op.stride > 1:
            h, w = self.shape(source)[:2]
            slices = (("starts", (0, 0)), ("ends", (h, w)), ("axes", (2, 3)), ("steps", (op.stride,) * 2))
            x = g.node("Slice", [x, *(g.constant(f"{op.name}/{k}", np.array(v, np.int64)) for k, v in slices)],
                       f"{op.name}/kept")
        more = op.outputs - self.shape(source)[2]
        pads = g.constant(f"{op.name}/pads", np.array([0, 0, 0, 0, 0, more, 0, 0], np.int64))
        value = g.constant(f"{op.name}/value", np.float32(op.zero - (self.zeros[source] or 0)))
        return g.node("Pad", [x, pads, value], op.name)

    def flatten(self, op, i):
        x = self.nhwc(self.names[op.inputs[0]], op.inputs[0], f"{op.name}/nhwc")
        return self.graph.node("Flatten", [x], op.name, axis=1)

    def concat(self, op, i):
        parts = [self.operand(op, n, source, self.zeros[i] or 0) for n, source in enumerate(op.inputs)]
        return self.graph.node("Concat", parts, op.name, axis=1)

    def operand(self, op, n, source, zero):
        """Operand n of a concatenation, which is tensor `source`, as codes less `zero`."""
        g, name, offset = self.graph, f"{op.name}/operand{n}", (self.zeros[source] or 0) - zero
        if len(op.tables) and (op.tables[n] != np.arange(256)).any():
            table = g.constant(f"{name}/table", op.tables[n].astype(np.float32) - np.float32(zero))
            return g.gather(table, self.index(name, source), name)
        if not offset:
            return self.names[source]
        return g.node("Add", [self.names[source], g.constant(f"/offset.{offset}", np.float32(offset))], name)

    def logits(self, op, i):
        """In double, each step rounded once; of the last ones float32 logits, and the class where an image has one."""
        g, name = self.graph, op.name
        value = g.expression(self.double(name, op.inputs[0]), name, op.steps, op.values, self.spread(i))
        if i < len(self.program.ops):
            return value
        if len(self.shape(i)) == 1:
            g.node("ArgMax", [value], "class", axis=1, keepdims=0)
        return g.cast(self.nhwc(value, i, f"{name}/nhwc"), "logits", FLOAT)

    def nhwc(self, x, i, name):
        """x, which has the shape of tensor i, in the Program's order of axes."""
        return self.graph.node("Transpose", [x], name, perm=[0, 2, 3, 1]) if len(self.shape(i)) == 3 else x


RESERVED = ("images", "logits", "class")


def note(op):
    """An operation in a few words."""
    what = type(op).__name__ + (f", {op.bits}-bit weights" if isinstance(op, ops.Weighted) else "")
    return what + (f", {op.form()}" if op.form() else "")
