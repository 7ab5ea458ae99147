"""The Program: a trained network as a flat list of operations on integers.

    program = lower(model, dataset.image_shape, dataset.normalise)
    logits = program.run(images)    # uint8 (N, H, W, C) -> float64 (N, classes), or a map (N, h, w, channels)

Its meaning is NumPy in exact integers, one operation after another (`ops`): the oracle. The compiled executor gives
the same numbers from one C call.
"""

import math
import operator
from dataclasses import dataclass, field

import numpy as np

from .. import kernels
from ..summary import table
from . import executor
from .op import MAX_ELEMENTS, Tensor
from .ops import Weighted

MAX_OPS = 10_000
MAX_THREADS = 1024
DTYPES = {"codes": np.uint8, "sums": np.int32, "logits": np.float64}


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
        object.__setattr__(self, "_executors", {})

    @property
    def classes(self):
        """Number of logits (of channels, where they are a map)."""
        return self.tensors[-1].shape[-1]

    def run(self, images, num_threads=None, backend=None):
        """Logits (N, *shape of the last tensor) float64 of uint8 images (N, H, W, C).

        num_threads : at most so many (default: the cores of this process, at most OMP_NUM_THREADS)
        backend     : "kernels", the compiled executor on the instruction set in use (MINQUANT_ISA); "numpy", the
                      oracle; None: kernels where they are compiled. The integers are the same.
        Raises ValueError for other images, numbers of threads or backends.
        """
        images, executor, threads = self._prepared(images, num_threads, backend)
        if executor is None:
            return self._compute(images)[len(self.ops)]
        logits = np.empty((len(images), *self.tensors[-1].shape))
        executor.run(images, logits.ravel(), threads)
        return logits

    def trace(self, images, num_threads=None, backend=None):
        """{operation name: what it gives} for every operation, in the order of the computation; arguments of `run`.

        The executor gives the codes that it computed on the way to its logits. Sums that it requantizes at once
        exist nowhere; it computes them once more to show them.
        """
        images, executor, threads = self._prepared(images, num_threads, backend)
        if executor is None:
            values = self._compute(images, keep=True)
            return {op.name: values[i] for i, op in enumerate(self.ops, start=1)}
        results = [np.empty((len(images), *tensor.shape), DTYPES[tensor.kind]) for tensor in self.tensors[1:]]
        executor.run(images, results[-1].ravel(), threads, [*results[:-1], None])
        return {op.name: result for op, result in zip(self.ops, results, strict=True)}

    def profile(self, images, num_threads=None, repeats=10):
        """{operation name: seconds} of one run of the executor, the median of `repeats`.

        What is computed together with a product or pooling before it counts there. Raises ValueError where no
        kernels are compiled.
        """
        images, executor, threads = self._prepared(images, num_threads, "kernels")
        logits, rows = np.empty(len(images) * math.prod(self.tensors[-1].shape)), []
        for _ in range(repeats):
            rows.append(np.zeros(len(self.ops), np.uint64))
            executor.run(images, logits, threads, None, rows[-1])
        return {op.name: float(ns) * 1e-9 for op, ns in zip(self.ops, np.median(rows, axis=0), strict=True)}

    def _prepared(self, images, num_threads, backend):
        """(images, executor or None for the oracle, threads), checked."""
        images = np.ascontiguousarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != tuple(self.image_shape):
            raise ValueError(f"images are {images.dtype} of shape {images.shape}; this program takes uint8 pixels "
                             f"(N, {', '.join(map(str, self.image_shape))}), not normalised")
        if num_threads is not None and not 1 <= operator.index(num_threads) <= MAX_THREADS:
            raise ValueError(f"num_threads={num_threads} does not work; it takes 1..{MAX_THREADS}, or None for the "
                             "cores of this process")
        return images, self._executor(backend), num_threads or kernels.default_threads()

    def _executor(self, backend):
        """The executor of the instruction set in use, made once; None for the oracle."""
        if backend not in (None, "kernels", "numpy"):
            raise ValueError(f"backend={backend!r} is unknown; it is 'kernels', 'numpy' or None")
        isa = "numpy" if backend == "numpy" else kernels.isa()
        if isa == "numpy":
            if backend == "kernels":
                raise ValueError("backend='kernels' needs the compiled kernels; build them, or take backend='numpy'")
            return None
        if isa not in self._executors:
            self._executors[isa] = executor.make(self, isa)
        return self._executors[isa]

    def __getstate__(self):
        """What copies and pickles hold: not the executors, which live in this process."""
        return {**self.__dict__, "_executors": {}}

    def _compute(self, images, keep=False):
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
