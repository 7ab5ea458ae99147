"""Low-bit neural networks: five papers, each in one file, down to integers in C.

    >>> import os, tempfile
    >>> import numpy as np, minquant
    >>> rng, digits = np.random.default_rng(0), minquant.data.load("digits")
    >>> model = minquant.models.mlp(digits.image_shape, len(digits.classes), rng)
    >>> model = minquant.quantize(model, method="cpq", bits=4, act_bits=4, rng=rng)
    >>> minquant.calibrate(model, digits.normalise(digits.train.images[:64]), rng)

Train it (`minquant.training.step` is one step; `python -m minquant.train` does it all), bring it into its stored form,
and go on in integers:

    >>> model.method.finish(model)
    >>> program = minquant.lower(model, digits.image_shape, digits.normalise)
    >>> path = os.path.join(tempfile.mkdtemp(), "model.mqz")
    >>> minquant.save(program, path) == os.path.getsize(path)
    True
    >>> images = digits.test.images[:3]
    >>> np.array_equal(minquant.load(path).run(images), program.run(images))
    True
    >>> minquant.check.bit_exact(model, program, images, digits.normalise).codes  # that many, all equal
    1344
"""

__version__ = "0.1.0"

from importlib import import_module  # noqa: E402

from . import data, models, nn  # noqa: E402  (setup.py and the submodules read the version first)
from .quantize import calibrate, quantize  # noqa: E402

__all__ = ["__version__", "calibrate", "check", "data", "load", "lower", "models", "nn", "quantize", "save"]
_ON_USE = {"lower": ".deploy", "load": ".deploy.file", "save": ".deploy.file"}


def __getattr__(name):
    """Import what rests on `kernels` when it is first used: `python -m minquant.kernels` must find it not imported."""
    if name == "check":
        return import_module(".check", __name__)
    if name in _ON_USE:
        return getattr(import_module(_ON_USE[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
