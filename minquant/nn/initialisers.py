"""Initial weights. `shape` is HWIO or (in, out); fan-in counts all axes but the last. All return float32."""

import numpy as np


def fans(shape):
    """(fan_in, fan_out): inputs that feed one output, outputs that one input feeds."""
    window = int(np.prod(shape[:-2], dtype=int))
    return window * shape[-2], window * shape[-1]


def he_normal(shape, rng):
    """Normal with variance 2 / fan_in: keeps the variance through a ReLU (He et al. 2015, eq. 10)."""
    return (rng.standard_normal(shape) * np.sqrt(2 / fans(shape)[0])).astype(np.float32)


def he_uniform(shape, rng):
    """Uniform on +-sqrt(6 / fan_in): the same variance as `he_normal`."""
    limit = np.sqrt(6 / fans(shape)[0])
    return rng.uniform(-limit, limit, shape).astype(np.float32)


def xavier_normal(shape, rng):
    """Normal with variance 2 / (fan_in + fan_out) (Glorot and Bengio 2010, eq. 12)."""
    return (rng.standard_normal(shape) * np.sqrt(2 / sum(fans(shape)))).astype(np.float32)


def xavier_uniform(shape, rng):
    """Uniform on +-sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010, eq. 16)."""
    limit = np.sqrt(6 / sum(fans(shape)))
    return rng.uniform(-limit, limit, shape).astype(np.float32)
