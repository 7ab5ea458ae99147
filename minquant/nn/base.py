"""What a layer is: explicit forward, explicit backward, the cache handed back.

    y, cache  = layer.forward(x, train=False, rng=None)
    dx, grads = layer.backward(dy, cache)

`cache` holds all that backward needs; nothing is hidden on `self`. `grads` has the keys of `layer.params`;
containers prefix names with the child's name and a dot (`block1.conv.weight`).
"""

from contextlib import contextmanager



class Layer:
    """Base of every layer, container and quantizer.

    params   : dict name -> float array, learned; the optimizer updates the arrays in place
    state    : dict name -> array, running statistics and counters; saved with a checkpoint, not learned
    children : dict name -> Layer, in the order of the computation
    """

    def __init__(self):
        self.params = {}
        self.state = {}
        self.children = {}

    def forward(self, x, train=False, rng=None):
        """Return (y, cache). `train` selects training behaviour, `rng` feeds layers that draw."""
        raise TypeError(f"{type(self).__name__} defines no forward")

    def backward(self, dy, cache):
        """Return (dx, grads): dL/dx in the shape of x, and one gradient per entry of `params`."""
        raise TypeError(f"{type(self).__name__} defines no backward")

    def is_container(self):
        """True for layers that only pass data between their children (Sequential, Residual, Concat)."""
        return False

    def named_layers(self, prefix=""):
        """Yield (dotted name, layer) for this layer and everything below it, depth first."""
        yield prefix, self
        for name, child in self.children.items():
            yield from child.named_layers(join(prefix, name))

    def named_params(self):
        """Return {dotted name: array} of every learned array; the arrays themselves, not copies."""
        return {join(prefix, name): array for prefix, layer in self.named_layers()
                for name, array in layer.params.items()}

    def named_state(self):
        """Return {dotted name: array} of every running statistic; the arrays themselves, not copies."""
        return {join(prefix, name): array for prefix, layer in self.named_layers()
                for name, array in layer.state.items()}

    def load(self, params, state):
        """Copy arrays in by dotted name. Raises ValueError unless names and shapes are exactly ours."""
        for kind, ours, theirs in (("parameter", self.named_params(), params), ("state", self.named_state(), state)):
            missing, foreign = sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours))
            if missing or foreign:
                raise ValueError(f"{kind} names differ from this model's: missing {missing[:5]}, "
                                 f"unknown {foreign[:5]}; "
                                 "build the model with the configuration the arrays were saved from")
            for name, array in ours.items():
                if array.shape != theirs[name].shape:
                    raise ValueError(f"{kind} '{name}' has shape {theirs[name].shape}, this model needs {array.shape}")
                array[...] = theirs[name]

    def astype(self, dtype):
        """Convert every float array below this layer to `dtype` in place, and return the layer."""
        for _, layer in self.named_layers():
            for arrays in (layer.params, layer.state):
                for name, array in arrays.items():
                    if array.dtype.kind == "f":
                        arrays[name] = array.astype(dtype)
        return self


def join(prefix, name):
    """Dotted name of `name` under `prefix` (either may be empty)."""
    return f"{prefix}.{name}" if prefix and name else prefix or name


def prefixed(name, grads):
    """The gradients of a child under their dotted names."""
    return {join(name, key): value for key, value in grads.items()}


class _Tap(Layer):
    """Stands in for one leaf layer during `tapped`, and reports what passes through it."""

    def __init__(self, name, layer, before, after):
        super().__init__()
        self.name, self.layer, self.before, self.after = name, layer, before, after
        self.params, self.state, self.children = layer.params, layer.state, layer.children

    def forward(self, x, train=False, rng=None):
        if self.before:
            self.before(self.name, self.layer, x)
        y, cache = self.layer.forward(x, train, rng)
        if self.after:
            self.after(self.name, self.layer, x, y)
        return y, cache

    def backward(self, dy, cache):
        return self.layer.backward(dy, cache)


@contextmanager
def tapped(model, before=None, after=None):
    """While open, call before(name, layer, x) and after(name, layer, x, y) around every leaf layer's forward.

    A leaf is a layer that its container calls directly; weight quantizers are taps of their own, named
    `conv1.weight_quantizer`. The model is restored on leaving, also after an error.
    """
    originals = [(layer, name, child) for prefix, layer in list(model.named_layers())
                 for name, child in list(layer.children.items())]
    names = {id(layer): prefix for prefix, layer in model.named_layers()}
    try:
        for layer, name, child in originals:
            if not child.is_container():
                layer.children[name] = _Tap(names[id(child)], child, before, after)
        yield model
    finally:
        for layer, name, child in originals:
            layer.children[name] = child
