# %% [markdown]
# # 9. Mixed precision: choose the right parameters, and let memory decide the bits
#
# The fifth answer keeps straight-through rounding. It asks which numbers of a quantizer should be learned. Step size
# d, largest value q_max and bits b are linked: two give the third. The choice decides whether gradients behave.
# (Uhlich et al., ICLR 2020; `minquant/quantizers/dq.py`)

# %%
import numpy as np
from lesson import SHORT, fit, float_network, picture, quantized

from minquant import data, plot
from minquant.estimators.straight_through import round_half_away
from minquant.quantizers.dq import Uniform
from minquant.quantizers.dq_budget import total, weight_memory

digits, rng = data.load("digits"), np.random.default_rng(0)

# %% [markdown]
# ## The quantizer, by hand
#
#     Q(x) = d round(clip(x, -q_max, q_max) / d)             (equation 1)
#     b    = ceil(log2(q_max / d + 1)) + 1                   the bits that this needs, the sign included
#
# d is used rounded to a power of two. So changing from one layer's grid to the next is a shift.

# %%
def by_hand(x, d, q_max):
    """Equation 1."""
    step = 2.0 ** np.rint(np.log2(d))
    return step * round_half_away(np.clip(x, -q_max, q_max) / step)


quantizer = Uniform(3, "u3", learn_bits=True).astype(np.float64)
w = rng.standard_normal(2000)
quantizer.init_from(w, rng)
d, q_max = float(quantizer.params["d"]), float(quantizer.params["q_max"])
np.testing.assert_allclose(by_hand(w, d, q_max), quantizer.forward(w)[0], atol=1e-12)
assert quantizer.bits == int(np.ceil(np.log2(q_max / d + 1))) + 1 == 3

# %% [markdown]
# Halve the step, or double the range: one more bit.

# %%
quantizer.params["d"] /= 2
assert quantizer.bits == 4
quantizer.params["q_max"] *= 2
assert quantizer.bits == 5

# %% [markdown]
# ## Three parametrizations of one grid
#
# The paper compares U1 = [b, d], U2 = [b, q_max] and U3 = [d, q_max]. All three describe the same grids. Their
# gradients differ. U1: one more bit doubles the range, so dQ/db grows like 2^b. U2: bounded, but coupled; a value
# inside the range moves both parameters. U3: bounded and decoupled; inside only d hears, outside only q_max.


# %%
def slopes(form, bits, x):
    """{parameter: dQ/dparameter of every x}, by the library's backward with dy = 1 for one value at a time."""
    quantizer = Uniform(bits, form, learn_bits=True).astype(np.float64)
    quantizer.init_from(w, rng)
    found = {name: np.zeros(len(x)) for name in quantizer.params}
    for i in range(len(x)):
        y, cache = quantizer.forward(x[i:i + 1])
        for name, grad in quantizer.backward(np.ones(1), cache)[1].items():
            found[name][i] = grad
    return found


x = np.linspace(-6, 6, 241)
largest = {form: [max(np.abs(slope).max() for slope in slopes(form, bits, x).values()) for bits in (2, 3, 5, 7)]
           for form in ("u1", "u2", "u3")}
for form, values in largest.items():
    print(f"{form}: largest gradient of a parameter at 2, 3, 5, 7 bits:", np.round(values, 2).tolist())
assert max(largest["u3"]) <= 1.5 and largest["u1"][-1] > 10 * largest["u3"][-1]

u2, u3 = slopes("u2", 3, x), slopes("u3", 3, x)
inside = np.abs(x) < 0.99 * q_max
assert (u3["q_max"][inside] == 0).all() and (u2["q_max"][inside] != 0).mean() > 0.8

# %% [markdown]
# ## A memory budget
#
# All weights together shall take no more than a given size. The penalty `lam max(0, size / budget - 1)^2` (equation
# 10) has a gradient for b, and through b for d and q_max. Training decides which layer gives up bits.

# %%
network, float_accuracy = float_network(digits, 2 if SHORT else 10)
start = quantized(network, digits, "dq", bits=4)
full = total(weight_memory(start))
budget = 0.65 * full
model, seen = quantized(network, digits, "dq", bits=4, budget_w_kb=budget), []


def watch(epoch, model):
    rows = weight_memory(model)
    seen.append((total(rows), [row.bits for row in rows]))


accuracy = fit(model, digits, 12 if SHORT else 25, watch)
for row in weight_memory(model):
    print(f"{row.name:22s} {row.elements:6d} weights, {row.bits} bits, {row.kilobytes:5.2f} kB")
print(f"{full:.1f} kB at 4 bits, now {seen[-1][0]:.1f} of {budget:.1f}; float {float_accuracy:.1%}, now {accuracy:.1%}")
assert seen[-1][0] <= budget < full and model.method.feasible(model)
assert accuracy > float_accuracy - 0.05

# %%
figure, axes = plot.subplots(1, 3, (10, 3.4))
axes[0].plot(x, u3["d"], color=plot.BLUE, label="dQ/dd")
axes[0].plot(x, u3["q_max"], color=plot.ORANGE, label="dQ/dq_max")
axes[0].set_xlabel("x")
axes[0].set_ylabel("gradient of U3, 3 bits")
for (form, values), colour, style in zip(largest.items(), plot.CYCLE, ("o-", "s-", "^:")):
    axes[1].semilogy((2, 3, 5, 7), values, style, color=colour, label=form.upper())
axes[1].set_xlabel("bits")
axes[1].set_ylabel("largest gradient of a parameter")
axes[2].plot([size for size, _ in seen], color=plot.BLUE, label="all weights")
axes[2].axhline(budget, color=plot.RED, linestyle="--", label="budget")
axes[2].set_xlabel("epoch")
axes[2].set_ylabel("memory of the weights (kB)")
for axis in axes:
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
picture(figure, "09_dq")

# %% [markdown]
# ## Exercise
#
# The paper also has levels that are powers of two (`PowerOfTwo`, "p3"): a multiplication becomes a shift. Compare its
# squared error on Gaussian values with that of the uniform grid, at 3 and at 4 bits. Why do more bits not help it?
# (`solutions/09_dq.py`)
#
# ## What you can now read
#
# - `minquant/quantizers/dq.py`: the table of parametrizations, and the sums behind all their gradients
# - `minquant/quantizers/dq_budget.py`: three memory constraints, `minquant/quantizers/dq_parameters.py`: clamps
# - `tests/papers/test_dq_properties.py`
