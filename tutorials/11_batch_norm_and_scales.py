# %% [markdown]
# # 11. Batch norm, folding, and where scales go
#
# Training uses real scales everywhere: one for the weights, one for the activations, and four numbers per channel in
# the batch norm. A device has integers. Where do all the scales go? Into one multiplier and one offset per channel,
# behind the sum. This is *folding*.

# %%
import copy

import numpy as np
from lesson import SHORT, float_network, picture, quantized

from minquant import data, plot
from minquant.deploy import lower
from minquant.deploy.reference import float64
from minquant.estimators.scale_clip import merge_group_scales
from minquant.training import evaluate

digits = data.load("digits")
network, float_accuracy = float_network(digits, 3 if SHORT else 10, "lenet5")

# %% [markdown]
# ## Batch norm, twice
#
# In training it normalises with the statistics of the batch, in evaluation with running means of them:
#
#     y = gamma (x - mean) / sqrt(var + eps) + beta
#
# So in evaluation it is a straight line per channel, with `gain = gamma / sqrt(var + eps)`.

# %%
conv, norm = network.children["conv2"], network.children["bn2"]
gamma, beta = norm.params["gamma"], norm.params["beta"]
mean, var = norm.state["mean"], norm.state["var"]
gain = gamma / np.sqrt(var + norm.eps)

x = np.random.default_rng(0).standard_normal((8, 8, 8, conv.params["weight"].shape[2])).astype(np.float32)
sums = conv.forward(x)[0]
np.testing.assert_allclose(norm.forward(sums)[0], gain * sums + (beta - gain * mean), rtol=1e-3, atol=1e-4)
training = copy.deepcopy(norm)                                              # it moves its running statistics
assert not np.allclose(training.forward(sums, train=True)[0], norm.forward(sums)[0], atol=0.1)
assert not np.array_equal(training.state["mean"], norm.state["mean"])

# %% [markdown]
# ## Folding a float network
#
# A convolution is linear. So the line can be pulled into it: weights times gain, and a bias. The layer is gone.

# %%
folded = conv.params["weight"] * gain, beta - gain * mean                  # w' = gain w,  b' = beta - gain mean
saved = conv.params["weight"]
conv.params["weight"] = folded[0]
np.testing.assert_allclose(conv.forward(x)[0] + folded[1], norm.forward(sums)[0], rtol=1e-3, atol=1e-4)
conv.params["weight"] = saved

# %% [markdown]
# ## Why not fold first and quantize then?
#
# The gains differ from channel to channel, often by a large factor. Multiply the weights by them and one grid for all
# channels fits none. So the weights stay as they are, are quantized, and the gain goes to the other side of the sum.

# %%
def error(weight):
    """Relative error of a 4-bit grid whose step is read off the largest weight."""
    step = np.abs(weight).max() / 7
    return float(np.linalg.norm(np.rint(weight / step) * step - weight) / np.linalg.norm(weight))


uneven = saved * np.geomspace(0.1, 3, len(gain))                           # gains as a long training makes them
print(f"error at 4 bits: weights {error(saved):.2f}, times uneven gains {error(uneven):.2f}")
assert error(uneven) > 1.2 * error(saved)

# %% [markdown]
# ## All scales in one line
#
# A quantized layer computes `sum of (weight level * s_w) (activation level * s_a)`. Both scales leave the sum. What
# is left inside, `acc`, is an integer:
#
#     y = gain s_w s_a acc + (beta + gain (bias - mean))  =  M acc + B
#
# One multiplication and one addition per output. `merge_group_scales` computes M and B.

# %%
model = quantized(network, digits, "lsq", bits=4)
conv, quantizer = model.children["conv2"], model.children["pool1_quantizer"]
images = digits.normalise(digits.test.images[:50])
x = model.children["pool1"].forward(np.maximum(model.children["bn1"].forward(model.children["conv1"].forward(
    model.children["input_quantizer"].forward(images)[0])[0])[0], 0))[0]
activation, weight = quantizer.encode(x), conv.children["weight_quantizer"].encode(conv.params["weight"])

reference = float64(model)                                                 # the network in double precision
sums = reference.children["conv2"].forward(activation.decode().astype(float))[0]
expected = reference.children["bn2"].forward(sums)[0]

integer = float64(model).children["conv2"]
integer.children.clear()                                                   # a plain convolution of integers
integer.params["weight"] = weight.levels.astype(float)[weight.codes]
acc = integer.forward(activation.levels.astype(float)[activation.codes])[0]
assert np.array_equal(acc, np.rint(acc)) and np.abs(acc).max() < 2 ** 31   # integers, and they fit int32

norm = reference.children["bn2"]
m, b = merge_group_scales(float(weight.scale), float(activation.scale), norm.params["gamma"], norm.params["beta"],
                          norm.state["mean"], norm.state["var"], norm.eps)
np.testing.assert_allclose(m * acc + b, expected, rtol=1e-5, atol=1e-5)

# %% [markdown]
# The next quantizer divides by its own step and rounds. That division joins M and B too. What remains between two
# layers of integers is `code = clip(round(acc * multiplier + offset))`: the *requantization*. The library's lowering
# does all this for a whole network, and proves that no code changes.

# %%
program = lower(model, digits.image_shape, digits.normalise)
requantize = {op.name: op for op in program.ops}["pool2_quantizer.requantize"]
step = float(model.children["pool2_quantizer"].params["step"])
np.testing.assert_allclose(requantize.multiplier, m / step, rtol=2e-5)
_, accuracy = evaluate(model, digits.test, digits.normalise)
integers = (program.run(digits.test.images).argmax(1) == digits.test.labels).mean()
print(f"float {float_accuracy:.1%}, fake quantization {accuracy:.1%}, integers {integers:.1%}")
assert integers == accuracy

# %%
figure, (left, right) = plot.subplots(1, 2, (9, 3.6))
for name, weights, colour in (("weights as they are", saved, plot.BLUE), ("times uneven gains", uneven, plot.ORANGE)):
    left.plot(np.abs(weights).max((0, 1, 2)) / np.abs(weights).max(), "o-", color=colour, label=name)
left.set_xlabel("channel")
left.set_ylabel("largest weight, share of the layer's")
left.legend(fontsize=8)
channel = int(np.abs(requantize.multiplier).argmax())
line = np.arange(int(acc.min()), int(acc.max()))
value = line * requantize.multiplier[channel] + requantize.offset[channel]
right.plot(line, value, color=plot.GREY, label="acc * multiplier + offset")
right.plot(line, np.clip(np.rint(value), 0, 15), color=plot.BLUE, label="next code")
right.set_ylim(-4, 19)
right.set_xlabel("integer sum acc (no unit)")
right.set_ylabel("code of the next layer")
right.legend(fontsize=8)
picture(figure, "11_batch_norm_and_scales")

# %% [markdown]
# ## Exercise
#
# A channel may have gamma < 0. What happens to the staircase from acc to the code? And with gamma = 0? Look at the
# thresholds that `minquant.deploy.requantize.thresholds` finds. (`solutions/11_batch_norm_and_scales.py`)
#
# ## What you can now read
#
# - `minquant/deploy/lower.py`: `batch_norm` and `weighted` turn layers into steps of one expression
# - `minquant/deploy/requantize.py`: from the sum to the next code, exactly
# - `minquant/nn/functional.py`: `batchnorm_backward`, with the paths through mean and variance
