"""The operations that the layers call: the NumPy reference of `functional`."""

from .functional import *  # noqa: F403
