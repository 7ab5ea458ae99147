"""What the ONNX export decides about a whole Program before it translates operation by operation."""

import numpy as np

from . import ops
from .onnx_graph import EXACT, unsigned_type

MOVES = (ops.MaxPool, ops.PadShortcut, ops.Flatten)  # codes move about but keep their meaning


def consecutive(levels):
    """True for levels that rise by 1."""
    return bool((np.diff(levels.astype(int)) == 1).all())


def fits_zero(zero, tensor):
    """Whether the integers that codes are stored in hold this zero point."""
    return 0 <= zero <= unsigned_type(tensor.top)[1]


def wanted_zeros(program):
    """What to subtract from the codes of every tensor to have the levels its readers want; None: no such number."""
    wanted = [set() for _ in program.tensors]
    hoped = [set() for _ in program.tensors]  # by a Concat, which otherwise shifts what it reads
    for i, op in reversed(list(enumerate(program.ops, start=1))):
        wanted[i] = wanted[i] or hoped[i]
        for k in op.inputs:
            if isinstance(op, (ops.Weighted, ops.SumPool)):
                levels = op.input_levels[:program.tensors[k].top + 1]
                fits = consecutive(levels) and fits_zero(-levels[0], program.tensors[k])
                wanted[k].add(-int(levels[0]) if fits else None)
            elif isinstance(op, MOVES):
                wanted[k] |= wanted[i]
            elif isinstance(op, ops.Concat) and len(wanted[i] - {None}) == 1:
                hoped[k] |= {zero for zero in wanted[i] - {None} if fits_zero(zero, program.tensors[k])}
    zeros = [next(iter(found)) if len(found) == 1 else (None if found else 0) for found in wanted]
    for i, op in enumerate(program.ops, start=1):
        if isinstance(op, MOVES):
            zeros[i] = zeros[op.inputs[0]]
    return zeros


def stored_as_bytes(program):
    """Tensors of codes that reach a MaxPool or Slice: onnxruntime moves those two before the DequantizeLinear, and
    has them for no integer of less than 8 bits."""
    found = set()
    for i, op in reversed(list(enumerate(program.ops, start=1))):
        if (isinstance(op, ops.MaxPool) or isinstance(op, ops.PadShortcut) and op.stride > 1
                or isinstance(op, ops.Weighted) and len(exact_slices(op)) > 1 or isinstance(op, MOVES) and i in found):
            found |= set(op.inputs)
    return found


def exact_slices(op):
    """[(start, stop)] of the input channels, so that no sum of |products| over a slice reaches 2^24."""
    largest = int(np.abs(op.input_levels.astype(int)).max())
    sizes = np.abs(op.levels.astype(np.int64))[op.codes] * largest
    sizes = sizes.reshape(-1, *sizes.shape[-2:]).sum(0)  # (inputs, outputs)
    slices, start, so_far = [], 0, np.zeros(sizes.shape[1], np.int64)
    for k, row in enumerate(sizes):
        if (so_far + row).max() >= EXACT:
            slices.append((start, k))
            start, so_far = k, np.zeros_like(so_far)
        so_far = so_far + row
    slices.append((start, len(sizes)))
    if sizes.max() >= EXACT or len(slices) > 1 and getattr(op, "groups", 1) > 1:
        raise ValueError(f"operation '{op.name}': the sums of one input channel, or of one group, reach 2^24; float32 "
                         "does not hold them exactly. Use fewer bits, a smaller kernel or more groups")
    return slices
