# %% [markdown]
# # 2. A layer, forward and backward, by hand
#
# minquant has no automatic differentiation. Every layer has a `forward` and a `backward` that you can read. Here you
# write both yourself, for a linear layer, a convolution and the loss, and compare with the library.

# %%
import numpy as np
from lesson import picture

from minquant import data, plot
from minquant.nn import Conv2d, Linear, softmax_cross_entropy
from minquant.nn.functional import col2im, im2col, pad

rng = np.random.default_rng(0)

# %% [markdown]
# ## A linear layer
#
# `y = x W + b` with x (N, in), W (in, out), b (out,). A number L is computed from y. Let `dy = dL/dy`. The chain rule
# gives the other gradients. Each has the shape of its array, which is a good way to remember them.

# %%
x, dy = rng.standard_normal((5, 4)), rng.standard_normal((5, 3))
layer = Linear(4, 3, rng).astype(np.float64)
w, b = layer.params["weight"], layer.params["bias"]

y = x @ w + b           # (5, 4) (4, 3) -> (5, 3)
dx = dy @ w.T           # dL/dx = dy W^T
dw = x.T @ dy           # dL/dW = x^T dy
db = dy.sum(0)          # dL/db: b was added to every row

# %% [markdown]
# The library's layer returns what backward needs as a `cache`. Nothing is hidden in the layer. Set a breakpoint in
# `Linear.backward` and you see these arrays.

# %%
y_lib, cache = layer.forward(x)
dx_lib, grads = layer.backward(dy, cache)
for ours, theirs in ((y, y_lib), (dx, dx_lib), (dw, grads["weight"]), (db, grads["bias"])):
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)

# %% [markdown]
# ## A convolution is the same layer
#
# Cut every window out of the image, write it as a row: `im2col`. Then a convolution is one matrix product. Images are
# NHWC (image, row, column, channel), weights HWIO (row, column, input, output).

# %%
image = data.load("digits").train.images[:1] / 255.0        # (1, 8, 8, 1)
conv = Conv2d(1, 6, 3, rng, padding=1, bias=False).astype(np.float64)
w = conv.params["weight"]                                   # (3, 3, 1, 6)

padded = pad(image, 1)
columns = im2col(padded, (3, 3), stride=1)                  # (1, 8, 8, 9): a window of 9 values per pixel
matrix = w.reshape(9, 6)
y = columns @ matrix                                        # (1, 8, 8, 6)

dy = rng.standard_normal(y.shape)
dw = (columns.reshape(-1, 9).T @ dy.reshape(-1, 6)).reshape(w.shape)   # x^T dy, as above
dcolumns = dy @ matrix.T                                                # dy W^T, as above
dx = col2im(dcolumns, padded.shape, (3, 3), 1)[:, 1:-1, 1:-1]           # add every window back; cut the padding off

y_lib, cache = conv.forward(image)
dx_lib, grads = conv.backward(dy, cache)
for ours, theirs in ((y, y_lib), (dx, dx_lib), (dw, grads["weight"])):
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)

# %% [markdown]
# ## The loss
#
# Softmax turns logits z into probabilities p. Cross-entropy is `L = -mean log p[label]`. Its gradient is short: `dz =
# (p - onehot) / N`.

# %%
z, labels = rng.standard_normal((4, 10)), np.array([3, 1, 4, 1])
p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
loss = -np.log(p[np.arange(4), labels]).mean()
dz = (p - np.eye(10)[labels]) / 4

loss_lib, dz_lib = softmax_cross_entropy(z, labels)
assert abs(loss - loss_lib) < 1e-12
np.testing.assert_allclose(dz, dz_lib, rtol=1e-12, atol=1e-15)

# %% [markdown]
# ## It learns
#
# One linear layer, the digits, fifty steps of gradient descent: `W -= lr dW`. That is all training is.

# %%
digits = data.load("digits")
x, labels = digits.normalise(digits.train.images).reshape(-1, 64), digits.train.labels
w, b, losses = np.zeros((64, 10), np.float32), np.zeros(10, np.float32), []
for _ in range(50):
    loss, dz = softmax_cross_entropy(x @ w + b, labels)
    w -= 0.5 * (x.T @ dz)
    b -= 0.5 * dz.sum(0)
    losses.append(loss)
test = digits.normalise(digits.test.images).reshape(-1, 64)
accuracy = ((test @ w + b).argmax(1) == digits.test.labels).mean()
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}, test accuracy {accuracy:.1%}")
assert losses[-1] < 0.25 and accuracy > 0.9

# %%
figure, axes = plot.subplots(1, 4, (10, 3.4), width_ratios=(1, 0.8, 0.8, 1.2))
shown = ((image[0, :, :, 0], "image 8 x 8"), (columns.reshape(64, 9), "im2col: 64 windows x 9"),
         (y.reshape(64, 6), "times 9 x 6 weights: 64 x 6"))
for axis, (array, title) in zip(axes, shown):
    axis.imshow(array, cmap="cividis", aspect="equal" if len(array) == 8 else "auto")
    axis.set_title(title, fontsize=9)
    axis.set_xticks([])
    axis.set_yticks([])
axes[3].plot(losses, color=plot.BLUE)
axes[3].set_title("a linear layer learns the digits", fontsize=9)
axes[3].set_xlabel("step")
axes[3].set_ylabel("cross-entropy loss (nats)")
axes[3].grid(alpha=0.3)
picture(figure, "02_a_layer_by_hand")

# %% [markdown]
# ## Exercise
#
# Write forward and backward of a ReLU and of a max-pooling over 2 x 2 windows. Which position gets the gradient when
# two values of a window are equal? Compare with `minquant.nn.ReLU` and `minquant.nn.MaxPool`.
# (`solutions/02_a_layer_by_hand.py`)
#
# ## What you can now read
#
# - `minquant/nn/functional.py`: every operation in NumPy
# - `minquant/nn/layers.py`: the layers around them; `minquant/nn/losses.py`
# - `minquant/training.py`: `step`, the same loop for any network
