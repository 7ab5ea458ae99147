"""Layers that only pass data between their children."""

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
            return ops.add(dx, dy), grads
        dshort, more = self.children["shortcut"].backward(dy, short_cache)
        grads.update(prefixed("shortcut", more))
        return ops.add(dx, dshort), grads
