"""Losses: each returns (mean loss, gradient with respect to its first argument)."""

import numpy as np


def softmax_cross_entropy(logits, labels, smoothing=0.0):
    """Mean of -sum_k t_k log softmax(logits)_k, with t = (1 - smoothing) onehot(label) + smoothing / K.

    logits (N, K) float, labels (N,) integers in 0..K-1. Returns (float, dlogits (N, K)); dlogits = (softmax - t) / N.
    Raises ValueError for labels out of range or of the wrong shape or dtype.
    """
    if logits.ndim != 2:
        raise ValueError(f"logits have shape {logits.shape}; expected (N, classes)")
    n, k = logits.shape
    labels = np.asarray(labels)
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise ValueError(f"labels are {labels.dtype} of shape {labels.shape}; expected integers of shape ({n},)")
    if n == 0:
        raise ValueError("the batch is empty; a mean over no samples is undefined")
    if labels.min() < 0 or labels.max() >= k:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, the network has classes 0..{k - 1}")
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing={smoothing} is not in [0, 1)")
    shifted = logits - logits.max(1, keepdims=True)  # log-sum-exp: no exponential above 1
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    target = np.full_like(logits, smoothing / k)
    target[np.arange(n), labels] += 1 - smoothing
    return float(-(target * log_p).sum() / n), (np.exp(log_p) - target) / np.asarray(n, logits.dtype)


def mean_squared_error(y, target):
    """Mean over all elements of (y - target)^2; dy = 2 (y - target) / count."""
    target = np.asarray(target, y.dtype)
    if target.shape != y.shape:
        raise ValueError(f"target has shape {target.shape}, the prediction {y.shape}; they must be equal")
    if y.size == 0:
        raise ValueError("the batch is empty; a mean over no samples is undefined")
    difference = y - target
    return float((difference * difference).mean()), difference * np.asarray(2 / y.size, y.dtype)
