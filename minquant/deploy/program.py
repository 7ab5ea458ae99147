"""The Program: a trained network as a flat list of operations on integers.

    program = lower(model, dataset.image_shape, dataset.normalise)
    logits = program.run(images)    # uint8 (N, H, W, C) -> float64 (N, classes), or a map (N, h, w, channels)

Its meaning is `run` and `trace`, in NumPy and exact integers, one operation after another (`ops`).
"""

from dataclasses import dataclass, field

import numpy as np

from ..summary import table
from .op import MAX_ELEMENTS, Tensor
from .ops import Weighted

MAX_OPS = 10_000


@dataclass(frozen=True, eq=False)
class Program:
    """image_shape (H, W, C); ops in the order of the computation; info: text and numbers about where it comes from.

    `tensors` describes what flows: tensors[0] is the image, tensors[i + 1] what ops[i] gives.
    Raises ValueError, naming the operation, where the operations do not fit each other.
    """

    image_shape: tuple
    ops: tuple
    info: dict = field(default_factory=dict)

    def __post_init__(self):
        if len(self.image_shape) != 3 or min(self.image_shape) < 1:
            raise ValueError(f"image_shape={self.image_shape} is not (height, width, channels)")
        if not 1 <= len(self.ops) <= MAX_OPS:
            raise ValueError(f"a program of {len(self.ops)} operations; it has 1..{MAX_OPS}")
        tensors = [Tensor("image", tuple(self.image_shape))]
        for op in self.ops:
            op.need(len(op.inputs) == len(op.takes) and all(0 <= i < len(tensors) for i in op.inputs),
                    f"it reads tensors {op.inputs}; so far there are {len(tensors)}")
            operands = [tensors[i] for i in op.inputs]
            op.check_inputs(operands)
            tensors.append(op.result(*operands))
            size = int(np.prod(tensors[-1].shape, dtype=object))
            op.need(size <= MAX_ELEMENTS, f"{size} values per image; at most {MAX_ELEMENTS} are allowed")
        names = [op.name for op in self.ops]
        if len(set(names)) < len(names):
            raise ValueError(f"two operations are called '{max(names, key=names.count)}'; names are unique")
        if tensors[-1].kind != "logits":
            raise ValueError(f"the last operation '{names[-1]}' gives {tensors[-1].kind}, not logits")
        object.__setattr__(self, "tensors", tuple(tensors))

    @property
    def classes(self):
        """Number of logits (of channels, where they are a map)."""
        return self.tensors[-1].shape[-1]

    def run(self, images):
        """Logits (N, *shape of the last tensor) float64 of uint8 images (N, H, W, C). Raises ValueError for others."""
        return self._compute(images)[len(self.ops)]

    def trace(self, images):
        """{operation name: what it gives} for every operation, in the order of the computation."""
        values = self._compute(images, keep=True)
        return {op.name: values[i] for i, op in enumerate(self.ops, start=1)}

    def _compute(self, images, keep=False):
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != tuple(self.image_shape):
            raise ValueError(f"images are {images.dtype} of shape {images.shape}; this program takes uint8 pixels "
                             f"(N, {', '.join(map(str, self.image_shape))}), not normalised")
        last_use = {i: n for n, op in enumerate(self.ops, start=1) for i in op.inputs}
        values = {0: images}
        for n, op in enumerate(self.ops, start=1):
            values[n] = op.run(*(values[i] for i in op.inputs))
            for i in op.inputs:
                if not keep and last_use[i] == n:
                    values.pop(i, None)
        return values

    def macs(self):
        """Multiply-accumulates of one image."""
        return sum(self._macs(i) for i, op in enumerate(self.ops) if isinstance(op, Weighted))

    def _macs(self, index):
        op = self.ops[index]
        return int(np.prod(op.shape)) * int(np.prod(self.tensors[index + 1].shape[:-1]))

    def nbytes(self):
        """Bytes of all arrays as stored: packed weights, tables, requantization."""
        return sum(op.nbytes() for op in self.ops)

    def summary(self):
        """A table of all operations as text: what each gives, its bits, multiply-accumulates and bytes."""
        rows = []
        for i, op in enumerate(self.ops):
            tensor, weighted = self.tensors[i + 1], isinstance(op, Weighted)
            rows.append((type(op).__name__, op.name, "x".join(map(str, tensor.shape)), tensor.kind,
                         op.bits if weighted else "", f"{self._macs(i):,}" if weighted else "", op.form(),
                         f"{op.nbytes():,}"))
        text = table(("operation", "name", "shape", "gives", "bits", "MACs", "form", "bytes"), rows)
        return (f"{text}\n\n{len(self.ops)} operations, {self.macs():,} multiply-accumulates per image, "
                f"{self.nbytes():,} bytes")
