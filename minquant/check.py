"""Checkers that users may call too: is a backward the derivative of its forward?

The check contracts both sides with random vectors, so one number stands for a whole Jacobian:

    <dy, J v>  by central differences of 4th order      against      <J^T dy, v>  by the layer's backward

A wrong scale, a dropped term or a zero gradient changes the right side and not the left.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Comparison:
    """One gradient: `what` is 'x' or a parameter's dotted name; `error` is relative to the larger magnitude."""

    what: str
    analytic: float
    numeric: float
    error: float

    def __str__(self):
        ratio = self.analytic / self.numeric if self.numeric else float("nan")
        return (f"d{self.what}: analytic {self.analytic:.12g}, numeric {self.numeric:.12g}, "
                f"ratio {ratio:.9f}, relative error {self.error:.2e}")


class GradientError(AssertionError):
    """A backward is not the derivative of its forward; the message lists every gradient that failed."""


def directional(f, step):
    """df(t)/dt at 0 by the 4th-order central difference (f(-2h) - 8 f(-h) + 8 f(h) - f(2h)) / 12h."""
    return (f(-2 * step) - 8 * f(-step) + 8 * f(step) - f(2 * step)) / (12 * step)


def gradients(layer, x, rng, train=True, tolerance=1e-6, step=1e-4, surrogate=None, seed=0):
    """Check dx and every parameter gradient of a layer; return the list of `Comparison`.

    layer     : a `Layer`; it is converted to float64 in place
    x         : its input, any float array; converted to float64
    rng       : Generator for the upstream gradient and the directions
    train     : passed to forward; layers that draw get a Generator seeded with `seed` at every call
    surrogate : None, or f(x) -> y: the smooth function that a straight-through backward claims to differentiate;
                parameters are then checked by perturbing them under the same f
    Raises GradientError if a relative error exceeds `tolerance`, ValueError if the check would be empty (a gradient
    that is zero on both sides proves nothing).
    """
    layer.astype(np.float64)
    x = np.asarray(x, np.float64)
    evaluate = surrogate or (lambda x: layer.forward(x, train, np.random.default_rng(seed))[0])
    y, cache = layer.forward(x, train, np.random.default_rng(seed))
    dy = rng.standard_normal(y.shape)
    state = {name: value.copy() for name, value in layer.named_state().items()}
    dx, grads = layer.backward(dy, cache)
    params = layer.named_params()
    if set(grads) != set(params):
        raise GradientError(f"backward returned gradients for {sorted(grads)}, the parameters are {sorted(params)}")
    targets = [("x", x, dx)] + [(name, params[name], grads[name]) for name in params]
    comparisons = []
    for what, array, gradient in targets:
        if gradient is None or np.shape(gradient) != array.shape:
            raise GradientError(f"d{what} has shape {np.shape(gradient)}, expected {array.shape}")
        direction = rng.standard_normal(array.shape)
        direction /= np.linalg.norm(direction)  # small per element: a kink (ReLU, max) is rarely crossed

        def loss(t):
            original = array.copy()
            array[...] = original + t * direction
            value = float((dy * evaluate(x)).sum())
            array[...] = original
            for name, saved in state.items():
                layer.named_state()[name][...] = saved
            return value

        comparisons.append(_compare(what, float((gradient * direction).sum()), directional(loss, step), dy))
    failed = [c for c in comparisons if not c.error <= tolerance]
    if failed:
        raise GradientError("backward is not the derivative of forward:\n  " + "\n  ".join(map(str, failed)))
    return comparisons


def _compare(what, analytic, numeric, dy):
    size = max(abs(analytic), abs(numeric))
    if size == 0:
        raise ValueError(f"d{what} is zero on both sides: the check proves nothing; choose another input")
    return Comparison(what, analytic, numeric, abs(analytic - numeric) / max(size, 1e-6 * float(np.abs(dy).max())))
