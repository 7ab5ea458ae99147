"""The losses of the detector, each with its gradient by hand: focal loss, L1 and IoU of boxes, and their sum."""

import numpy as np

from .boxes import encode

ALPHA, BETA = 2, 4  # exponents of the focal loss, as in its papers
L1_WEIGHT, IOU_WEIGHT = 0.5, 1.0


def focal(z, heat):
    """Penalty-reduced focal loss of logits against a heat-map (Law, Deng 2018, eq. 1), summed over all elements.

    p = sigmoid(z);  -(1-p)^a log p where heat = 1,  -(1-heat)^b p^a log(1-p) elsewhere.  Return (loss, dz).
    """
    with np.errstate(invalid="ignore"):  # a NaN among the logits makes the loss NaN, which the training step reports
        log_p, log_q = -np.logaddexp(0, -z), -np.logaddexp(0, z)  # log p and log(1 - p), without overflow
    p, q = np.exp(log_p), np.exp(log_q)
    centre, far = heat == 1, (1 - heat) ** BETA
    loss = np.where(centre, -q ** ALPHA * log_p, -far * p ** ALPHA * log_q)
    dz = np.where(centre, q ** ALPHA * (ALPHA * p * log_p - q), far * p ** ALPHA * (p - ALPHA * q * log_q))
    return float(loss.sum()), dz


def l1(y, target):
    """Sum of |y - target|; dy is the sign."""
    return float(np.abs(y - target).sum()), np.sign(y - target)


def iou_loss(offset, log_size, target_offset, target_log_size):
    """Sum over boxes of 1 - IoU; return (loss, doffset, dlog_size). All arguments (P, 2), in cells.

    Per axis: edges c -+ s/2 with s = exp(log_size); common length m, I = m_x m_y, U = s_x s_y + t_x t_y - I.
    dIoU/dm_x = m_y (U + I) / U^2 and dIoU/ds_x = -I s_y / U^2; the rest is the chain rule.
    """
    s, t = np.exp(log_size), np.exp(target_log_size)
    high, low = np.minimum(offset + s / 2, target_offset + t / 2), np.maximum(offset - s / 2, target_offset - t / 2)
    common = np.maximum(high - low, 0)
    overlap = common.prod(1, keepdims=True)
    union = (s.prod(1) + t.prod(1))[:, None] - overlap
    dcommon = -common[:, ::-1] * (union + overlap) / union ** 2
    dhigh = dcommon * (common > 0) * (offset + s / 2 < target_offset + t / 2)
    dlow = -dcommon * (common > 0) * (offset - s / 2 > target_offset - t / 2)
    ds = (dhigh - dlow) / 2 + overlap * s[:, ::-1] / union ** 2
    return float((1 - overlap / union).sum()), dhigh + dlow, ds * s


def detection_loss(maps, objects, image_shape):
    """Loss of maps (N, h, w, K + 4) against objects (N, M, 6), divided by the number of objects; (loss, dmaps).

    focal + L1_WEIGHT (L1 of offset and log size) + IOU_WEIGHT (1 - IoU), the last two at the objects' cells only.
    """
    targets = encode(objects, maps.shape[1:], image_shape, maps.dtype)
    k = maps.shape[3] - 4
    dmaps = np.zeros_like(maps)
    loss, dmaps[..., :k] = focal(maps[..., :k], targets.heat)
    cells = targets.n, targets.i, targets.j
    offset, log_size = maps[cells][:, k:k + 2], maps[cells][:, k + 2:]
    wanted = np.concatenate([targets.offset, targets.log_size], 1)
    distance, dbox = l1(maps[cells][:, k:], wanted)
    shape, doffset, dlog_size = iou_loss(offset, log_size, targets.offset, targets.log_size)
    dbox = L1_WEIGHT * dbox + IOU_WEIGHT * np.concatenate([doffset, dlog_size], 1)
    dmaps[cells + (slice(k, None),)] = dbox
    count = max(1, int((objects[..., 0] >= 0).sum()))
    return (loss + L1_WEIGHT * distance + IOU_WEIGHT * shape) / count, dmaps / np.asarray(count, maps.dtype)
