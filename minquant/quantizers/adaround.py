"""AdaRound: learn for every weight whether to round it down or up, from what the layer computes.

1. A weight W on the grid s {n..p} becomes s clip(floor(W/s) + h, n, p) with h in [0, 1], not a nearest
   level.
2. h = clip(sigmoid(V)(zeta - gamma) + gamma, 0, 1), zeta = 1.1, gamma = -0.1: it reaches 0 and 1 at finite V.
3. Loss: |X(W_soft - W)|^2 / N + lambda sum(1 - |2h - 1|^beta), lambda = 0.01; beta falls from 20 to 2 and
   drives h to 0 or 1. The second term is left out during the first 20 % of the steps.
4. The first term needs the inputs only through the Gram matrix G = X^T X / N: its gradient is 2 G (W_soft -
   W).
5. Start: V with h = W/s - floor(W/s). End: floor(W/s) + 1 where V >= 0. Layers in order, each with the inputs
   that the already quantized network gives it.

Source: Nagel et al., ICML 2020 (arXiv:2004.10568); the formulas were read off BRECQ's code and memory of the
paper. Rows of X (N, I) are input patches, W is (I, O): the transpose of the paper.

Deviations. beta falls linearly. Patches are drawn at random, at most 8192 of at most 256 images. An output
channel for which rounding to nearest has the smaller error on these patches keeps it. The rounded weights
replace the float ones.
"""

import numpy as np

from ..nn import tapped
from ..nn.functional import im2col, pad
from ..nn.layers import Conv2d, Weighted

ZETA, GAMMA = 1.1, -0.1
REGULARISATION = 0.01
BETA_START, BETA_END, WARM_UP = 20.0, 2.0, 0.2
LEARNING_RATE = 1e-2
PATCHES, IMAGES = 8192, 256


def rectified_sigmoid(v):
    """Return (h, dh/dv), h = clip(sigmoid(v)(zeta - gamma) + gamma, 0, 1)."""
    sigmoid = 1 / (1 + np.exp(-v))
    stretched = sigmoid * (ZETA - GAMMA) + GAMMA
    inside = (stretched > 0) & (stretched < 1)
    return np.clip(stretched, 0, 1), inside * (ZETA - GAMMA) * sigmoid * (1 - sigmoid)


def initial_v(weight, step):
    """V with h(V) = W/s - floor(W/s)."""
    fraction = weight / step - np.floor(weight / step)
    return -np.log((ZETA - GAMMA) / (fraction - GAMMA) - 1)


def soft_weight(v, weight, step, low, high):
    """s clip(floor(W/s) + h(V), n, p)."""
    return step * np.clip(np.floor(weight / step) + rectified_sigmoid(v)[0], low, high)


def hard_weight(v, weight, step, low, high):
    """s clip(floor(W/s) + 1[V >= 0], n, p)."""
    return step * np.clip(np.floor(weight / step) + (v >= 0), low, high)


def loss(v, weight, step, low, high, gram, beta, strength=REGULARISATION):
    """Return (reconstruction, regulariser, dV) of reconstruction + strength * regulariser at V.

    weight (I, O), step () or (O,), gram (I, I) = X^T X / N
    """
    h, slope = rectified_sigmoid(v)
    unclipped = np.floor(weight / step) + h
    error = step * np.clip(unclipped, low, high) - weight
    pulled = gram @ error
    distance = np.abs(2 * h - 1)
    dh = 2 * step * pulled * ((unclipped >= low) & (unclipped <= high))
    if strength:
        dh -= 2 * strength * beta * distance ** (beta - 1) * np.sign(2 * h - 1)
    return float(np.vdot(error, pulled)), float((1 - distance ** beta).sum()), dh * slope


def learn_rounding(weight, step, low, high, gram, steps):
    """Return W (I, O) rounded to the grid after `steps` of Adam; no channel is worse than at its nearest."""
    v = initial_v(weight, step)
    first, second = np.zeros_like(v), np.zeros_like(v)
    for t in range(1, steps + 1):
        progress = ((t - 1) / steps - WARM_UP) / (1 - WARM_UP)
        beta = BETA_START + (BETA_END - BETA_START) * max(progress, 0.0)
        _, _, dv = loss(v, weight, step, low, high, gram, beta, REGULARISATION if progress >= 0 else 0.0)
        first += 0.1 * (dv - first)
        second += 0.001 * (dv * dv - second)
        v -= LEARNING_RATE * first / (1 - 0.9 ** t) / (np.sqrt(second / (1 - 0.999 ** t)) + 1e-8)
    learned = hard_weight(v, weight, step, low, high)
    nearest = step * np.clip(np.rint(weight / step), low, high)
    better = channel_errors(learned - weight, gram) <= channel_errors(nearest - weight, gram)
    return np.where(better, learned, nearest)


def channel_errors(difference, gram):
    """mean |x . difference|^2 of every output channel, (O,)."""
    return np.einsum("io,ij,jo->o", difference, gram, difference, optimize=True)


def patches(layer, x, rng):
    """At most 8192 rows that a layer multiplies its weights with: (N, inputs), or (N, K*K*C)."""
    if not isinstance(layer, Conv2d):
        return x[rng.choice(len(x), min(len(x), PATCHES), replace=False)]
    kernel, rows, share = layer.params["weight"].shape[:2], [], max(1, PATCHES // len(x))
    for image in pad(x, layer.padding):
        columns = im2col(image[None], kernel, layer.stride)
        columns = columns.reshape(-1, columns.shape[-1])
        rows.append(columns[rng.choice(len(columns), min(len(columns), share), replace=False)])
    return np.concatenate(rows)


def round_layer(layer, x, rng, steps):
    """Replace the weight of a layer by its learned rounding on its quantizer's grid; x is its input."""
    weight = layer.params["weight"]
    quantizer = layer.children["weight_quantizer"]
    rows = patches(layer, x, rng).astype(np.float64)
    groups = getattr(layer, "groups", 1)
    rows = rows.reshape(len(rows), -1, groups, weight.shape[-2])  # patch, kernel position, group, channel
    outputs = weight.shape[-1] // groups
    step = np.broadcast_to(quantizer.state["step"].astype(np.float64), weight.shape[-1:])
    for g in range(groups):
        own = slice(g * outputs, (g + 1) * outputs)
        columns = rows[:, :, g].reshape(len(rows), -1)
        matrix = weight[..., own].reshape(-1, outputs).astype(np.float64)
        gram = columns.T @ columns / len(columns)
        learned = learn_rounding(matrix, step[own], -quantizer.top, quantizer.top, gram, steps)
        weight[..., own] = learned.reshape(weight[..., own].shape)


def round_layers(model, images, rng, kind, steps):
    """Round the weights of every layer whose weight quantizer is a `kind`, in order of computation."""
    if len(images) > IMAGES:
        images = images[rng.choice(len(images), IMAGES, replace=False)]
    for name, layer in list(model.named_layers()):
        if isinstance(layer, Weighted) and isinstance(layer.children.get("weight_quantizer"), kind):
            round_layer(layer, input_of(model, name, images), rng, steps)


def input_of(model, name, images):
    """What the layer `name` gets when `images` run through the model in evaluation mode."""
    found = []

    def look(at, layer, x):
        if at == name:
            found.append(x)

    with tapped(model, before=look):
        model.forward(images)
    return found[0]
