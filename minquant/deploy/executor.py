"""From a Program to the compiled executor: the table of operations that `_kernels/exec.h` describes.

The executor runs all layers in one C call, with weights in the layout of an instruction set and buffers planned ahead;
it gives the integers of the NumPy oracle on every instruction set, at any batch size and number of threads.
"""

import numpy as np

from .. import _kernels
from .endings import AddRequantize, Logits, Requantize
from .ops import Concat, Convolution, Linear, MaxPool, PadShortcut, QuantizeInput, SumPool


def compiled():
    """The compiled module, or None."""
    return _kernels.extension("executor")


def table(program):
    """For every operation a dict of the fields of exec_op, as `Executor` takes them."""
    tensors = program.tensors
    return [{"kind": type(op).__name__, "inputs": op.inputs, "shape": _image(tensors[i].shape),
             **FIELDS.get(type(op), lambda op, x: {})(op, tensors[op.inputs[0]])}
            for i, op in enumerate(program.ops, start=1)]


def make(program, isa):
    """The executor of a program on an instruction set."""
    return compiled().Executor(tuple(program.image_shape), table(program), isa)


def _image(shape):
    """(H, W, C) of an image or a vector."""
    return shape if len(shape) == 3 else (1, 1, *shape)


def _weighted(op):
    return {"bits": op.bits, **_arrays(op, "stream", "levels", "input_levels")}


def _arrays(op, *names):
    return {name: np.ascontiguousarray(getattr(op, name)) for name in names}


def _convolution(op, x):
    return {"kernel": op.shape[:2], "stride": op.stride, "padding": op.padding, "groups": op.groups, **_weighted(op)}


def _sum_pool(op, x):
    return {"kernel": op.window, "stride": op.stride, **_arrays(op, "input_levels")}


def _concat(op, x):
    tables = {"table": np.ascontiguousarray(op.tables)} if len(op.tables) else {}
    return {"inputs": op.inputs[:1], "operands": np.array(op.inputs, np.int32), **tables}


def _requantize(op, x):
    ladder = _arrays(op, "direction", "thresholds") if len(op.thresholds) else {}
    return {"top": op.top, "boundaries": op.edges, **_arrays(op, "multiplier", "offset"), **ladder}


def _expression(op):
    arithmetic = [compiled().ARITHMETIC.index(step) for step in op.steps]
    return {"arithmetic": np.array(arithmetic, np.uint8), **_arrays(op, "values")}


def _add_requantize(op, x):
    wide = {}
    if op.wide.any():
        wide = {"wide_boundaries": np.ascontiguousarray(op.boundaries), **_expression(op),
                **_arrays(op, "wide", "wide_shortcut")}
    return {"top": op.top, "boundaries": op.edges, **_arrays(op, "multiplier", "offset", "shortcut"), **wide}


FIELDS = {
    QuantizeInput: lambda op, x: _arrays(op, "table"),
    Convolution: _convolution,
    Linear: lambda op, x: _weighted(op),
    SumPool: _sum_pool,
    MaxPool: lambda op, x: {"kernel": (op.size, op.size), "stride": op.stride},
    PadShortcut: lambda op, x: {"stride": op.stride, "zero": op.zero},
    Concat: _concat,
    Requantize: _requantize,
    AddRequantize: _add_requantize,
    Logits: lambda op, x: _expression(op),
}
