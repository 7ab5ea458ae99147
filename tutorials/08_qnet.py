# %% [markdown]
# # 8. Quantization networks: a sum of sigmoids that gets steeper
#
# The fourth answer: a staircase is a sum of steps. Replace every step by a sigmoid, differentiate that exactly, and
# make the sigmoids steeper from epoch to epoch. (Yang et al., CVPR 2019; `minquant/quantizers/qnet.py`)

# %%
import numpy as np
from lesson import SHORT, fit, float_network, picture, quantized

from minquant import check, data, plot
from minquant.estimators.kmeans import kmeans1d, midpoints
from minquant.estimators.sigmoids import sigmoid
from minquant.quantizers.qnet import QNetWeight, temperature
from minquant.training import evaluate

digits, rng = data.load("digits"), np.random.default_rng(0)
network, float_accuracy = float_network(digits, 2 if SHORT else 10)
w = network.children["fc2"].params["weight"].astype(np.float64)

# %% [markdown]
# ## The function, by hand
#
#     y = alpha (Y_1 + sum_i s_i sigmoid(T (beta x - b_i)))        (equation 7)
#
# Y: the integer levels, here -1, 0, 1. s_i = Y_(i+1) - Y_i: the height of step i. b_i: where it is. alpha and beta:
# learned scales. T: the temperature. (High T is hard here; in DGMS low tau is hard.)

# %%
quantizer = QNetWeight(2, clip=0).astype(np.float64)
quantizer.init_from(w, rng)
alpha, beta = quantizer.scales()
levels, biases, heights = quantizer.levels, quantizer.biases, np.diff(quantizer.levels)


def by_hand(x, t):
    """Equation 7."""
    return alpha * (levels[0] + sum(s * sigmoid(t * (beta * x - b)) for s, b in zip(heights, biases)))


for epoch in (1, 10, 55):
    quantizer.state["temperature"][...] = t = temperature(10.0, epoch)   # T = 10 epoch
    np.testing.assert_allclose(quantizer.forward(w, train=True)[0], by_hand(w, t), rtol=1e-9, atol=1e-12)

# %% [markdown]
# The derivative needs nothing new: `sigmoid' = sigmoid (1 - sigmoid)`. No straight-through step, so the checker needs
# no surrogate.

# %%
quantizer.state["temperature"][...] = 10.0
check.gradients(quantizer, w[:20, :10], rng)

# %% [markdown]
# ## Where the steps are: k-means
#
# The thresholds need not be half-way between levels. k-means on the scaled weights puts them where the weights are
# thin. The levels stay integers, so the device sees a uniform grid.

# %%
scaled = (beta * w).ravel()
np.testing.assert_allclose(biases, midpoints(kmeans1d(scaled, len(levels))))
even = midpoints(levels.astype(float))
share = {name: np.bincount(np.searchsorted(b, scaled), minlength=3) / scaled.size
         for name, b in (("k-means", biases), ("uniform", even))}
print({name: values.round(2).tolist() for name, values in share.items()})
assert share["k-means"].min() > share["uniform"].min()       # every level is used well

# %% [markdown]
# ## Hot is hard, and hard is deaf
#
# As T rises, soft and hard outputs agree. But the gradient lives only within about 1 / T of a threshold. All other
# weights hear nothing.

# %%
hearing = {}
for t in (10.0, 100.0, 550.0):
    slope = (by_hand(w + 1e-6, t) - by_hand(w - 1e-6, t)) / 2e-6
    gap = np.abs(by_hand(w, t) - quantizer.forward(w)[0]).mean() / alpha
    hearing[t] = float((slope > 0.01).mean())
    print(f"T = {t:3.0f}: {hearing[t]:.0%} of the weights have a gradient above 0.01; soft - hard is {gap:.3f}")
assert hearing[10.0] > 0.9 and hearing[550.0] < 0.25

# %% [markdown]
# That is why T starts low and rises with the epochs. Train it. Evaluation always uses the hard staircase, so at
# first, while the soft network is trained, accuracy is poor. The two meet as T grows.

# %%
model, seen = quantized(network, digits, "qnet", bits=2), []


def watch(epoch, model):
    layer = model.children["fc2"].children["weight_quantizer"]
    seen.append((epoch, float(layer.state["temperature"]), evaluate(model, digits.test, digits.normalise)[1]))


accuracy = fit(model, digits, 4 if SHORT else 15, watch)
for epoch, t, hard_accuracy in seen:
    print(f"epoch {epoch:2d}   T {t:5.0f}   test accuracy of the hard network {hard_accuracy:.1%}")
assert accuracy > float_accuracy - 0.06 and seen[-1][1] > 400 and seen[-1][2] > seen[0][2]

# %%
figure, axes = plot.subplots(1, 3, (10, 3.4))
line = np.linspace(-1.5, 1.5, 1501) / beta
for t, colour in ((10, plot.ORANGE), (40, plot.GREEN), (550, plot.BLUE)):
    axes[0].plot(line, by_hand(line, t), color=colour, label=f"T = {t}")
    axes[1].plot(line[1:], np.diff(by_hand(line, t)) / np.diff(line), color=colour, label=f"T = {t}")
axes[0].set_ylabel("weight used y")
axes[1].set_ylabel("gradient dy/dx")
axes[1].set_ylim(0, 25)
for axis in axes[:2]:
    axis.set_xlabel("latent weight x")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
axes[2].plot([row[0] for row in seen], [100 * row[2] for row in seen], "o-", color=plot.BLUE, label="hard, 2 bits")
axes[2].axhline(100 * float_accuracy, color=plot.GREY, linestyle="--", label="float")
axes[2].set_xlabel("epoch (T rises from 10 to 550)")
axes[2].set_ylabel("test accuracy (%)")
axes[2].legend(fontsize=8)
picture(figure, "08_qnet")

# %% [markdown]
# ## Exercise
#
# y is alpha times something that does not contain alpha. So what is dL/dalpha, given dy and y? And dL/dbeta, given x
# and dx? Check both with differences. (`solutions/08_qnet.py`)
#
# ## What you can now read
#
# - `minquant/estimators/sigmoids.py`: equation 7 and its gradients in blocks that stay in the cache
# - `minquant/quantizers/qnet.py`: the schedule, the three phases, what the paper's code does differently
# - `minquant/recording.py`, `minquant/film.py`: `python -m minquant.film RUN` shows the function harden
