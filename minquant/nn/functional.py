"""The operations of the network stack in plain NumPy: the meaning that compiled versions must equal.

Shapes, once for all: activations x (N, H, W, C), weights w (KH, KW, C/groups, O), outputs y (N, OH, OW, O).
OH = (H + 2 padding - KH) // stride + 1. Everything follows the dtype of x.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

# Columns of one block of images stay in the second-level cache, and no full im2col buffer ever exists.
BLOCK_BYTES = 1 << 20


def pad(x, padding):
    """Zero-pad H and W of x by `padding` on every side."""
    return np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0))) if padding else x


def im2col(x, kernel, stride):
    """Every window of an already padded x as a row: (N, H, W, C) -> (N, OH, OW, KH*KW*C), a copy."""
    windows = sliding_window_view(x, kernel, axis=(1, 2))[:, ::stride, ::stride]  # (N, OH, OW, C, KH, KW)
    return windows.transpose(0, 1, 2, 4, 5, 3).reshape(windows.shape[:3] + (-1,))


def col2im(dcols, shape, kernel, stride):
    """Adjoint of im2col: add every row of dcols (N, OH, OW, KH*KW*C) back to its window in zeros of `shape`."""
    dx = np.zeros(shape, dcols.dtype)
    n, oh, ow = dcols.shape[:3]
    dcols = dcols.reshape(n, oh, ow, *kernel, shape[3])
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            dx[:, i:i + stride * oh:stride, j:j + stride * ow:stride] += dcols[:, :, :, i, j]
    return dx


def blocks(n, bytes_per_image):
    """Slices over n images whose columns stay within BLOCK_BYTES each (at least one image a slice)."""
    size = max(1, BLOCK_BYTES // max(1, bytes_per_image))
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def conv2d_forward(x, w, stride=1, padding=0, groups=1):
    """Return (y, cache): y[n,h,w,o] = sum over the window of x times w. Depthwise where groups = C."""
    xp = pad(x, padding)
    cache = (xp, w, stride, padding, groups, x.shape)
    if groups == x.shape[3] and w.shape[2] == 1 and w.shape[3] == groups:
        return _depthwise_forward(xp, w, stride), cache
    kernel, o = w.shape[:2], w.shape[3]
    n, oh, ow = len(x), (xp.shape[1] - kernel[0]) // stride + 1, (xp.shape[2] - kernel[1]) // stride + 1
    y = np.empty((n, oh, ow, o), x.dtype)
    for xg, wg, og in _groups(xp, w, groups):
        matrix = wg.reshape(-1, wg.shape[3])
        for block in blocks(n, oh * ow * matrix.shape[0] * x.itemsize):
            y[block, :, :, og] = im2col(xg[block], kernel, stride) @ matrix
    return y, cache


def conv2d_backward(dy, cache, need_dx=True):
    """Return (dx, dw); dx is None unless `need_dx`. Columns are rebuilt block by block instead of being kept."""
    xp, w, stride, padding, groups, shape = cache
    if groups == shape[3] and w.shape[2] == 1 and w.shape[3] == groups:
        dxp, dw = _depthwise_backward(dy, xp, w, stride)
    else:
        kernel = w.shape[:2]
        dxp, dw = np.zeros_like(xp) if need_dx else None, np.zeros_like(w)
        for xg, wg, og, ig in _groups(xp, w, groups, inputs=True):
            matrix, dmatrix = wg.reshape(-1, wg.shape[3]), np.zeros((wg[..., 0].size, wg.shape[3]), w.dtype)
            for block in blocks(len(dy), dy[0, ..., 0].size * matrix.shape[0] * dy.itemsize):
                rows = np.ascontiguousarray(dy[block, :, :, og]).reshape(-1, wg.shape[3])
                cols = im2col(xg[block], kernel, stride)
                dmatrix += cols.reshape(len(rows), -1).T @ rows
                if need_dx:
                    dcols = (rows @ matrix.T).reshape(cols.shape)
                    dxp[block, :, :, ig] = col2im(dcols, xg[block].shape, kernel, stride)
            dw[..., og] = dmatrix.reshape(wg.shape)
    if not need_dx:
        return None, dw
    return dxp[:, padding:padding + shape[1], padding:padding + shape[2]], dw


def _groups(xp, w, groups, inputs=False):
    """Yield (input channels, weights, output slice[, input slice]) of every group."""
    c, o = xp.shape[3] // groups, w.shape[3] // groups
    for g in range(groups):
        ig, og = slice(g * c, (g + 1) * c), slice(g * o, (g + 1) * o)
        yield (xp[..., ig], w[..., og], og, ig) if inputs else (xp[..., ig], w[..., og], og)


def _depthwise_forward(xp, w, stride):
    kh, kw = w.shape[:2]
    oh, ow = (xp.shape[1] - kh) // stride + 1, (xp.shape[2] - kw) // stride + 1
    y = np.zeros((len(xp), oh, ow, xp.shape[3]), xp.dtype)
    for i in range(kh):
        for j in range(kw):
            y += xp[:, i:i + stride * oh:stride, j:j + stride * ow:stride] * w[i, j, 0]
    return y


def _depthwise_backward(dy, xp, w, stride):
    oh, ow = dy.shape[1:3]
    dxp, dw = np.zeros_like(xp), np.zeros_like(w)
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            window = np.s_[:, i:i + stride * oh:stride, j:j + stride * ow:stride]
            dxp[window] += dy * w[i, j, 0]
            dw[i, j, 0] = np.einsum("nhwc,nhwc->c", dy, xp[window])
    return dxp, dw


def column_means(x):
    """Mean over all axes but the last, as a product with a vector: many times faster than x.mean for few channels."""
    rows = x.reshape(-1, x.shape[-1])
    return np.full(len(rows), 1 / len(rows), x.dtype) @ rows


def batchnorm_forward(x, gamma, beta, eps):
    """Normalise over all axes but the last with batch statistics; return (y, cache, mean, var).

    Two passes: the variance is the mean of (x - mean)^2, because E[x^2] - mean^2 cancels catastrophically.
    The mean of the centred values, zero but for rounding, corrects the mean of a long float32 sum.
    var is the biased variance (divided by the count), as the normalisation uses it.
    """
    mean = column_means(x)
    centred = x - mean
    slip = column_means(centred)
    mean += slip
    centred -= slip
    var = column_means(centred * centred)
    inv_std = 1 / np.sqrt(var + np.asarray(eps, x.dtype))
    return centred * (gamma * inv_std) + beta, (x, mean, inv_std, gamma), mean, var


def batchnorm_backward(dy, cache):
    """Return (dx, dgamma, dbeta) of training-mode batch normalisation.

    dx = gamma/std * (dy - mean(dy) - xhat * mean(dy * xhat)): the two means are the paths through mean and variance.
    """
    x, mean, inv_std, gamma = cache
    xhat = (x - mean) * inv_std
    count = x.size // x.shape[-1]
    dgamma, dbeta = column_means(dy * xhat) * count, column_means(dy) * count
    xhat *= dgamma / count
    return (dy - dbeta / count - xhat) * (gamma * inv_std), dgamma, dbeta


def relu_forward(x, cap=None):
    """Return (clip(x, 0, cap), mask): mask is True where the gradient passes (0 < x, and x < cap if there is one)."""
    if cap is None:
        return np.maximum(x, 0), x > 0
    return np.clip(x, 0, np.asarray(cap, x.dtype)), (x > 0) & (x < cap)


def relu_backward(dy, mask):
    """dx = dy where the mask is True, else 0."""
    return dy * mask


def _windows(x, size, stride):
    """Yield (index, strided view of x) for each position inside the pooling window."""
    oh, ow = (x.shape[1] - size) // stride + 1, (x.shape[2] - size) // stride + 1
    for index in range(size * size):
        i, j = divmod(index, size)
        yield index, np.s_[:, i:i + stride * oh:stride, j:j + stride * ow:stride]


def maxpool_forward(x, size, stride):
    """Return (y, cache): maximum of every size x size window; on ties the first position (row major) wins."""
    parts = _windows(x, size, stride)
    _, first = next(parts)
    y = x[first].copy()
    winner = np.zeros(y.shape, np.uint8)
    for index, part in parts:
        larger = x[part] > y
        y[larger] = x[part][larger]
        winner[larger] = index
    return y, (winner, x.shape, size, stride)


def maxpool_backward(dy, cache):
    """Each dy goes to the position that won."""
    winner, shape, size, stride = cache
    dx = np.zeros(shape, dy.dtype)
    for index, part in _windows(dx, size, stride):
        dx[part] += dy * (winner == index)
    return dx


def avgpool_forward(x, size, stride):
    """Return (y, cache): mean of every size x size window."""
    y = sum(x[part] for _, part in _windows(x, size, stride)) / np.asarray(size * size, x.dtype)
    return y, (x.shape, size, stride)


def avgpool_backward(dy, cache):
    """dy / size^2 to every position of the window."""
    shape, size, stride = cache
    dx = np.zeros(shape, dy.dtype)
    share = dy / np.asarray(size * size, dy.dtype)
    for _, part in _windows(dx, size, stride):
        dx[part] += share
    return dx
