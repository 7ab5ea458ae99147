"""What lowering carries through the layers: pixels, codes, sums that no quantizer has closed yet, or several parts."""

from dataclasses import dataclass, replace

import numpy as np

from .requantize import Expression


@dataclass(frozen=True)
class Image:
    """The network's input: tensor 0, and the normalised value of every pixel value, (channels, 256) float64."""

    pixels: np.ndarray


@dataclass(frozen=True)
class Codes:
    """A tensor of codes that stand for levels[code] * scale (levels ascend, scale a float64 scalar).

    nonlinear : ReLUs met, in order, behind the Concatenated that these codes are part of; empty anywhere else
    """

    tensor: int
    levels: np.ndarray
    scale: np.float64
    nonlinear: tuple = ()


@dataclass(frozen=True)
class Pending:
    """Sums of products on their way to the next quantizer.

    low, high, slack : per channel, reachable sums and the error bound of the plain float64 sum (`sum_slack`)
    nonlinear : ReLUs met, in order;  shortcut : None or the Codes that are added;  pools : max-poolings met
    """

    tensor: int
    expression: Expression
    low: np.ndarray
    high: np.ndarray
    slack: np.ndarray
    nonlinear: tuple = ()
    shortcut: Codes | None = None
    pools: tuple = ()

    def is_affine(self):
        """True while nothing but scale, bias and batch norm has been met."""
        return not self.nonlinear and self.shortcut is None and not self.pools


@dataclass(frozen=True)
class Concatenated:
    """{label: Codes or Pending}, side by side on the last axis, of the layer `name`."""

    name: str
    parts: dict

    def each(self, change):
        """The same with change(label, part) in the place of every part."""
        return replace(self, parts={label: change(label, part) for label, part in self.parts.items()})

    def are_alike(self):
        """True for codes that all stand for the same levels."""
        parts = list(self.parts.values())
        return all(isinstance(part, Codes) and not part.nonlinear and part.scale == parts[0].scale
                   and np.array_equal(part.levels, parts[0].levels) for part in parts)


def what(value):
    """A value in words, for an error about it."""
    names = {Image: "the image", Codes: "quantized activations",
             Concatenated: "a concatenation of parts that no common quantizer has closed"}
    return names.get(type(value), "values that no quantizer has closed")
