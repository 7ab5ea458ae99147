"""Average precision of detections: 11-point, all-point and 101-point, mAP at one IoU and AP at IoU .5 : .95.

    Everingham et al.: The Pascal VOC Challenge (2010), section 4.2        11 points until 2009, all points since
    Lin et al.: Microsoft COCO (2014), and its evaluation code              101 points, IoU .5, .55 .. .95

Detections of a class are taken in the order of their scores over all images; each is matched to the object of its
class and image that it overlaps most among those not yet matched, if their IoU is at least the threshold (COCO's
rule; VOC's compares with the best object only, matched or not). An unmatched detection is a false positive, unless
it matches a difficult object, which counts neither way.
"""

from dataclasses import dataclass

import numpy as np

from .boxes import iou

THRESHOLDS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True)
class Curve:
    """Precision over recall of one class, a point per detection, and the number of objects asked for."""

    recall: np.ndarray
    precision: np.ndarray
    objects: int


def curves(detections, objects, kind, thresholds=THRESHOLDS):
    """A `Curve` per threshold of class `kind`: detections (list of (D, 6), see `decode`) against objects (N, M, 6)."""
    scores, outcomes, wanted = [np.empty(0)], [np.empty((len(thresholds), 0), int)], 0
    for found, truth in zip(detections, objects, strict=True):
        found, truth = found[found[:, 0] == kind], truth[truth[:, 0] == kind]
        wanted += int((truth[:, 5] == 0).sum())
        if len(found):
            scores.append(found[:, 5])
            outcomes.append(match(found, truth, thresholds))
    outcomes = np.concatenate(outcomes, 1)[:, np.argsort(-np.concatenate(scores), kind="stable")]
    return [_curve(row[row >= 0], wanted) for row in outcomes]


def _curve(right, wanted):
    hits = np.cumsum(right)
    return Curve(hits / max(wanted, 1), hits / np.arange(1, len(right) + 1), wanted)


def match(found, truth, thresholds):
    """1 (right), 0 (wrong) or -1 (not counted) for every threshold and detection of one class in one image.

    found (D, 6), best score first;  truth (M, 6)
    """
    outcomes = np.zeros((len(thresholds), len(found)), int)
    if not len(truth):
        return outcomes
    overlap, difficult = iou(found[:, 1:5], truth[:, 1:5].astype(np.float64)), truth[:, 5] != 0
    for row, threshold in zip(outcomes, thresholds):
        free = np.ones(len(truth), bool)
        for d in np.flatnonzero(overlap.max(1) >= threshold):
            close = free & (overlap[d] >= threshold)
            if (close & ~difficult).any():  # a difficult object is matched only where no other is
                free[np.where(close & ~difficult, overlap[d], -1).argmax()] = False
                row[d] = 1
            elif close.any():  # only difficult ones are left: any number of detections may match them
                row[d] = -1
    return outcomes


def average_precision(curve, points="all"):
    """Area under the interpolated precision: at 11 or 101 equidistant recalls, or under all steps; in 0 .. 1."""
    if points not in ("all", 11, 101):
        raise ValueError(f"points={points!r} is not 'all', 11 or 101")
    best = np.maximum.accumulate(curve.precision[::-1])[::-1]  # the best precision at this recall or a higher one
    if points == "all":
        return float(np.sum(np.diff(curve.recall, prepend=0.0) * best))
    place = np.searchsorted(curve.recall, np.linspace(0, 1, points), side="left")
    return float(np.append(best, 0.0)[place].mean())


def mean_average_precision(detections, objects, classes, threshold=0.5):
    """Mean of the all-point AP over the classes (0 .. classes-1) that have objects; 0.0 where none has."""
    found = [curves(detections, objects, kind, (threshold,))[0] for kind in range(classes)]
    return float(np.mean([average_precision(c) for c in found if c.objects] or [0.0]))


def evaluate(detections, objects, names):
    """Measure detections of a whole split; return a dict.

    map50, map50_11 : mean over classes of the AP at IoU .5, all-point and 11-point
    map             : mean over classes and THRESHOLDS of the 101-point AP, as COCO reports it
    ap50            : all-point AP at IoU .5 per class name, None for classes that have no object
    Classes without objects are left out of every mean. Raises ValueError where no class has one.
    """
    found = {name: curves(detections, objects, kind) for kind, name in enumerate(names)}
    present = {name: own for name, own in found.items() if own[0].objects}
    if not present:
        raise ValueError("no image has an object that counts; average precision is undefined")
    ap50 = {name: average_precision(own[0]) for name, own in present.items()}
    return {"map50": float(np.mean(list(ap50.values()))),
            "map50_11": float(np.mean([average_precision(own[0], 11) for own in present.values()])),
            "map": float(np.mean([average_precision(c, 101) for own in present.values() for c in own])),
            "ap50": {name: ap50.get(name) for name in names}}
