# %% [markdown]
# # 1. A grid, and rounding to it
#
# A network computes with real numbers. A small computer stores a few bits per number. So every number is replaced by
# the nearest point of a grid. This tutorial makes the grid, rounds to it, and measures what is lost.
#
# You need NumPy. Nothing else.

# %%
import numpy as np
from lesson import SHORT, picture

from minquant import plot
from minquant.estimators.straight_through import round_half_away, round_half_even, round_half_up
from minquant.quantizers.lsq import LearnedStep
from minquant.quantizers.rq import mse_step

rng = np.random.default_rng(0)

# %% [markdown]
# ## Codes and levels
#
# With `b` bits there are `2^b` *codes*: integers. A code `n` stands for the *level* `step * n`. The distance between
# two levels is the *step size*. With a sign the codes are `-2^(b-1) .. 2^(b-1) - 1`.

# %%
bits, step = 3, 0.5
low, high = -2 ** (bits - 1), 2 ** (bits - 1) - 1

x = np.array([-3.0, -1.1, -0.2, 0.0, 0.3, 0.74, 0.76, 9.0])
codes = np.clip(np.rint(x / step), low, high)  # n = clip(round(x / step), low, high)
x_hat = codes * step                           # x_hat = step * n
for value, code, level in zip(x, codes, x_hat):
    print(f"x = {value:5.2f}   code {int(code):2d}   level {level:5.2f}")

# %% [markdown]
# Values inside the grid move by at most half a step. Values outside are *clipped* to the last level: 9.0 became 1.5.
#
# minquant's quantizers do the same. Here is one with a step size that could be learned, but is not yet.

# %%
quantizer = LearnedStep(bits)
quantizer.params["step"] = np.array(step)
quantizer.state["ready"][...] = True
assert np.array_equal(quantizer.forward(x)[0], x_hat)

stored = quantizer.encode(x)  # what a device keeps: unsigned codes, a table of levels, one scale
assert stored.codes.dtype == np.uint8 and stored.codes.max() < 2 ** bits
assert np.array_equal(stored.levels[stored.codes] * stored.scale, x_hat)

# %% [markdown]
# ## Ties
#
# What is the nearest integer to 0.5? The papers do not agree. It matters: a device that breaks ties in another way
# than the training computes another network.

# %%
ties = np.array([-1.5, -0.5, 0.5, 1.5, 2.5])
assert round_half_even(ties).tolist() == [-2, 0, 0, 2, 2]  # LSQ, PACT, DoReFa, GDRQ, and NumPy
assert round_half_up(ties).tolist() == [-1, 0, 1, 2, 3]    # relaxed quantization, CPQ
assert round_half_away(ties).tolist() == [-2, -1, 1, 2, 3]  # mixed precision

# %% [markdown]
# ## Which step size?
#
# A small step rounds finely but clips much. A large step clips nothing but rounds coarsely. Take Gaussian values, as
# the weights of a layer nearly are, and measure both parts of the squared error.
#
# - inside: the error is spread evenly over half a step to either side, so its mean square is `step^2 / 12`
# - outside: the error is the distance to the last level

# %%
values = rng.standard_normal(20_000 if SHORT else 200_000)
steps = np.geomspace(0.005, 3, 60)


def errors(bits, step):
    """Mean squared error of the values inside the grid, and of those outside."""
    low, high = -2 ** (bits - 1), 2 ** (bits - 1) - 1
    code = np.clip(np.rint(values / step), low, high)
    squared = (values - step * code) ** 2
    inside = (values > (low - 0.5) * step) & (values < (high + 0.5) * step)
    return (squared * inside).mean(), (squared * ~inside).mean()


rounding, clipping = np.array([errors(4, step) for step in steps]).T
some = (steps > 0.3) & (steps < 1)  # nearly nothing is clipped, and many levels are still in use
assert np.allclose(rounding[some], steps[some] ** 2 / 12, rtol=0.05)

# %% [markdown]
# The sum has a minimum. Each further bit makes it three to four times smaller. minquant finds the best step by the
# same search: `mse_step`.

# %%
best = {}
for bits in (2, 3, 4, 5):
    total = np.array([sum(errors(bits, step)) for step in steps])
    best[bits] = total.min()
    found = mse_step(values, bits, signed=True)
    assert sum(errors(bits, found)) < 1.1 * total.min()
    print(f"{bits} bits: least squared error {total.min():.5f} at step {steps[total.argmin()]:.3f} ({found:.3f})")
for bits in (2, 3, 4):
    assert 2.9 < best[bits] / best[bits + 1] < 4

# %%
figure, (left, right) = plot.subplots(1, 2, (9, 3.6))
line = np.linspace(-3, 3, 2001)
left.plot(line, line, color=plot.GREY, linewidth=1, label="x itself")
left.plot(line, np.clip(np.rint(line / 0.5), -4, 3) * 0.5, color=plot.BLUE, label="3 bits, step 0.5")
left.set_xlabel("x")
left.set_ylabel("level")
left.legend()
right.loglog(steps, rounding, color=plot.BLUE, label="rounding, inside the grid")
right.loglog(steps, clipping, color=plot.ORANGE, label="clipping, outside")
right.loglog(steps, rounding + clipping, color="black", label="both, 4 bits")
right.loglog(steps, steps ** 2 / 12, ":", color=plot.GREY, label="step² / 12")
right.set_ylim(1e-4, 3)
right.set_xlabel("step size (standard deviations)")
right.set_ylabel("mean squared error")
right.legend(fontsize=8)
picture(figure, "01_grid_and_rounding")

# %% [markdown]
# ## Exercise
#
# Do the same with values that are spread evenly over -1 .. 1. How much does a bit gain now? Why is it exactly that
# much? (`solutions/01_grid_and_rounding.py`)
#
# ## What you can now read
#
# - `minquant/estimators/straight_through.py`: the three roundings
# - `minquant/quantizers/base.py`: `QTensor`, what a device stores
# - `minquant/quantizers/minmax.py`: `affine_grid`, a grid with a zero point
