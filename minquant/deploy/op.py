"""What an operation of a Program is: fields that can be stored, operands that are checked, a result that is known."""

from dataclasses import dataclass, field, fields
from typing import NamedTuple

import numpy as np

MAX_ELEMENTS = 1 << 26  # of one image's tensor; more is a damaged file or a wrong shape, not a network


class Tensor(NamedTuple):
    """What flows between two operations: kind, shape without the batch axis, largest code (None unless codes)."""

    kind: str
    shape: tuple
    top: int | None = None


def array(dtype, ndim, optional=False):
    """A field that holds an array of this little-endian dtype and number of axes; where optional, empty by default."""
    default = {"default_factory": lambda: np.zeros((0,) * ndim, dtype)} if optional else {}
    return field(metadata={"dtype": dtype, "ndim": ndim}, **default)


@dataclass(frozen=True, eq=False)
class Op:
    """name: unique in its program; inputs: indices of the tensors it reads (0 is the image, i + 1 what op i gives)."""

    name: str
    inputs: tuple[int, ...]

    takes = ("codes",)

    def need(self, condition, what):
        """Raise ValueError, naming this operation, unless the condition holds."""
        if not condition:
            raise ValueError(f"operation '{self.name}': {what}")

    def check_inputs(self, tensors):
        """Raise ValueError unless the operands are of the kinds this operation takes."""
        kinds = tuple(t.kind for t in tensors)
        self.need(kinds == self.takes, f"it takes {', '.join(self.takes)}, not {', '.join(kinds)}")

    def arrays(self):
        """{field: array} of all that is stored as an array."""
        return {f.name: getattr(self, f.name) for f in fields(self) if "dtype" in f.metadata}

    def nbytes(self):
        """Bytes of its arrays, weights packed."""
        return sum(a.nbytes for a in self.arrays().values())

    def form(self):
        """How it is computed, in a word or two, where there is a choice."""
        return ""

    def check_top(self, top):
        """Raise ValueError unless `top` is a largest code."""
        self.need(1 <= top <= 255, f"the largest code is {top}; it must be in 1..255")
