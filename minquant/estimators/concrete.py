"""Relaxed discrete choices: the concrete (Gumbel-softmax) distribution and the hard concrete gate.

Concrete       z = softmax((l + nu) / tau), nu_i ~ Gumbel(0, 1): a point of the simplex that becomes a one-hot
               sample of softmax(l) as tau -> 0 (Maddison et al. 2017, arXiv:1611.00712; Jang et al. 2017,
               arXiv:1611.01144)
Hard concrete  Z = clip(S (zeta - gamma) + gamma, 0, 1), S = sigmoid((log U - log(1 - U) + omega) / tau): a
               gate that is exactly 0 or 1 with positive probability and differentiable in between (Louizos et
               al. 2018, arXiv:1712.01312, eq. 10-12)

Both are differentiated exactly for given noise: nothing here is straight-through. The constants GAMMA, ZETA
and MASK_TAU are those of the L0-regularisation paper.
"""

import numpy as np

GAMMA, ZETA, MASK_TAU = -0.1, 1.1, 2 / 3
UNIFORM_MARGIN = 1e-6  # U is drawn from (margin, 1 - margin), so that its logit is finite


def sigmoid(v):
    """1 / (1 + e^-v), without overflow for any v.

    >>> float(sigmoid(np.float64(0.0)))
    0.5
    """
    return 0.5 * (1 + np.tanh(0.5 * v))


def log_sigmoid(v):
    """log(1 / (1 + e^-v)) = min(v, 0) - log(1 + e^-|v|), without overflow or cancellation for any v."""
    return np.minimum(v, 0) - np.log1p(np.exp(-np.abs(v)))


def noise_bits(rng, shape):
    """Draw 32 random bits for every place (uint32): far cheaper than to draw exponential variables."""
    size = int(np.prod(shape))
    return rng.integers(2 ** 64, size=(size + 1) // 2, dtype=np.uint64).view(np.uint32)[:size].reshape(shape)


def gumbel_of_bits(bits, dtype):
    """Gumbel(0, 1) noise -log(-log U) with U = (upper 23 bits + 1/2) / 2^23, so that 0 < U < 1 in float32."""
    draw = (bits >> np.uint32(9)).astype(dtype)
    draw += 0.5
    draw *= 2.0 ** -23
    for _ in range(2):
        np.log(draw, out=draw)
        np.negative(draw, out=draw)
    return draw


def gumbel(rng, shape, dtype):
    """Draw Gumbel(0, 1) noise."""
    return gumbel_of_bits(noise_bits(rng, shape), dtype)


def concrete(logits, noise, tau, axis=-1):
    """z = softmax((logits + noise) / tau) over `axis`; a logit of -inf is a class that cannot be chosen."""
    v = logits + noise
    v /= tau
    v -= v.max(axis, keepdims=True)
    np.exp(v, out=v)
    v /= v.sum(axis, keepdims=True)
    return v


def concrete_backward(dz, z, tau, axis=-1):
    """dlogits_i = z_i (dz_i - sum_j z_j dz_j) / tau, exactly."""
    return z * (dz - (z * dz).sum(axis, keepdims=True)) / tau


def hard_concrete(omega, uniform):
    """Return (Z, S): the gate in [0, 1] and the sigmoid that `hard_concrete_backward` needs.

    omega, uniform : arrays of the same shape, logits of the keep probability and draws from (0, 1)
    """
    s = sigmoid((np.log(uniform) - np.log1p(-uniform) + omega) / MASK_TAU)
    return np.clip(s * (ZETA - GAMMA) + GAMMA, 0, 1), s


def hard_concrete_backward(dgate, s):
    """domega = dZ (zeta - gamma) S (1 - S) / tau where 0 < Z < 1; a gate at 0 or 1 passes no gradient."""
    stretched = s * (ZETA - GAMMA) + GAMMA
    active = (stretched > 0) & (stretched < 1)
    return np.where(active, dgate, 0) * ((ZETA - GAMMA) / MASK_TAU) * s * (1 - s)


def open_probability(omega):
    """phi = P(Z > 0) = sigmoid(omega - tau log(-gamma / zeta)), the differentiable L0 count of a gate."""
    return sigmoid(omega - MASK_TAU * np.log(-GAMMA / ZETA))


def open_probability_backward(dphi, phi):
    """domega = dphi phi (1 - phi)."""
    return dphi * phi * (1 - phi)


def fully_open_probability(omega):
    """P(Z = 1) = sigmoid(omega - tau log((1 - gamma) / (zeta - 1)))."""
    return sigmoid(omega - MASK_TAU * np.log((1 - GAMMA) / (ZETA - 1)))


def deterministic_gate(omega):
    """The gate without noise, clip(sigmoid(omega) (zeta - gamma) + gamma, 0, 1): 0 where Pi <= 1/12."""
    return np.clip(sigmoid(omega) * (ZETA - GAMMA) + GAMMA, 0, 1)
