# %% [markdown]
# # 5. DGMS: levels that are the means of a mixture
#
# The first answer to the straight-through lie: do not round in training at all. The weights of a layer are clustered
# by a Gaussian mixture. A weight is replaced by a *soft average* of the cluster means. A temperature makes the
# average harder and harder, until it is a choice. (Dong et al., ICML 2022; `minquant/quantizers/dgms.py`)

# %%
import numpy as np
from lesson import SHORT, fit, float_network, picture, quantized

from minquant import check, data, plot
from minquant.quantizers.dgms import DGMSWeight, start_temperature

digits, rng = data.load("digits"), np.random.default_rng(0)
network, float_accuracy = float_network(digits, 2 if SHORT else 10)
w = network.children["fc2"].params["weight"].astype(np.float64)

# %% [markdown]
# ## A mixture over the weights
#
# K = 2^b components, each with a mean `mu_k`, a width `sigma_k` and a share `pi_k`. One mean is pinned to 0: weights
# that choose it are pruned. k-means gives the start.

# %%
quantizer = DGMSWeight(2, w.shape).astype(np.float64)
quantizer.init_from(w, rng)
mu, sigma = quantizer.means(np.float64), quantizer.params["sigma"]
pi = quantizer.params["pi"] / quantizer.params["pi"].sum()
assert len(mu) == 4 and mu[0] == 0
print("means", np.sort(mu).round(3))

# %% [markdown]
# ## The soft average, by hand
#
#     gamma_k = pi_k N(w; mu_k, sigma_k^2) / sum_j ...     which component made this weight?
#     phi     = softmax(gamma / tau)                        the same, sharpened by the temperature
#     S       = sum_k mu_k phi_k                            the weight that training uses


# %%
def by_hand(w, tau):
    """S of every weight; values beyond the outermost means are clipped to them first."""
    x = np.clip(w, mu.min(), mu.max())[..., None]
    density = pi * np.exp(-((x - mu) / sigma) ** 2 / 2) / sigma
    gamma = density / density.sum(-1, keepdims=True)
    phi = np.exp(gamma / tau)
    phi /= phi.sum(-1, keepdims=True)
    return (mu * phi).sum(-1)


tau = start_temperature(4)
s, _ = quantizer.forward(w, train=True)
np.testing.assert_allclose(by_hand(w, tau), s, rtol=1e-6, atol=1e-9)

# %% [markdown]
# ## No lie
#
# Nothing was rounded, so `backward` is the exact derivative. The checker agrees. (It holds the clip's ends constant,
# as the quantizer does.)

# %%
part = w[:20, :10]
quantizer.freeze(part)
for comparison in check.gradients(quantizer, part, rng, surrogate=quantizer.surrogate):
    assert comparison.error < 1e-6

# %% [markdown]
# ## Cooling
#
# In evaluation every weight takes the mean of its most probable component, Q. A low temperature brings S to Q. The
# price: where S is hard, its derivative is nearly 0 almost everywhere. So the temperature falls slowly, during
# training.

# %%
distances = []
for tau in (0.3, 0.1, 0.03, 0.01):
    quantizer.state["tau"][...] = tau
    hard, soft = quantizer.forward(w)[0], quantizer.forward(w, train=True)[0]
    distances.append(np.abs(soft - hard).mean() / np.abs(hard).mean())
    print(f"tau {tau:5.2f}: soft and hard weights differ by {distances[-1]:.1%}")
assert distances == sorted(distances, reverse=True) and distances[-1] < 0.05 < distances[0]

# %% [markdown]
# ## Training
#
# Weights and mixtures are trained together. Two bits per weight, four-bit activations. See in the picture where the
# weights end: right behind the borders between levels. A weight that has crossed one finds the function flat, and
# stays.

# %%
model = quantized(network, digits, "dgms", bits=2)
layer = model.children["fc2"]
kept = []
accuracy = fit(model, digits, 2 if SHORT else 8,
               watch=lambda epoch, model: kept.append((epoch, layer.params["weight"].copy(),
                                                       np.sort(layer.children["weight_quantizer"].means(np.float32)))))
stored = layer.children["weight_quantizer"].encode(layer.params["weight"])
zeros = (stored.levels[stored.codes] == 0).mean()
print(f"float {float_accuracy:.1%}, 2 bits {accuracy:.1%}; {zeros:.0%} of fc2 are exactly 0")
assert accuracy > float_accuracy - 0.05
assert stored.levels.dtype == np.int8 and len(np.unique(stored.codes)) <= 4  # the codebook is stored in 8-bit integers
assert 0.1 < zeros < 0.9

# %%
figure, axes = plot.subplots(1, 3, (10, 3.4))
line = np.linspace(1.2 * mu.min(), 1.2 * mu.max(), 600)
for tau, colour in ((0.3, plot.ORANGE), (0.1, plot.GREEN), (0.01, plot.BLUE)):
    axes[0].plot(line, by_hand(line, tau), color=colour, label=f"tau = {tau}")
axes[0].set_xlabel("latent weight w")
axes[0].set_ylabel("weight used, S(w)")
axes[0].set_title("the function hardens", fontsize=10)
axes[0].grid(alpha=0.3)
axes[0].legend(fontsize=8)
limits = 1.3 * kept[-1][2].min(), 1.3 * kept[-1][2].max()
for axis, (epoch, weight, means) in zip(axes[1:], (kept[0], kept[-1])):
    plot.histogram(axis, weight.ravel(), means, limits=limits)
    axis.set_title(f"fc2 after {epoch} epochs", fontsize=10)
    axis.set_xlabel("latent weight (lines: learned levels)")
picture(figure, "05_dgms")

# %% [markdown]
# ## Exercise
#
# The published code adds 1e-11 to the sum of the densities. Take a weight ten widths beyond the last mean. Which
# component does it get with `mode="official"`, and which with `mode="annealed"`? What does this do to the largest
# weights of a layer? (`solutions/05_dgms.py`)
#
# ## What you can now read
#
# - `minquant/estimators/mixture.py`: `soft` and `soft_backward`, the gradients written out
# - `minquant/quantizers/dgms.py`: the paper; its Deviations say what was changed and why
# - `tests/papers/test_dgms_properties.py`: what is true of it
