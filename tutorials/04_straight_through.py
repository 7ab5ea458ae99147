# %% [markdown]
# # 4. The straight-through estimator, and what it pretends
#
# Rounding has derivative 0. Gradient descent through a rounded weight would never move it. The straight-through
# estimator (STE) pretends that the derivative is 1. All five papers start from this lie and improve on it. Here we
# measure it.

# %%
import numpy as np
from lesson import SHORT, picture

from minquant import plot
from minquant.estimators.straight_through import clipped_ste, clipped_ste_backward, clipped_ste_surrogate

rng = np.random.default_rng(0)

# %% [markdown]
# ## Forward rounds, backward looks away
#
# Inside the range the backward copies dy. Outside it is 0: there the surrogate, a clip, is flat.

# %%
v = np.array([-9.0, -0.6, 0.2, 1.4, 9.0])
code, inside = clipped_ste(v, -2, 1)             # round(clip(v, -2, 1))
dv = clipped_ste_backward(np.ones(5), inside)    # STE: d round(clip(v))/dv := 1 inside, 0 outside
assert code.tolist() == [-2, -1, 0, 1, 1] and dv.tolist() == [0, 1, 1, 0, 0]

h = 1e-6                                         # the exact derivative of the surrogate is what backward claims
numeric = (clipped_ste_surrogate(v + h, -2, 1) - clipped_ste_surrogate(v - h, -2, 1)) / (2 * h)
np.testing.assert_allclose(numeric, dv, atol=1e-9)

# %% [markdown]
# ## The bias, measured
#
# A single weight w and the loss `f(q) = (q - t)^2` of the rounded weight q. Add a noise, uniform over one step,
# before rounding. Now the *expected* loss is smooth in w and has a true gradient. With k = floor(w) and p = w - k, q
# is k + 1 with probability p and k otherwise:
#
#     E f        = (1 - p) (k - t)^2 + p (k + 1 - t)^2
#     true:      d E f / dw = (k + 1 - t)^2 - (k - t)^2 = 2 (k + 1/2 - t)
#     pretended: E f'(q)    = 2 (w - t)                     (since E q = w)
#
# The straight-through gradient is that of the loss *without* quantization. Its bias is `2 (w - k - 1/2)`: zero
# half-way between two levels, largest on a level.

# %%
t, draws = 0.3, 2_000 if SHORT else 20_000
w = np.linspace(-2, 2, 161)
noise = rng.uniform(-0.5, 0.5, (draws, 1))
rounded = np.rint(w + noise)
pretended = (2 * (rounded - t)).mean(0)          # the mean of what the STE returns, by simulation
k = np.floor(w)
true = 2 * (k + 0.5 - t)
bias = pretended - true
assert np.abs(pretended - 2 * (w - t)).max() < 10 / np.sqrt(draws)
assert np.abs(bias - 2 * (w - k - 0.5)).max() < 10 / np.sqrt(draws)
print(f"largest bias measured {np.abs(bias).max():.2f}; the largest possible is 1, where the loss has gradient "
      f"{np.abs(true).max():.1f} at most")

# %% [markdown]
# ## What follows: weights swing
#
# Without noise, gradient descent with an STE looks for w = t = 0.3 and cannot get there: q is 0 or 1. While q = 0 the
# gradient pushes w up, while q = 1 it pushes down. So w ends at the border 0.5 between two cells and swings around
# it, although q = 0 is the better choice: (0 - 0.3)^2 < (1 - 0.3)^2.

# %%
lr, path = 0.02, [0.0]
for _ in range(150):
    q, inside = clipped_ste(np.array(path[-1]), -2, 2)
    path.append(path[-1] - lr * float(clipped_ste_backward(2 * (q - t), inside)))
tail = np.array(path[60:])
share = (np.rint(tail) == 0).mean()
assert np.abs(tail - 0.5).max() < 0.05            # it lives at the border
assert abs(share - (1 - t)) < 0.1                 # on average q is right: 0 in 70 % of the steps, 1 in 30 %
print(f"the weight swings in {tail.min():.3f} .. {tail.max():.3f}; it is rounded to 0 in {share:.0%} of the steps")

# %% [markdown]
# So what is the lie good for? It keeps the mean of the rounded weights right, and millions of weights average well.
# What it costs are swinging weights and step sizes without a proper gradient. The papers answer in different ways:
#
# | paper | answer |
# |---|---|
# | dgms (5) | no rounding in training: a soft average of levels that hardens |
# | gdrq (6) | keep the STE, change the distribution so that rounding costs less |
# | cpq (7) | differentiate the probability of a level instead of the rounding |
# | qnet (8) | no rounding in training: a sum of sigmoids that gets steeper |
# | dq (9) | keep the STE, and choose parameters whose gradients behave |

# %%
figure, (left, right) = plot.subplots(1, 2, (9, 3.6))
left.plot(w, true, color=plot.BLUE, label="true gradient of the expected loss")
left.plot(w, pretended, color=plot.ORANGE, label="straight-through, mean of draws")
left.plot(w, bias, ":", color=plot.RED, label="bias")
left.set_xlabel("weight w (step sizes)")
left.set_ylabel("gradient")
left.grid(alpha=0.3)
left.legend(fontsize=8)
right.plot(path, color=plot.ORANGE, label="latent weight w")
right.plot(np.rint(path), ".", color=plot.BLUE, markersize=3, label="rounded weight q")
right.axhline(t, color=plot.GREY, linestyle="--", label="target t = 0.3")
right.set_ylim(-0.1, 1.5)
right.set_xlabel("step of gradient descent")
right.set_ylabel("weight (step sizes)")
right.legend(fontsize=8)
picture(figure, "04_straight_through")

# %% [markdown]
# ## Exercise
#
# Give the weight the gradient of its *clipped sign* (`sign_ste`) and the target t = 0.3 with levels -1 and +1. Where
# does it swing now? Which share of the steps is it +1? (`solutions/04_straight_through.py`)
#
# ## What you can now read
#
# - `minquant/estimators/straight_through.py`: forward, backward and surrogate side by side
# - `minquant/quantizers/minmax.py`, `minquant/quantizers/lsq.py`: the two baselines built on it
# - every line marked `# STE:` in `minquant/quantizers/`
