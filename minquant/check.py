"""Checkers that users may call too: is a backward the derivative of its forward, is a Program its network?

`gradients` contracts both sides with random vectors, so one number stands for a whole Jacobian:

    <dy, J v>  by central differences of 4th order      against      <J^T dy, v>  by the layer's backward

A wrong scale, a dropped term or a zero gradient changes the right side and not the left.

`bit_exact` compares integers: every activation code of a Program with that of the network it was lowered from.
"""

from dataclasses import dataclass

import numpy as np

from . import kernels
from .deploy import reference
from .deploy.reference import BitExactError


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


@dataclass(frozen=True)
class Agreement:
    """What `bit_exact` compared, all equal: images, quantizers, codes.

    backends         : what computed the program: NumPy, and the compiled kernels where there are some
    plain_codes      : codes that the plain float64 forward computes otherwise, because of a tie or behind one
    logit_difference : the largest difference of a logit from the plain forward, on images without such codes
    """

    images: int
    quantizers: int
    codes: int
    backends: tuple
    plain_codes: int
    logit_difference: float

    def __str__(self):
        text = (f"{self.codes:,} codes of {self.quantizers} quantizers and all logits on {self.images:,} images are "
                f"equal to the last bit: network in float64 = {' = '.join(self.backends)} (plain float64 sums: logits "
                f"within {self.logit_difference:.1e})")
        if self.plain_codes:
            text += (f"; in plain float64, whose sums round before they are complete, {self.plain_codes:,} codes at or "
                     "behind exact ties fall the other way")
        return text


def bit_exact(model, program, images, normalise, batch_size=100):
    """Compare a Program with the evaluation mode of its model in float64: every activation code, every logit.

    model     : the quantized model that was lowered; it is copied, not changed
    program   : a `minquant.deploy.Program`; its NumPy oracle is compared, and the executor where kernels are compiled
    images    : uint8 (N, H, W, C);  normalise : what the program was lowered with, such as `Dataset.normalise`

    The network's sums of products are taken exactly (`minquant.deploy.reference`); how many codes the plain float64
    forward computes otherwise is counted: none, unless a threshold is an unproven tie (`program.info["proof"]`).
    Return an `Agreement`. Raises BitExactError at the first difference, in the order of the computation; ValueError
    where there is nothing to compare.
    """
    if len(images) == 0:
        raise ValueError("there are no images to compare; the check would prove nothing")
    model, backends = reference.float64(model), backends_of(kernels.isa())
    count, plain_count, worst, names = 0, 0, 0.0, []
    for start in range(0, len(images), batch_size):
        batch = images[start:start + batch_size]
        x = np.asarray(normalise(batch)).astype(np.float64)
        expected, logits = reference.exact_forward(model, x)
        names = list(expected)
        count += sum(codes.size for codes in expected.values())
        for backend, label in backends.items():
            traced = program.trace(batch, backend=backend)
            for name in names:
                _equal_codes(name, expected[name], traced.get(name), start, label)
            ours = list(traced.values())[-1]
            _equal_logits(logits, ours, start, label)
        plain, plain_logits = reference.plain_forward(model, x)
        same = np.ones(len(batch), bool)
        for name in names:
            differs = (plain[name] != expected[name]).reshape(len(batch), -1)
            plain_count += int(differs.sum())
            same &= ~differs.any(1)
        worst = max(worst, float(np.abs(ours - plain_logits)[same].max(initial=0.0)))
    return Agreement(len(images), len(names), count, tuple(backends.values()), plain_count, worst)


def backends_of(isa):
    """{backend of `Program.run`: what to call it}."""
    return {"numpy": "NumPy"} if isa == "numpy" else {"numpy": "NumPy", "kernels": f"kernels ({isa})"}


def _equal_codes(name, expected, actual, start, label):
    if actual is None:
        raise BitExactError(f"the program computes no codes of quantizer '{name}'; it was lowered from another model")
    if expected.shape != actual.shape:
        raise BitExactError(f"'{name}' has codes of shape {actual.shape} in the program, "
                            f"{expected.shape} in the network")
    wrong = np.argwhere(expected != actual)
    if len(wrong):
        place = tuple(int(i) for i in wrong[0])
        raise BitExactError(f"the first difference is at '{name}', image {start + place[0]}, index {place[1:]}: code "
                            f"{actual[place]} in the program ({label}), {expected[place]} in the network "
                            f"({len(wrong)} of {actual.size} codes of this batch differ there)")


def _equal_logits(expected, actual, start, label):
    wrong = np.argwhere(expected != actual)
    if len(wrong):
        place = tuple(int(i) for i in wrong[0])
        logit = ", ".join(map(str, place[1:]))
        raise BitExactError(f"all codes are equal but logit {logit} of image {start + place[0]} is "
                            f"{actual[place]!r} in the program ({label}), {expected[place]!r} in the network")
