"""What a network costs when it is stored: bits and bytes per layer, totals against float32."""

from dataclasses import asdict, dataclass

import numpy as np

from . import models
from .nn import Sequential, tapped
from .nn.base import join
from .nn.layers import Weighted
from .quantizers.base import Quantizer


@dataclass(frozen=True)
class LayerSummary:
    """One layer with weights. bits is 32 where the weights are float; act_bits is of the layer's input."""

    name: str
    shape: tuple
    bits: int
    act_bits: int
    macs: int
    levels: int
    zeros: float
    bytes: int
    float_bytes: int


def stored_bytes(layer):
    """(bits, levels used, share of zeros, bytes) of a layer: ceil(bits n / 8) for codes, tables, scales, float bias."""
    weight = layer.params["weight"]
    rest = sum(array.size * 4 for name, array in layer.params.items() if name != "weight")
    quantizer = layer.children.get("weight_quantizer")
    if quantizer is None:
        return 32, weight.size, float((weight == 0).mean()), weight.size * 4 + rest
    stored = quantizer.encode(weight)
    used = np.unique(stored.codes)
    table = 0 if stored.levels.dtype.kind in "iu" and _is_range(stored.levels) else stored.levels.nbytes
    zeros = float((stored.levels[stored.codes] == 0).mean())
    size = -(-stored.bits * weight.size // 8) + table + 4 * np.asarray(stored.scale).size
    return stored.bits, len(used), zeros, size + rest


def _is_range(levels):
    """True for consecutive integers, which need no table."""
    return bool((np.diff(levels.astype(int)) == 1).all())


def summarise(model, input_shape):
    """Return (list of LayerSummary, totals dict); totals count batch norms too (4 bytes a value)."""
    macs = {row.name: row.macs for row in models.count(model, input_shape)}
    before, layers = input_quantizers(model), dict(model.named_layers())
    rows, extra = [], 0
    for name, layer in layers.items():
        if isinstance(layer, Weighted):
            bits, levels, zeros, size = stored_bytes(layer)
            act_bits = 32 if before[name] is None else int(layers[before[name]].bits)
            float_bytes = sum(array.size for array in layer.params.values()) * 4
            rows.append(LayerSummary(name, layer.params["weight"].shape, bits, act_bits, macs[name], levels, zeros,
                                     size, float_bytes))
        elif not isinstance(layer, Quantizer):
            extra += 4 * sum(array.size for array in (*layer.params.values(), *layer.state.values()))
    stored, plain = sum(r.bytes for r in rows) + extra, sum(r.float_bytes for r in rows) + extra
    weights = sum(int(np.prod(r.shape)) for r in rows)
    return rows, {"bytes": stored, "float32_bytes": plain, "compression": plain / stored,
                  "macs": sum(r.macs for r in rows),
                  "mean_bits": sum(r.bits * int(np.prod(r.shape)) for r in rows) / weights}


def input_quantizers(model):
    """{layer with weights: name of the activation quantizer in front of it, or None}, in the order of computation."""
    found = {}

    def walk(layer, name, before):
        """The quantizer last met behind a layer, from the one in front of it."""
        if isinstance(layer, Quantizer):
            return name
        if isinstance(layer, Weighted):
            found[name] = before
            return before
        behind = before
        for child_name, child in layer.children.items():
            behind = walk(child, join(name, child_name), behind if isinstance(layer, Sequential) else before)
        return behind  # of branches, which all read what their container reads, that of the last

    walk(model, "", None)
    return found


def activation_rows(model, input_shape):
    """[dict(name, elements, bits, bytes)] of every quantized activation of one image, in the order of computation."""
    rows = []

    def record(name, layer, x, y):
        if isinstance(layer, Quantizer) and not name.endswith("weight_quantizer"):
            bits = int(layer.bits)
            rows.append({"name": name, "elements": y.size, "bits": bits, "bytes": -(-y.size * bits // 8)})

    with tapped(model, after=record):
        model.forward(np.zeros((1, *input_shape), np.float32))
    return rows


def as_dicts(rows):
    """LayerSummary rows as plain dicts, for JSON."""
    return [{**asdict(row), "shape": list(row.shape)} for row in rows]


def table(header, rows):
    """Plain-text table: first column left, the rest right."""
    cells = [list(map(str, header)), *[list(map(str, row)) for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))).rstrip()
             for row in cells]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])
