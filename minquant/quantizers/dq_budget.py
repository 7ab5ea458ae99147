"""Memory constraints of the mixed-precision paper: what a network stores, and the price of too much.

    S_l = N_l b_l                       memory of layer l: elements (activations: of one image) times bits
    g1 = sum_l S_l^w - S0_w     (8a)    all weights
    g2 = sum_l S_l^x - S0_x     (8b)    all activations: pipelined inference
    g3 = max_l S_l^x - S0_x     (8c)    the largest activation: one layer after the other
    loss = task + sum_j lambda_j max(0, g_j)^2        (10), sizes in KB of 8192 bits

The lambda_j are constants: a penalty method, whose multipliers are never updated (from the paper). The
gradient reaches the parameters of a quantizer through its bit-width (`bits_slopes`). Float layers count 32
bits, layers of other quantizers their own; both are constants here. Batch norms and scales are not counted,
as in the paper. Deviation: biases are not counted, as they stay float here; the paper quantizes and counts
them with the weights.
"""

from dataclasses import dataclass

import numpy as np

from ..nn.base import prefixed
from ..nn.layers import Weighted
from .base import Quantizer, quantizers

BITS_PER_KB = 8 * 1024
FLOAT_BITS = 32


@dataclass(frozen=True)
class Memory:
    """Memory of a tensor: `elements` (activations: per image) of `bits`; `learned` where bits still move."""

    name: str
    elements: int
    bits: int
    learned: bool
    quantizer: Quantizer | None

    @property
    def kilobytes(self):
        return self.elements * self.bits / BITS_PER_KB

    @property
    def least_kilobytes(self):
        """The kilobytes left when the bits are pushed down as far as they go."""
        return self.elements * (self.quantizer.b_min if self.learned else self.bits) / BITS_PER_KB


def weight_memory(model):
    """Return one `Memory` per layer with weights, in the order of the computation."""
    rows = []
    for name, layer in model.named_layers():
        if isinstance(layer, Weighted):
            quantizer, elements = layer.children.get("weight_quantizer"), layer.params["weight"].size
            bits = FLOAT_BITS if quantizer is None else int(quantizer.bits)
            name = name if quantizer is None else f"{name}.weight_quantizer"
            rows.append(Memory(name, elements, bits, getattr(quantizer, "learning", False), quantizer))
    return rows


def activation_memory(model):
    """Return one `Memory` per mixed-precision activation quantizer; the network's input is not counted."""
    return [Memory(name, int(q.state["elements"]), q.bits, q.learning, q) for name, q in quantizers(model)
            if "elements" in q.state and not q.weights]


def total(rows, constraint="sum"):
    """Kilobytes of the rows together ("sum", eqs. 8a and 8b) or of the largest ("max", eq. 8c)."""
    sizes = [row.kilobytes for row in rows]
    return float(sum(sizes) if constraint == "sum" else max(sizes))


def least(rows, constraint="sum"):
    """Kilobytes below which no choice of bits can go."""
    sizes = [row.least_kilobytes for row in rows]
    return float(sum(sizes) if constraint == "sum" else max(sizes))


def penalty(rows, target, lam, constraint="sum"):
    """Return (lambda max(0, g)^2, its gradient under dotted names), eq. (10); target in KB, lambda per KB^2.

    d penalty / d b_l = kappa_l = 2 lambda max(0, g) N_l / 8192; under "max" for the first largest row only.
    """
    excess = max(0.0, total(rows, constraint) - target)
    grads = {}
    charged = range(len(rows)) if constraint == "sum" else [int(np.argmax([row.kilobytes for row in rows]))]
    for i, row in enumerate(rows):
        if row.learned:
            kappa = 2 * lam * excess * row.elements / BITS_PER_KB if i in charged else 0.0
            slopes = row.quantizer.bits_slopes()
            own = {name: np.asarray(kappa * slopes.get(name, 0.0), array.dtype)
                   for name, array in row.quantizer.params.items()}
            grads.update(prefixed(row.name, own))
    return lam * excess ** 2, grads
