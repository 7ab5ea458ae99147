"""An ONNX graph under construction: constants, nodes, and the idioms that exact integers need there.

Imports `onnx`, which only the extra `export` installs; `onnx_export` is the way in.
"""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from .pack import pack

FLOAT, DOUBLE, INT32 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32
EXACT = 2 ** 24  # float32 holds every integer up to here; sums whose parts stay below it are exact in any order

# Storage of integers, smallest first: (bits, signed type, unsigned type).
STORAGE = ((2, TensorProto.INT2, TensorProto.UINT2), (4, TensorProto.INT4, TensorProto.UINT4),
           (8, TensorProto.INT8, TensorProto.UINT8))
BITS = {kind: bits for bits, *kinds in STORAGE for kind in kinds}
OPERATORS = {"multiply": "Mul", "divide": "Div", "add": "Add"}  # of the steps of an Expression


def unsigned_type(top):
    """(type, its largest value) of the smallest unsigned type that holds 0..top."""
    return next((kind, 2 ** bits - 1) for bits, _, kind in STORAGE if top < 2 ** bits)


def signed_type(low, high):
    """The smallest signed type that holds low..high, which are int8."""
    return next(kind for bits, kind, _ in STORAGE if -2 ** (bits - 1) <= low and high < 2 ** (bits - 1))


class Graph:
    """Nodes and constants so far. Every node is called as its result; notes: {name: what a viewer says about it}."""

    def __init__(self):
        self.nodes, self.constants, self.notes = [], {}, {}

    def constant(self, name, values, kind=None):
        """A stored array under this name; kind: an ONNX type for integers that NumPy has no type for."""
        if name not in self.constants:
            values = np.asarray(values)
            if kind is None:
                self.constants[name] = numpy_helper.from_array(np.array(values, order="C"), name)
            else:
                packed = pack(values.astype(np.uint8) & (2 ** BITS[kind] - 1), BITS[kind])  # two's complement
                self.constants[name] = helper.make_tensor(name, kind, values.shape, packed.tobytes(), raw=True)
        return name

    def node(self, operator, inputs, name, **attributes):
        """Append a node; return its result."""
        self.nodes.append(helper.make_node(operator, inputs, [name], name, self.notes.get(name), **attributes))
        return name

    def cast(self, x, name, kind):
        """x as another type."""
        return self.node("Cast", [x], name, to=kind)

    def dequantize(self, codes, name, kind, zero):
        """codes - zero as float32; `kind` is the type of the codes."""
        of = f"/{TensorProto.DataType.Name(kind).lower()}.{zero}"
        return self.node("DequantizeLinear", [codes, self.one(), self.constant(of, np.array(zero), kind)], name)

    def quantize(self, y, name, kind):
        """y rounded half to even, and clipped to what `kind` holds."""
        zero = self.constant(f"/{TensorProto.DataType.Name(kind).lower()}.0", np.array(0), kind)
        return self.node("QuantizeLinear", [y, self.one(), zero], name)

    def at_most(self, y, name, top):
        """min(y, top)."""
        return self.node("Min", [y, self.constant(f"/top.{top}", np.float32(top))], name)

    def one(self):
        """The scale of every DequantizeLinear and QuantizeLinear: real scales are in the requantization."""
        return self.constant("/one", np.float32(1))

    def gather(self, table, index, name, axis=0):
        """table[index] along an axis."""
        return self.node("Gather", [table, index], name, axis=axis)

    def channels(self, x, index, name):
        """Some channels of x (N, C, ...)."""
        return self.gather(x, self.constant(f"{name}/index", np.asarray(index, np.int64)), name, axis=1)

    def expression(self, acc, name, steps, values, spread):
        """The float64 value of a double `acc`, as `requantize.Expression` has it, every step rounded once."""
        for i, (step, operand) in enumerate(zip(steps, values)):
            operand = self.constant(f"{name}/{step}{i}", spread(operand))
            acc = self.node(OPERATORS[step], [acc, operand], f"{name}/step{i}")
        return acc

    def reached(self, value, name, boundaries, spread):
        """How many of the ascending boundaries (rows, top) each value has reached, float32; a row per channel, or one.

        Binary search, a bit of the count per step from the highest: what is compared are the stored numbers, so the
        count is exact whatever their spacing.
        """
        rows, top = boundaries.shape
        width = 1 << int(top).bit_length()
        table = np.full((rows, width), np.inf, boundaries.dtype)
        table[:, 0], table[:, 1:top + 1] = -np.inf, boundaries
        table = self.constant(f"{name}/boundaries", table.ravel())
        start = self.constant(f"{name}/start", spread(np.arange(rows, dtype=np.int32) * width))
        count, bit = start, width >> 1
        while bit:
            step = f"{name}/bit{bit}"
            trial = self.node("Add", [count, self.constant(f"/bit.{bit}", np.int32(bit))], f"{step}/trial")
            bound = self.gather(table, trial, f"{step}/boundary")
            enough = self.node("GreaterOrEqual", [value, bound], f"{step}/reached")
            count, bit = self.node("Where", [enough, trial, count], step), bit >> 1
        count = self.node("Sub", [count, start], f"{name}/count")
        return self.cast(count, f"{name}/float", FLOAT)
