# %% [markdown]
# # 7. CPQ, DropBits, learned bits
#
# The third answer: give every level a *probability* that is smooth in the weight, and differentiate that. Weights
# then gather on levels by themselves. Dropping levels at random during training removes the bias this brings, and a
# price on levels makes the network choose its own bits. (Lee et al., ICCV 2021; `minquant/quantizers/cpq.py`)

# %%
import numpy as np
from lesson import SHORT, fit, float_network, picture, quantized

from minquant import data, plot
from minquant.estimators import concrete, dropbits, multiclass
from minquant.estimators.multiclass import Grid
from minquant.quantizers.cpq import DropBits

digits, rng = data.load("digits"), np.random.default_rng(0)

# %% [markdown]
# ## The probability of a level
#
# Add logistic noise of scale sigma to x. With probability pi_n it falls into the cell of level `alpha n`:
#
#     p_n  = s((alpha (n + 1/2) - x) / sigma) - s((alpha (n - 1/2) - x) / sigma)      s: the logistic sigmoid
#     pi_n = p_n / sum_m p_m

# %%
grid = Grid(alpha=1.0, sigma=1 / 3, n_min=-2, n_max=1)        # 2 bits
codes = np.arange(-2, 2)


def probabilities(x):
    """pi of every level, (len(x), 4)."""
    upper = concrete.sigmoid((grid.alpha * (codes + 0.5) - x[:, None]) / grid.sigma)
    lower = concrete.sigmoid((grid.alpha * (codes - 0.5) - x[:, None]) / grid.sigma)
    return (upper - lower) / (upper - lower).sum(1, keepdims=True)


x = np.linspace(-3, 2, 401)
pi = probabilities(x)
log_pi = multiclass.log_mass(x[:, None], grid, codes, codes) - multiclass.log_mass(x, grid, -2, 1)[:, None]
np.testing.assert_allclose(pi, np.exp(log_pi), rtol=1e-6)     # the library's form never subtracts equal numbers

# %% [markdown]
# ## Forward: the most probable level
#
# That is nothing but rounding to the nearest. No sampling, no difference between training and evaluation.

# %%
border = np.abs(x - np.floor(x) - 0.5) < 1e-9                  # exact ties: either is right
assert np.array_equal(codes[pi.argmax(1)][~border], grid.nearest(x)[~border])

# %% [markdown]
# ## Backward: the probability of the chosen level
#
# Let m be the chosen level. The *multi-class* STE differentiates `alpha n_m pi_m` instead of the rounding: rule
# "imax". On a level pi_m has its maximum, so the gradient is 0 there: the weight stays. At a border it is large: the
# weight leaves.

# %%
imax = multiclass.imax_slopes(x, grid)[0]
h, m = 1e-5, np.searchsorted(codes, grid.nearest(x))
numeric = (probabilities(x + h) - probabilities(x - h))[np.arange(len(x)), m] / (2 * h)
np.testing.assert_allclose(imax, grid.alpha * codes[m] * numeric, atol=1e-6)

on_level, near_border = np.abs(x + 1) < 1e-9, (np.abs(x + 1.49) < 0.01) | (np.abs(x + 0.51) < 0.01)
assert abs(imax[on_level][0]) < 0.05 < 0.3 < np.abs(imax[near_border]).min()

# %% [markdown]
# There is a trap: the level of code 0 is 0, so `alpha n_m pi_m` is 0 and its gradient too. What falls into that cell
# never leaves. The rule "full" differentiates the mean `sum_n alpha n pi_n` and has no trap.

# %%
full = multiclass.full_slopes(x, grid)[0]
assert (imax[grid.nearest(x) == 0] == 0).all() and (full > 0).all()

# %% [markdown]
# ## DropBits
#
# The b-bit grid is the (b-1)-bit grid plus new outer codes: a *bit-level*. Every bit-level gets a gate Z, drawn anew
# at each step: often 1, sometimes 0, differentiable between (a *hard concrete* variable). A gate of 0 removes the
# level.

# %%
quantizer = DropBits(3, keep=0.7)
w = rng.standard_normal(5000).astype(np.float32)
quantizer.init_from(w, rng)
print("gate of each code:", dropbits.gate_groups(3, "bits").tolist(), "(-1: always there)")
used = [len(np.unique(quantizer.forward(w, train=True, rng=rng)[0])) for _ in range(200)]
print("levels in use, over 200 draws:", {n: used.count(n) for n in sorted(set(used))})
assert min(used) <= 4 < 8 in used and len(np.unique(quantizer.forward(w)[0])) == 8  # evaluation drops nothing

# %% [markdown]
# ## Clusters form
#
# Train at 3 bits and look at the weights whose code is not 0. How far are they from their levels, in step sizes?
# Spread evenly over their cells: 0.25. (A large learning rate stands for a long training here.)

# %%
network, float_accuracy = float_network(digits, 2 if SHORT else 10)


def distance(layer):
    """Mean distance from the level, in step sizes, of the weights inside the grid whose code is not 0."""
    grid = layer.children["weight_quantizer"].grid()
    v = layer.params["weight"] / grid.alpha
    n = grid.nearest(layer.params["weight"])
    return float(np.abs(v - n)[(n != 0) & (v > grid.n_min) & (v < grid.n_max)].mean())


far, trained = {}, {}
for rule in ("imax", "full"):
    model = quantized(network, digits, "cpq", bits=3, ste=rule, dropbits="off")
    layer = trained[rule] = model.children["fc2"]
    start = distance(layer)
    accuracy = fit(model, digits, 4 if SHORT else 20, lr=3e-3)
    far[rule] = distance(layer)
    print(f'"{rule}": distance {start:.3f} -> {far[rule]:.3f}; float {float_accuracy:.1%}, 3 bits {accuracy:.1%}')
    assert accuracy > float_accuracy - 0.05
assert far["imax"] < 0.21 < far["full"]                       # the gradient of the chosen level is what clusters

# %% [markdown]
# ## Learned bits
#
# Charge lambda times the expected number of open gates. Layers that need few levels close theirs.

# %%
learned = quantized(network, digits, "cpq", bits=4, learn_bits=True, penalty=0.05 if SHORT else 0.01)
learned_accuracy = fit(learned, digits, 5, lr=3e-3) if SHORT else fit(learned, digits, 20, lr=1e-3)
bits = {name: layer.children["weight_quantizer"].bits for name, layer in learned.children.items()
        if "weight_quantizer" in layer.children}
print("learned bits", bits, f"accuracy {learned_accuracy:.1%}")
assert min(bits.values()) < 4 and learned_accuracy > float_accuracy - 0.12

# %%
figure, axes = plot.subplots(1, 3, (10, 3.4))
for n, column, colour in zip(codes, pi.T, plot.CYCLE):
    axes[0].plot(x, column, color=colour, label=f"level {n}")
axes[0].set_ylabel("probability")
axes[1].plot(x, imax, color=plot.BLUE, label='"imax": the chosen level')
axes[1].plot(x, full, color=plot.ORANGE, label='"full": all levels')
axes[1].axhline(1, color=plot.GREY, linestyle="--", label="straight-through")
axes[1].set_ylabel("gradient dx for dy = 1")
for axis in axes[:2]:
    axis.set_xlabel("x (step sizes)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
weight, quantizer = trained["imax"].params["weight"], trained["imax"].children["weight_quantizer"]
stored = quantizer.encode(weight)
plot.histogram(axes[2], weight.ravel(), stored.levels * float(stored.scale))
axes[2].set_xlabel("weight of fc2 after training (lines: levels)")
picture(figure, "07_cpq")

# %% [markdown]
# ## Exercise
#
# Sum dx of "imax" over weights spread evenly in one cell. Compare with what a gradient that only moves weights
# towards the middle of their cell would give. For which sign of dy does "imax" cluster, and for which does it
# scatter? (`solutions/07_cpq.py`)
#
# ## What you can now read
#
# - `minquant/estimators/multiclass.py`, `minquant/estimators/dropbits.py`: the gradients without a buffer of all levels
# - `minquant/estimators/concrete.py`: the gates
# - `minquant/quantizers/rq.py`: the ancestor, which samples; `minquant/quantizers/cpq.py`
