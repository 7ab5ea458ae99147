"""The layers. Activations are NHWC, convolution weights HWIO, linear weights (in, out)."""

import numpy as np

from . import ops
from .base import Layer, prefixed
from .initialisers import he_normal


def require_floats(layer, x):
    """Raise ValueError unless x holds floats: integers would wrap around without a word."""
    if x.dtype.kind != "f":
        raise ValueError(f"{type(layer).__name__} takes floats, got {x.dtype}; normalise images first "
                         "(Dataset.normalise), or convert with astype(numpy.float32)")


class Weighted(Layer):
    """A layer with a `weight` and an optional `bias`, whose weight may pass through another layer before use.

    That other layer sits at children["weight_quantizer"]; all this class knows is its forward and backward.
    `input_grad = False` (set by `skip_input_gradient`) saves the gradient of the network's own input.
    """

    input_grad = True

    def _effective_weight(self, train, rng):
        quantizer = self.children.get("weight_quantizer")
        return quantizer.forward(self.params["weight"], train, rng) if quantizer else (self.params["weight"], None)

    def _grads(self, dweight, dbias, weight_cache):
        """Gradients of weight, bias and quantizer from the gradient of the effective weight."""
        grads = {}
        quantizer = self.children.get("weight_quantizer")
        if quantizer:
            dweight, own = quantizer.backward(dweight, weight_cache)
            grads = prefixed("weight_quantizer", own)
        grads["weight"] = dweight
        if "bias" in self.params:
            grads["bias"] = dbias
        return grads


def skip_input_gradient(model):
    """Tell the first weighted layer not to compute the gradient of the network's input; it saves one convolution.

    Nothing changes where a layer with parameters of its own comes first, for that layer needs the gradient.
    """
    for _, layer in model.named_layers():
        if isinstance(layer, Weighted):
            layer.input_grad = False
            return
        if layer.params:
            return


class Linear(Weighted):
    """y = x W + b.   x (N, in) -> y (N, out);  weight (in, out), bias (out,)."""

    def __init__(self, inputs, outputs, rng, bias=True, init=he_normal):
        super().__init__()
        self.params["weight"] = init((inputs, outputs), rng)
        if bias:
            self.params["bias"] = np.zeros(outputs, np.float32)

    def forward(self, x, train=False, rng=None):
        require_floats(self, x)
        if x.ndim != 2 or x.shape[1] != len(self.params["weight"]):
            raise ValueError(f"Linear takes x of shape (N, {len(self.params['weight'])}), got {x.shape}; "
                             "put a Flatten before it")
        weight, weight_cache = self._effective_weight(train, rng)
        y = ops.matmul(x, weight)
        if "bias" in self.params:
            ops.add_bias(y, self.params["bias"])
        return y, (x, weight, weight_cache)

    def backward(self, dy, cache):
        x, weight, weight_cache = cache
        dx = ops.matmul(dy, weight.T) if self.input_grad else None
        return dx, self._grads(ops.matmul(x.T, dy), ops.sum_rows(dy), weight_cache)


class Conv2d(Weighted):
    """y = x * W + b, a cross-correlation.   x (N, H, W, C) -> y (N, OH, OW, O);  weight (K, K, C/groups, O).

    kernel, stride, padding : int, the same for H and W;  groups = C with O = C is a depthwise convolution
    """

    def __init__(self, inputs, outputs, kernel, rng, stride=1, padding=0, groups=1, bias=True, init=he_normal):
        super().__init__()
        for what, value, least in (("kernel", kernel, 1), ("stride", stride, 1), ("padding", padding, 0),
                                   ("groups", groups, 1)):
            if value < least:
                raise ValueError(f"{what}={value} is too small; it must be at least {least}")
        if inputs % groups or outputs % groups:
            raise ValueError(f"groups={groups} does not divide {inputs} input and {outputs} output channels")
        self.stride, self.padding, self.groups = stride, padding, groups
        self.params["weight"] = init((kernel, kernel, inputs // groups, outputs), rng)
        if bias:
            self.params["bias"] = np.zeros(outputs, np.float32)

    def forward(self, x, train=False, rng=None):
        require_floats(self, x)
        k, _, c, o = self.params["weight"].shape
        if x.ndim != 4 or x.shape[3] != c * self.groups:
            raise ValueError(f"Conv2d takes x of shape (N, H, W, {c * self.groups}), got {x.shape}; images are NHWC")
        if min(x.shape[1:3]) + 2 * self.padding < k:
            raise ValueError(f"Conv2d with kernel {k} and padding {self.padding} does not fit "
                             f"an input of {x.shape[1:3]}")
        weight, weight_cache = self._effective_weight(train, rng)
        y, conv_cache = ops.conv2d_forward(x, weight, self.stride, self.padding, self.groups)
        if "bias" in self.params:
            ops.add_bias(y, self.params["bias"])
        return y, (conv_cache, weight_cache)

    def backward(self, dy, cache):
        conv_cache, weight_cache = cache
        dx, dweight = ops.conv2d_backward(dy, conv_cache, self.input_grad)
        dbias = ops.sum_rows(dy) if "bias" in self.params else None
        return dx, self._grads(dweight, dbias, weight_cache)


class BatchNorm(Layer):
    """y = gamma (x - mean) / sqrt(var + eps) + beta over all axes but the last (Ioffe and Szegedy, 2015).

    Training uses the batch's statistics and moves the running ones by `momentum` (0.1: new = 0.9 old + 0.1 batch,
    with the unbiased variance); evaluation uses the running ones.
    """

    def __init__(self, channels, eps=1e-5, momentum=0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.params["gamma"] = np.ones(channels, np.float32)
        self.params["beta"] = np.zeros(channels, np.float32)
        self.state["mean"] = np.zeros(channels, np.float32)
        self.state["var"] = np.ones(channels, np.float32)

    def forward(self, x, train=False, rng=None):
        require_floats(self, x)
        gamma, beta = self.params["gamma"], self.params["beta"]
        if x.shape[-1] != len(gamma):
            raise ValueError(f"BatchNorm of {len(gamma)} channels got x of shape {x.shape}; channels are the last axis")
        if not train:
            inv_std = 1 / np.sqrt(self.state["var"] + np.asarray(self.eps, x.dtype))
            y = (x - self.state["mean"]) * (gamma * inv_std) + beta
            return y, ("eval", x, self.state["mean"].copy(), inv_std, gamma)
        count = x.size // x.shape[-1]
        if count < 2:
            raise ValueError(f"BatchNorm in training needs at least 2 values per channel, got x of shape {x.shape}; "
                             "use a larger batch")
        y, cache, mean, var = ops.batchnorm_forward(x, gamma, beta, self.eps)
        self.state["mean"] += self.momentum * (mean - self.state["mean"])
        self.state["var"] += self.momentum * (var * (count / (count - 1)) - self.state["var"])
        return y, ("train", cache)

    def backward(self, dy, cache):
        if cache[0] == "train":
            dx, dgamma, dbeta = ops.batchnorm_backward(dy, cache[1])
        else:  # running statistics are constants: no path through mean and variance
            _, x, mean, inv_std, gamma = cache
            axes = tuple(range(x.ndim - 1))
            dx, dbeta = dy * (gamma * inv_std), dy.sum(axes)
            dgamma = (dy * (x - mean)).sum(axes) * inv_std
        return dx, {"gamma": dgamma, "beta": dbeta}


class ReLU(Layer):
    """y = max(x, 0), or clip(x, 0, cap) with a cap (ReLU6 is cap=6). The gradient at the corners is 0."""

    def __init__(self, cap=None):
        super().__init__()
        if cap is not None and not cap > 0:
            raise ValueError(f"cap={cap} is not positive; use cap=None for a plain ReLU")
        self.cap = cap

    def forward(self, x, train=False, rng=None):
        return ops.relu_forward(x, self.cap)

    def backward(self, dy, cache):
        return ops.relu_backward(dy, cache), {}


class Pool(Layer):
    """Base of the windowed poolings: size x size windows, `stride` apart (size by default), no padding."""

    def __init__(self, size, stride=None):
        super().__init__()
        if not 1 <= size <= 16 or stride is not None and stride < 1:
            raise ValueError(f"size={size}, stride={stride} does not work; sizes are 1..16, strides 1 or more")
        self.size, self.stride = size, stride or size

    def _check(self, x):
        if x.ndim != 4 or min(x.shape[1:3]) < self.size:
            raise ValueError(f"{type(self).__name__}({self.size}) does not fit x of shape {x.shape}; images are NHWC")


class MaxPool(Pool):
    """Maximum of every window; the first of equal values gets the gradient."""

    def forward(self, x, train=False, rng=None):
        self._check(x)
        return ops.maxpool_forward(x, self.size, self.stride)

    def backward(self, dy, cache):
        return ops.maxpool_backward(dy, cache), {}


class AvgPool(Pool):
    """Mean of every window."""

    def forward(self, x, train=False, rng=None):
        self._check(x)
        return ops.avgpool_forward(x, self.size, self.stride)

    def backward(self, dy, cache):
        return ops.avgpool_backward(dy, cache), {}


class GlobalAvgPool(Layer):
    """Mean over H and W: (N, H, W, C) -> (N, C)."""

    def forward(self, x, train=False, rng=None):
        if x.ndim != 4:
            raise ValueError(f"GlobalAvgPool takes images (N, H, W, C), got x of shape {x.shape}")
        return x.mean((1, 2)), x.shape

    def backward(self, dy, cache):
        n, h, w, c = cache
        return np.broadcast_to(dy[:, None, None, :] / np.asarray(h * w, dy.dtype), cache).copy(), {}


class PadShortcut(Layer):
    """The shortcut without parameters (He et al. 2016, option A): every stride-th pixel, new channels filled with 0.

    (N, H, W, inputs) -> (N, ceil(H/stride), ceil(W/stride), outputs)
    """

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        if outputs < inputs:
            raise ValueError(f"PadShortcut cannot reduce {inputs} channels to {outputs}; use a 1x1 convolution")
        self.inputs, self.outputs, self.stride = inputs, outputs, stride

    def forward(self, x, train=False, rng=None):
        kept = x[:, ::self.stride, ::self.stride]
        y = np.zeros(kept.shape[:3] + (self.outputs,), x.dtype)
        y[..., :self.inputs] = kept
        return y, x.shape

    def backward(self, dy, cache):
        dx = np.zeros(cache, dy.dtype)
        dx[:, ::self.stride, ::self.stride] = dy[..., :self.inputs]
        return dx, {}


class Flatten(Layer):
    """(N, ...) -> (N, product of the rest), in NHWC order."""

    def forward(self, x, train=False, rng=None):
        return x.reshape(len(x), -1), x.shape

    def backward(self, dy, cache):
        return dy.reshape(cache), {}


class Dropout(Layer):
    """Training: each value is zeroed with probability `rate` and the rest divided by 1 - rate. Evaluation: identity."""

    def __init__(self, rate):
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"rate={rate} is not in [0, 1)")
        self.rate = rate

    def forward(self, x, train=False, rng=None):
        if not train or self.rate == 0:
            return x, None
        if rng is None:
            raise ValueError("Dropout in training draws: pass rng=numpy.random.Generator to forward")
        keep = 1 - self.rate
        mask = (rng.random(x.shape, np.float32) < keep).astype(x.dtype) / np.asarray(keep, x.dtype)
        return x * mask, mask

    def backward(self, dy, cache):
        return (dy if cache is None else dy * cache), {}
