# %% [markdown]
# # 6. GDRQ: change the distribution, then round
#
# The second answer keeps the straight-through gradient and changes what it is applied to. A uniform grid fits a
# uniform distribution best. So the weights are pushed towards one before anything is rounded. (Yu et al. 2019;
# `minquant/quantizers/gdrq.py`)

# %%
import numpy as np
from lesson import SHORT, fit, float_network, picture, quantized

from minquant import data, plot
from minquant.estimators.scale_clip import Grid, group_index, merge_group_scales, search_alpha, threshold
from minquant.nn import BatchNorm, Conv2d
from minquant.quantizers.gdrq import GDRQWeight

digits, rng = data.load("digits"), np.random.default_rng(0)
one_group, grid = group_index(1, -1), Grid.signed(4, "twos")

# %% [markdown]
# ## Which distribution loses least?
#
# The *quantized-loss* is `|w - Q(w)| / |w|` (equation 3). For each distribution take the best clip value. Heavy tails
# cost most: either they are clipped, or everything else is rounded coarsely.

# %%
draws = {"uniform": rng.uniform(-1, 1, (20_000, 1)), "Gaussian": rng.standard_normal((20_000, 1)),
         "Laplace": rng.laplace(size=(20_000, 1))}
losses = {name: float(search_alpha(w, one_group, grid)[1][0]) for name, w in draws.items()}
print({name: round(loss, 3) for name, loss in losses.items()})
assert losses["uniform"] < losses["Gaussian"] < losses["Laplace"]

# %% [markdown]
# ## Scale-Clip
#
# A wall at `T = k mean|w|`, computed anew at every step. A uniform distribution on -T .. T has `mean|w| = T / 2`, so
# with k = 2 it touches the wall exactly and stays. Anything with tails is clipped.

# %%
for name, w in draws.items():
    wall = threshold(w, 2.0, one_group)[0]                # T = k mean|w|
    assert np.isclose(wall, 2 * np.abs(w).mean())
    beyond = (np.abs(w) > wall).mean()
    print(f"{name:8s}: {beyond:.1%} of the values are beyond the wall")
    assert (beyond > 0.05) == (name != "uniform")

# %% [markdown]
# ## Stage one: walls, no rounding
#
# A quarter of the training clips the stored weights after every step and rounds nothing. The loss moves weights
# outwards again, the wall stops them, and the histogram flattens. Stage two rounds. We watch the kurtosis: 3 for a
# Gaussian, 1.8 for a uniform distribution.

# %%
def kurtosis(w):
    centred = w - w.mean()
    return float((centred ** 4).mean() / (centred ** 2).mean() ** 2)


network, float_accuracy = float_network(digits, 2 if SHORT else 10)
model = quantized(network, digits, "gdrq", bits=2, group_size=-1)
layer, kept = model.children["fc1"], []
accuracy = fit(model, digits, 4 if SHORT else 12,
               watch=lambda epoch, model: kept.append(layer.params["weight"].copy()))
before, after = kurtosis(kept[0]), kurtosis(kept[-1])
print(f"kurtosis of fc1: {before:.2f} -> {after:.2f}; float {float_accuracy:.1%}, 2 bits {accuracy:.1%}")
assert after < 2.5 < before and accuracy > float_accuracy - 0.05
wall = threshold(kept[-1], 2.0, group_index(kept[-1].shape[-1], -1))[0]
assert np.abs(kept[-1]).max() <= wall * 1.001             # nothing is left beyond the wall

# %% [markdown]
# ## Groups of filters
#
# Filters differ in size. One wall for all clips the large ones and leaves the small ones few levels. GDRQ gives every
# group of filters its own step. Does that cost anything on the device? No: the step of a filter multiplies its whole
# output, and so does the batch norm behind it. Both become one multiplier and one offset per channel.

# %%
filters = rng.standard_normal((3, 3, 8, 16)) * np.geomspace(0.05, 1, 16)   # filters of very different size
errors, lost = {}, {}
for size in (16, 4, 1):                                                     # filters per group
    quantizer = GDRQWeight(4, 16, size).astype(np.float64)
    quantizer.init_from(filters, rng)
    difference = quantizer.forward(filters)[0] - filters
    errors[size] = float(np.linalg.norm(difference) / np.linalg.norm(filters))
    lost[size] = float(np.linalg.norm(difference[..., 0]) / np.linalg.norm(filters[..., 0]))
    print(f"{size:2d} filters per group: error {errors[size]:.0%}, of the smallest filter {lost[size]:.0%}")
assert errors[1] < errors[4] < errors[16] and lost[1] < lost[16]

conv, norm = Conv2d(8, 16, 3, rng, bias=False).astype(np.float64), BatchNorm(16).astype(np.float64)
norm.state["mean"], norm.state["var"] = rng.standard_normal(16), rng.uniform(0.5, 2, 16)
norm.params["gamma"], norm.params["beta"] = rng.standard_normal(16), rng.standard_normal(16)
stored = quantizer.encode(filters)                                           # codes, levels, one scale per filter
codes = rng.integers(0, 16, (2, 6, 6, 8)).astype(np.float64)                 # 4-bit activations, step 0.1
conv.params["weight"] = stored.levels.astype(np.float64)[stored.codes]
acc = conv.forward(codes)[0]                                                 # integers alone
multiplier, offset = merge_group_scales(stored.scale, 0.1, norm.params["gamma"], norm.params["beta"],
                                        norm.state["mean"], norm.state["var"], norm.eps)
conv.params["weight"] = stored.decode()
expected = norm.forward(conv.forward(codes * 0.1)[0])[0]                     # the network as it was trained
np.testing.assert_allclose(multiplier * acc + offset, expected, rtol=1e-9, atol=1e-9)

# %%
figure, axes = plot.subplots(1, 3, (10, 3.2))
limits = -1.05 * np.abs(kept[0]).max(), 1.05 * np.abs(kept[0]).max()
for axis, weight, title in ((axes[0], kept[0], f"float: kurtosis {before:.1f}"),
                            (axes[1], kept[-1], f"reshaped: kurtosis {after:.1f}")):
    plot.histogram(axis, weight.ravel(), limits=limits)
    walls = threshold(weight, 2.0, group_index(weight.shape[-1], -1))
    for side in (-walls[0], walls[0]):
        axis.axvline(side, color=plot.ORANGE, linestyle="--")
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("weight of fc1 (dashed: walls)")
axes[2].bar(losses.keys(), losses.values(), color=plot.BLUE)
axes[2].set_ylabel("least quantized-loss, 4 bits")
axes[2].set_title("what a uniform grid costs", fontsize=10)
picture(figure, "06_gdrq")

# %% [markdown]
# ## Exercise
#
# Apply the projection (`scale_clip.project`) to Gaussian weights again and again, without training. Where does it
# stop? Which share of the weights lies on the wall then? (`solutions/06_gdrq.py`)
#
# ## What you can now read
#
# - `minquant/estimators/scale_clip.py`: walls, groups, the search of equation 3; `merge_group_scales`
# - `minquant/quantizers/gdrq.py`: stages and gradients
# - `minquant/deploy/lower.py`: where the merge really happens, exactly
