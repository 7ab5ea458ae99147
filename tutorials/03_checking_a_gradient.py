# %% [markdown]
# # 3. Checking a gradient, and fooling the checker
#
# A wrong backward still trains, only worse. So every backward in minquant is compared with numbers: move the input a
# little, see how the output moves. This tutorial builds such a checker, and then shows four ways to fool it.

# %%
import numpy as np
from lesson import picture

from minquant import check, plot
from minquant.nn import BatchNorm, Layer, Linear
from minquant.quantizers.minmax import MinMaxWeight

rng = np.random.default_rng(0)

# %% [markdown]
# ## Differences
#
# The derivative of f at 0, from a few values of f. Two points: the error falls with `h^2`. Four points: with `h^4`.
# But every value carries a rounding error of about 1e-16, and it is divided by h. So h must not be too small.

# %%
def two_points(f, h):
    return (f(h) - f(-h)) / (2 * h)


def four_points(f, h):
    return (f(-2 * h) - 8 * f(-h) + 8 * f(h) - f(2 * h)) / (12 * h)


def f(t):
    return np.exp(np.sin(t) + t)  # f'(0) = 2


steps = np.geomspace(1e-13, 1, 200)
error2, error4 = (np.array([abs(rule(f, h) - 2) / 2 for h in steps]) for rule in (two_points, four_points))
assert four_points(f, 1e-3) == check.directional(f, 1e-3)  # the library's own
assert error4[steps < 1e-11].max() > 1e-6 and error4.min() < 1e-13 < error2.min() * 1e3

# %% [markdown]
# ## One number for a whole Jacobian
#
# A layer maps many numbers to many. Draw a random direction v for the input and a random upstream gradient dy. Then
#
#     <dy, J v>  by differences    must equal    <J^T dy, v>  by backward
#
# That is `minquant.check.gradients`. It does so for x and for every parameter.

# %%
x = rng.standard_normal((6, 5))
for comparison in check.gradients(Linear(5, 4, rng), x, rng):
    print(comparison)


class ForgottenTranspose(Linear):
    """A Linear with a wrong backward."""

    def backward(self, dy, cache):
        x, weight, _ = cache
        return dy @ weight, {"weight": x.T @ dy, "bias": dy.sum(0)}


def rejected(layer, x, **more):
    """Whether the checker finds the mistake."""
    try:
        check.gradients(layer, x, rng, **more)
    except check.GradientError as error:
        print("rejected:", str(error).splitlines()[1].strip())
        return True
    return False


assert rejected(ForgottenTranspose(5, 5, rng), x)

# %% [markdown]
# ## Fooling it, 1: an upstream gradient of ones
#
# It is tempting to check `sum(y)`, that is dy = 1. A batch norm makes its outputs sum to the same number whatever x
# is. So the true gradient is zero, and a backward that returns nothing passes.

# %%
class Lazy(BatchNorm):
    """A BatchNorm whose backward forgets x."""

    def backward(self, dy, cache):
        dx, grads = super().backward(dy, cache)
        return np.zeros_like(dx), grads


lazy = Lazy(5).astype(np.float64)
v = rng.standard_normal(x.shape)
numeric = four_points(lambda t: lazy.forward(x + t * v, train=True)[0].sum(), 1e-3)
assert abs(numeric) < 1e-10   # equal to what Lazy says: the naive checker is content
assert rejected(lazy, x)      # a random dy is not fooled

# %% [markdown]
# ## 2: nothing to compare
#
# Zero equals zero. A check at a point where everything is flat proves nothing, so the checker refuses it.

# %%
class Dead(Layer):
    def forward(self, x, train=False, rng=None):
        return np.maximum(x, 0), x > 0

    def backward(self, dy, mask):
        return dy * mask * 17, {}  # wrong, but nobody sees it at negative x


try:
    check.gradients(Dead(), -np.abs(x) - 1, rng)
    raise AssertionError("the checker was fooled")
except ValueError as error:
    print("refused:", error)

# %% [markdown]
# ## 3: single precision
#
# float32 has seven digits. Differences lose most of them: a mistake of one per cent can hide. The checker converts to
# float64 first. The picture shows why: `single` never gets below 1e-6.
#
# ## 4: rounding
#
# A quantizer is a staircase: as x moves, the codes stay and only the step size, read off the largest value, changes.
# Its backward says dx = dy all the same: a *straight-through* gradient. The checker rejects that, rightly. Such a
# backward must name the smooth function it differentiates, its `surrogate`. Then the claim can be checked. The next
# tutorial is about what this pretends.

# %%
quantizer = MinMaxWeight(4)
quantizer.init_from(x, rng)
assert rejected(quantizer, x)
assert not rejected(quantizer, x, surrogate=quantizer.surrogate)

# %%
single = np.array([abs(float(two_points(f, np.float32(h))) - 2) / 2 for h in steps[steps > 1e-7]])
assert single.min() > 1e-6
figure, axis = plot.subplots()
axis.loglog(steps, error2 + 1e-17, color=plot.BLUE, label="2 points, float64")
axis.loglog(steps, error4 + 1e-17, color=plot.ORANGE, label="4 points, float64")
axis.loglog(steps[steps > 1e-7], single + 1e-17, color=plot.RED, label="2 points, float32")
axis.axvline(1e-4, color=plot.GREY, linestyle="--", label="the step of minquant.check")
axis.set_xlabel("step h")
axis.set_ylabel("relative error of the derivative")
axis.set_ylim(1e-16, 10)
axis.grid(alpha=0.3)
axis.legend()
picture(figure, "03_checking_a_gradient")

# %% [markdown]
# ## Exercise
#
# Write a backward of `y = x^2` that is wrong only where |x| > 3. Can the checker find it with standard normal inputs
# of 6 x 5 values? How would you make sure that it does? (`solutions/03_checking_a_gradient.py`)
#
# ## What you can now read
#
# - `minquant/check.py`: `gradients`, about forty lines
# - `tests/test_nn.py`: every layer passes it, and a wrong backward of each does not
# - `tests/papers/test_gdrq_gradients.py`: how a paper's gradients are proven
