"""Low-bit neural networks: five papers, each in one file, down to integers in C.

    model = minquant.models.lenet5((28, 28, 1), 10, rng)
    quantized = minquant.quantize(model, method="cpq", bits=4, act_bits=4, rng=rng)
    minquant.calibrate(quantized, images, rng)
"""

__version__ = "0.1.0"

from . import models, nn  # noqa: E402  (setup.py and the submodules read the version first)
from .data import load  # noqa: E402
from .quantize import calibrate, quantize  # noqa: E402

__all__ = ["__version__", "calibrate", "load", "models", "nn", "quantize"]
