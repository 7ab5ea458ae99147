"""Where the time and the memory of a step go: every layer replaced, for a while, by one that watches it."""

import time
import tracemalloc
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from ..nn import Layer


@dataclass
class Record:
    """One layer: its seconds, less those of layers inside it, and the arrays in its cache but its own."""

    name: str
    kind: str
    forward: float = 0.0
    backward: float = 0.0
    arrays: list = field(default_factory=list)


class _Watched(Layer):
    def __init__(self, layer, record, inner):
        super().__init__()
        self.layer, self.record, self.inner = layer, record, inner
        self.params, self.state, self.children = layer.params, layer.state, layer.children

    def __getattr__(self, name):
        return getattr(self.layer, name)

    def _timed(self, phase, function, *arguments):
        """Call, and book the time less what watched layers inside took of it."""
        self.inner.append(0.0)
        started = time.perf_counter()
        result = function(*arguments)
        elapsed = time.perf_counter() - started
        setattr(self.record, phase, getattr(self.record, phase) + elapsed - self.inner.pop())
        if self.inner:
            self.inner[-1] += elapsed
        return result

    def forward(self, x, train=False, rng=None):
        y, cache = self._timed("forward", self.layer.forward, x, train, rng)
        own = {id(array) for array in (*self.params.values(), *self.state.values())}
        self.record.arrays = [array for array in _arrays(cache) if id(array) not in own]
        return y, cache

    def backward(self, dy, cache):
        return self._timed("backward", self.layer.backward, dy, cache)


@contextmanager
def watched(model):
    """While open, time every layer that is not a container; yield the Records. The model is restored."""
    layers = list(model.named_layers())
    names = {id(layer): name for name, layer in layers}
    originals = [(layer, key, child) for _, layer in layers for key, child in layer.children.items()]
    records, inner = [], []
    try:
        for layer, key, child in originals:
            if not child.is_container():
                records.append(Record(names[id(child)], type(child).__name__))
                layer.children[key] = _Watched(child, records[-1], inner)
        yield records
    finally:
        for layer, key, child in originals:
            layer.children[key] = child


def _arrays(cache):
    """Every array inside a cache, as the array that owns the memory."""
    if isinstance(cache, np.ndarray):
        while isinstance(cache.base, np.ndarray):
            cache = cache.base
        yield cache
    elif isinstance(cache, dict):
        yield from _arrays(tuple(cache.values()))
    elif isinstance(cache, (tuple, list)):
        for part in cache:
            yield from _arrays(part)


def kept_buffers(records):
    """[(layer, shape, dtype, bytes)] of every array kept for backward, largest first, each once."""
    seen = {}
    for record in records:
        for array in record.arrays:
            seen.setdefault(id(array), (record.name, array.shape, array.dtype.name, array.nbytes))
    return sorted(seen.values(), key=lambda buffer: -buffer[3])


def peak_bytes(function):
    """Most bytes of Python's and NumPy's allocations alive at once during a call, beyond those before it."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
