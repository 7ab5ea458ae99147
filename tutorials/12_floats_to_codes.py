# %% [markdown]
# # 12. From floats to codes: one layer by hand
#
# A trained 2-bit network is a set of floats that happen to lie on grids. Here one linear layer of it becomes
# integers, by hand: codes, an integer product, thresholds. Then the result is compared with the library, number by
# number.

# %%
import numpy as np
from lesson import SHORT, fit, float_network, picture, quantized

from minquant import check, data, intops, plot
from minquant.deploy import lower
from minquant.deploy.pack import packed_bytes
from minquant.deploy.reference import float64

digits = data.load("digits")
network, float_accuracy = float_network(digits, 2 if SHORT else 10)
model = quantized(network, digits, "lsq", bits=2, act_bits=2)
accuracy = fit(model, digits, 2 if SHORT else 10)
print(f"float {float_accuracy:.1%}, 2 bits {accuracy:.1%}")

# %% [markdown]
# ## The weights
#
# `encode` gives codes 0 .. 3, the level of each code, and one scale. Levels times scale are the weights, to the last
# bit.

# %%
fc2 = model.children["fc2"]
weights = fc2.children["weight_quantizer"].encode(fc2.params["weight"])
assert weights.levels.tolist() == [-2, -1, 0, 1] and weights.codes.max() <= 3
assert np.array_equal(weights.decode(), fc2.children["weight_quantizer"].forward(fc2.params["weight"])[0])
count = weights.codes.size
print(f"fc2: {count:,} weights, {4 * count:,} bytes as float32, {packed_bytes(count, 2):,} as codes of 2 bits")

# %% [markdown]
# ## The activations in front of it
#
# Run the network up to the quantizer in front of fc2. Its codes are what the integer layer reads.

# %%
x = digits.normalise(digits.test.images[:100]).astype(np.float64)
double = float64(model)
for name, layer in double.children.items():
    if name == "relu1_quantizer":
        break
    x = layer.forward(x)[0]
activations = layer.encode(x)
assert activations.codes.max() <= 3 and activations.levels.tolist() == [0, 1, 2, 3]

# %% [markdown]
# ## The product
#
# `acc = sum_k a_k w_k` with integers alone. How large can it get? At most 256 terms of 3 * 2: far inside int32.

# %%
acc = activations.levels.astype(np.int32)[activations.codes] @ weights.levels.astype(np.int32)[weights.codes]
assert acc.dtype == np.int32 and np.abs(acc).max() <= 256 * 3 * 2

packed = intops.pack_weights(weights.codes, weights.levels, 2)
assert np.array_equal(acc, intops.matmul(activations.codes, packed))        # the library's integer product

# %% [markdown]
# ## Thresholds
#
# Behind the sum come scales, batch norm, ReLU and rounding. All of them together are monotone in acc. So the next
# code is the number of thresholds that acc has reached. To find a threshold, no algebra is needed: ask the network's
# own float64 expression for every integer, and see where the code changes.

# %%
scale = np.float64(weights.scale) * np.float64(activations.scale)
norm, quantizer = double.children["bn2"], double.children["relu2_quantizer"]


def next_code(sums):
    """The network's own way from a sum to the next code, in float64."""
    return quantizer.encode(np.maximum(norm.forward(sums * scale)[0], 0)).codes


every = np.arange(-1536, 1537)
table = next_code(np.repeat(every[:, None].astype(float), 128, axis=1))      # (3073 sums, 128 channels) -> codes
thresholds = np.array([[every[np.argmax(table[:, c] >= j)] if table[-1, c] >= j else 9999 for j in (1, 2, 3)]
                       for c in range(128)])
up = norm.params["gamma"] > 0                                                # with gamma < 0 the stairs go down
ours = (acc[..., None] >= thresholds).sum(-1)
assert up.mean() > 0.9 and np.array_equal(ours[:, up], next_code(acc.astype(float))[:, up])

# %% [markdown]
# ## A cheaper form
#
# Three comparisons per channel are fine for 2 bits. With 8 bits they would be 255. One float32 line does the same:
# `code = clip(round(acc * m + b))`. It is a different computation, so it could be wrong near a threshold. The library
# checks both sides of every threshold, and keeps the thresholds of a channel where the line fails.

# %%
step = np.float64(quantizer.params["step"])
gain = norm.params["gamma"] / np.sqrt(norm.state["var"] + norm.eps)
m = (gain * scale / step).astype(np.float32)
b = ((norm.params["beta"] - gain * norm.state["mean"]) / step).astype(np.float32)
line = np.clip(np.rint(acc.astype(np.float32) * m + b), 0, 3).astype(np.uint8)
print(f"codes that the float32 line gets wrong here: {(line != next_code(acc.astype(float))).sum()} of {line.size:,}")

program = lower(model, digits.image_shape, digits.normalise)
traced = program.trace(digits.test.images[:100])
assert np.array_equal(traced["fc2"], acc)                                    # the same sums
assert np.array_equal(traced["relu2_quantizer"][:, up], ours[:, up])         # the same codes
print(check.bit_exact(model, program, digits.test.images, digits.normalise))

# %%
figure, (left, middle, right) = plot.subplots(1, 3, (10, 3.4))
plot.histogram(left, fc2.params["weight"].ravel(), weights.levels * float(weights.scale))
left.set_xlabel("latent weight of fc2 (lines: levels)")
middle.hist(acc.ravel(), bins=80, color=plot.BLUE)
middle.set_xlabel("integer sum acc")
middle.set_ylabel("count")
for c, colour in zip(np.flatnonzero(up)[:3], plot.CYCLE):
    right.step(every, table[:, c], color=colour, where="post", label=f"channel {c}")
right.set_xlim(acc.min(), acc.max())
right.set_xlabel("integer sum acc")
right.set_ylabel("next code")
right.legend(fontsize=8)
picture(figure, "12_floats_to_codes")

# %% [markdown]
# ## Exercise
#
# How many terms can a sum of 8-bit activations (0 .. 255) and 8-bit weights (-128 .. 127) have before int32 might
# overflow? And int16 with 4-bit activations and 2-bit weights? (`solutions/12_floats_to_codes.py`)
#
# ## What you can now read
#
# - `minquant/deploy/lower.py`: the same for every layer; `minquant/deploy/program.py`: what comes out
# - `minquant/deploy/requantize.py`: thresholds by bisection, the line and its proof
# - `minquant/intops.py`: the meaning of the integer operations
