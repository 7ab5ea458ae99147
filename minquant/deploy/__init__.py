"""From a trained network to integers: `lower` gives a `Program`, `file.save` and `file.load` store it packed."""

from .lower import LoweringError, lower
from .program import Program

__all__ = ["LoweringError", "Program", "lower"]
