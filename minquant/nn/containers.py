"""Layers that only pass data between their children."""

from functools import reduce

import numpy as np

from . import ops
from .base import Layer, prefixed


class Sequential(Layer):
    """Children one after another, in the order of the keyword arguments:

    >>> from minquant.nn import ReLU, Sequential
    >>> list(Sequential(relu1=ReLU(), relu2=ReLU(cap=6)).children)
    ['relu1', 'relu2']
    """

    def __init__(self, **children):
        super().__init__()
        self.children = children

    def is_container(self):
        return True

    def insert_after(self, name, new_name, layer):
        """Put `layer` under `new_name` right behind the child `name`."""
        items = list(self.children.items())
        place = list(self.children).index(name) + 1
        self.children = dict(items[:place] + [(new_name, layer)] + items[place:])

    def insert_first(self, new_name, layer):
        """Put `layer` under `new_name` before all other children."""
        self.children = {new_name: layer, **self.children}

    def forward(self, x, train=False, rng=None):
        caches = []
        for child in self.children.values():
            x, cache = child.forward(x, train, rng)
            caches.append(cache)
        return x, caches

    def backward(self, dy, cache):
        grads = {}
        for (name, child), own in zip(reversed(self.children.items()), reversed(cache)):
            if dy is None:  # behind a layer that skips its input gradient nothing may be left to learn
                if child.named_params():
                    raise ValueError(f"layer '{name}' has parameters but the layer behind it skips its input gradient")
                continue
            dy, more = child.backward(dy, own)
            grads.update(prefixed(name, more))
        return dy, grads


class Residual(Layer):
    """y = body(x) + shortcut(x); the shortcut is the identity where none is given (He et al. 2016)."""

    def __init__(self, body, shortcut=None):
        super().__init__()
        self.children = {"body": body} if shortcut is None else {"body": body, "shortcut": shortcut}

    def is_container(self):
        return True

    def forward(self, x, train=False, rng=None):
        y, body_cache = self.children["body"].forward(x, train, rng)
        if "shortcut" not in self.children:
            short, short_cache = x, None
        else:
            short, short_cache = self.children["shortcut"].forward(x, train, rng)
        if short.shape != y.shape:
            raise ValueError(f"Residual adds body output {y.shape} to shortcut output {short.shape}; "
                             "they must be equal")
        return ops.add(y, short), (body_cache, short_cache)

    def backward(self, dy, cache):
        body_cache, short_cache = cache
        dx, grads = self.children["body"].backward(dy, body_cache)
        grads = prefixed("body", grads)
        if "shortcut" not in self.children:
            return _summed(dx, dy), grads
        dshort, more = self.children["shortcut"].backward(dy, short_cache)
        grads.update(prefixed("shortcut", more))
        return _summed(dx, dshort), grads


class Concat(Layer):
    """y = the outputs of all branches of x side by side along the last axis, the channels (Szegedy et al. 2015).

    An empty Sequential is the identity, with which x itself is handed on (Huang et al. 2017):

    >>> from minquant.nn import Concat, ReLU, Sequential
    >>> Concat(itself=Sequential(), positive=ReLU()).forward(np.array([[-1.0, 2.0]]))[0]
    array([[-1.,  2.,  0.,  2.]])
    """

    def __init__(self, **branches):
        super().__init__()
        if not branches:
            raise ValueError("Concat has no branch; give at least one, Concat(name=layer, ...)")
        self.children = branches

    def is_container(self):
        return True

    def forward(self, x, train=False, rng=None):
        outputs, caches = zip(*(branch.forward(x, train, rng) for branch in self.children.values()))
        if len({y.shape[:-1] for y in outputs}) > 1:
            shapes = ", ".join(f"'{name}' {y.shape}" for name, y in zip(self.children, outputs))
            raise ValueError(f"Concat joins channels of branches that give {shapes}; all axes but the last must be "
                             "equal (check their strides, padding and pooling)")
        return np.concatenate(outputs, axis=-1), (caches, [y.shape[-1] for y in outputs])

    def backward(self, dy, cache):
        caches, widths = cache
        parts = np.split(dy, np.cumsum(widths)[:-1], axis=-1)  # each branch gets the gradient of its own channels
        dx, grads = [], {}
        for (name, branch), own, part in zip(self.children.items(), caches, parts, strict=True):
            dbranch, more = branch.backward(np.ascontiguousarray(part), own)
            dx.append(dbranch)
            grads.update(prefixed(name, more))
        return reduce(_summed, dx), grads


def _summed(a, b):
    """The sum of two gradients of one input; None where nobody wants it and a layer has skipped it."""
    return None if a is None or b is None else ops.add(a, b)
