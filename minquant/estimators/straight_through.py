"""Rounding, and the two gradients that are pretended for it.

Rounding has derivative zero almost everywhere. A straight-through estimator (STE) replaces it by the
derivative of a *surrogate*: the identity, or the identity inside a range and a constant outside. Forward,
backward and surrogate stand side by side, so that a test can compare the backward with finite differences of
the surrogate.
"""

import numpy as np


def round_half_up(v):
    """Nearest integer, ties towards +infinity: floor(v + 1/2). The rounding of RQ and CPQ."""
    return np.floor(v + np.asarray(0.5, v.dtype))


def round_half_even(v):
    """Nearest integer, ties to the even one: rint(v). The rounding of LSQ, PACT, DoReFa and GDRQ."""
    return np.rint(v)


def round_half_away(v):
    """Nearest integer, ties away from zero: sign(v) floor(|v| + 1/2). That of mixed precision.

    Adding 1/2 would round the float just below 1/2 up to 1; the float before 1/2 does not, and still carries ties up.
    """
    half = np.nextafter(np.asarray(0.5, v.dtype), np.asarray(0, v.dtype))
    return np.trunc(v + np.copysign(half, v))


def identity_ste(v, rounding=round_half_even):
    """round(v); the cache is empty because the backward needs nothing."""
    return rounding(v), None


def identity_ste_backward(dy, cache=None):
    """STE: d round(v)/dv := 1, so dv = dy."""
    return dy


def identity_ste_surrogate(v):
    """The function whose exact derivative `identity_ste_backward` is: v itself."""
    return v


def clipped_ste(v, low, high, rounding=round_half_even):
    """Return (round(clip(v, low, high)), inside): codes as floats, and the mask low < v < high."""
    return rounding(np.clip(v, low, high)), (v > low) & (v < high)


def clipped_ste_backward(dy, inside):
    """STE: d round(clip(v))/dv := 1 inside the range and 0 outside, so dv = dy * inside."""
    return dy * inside


def clipped_ste_surrogate(v, low, high):
    """The function whose exact derivative `clipped_ste_backward` is: clip(v, low, high)."""
    return np.clip(v, low, high)


def sign_ste(v):
    """Return (sign(v), inside); sign(0) = +1, so that there are two levels; inside is the mask |v| < 1."""
    return np.where(v >= 0, 1, -1).astype(v.dtype), np.abs(v) < 1


def sign_ste_backward(dy, inside):
    """STE: d sign(v)/dv := 1 inside (-1, 1) and 0 outside (Courbariaux et al. 2016), so dv = dy * inside."""
    return dy * inside


def sign_ste_surrogate(v):
    """The function whose exact derivative `sign_ste_backward` is: clip(v, -1, 1)."""
    return np.clip(v, -1, 1)


def require_frozen(frozen):
    """What `freeze` fixed for the surrogate of a quantizer; raises RuntimeError where it was not called."""
    if frozen is None:
        raise RuntimeError("the surrogate is that of one point; call freeze(x, rng) there first")
    return frozen
