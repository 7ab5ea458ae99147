"""What a run keeps of every epoch so that a film can be made of it: film.npz.

Of every layer with quantized weights a sample of latent weights and what the quantizer makes of them, its levels and
temperature; of every quantizer its bits. Epoch 0 is the state before the first step of quantized training.

    epoch (E,) int
    weights (E, L, SAMPLE) float32      evenly spaced latent weights; NaN beyond the last of a small layer
    quantized (E, L, SAMPLE) float32    what the layer computes with: soft while a temperature relaxes it, else rounded
    levels (E, L, LEVELS) float32       ascending, NaN beyond the last; all NaN where channels have scales of their own
    temperature (E, L) float32          NaN where there is none
    bits (E, Q) uint8                   of every quantizer, weights and activations
    layers (L,), quantizers (Q,) text   dotted names
"""

from pathlib import Path

import numpy as np

from .nn.layers import Weighted
from .quantize import bits_of
from .runs import UNREADABLE, RunError, replacing

SAMPLE, LEVELS = 512, 32
PER_LAYER = {"weights": (SAMPLE,), "quantized": (SAMPLE,), "levels": (LEVELS,), "temperature": ()}  # and the shape
PER_EPOCH = "epoch", *PER_LAYER, "bits"
NAMES = "layers", "quantizers"
TEMPERATURES = "temperature", "tau"


class Recording:
    """The epochs so far: `names` {kind: list of text}, `epochs` [{part of PER_EPOCH: array}]."""

    def __init__(self, names=None, epochs=()):
        self.names, self.epochs = names or {kind: [] for kind in NAMES}, list(epochs)

    def add(self, epoch, model):
        """Keep the present state of a quantized model; it is not changed, and nothing is drawn from a Generator."""
        layers, found = quantized_layers(model), bits_of(model)
        self.names = {"layers": [name for name, _ in layers], "quantizers": [name for name, _ in found]}
        rows = [observe(layer) for _, layer in layers]
        entry = {part: np.array([row[part] for row in rows], np.float32).reshape(len(rows), *shape)
                 for part, shape in PER_LAYER.items()}
        self.epochs.append({"epoch": np.array(epoch), **entry, "bits": np.array([b for _, b in found], np.uint8)})

    def save(self, path):
        """Write film.npz, whole or not at all."""
        arrays = {part: np.stack([epoch[part] for epoch in self.epochs]) for part in PER_EPOCH}
        arrays.update({kind: np.array(names) for kind, names in self.names.items()})
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path, last=None):
        """Read film.npz up to the epoch `last`. Raises RunError where there is none to read."""
        path = Path(path)
        if not path.is_file():
            raise RunError(f"there is no {path}: the run never reached its quantized stage, or has lost its record")
        try:
            with np.load(path, allow_pickle=False) as archive:
                names = {kind: [str(name) for name in archive[kind]] for kind in NAMES}
                arrays = [archive[part] for part in PER_EPOCH]
            e, layers, found = len(arrays[0]), len(names["layers"]), len(names["quantizers"])
            shapes = (e,), *((e, layers, *shape) for shape in PER_LAYER.values()), (e, found)
            if not e or tuple(array.shape for array in arrays) != shapes:
                raise ValueError("its arrays do not fit each other")
        except (*UNREADABLE, IndexError) as error:
            raise RunError(f"{path} is not the record of a run ({type(error).__name__}: {error}); "
                           "it is damaged or of another program") from None
        epochs = [dict(zip(PER_EPOCH, parts)) for parts in zip(*arrays)]
        return cls(names, [epoch for epoch in epochs if last is None or epoch["epoch"] <= last])


def quantized_layers(model):
    """[(dotted name, layer)] of the layers whose weights are quantized."""
    return [(name, layer) for name, layer in model.named_layers()
            if isinstance(layer, Weighted) and "weight_quantizer" in layer.children]


def observe(layer):
    """{part of PER_LAYER: values} of one layer."""
    weight, quantizer = layer.params["weight"], layer.children["weight_quantizer"]
    temperature = next((float(store[name]) for store in (quantizer.state, quantizer.params)
                        for name in TEMPERATURES if name in store), np.nan)
    used = quantizer.forward(weight, train=bool(np.isfinite(temperature)))[0]
    place = np.unique(np.linspace(0, weight.size - 1, SAMPLE).round().astype(int))
    return {"weights": padded(weight.reshape(-1)[place], SAMPLE), "quantized": padded(used.reshape(-1)[place], SAMPLE),
            "levels": padded(shared_levels(quantizer.encode(weight)), LEVELS), "temperature": temperature}


def shared_levels(stored):
    """The real levels of a QTensor where all channels share at most LEVELS of them; else none."""
    scale = np.asarray(stored.scale)
    if scale.size > 1 or len(stored.levels) > LEVELS:
        return np.zeros(0)
    return stored.levels * float(scale.reshape(()))


def padded(values, size):
    """A row of `size` floats, NaN beyond the values."""
    row = np.full(size, np.nan, np.float32)
    row[:len(values)] = values
    return row
