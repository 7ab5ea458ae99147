"""Boxes and the map of a one-stage detector: intersection over union, encoding, decoding, non-maximum suppression.

The network gives a map (h, w, K + 4) of a grid of cells, in one convolution:

    channel 0 .. K-1   class logits: the heat-map, sigmoid(logit) is the score of a centre in this cell
    channel K, K+1     offset of the centre from the middle of its cell, in cells: (x, y)
    channel K+2, K+3   log of (width, height), in cells

A cell is H/h pixels high and W/w wide. Boxes are (x1, y1, x2, y2), edges in pixels.
Zhou, Wang, Krahenbuhl: Objects as Points (2019), with sizes in the log domain as in YOLO (Redmon, Farhadi 2017).
"""

from typing import NamedTuple

import numpy as np

LEAST_SCORE, MOST_CANDIDATES, MOST_DETECTIONS, SAME = 0.05, 200, 100, 0.5
SPREAD = 0.54 / 6  # standard deviation of a target's peak, relative to the size of its box (TTFNet, Liu et al. 2020)
WIDEST = 20.0  # log sizes are clipped here when decoded, so that no logit overflows


def area(boxes):
    """Area of boxes (..., 4)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(a, b):
    """Intersection over union of boxes (n, 4) and (m, 4): (n, m). Boxes without area give 0."""
    a, b = a[:, None], b[None]
    sides = np.minimum(a[..., 2:4], b[..., 2:4]) - np.maximum(a[..., :2], b[..., :2])
    common = sides.clip(0).prod(-1)
    union = area(a) + area(b) - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


class Targets(NamedTuple):
    """What a map should be. n, i, j: image, row, column of every cell with a centre.

    heat (N, h, w, K): 1 at centres, falling off around them;  classes (P,): of the objects;  offset, log_size (P, 2)
    """

    heat: np.ndarray
    n: np.ndarray
    i: np.ndarray
    j: np.ndarray
    classes: np.ndarray
    offset: np.ndarray
    log_size: np.ndarray


def encode(objects, shape, image_shape, dtype=np.float32):
    """Return the `Targets` of objects (N, M, 6) for maps of `shape` (h, w, K + 4).

    Of several centres in one cell the smallest box is kept for offset and size; the heat-map has them all.
    """
    h, w, k = shape[0], shape[1], shape[2] - 4
    cell = np.array([image_shape[1] / w, image_shape[0] / h])
    n, slot = np.nonzero(objects[..., 0] >= 0)
    found = objects[n, slot].astype(np.float64)
    order = np.argsort(-area(found[:, 1:5]), kind="stable")
    n, found = n[order], found[order]
    size = (found[:, 3:5] - found[:, 1:3]) / cell
    centre = (found[:, 3:5] + found[:, 1:3]) / 2 / cell
    place = np.clip(np.floor(centre), 0, (w - 1, h - 1)).astype(int)
    heat, kind = np.zeros((len(objects), h, w, k), dtype), found[:, 0].astype(int)
    x = np.exp(-0.5 * ((np.arange(w) - place[:, :1]) / (SPREAD * size[:, :1])) ** 2)
    y = np.exp(-0.5 * ((np.arange(h) - place[:, 1:]) / (SPREAD * size[:, 1:])) ** 2)
    for image, c, column, row in zip(n, kind, x, y):
        np.maximum(heat[image, :, :, c], np.outer(row, column), out=heat[image, :, :, c])
    cells = (n * h + place[:, 1]) * w + place[:, 0]
    last = len(cells) - 1 - np.unique(cells[::-1], return_index=True)[1]  # of each cell's objects, the smallest
    n, place, centre = n[last], place[last], centre[last]
    return Targets(heat, n, place[:, 1], place[:, 0], kind[last], (centre - place - 0.5).astype(dtype),
                   np.log(size[last]).astype(dtype))


def decode(maps, image_shape, least_score=LEAST_SCORE, same=SAME):
    """The detections of maps (N, h, w, K + 4): a list of arrays (D, 6), best score first.

    A row is (class, x1, y1, x2, y2, score), the box cut to the image. Of the MOST_CANDIDATES best scores, boxes that
    overlap a better one of their class by an IoU above `same` are suppressed; at most MOST_DETECTIONS are kept.
    """
    h, w, k = maps.shape[1], maps.shape[2], maps.shape[3] - 4
    cell = np.array([image_shape[1] / w, image_shape[0] / h])
    maps = maps.astype(np.float64)
    score = 1 / (1 + np.exp(-maps[..., :k].clip(-500, 500)))
    middle = np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1) + 0.5
    centre = (middle + maps[..., k:k + 2]) * cell
    half = np.exp(maps[..., k + 2:].clip(-WIDEST, WIDEST)) * cell / 2
    limits = np.array([image_shape[1], image_shape[0]] * 2)
    boxes = np.clip(np.concatenate([centre - half, centre + half], -1), 0, limits)
    detections = []
    for own, corners in zip(score, boxes):
        i, j, kind = np.nonzero(own >= least_score)
        order = np.argsort(-own[i, j, kind], kind="stable")[:MOST_CANDIDATES]
        i, j, kind = i[order], j[order], kind[order]
        kept = suppress(kind, corners[i, j], same)[:MOST_DETECTIONS]
        i, j, kind = i[kept], j[kept], kind[kept]
        detections.append(np.column_stack([kind, corners[i, j], own[i, j, kind]]))
    return detections


def suppress(classes, boxes, same=SAME):
    """Greedy non-maximum suppression of boxes (n, 4) in the order of their scores: indices of those kept."""
    rivals = (iou(boxes, boxes) > same) & (classes[:, None] == classes)
    kept = np.ones(len(boxes), bool)
    for i in range(len(boxes)):
        if kept[i]:
            kept[i + 1:] &= ~rivals[i, i + 1:]
    return np.flatnonzero(kept)
