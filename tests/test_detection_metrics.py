"""Average precision: cases worked by hand, and pycocotools on random ones."""

import contextlib
import io

import numpy as np
import pytest

from minquant.detection import boxes, metrics

SQUARE = (0.0, 0.0, 10.0, 10.0)


def truth(*rows):
    """Objects of one image, (class, x1, y1, x2, y2, difficult) each."""
    return np.array([rows], np.float32)


def found(*rows):
    """Detections of one image, (class, x1, y1, x2, y2, score) each, sorted as `decode` does."""
    rows = np.array(rows, np.float64).reshape(-1, 6)
    return [rows[np.argsort(-rows[:, 5], kind="stable")]]


def ap(detections, objects, points="all", threshold=0.5, kind=0):
    return metrics.average_precision(metrics.curves(detections, objects, kind, (threshold,))[0], points)


def test_intersection_over_union_by_hand():
    a = np.array([SQUARE, (0, 0, 0, 10)])
    b = np.array([SQUARE, (5, 0, 15, 10), (20, 20, 30, 30), (2, 2, 4, 4)], float)
    np.testing.assert_allclose(boxes.iou(a, b), [[1, 50 / 150, 0, 4 / 100], [0, 0, 0, 0]])


def test_five_detections_of_three_objects_by_hand():
    # right, wrong, right, wrong, right: precision 1, 1/2, 2/3, 2/4, 3/5 at recall 1/3, 1/3, 2/3, 2/3, 1
    objects = truth(*((0, 20 * i, 0, 20 * i + 10, 10, 0) for i in range(3)))
    detections = found((0, 0, 0, 10, 10, 0.9), (0, 60, 0, 70, 10, 0.8), (0, 20, 0, 30, 10, 0.7),
                       (0, 60, 0, 70, 10, 0.6), (0, 40, 0, 50, 10, 0.5))
    assert ap(detections, objects) == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert ap(detections, objects, 11) == pytest.approx((4 * 1 + 3 * 2 / 3 + 4 * 3 / 5) / 11)  # 0-.3, .4-.6, .7-1
    assert ap(detections, objects, 101) == pytest.approx((34 * 1 + 33 * 2 / 3 + 34 * 3 / 5) / 101)


def test_interpolation_takes_the_best_precision_at_this_recall_or_a_higher_one():
    # wrong first: precision 0, 1/2, 2/3 at recall 0, 1/2, 1; interpolated 2/3 everywhere
    objects = truth((0, *SQUARE, 0), (0, 20, 0, 30, 10, 0))
    detections = found((0, 60, 0, 70, 10, 0.9), (0, *SQUARE, 0.8), (0, 20, 0, 30, 10, 0.7))
    for points in ("all", 11, 101):
        assert ap(detections, objects, points) == pytest.approx(2 / 3)


def test_a_second_detection_of_one_object_is_wrong():
    detections = found((0, *SQUARE, 0.9), (0, *SQUARE, 0.8), (0, 20, 0, 30, 10, 0.7))
    objects = truth((0, *SQUARE, 0), (0, 20, 0, 30, 10, 0))
    assert metrics.match(detections[0], objects[0], (0.5,)).tolist() == [[1, 0, 1]]
    assert ap(detections, objects) == pytest.approx((1 + 2 / 3) / 2)


def test_a_detection_takes_the_object_it_overlaps_most_among_the_free_ones():
    objects = truth((0, *SQUARE, 0), (0, 2, 0, 12, 10, 0))
    detections = found((0, 1, 0, 11, 10, 0.9), (0, *SQUARE, 0.8))
    assert metrics.match(detections[0], objects[0], (0.5,)).tolist() == [[1, 1]]  # 9/11 with both: the first
    assert metrics.match(detections[0], objects[0], (0.9,)).tolist() == [[0, 1]]


@pytest.mark.parametrize("threshold,right", [(0.5, 1), (0.51, 0)])
def test_the_threshold_itself_is_enough(threshold, right):
    assert metrics.match(found((0, 0, 0, 5, 10, 1))[0], truth((0, *SQUARE, 0))[0], (threshold,)).tolist() == [[right]]


def test_difficult_objects_count_neither_way():
    objects = truth((0, *SQUARE, 1), (0, 20, 0, 30, 10, 0))
    detections = found((0, *SQUARE, 0.9), (0, *SQUARE, 0.8), (0, 20, 0, 30, 10, 0.7))
    assert metrics.match(detections[0], objects[0], (0.5,)).tolist() == [[-1, -1, 1]]
    assert ap(detections, objects) == 1 and metrics.curves(detections, objects, 0)[0].objects == 1


def test_other_classes_and_other_images_do_not_match():
    objects = np.concatenate([truth((0, *SQUARE, 0)), truth((1, *SQUARE, 0))])
    assert ap([found((1, *SQUARE, 0.9))[0], found()[0]], objects) == 0
    assert ap([found()[0], found((0, *SQUARE, 0.9))[0]], objects) == 0


def test_scores_are_ranked_over_all_images():
    objects = np.concatenate([truth((0, *SQUARE, 0)), truth((0, *SQUARE, 0))])
    wrong_later = [found((0, 50, 50, 60, 60, 0.1))[0], found((0, *SQUARE, 0.9))[0]]
    wrong_first = [found((0, 50, 50, 60, 60, 0.9))[0], found((0, *SQUARE, 0.1))[0]]
    assert (ap(wrong_later, objects), ap(wrong_first, objects)) == (0.5, 0.25)


def test_no_detection_gives_zero_and_an_empty_scene_only_false_positives():
    empty = np.full((1, 0, 6), -1, np.float32)
    assert ap(found(), truth((0, *SQUARE, 0))) == 0
    objects = np.concatenate([truth((0, *SQUARE, 0)), truth((-1, 0, 0, 0, 0, 0))])
    assert ap([found((0, *SQUARE, 0.5))[0], found((0, *SQUARE, 0.9))[0]], objects) == 0.5
    with pytest.raises(ValueError, match="no image has an object that counts"):
        metrics.evaluate(found((0, *SQUARE, 0.5)), empty, ("a",))
    with pytest.raises(ValueError, match="points=7 is not"):
        ap(found(), truth((0, *SQUARE, 0)), 7)


def test_classes_without_objects_are_left_out_of_the_means():
    measured = metrics.evaluate(found((0, *SQUARE, 0.5), (2, *SQUARE, 0.4)), truth((0, *SQUARE, 0)), ("a", "b", "c"))
    assert measured == {"map50": 1.0, "map50_11": 1.0, "map": 1.0, "ap50": {"a": 1.0, "b": None, "c": None}}
    assert metrics.mean_average_precision(found((0, *SQUARE, 0.5)), truth((0, *SQUARE, 0)), 3) == 1.0


def random_case(seed, images=12, classes=3):
    """Objects, and detections that are theirs moved about, doubled, of other classes, or nowhere."""
    rng = np.random.default_rng(seed)
    objects, detections = np.full((images, 5, 6), -1, np.float32), []
    for i in range(images):
        count = rng.integers(0, 6)
        corner, size = rng.integers(0, 60, (count, 2)), rng.integers(8, 36, (count, 2))
        objects[i, :count] = np.column_stack([rng.integers(0, classes, count), corner, corner + size,
                                              rng.random(count) < 0.15])
        rows = np.repeat(objects[i, :count].astype(np.float64), rng.integers(0, 3, count), 0)
        rows[:, 1:5] += rng.normal(0, 2, (len(rows), 4))
        rows[:, 0] = np.where(rng.random(len(rows)) < 0.15, rng.integers(0, classes, len(rows)), rows[:, 0])
        rows[:, 5] = np.round(rng.random(len(rows)), 2)  # some ties
        detections += found(*rows)
    return detections, objects


def coco_average_precision(detections, objects, classes):
    """What pycocotools gives: (AP@[.5:.95], AP@.5), all areas, at most 100 detections."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
    annotations = []
    for image, rows in enumerate(objects):
        for kind, x1, y1, x2, y2, _ in rows[rows[:, 0] >= 0].astype(float).tolist():
            annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": int(kind),
                                "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1),
                                "iscrowd": 0})
    results = [{"image_id": image, "category_id": int(kind), "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
               for image, rows in enumerate(detections) for kind, x1, y1, x2, y2, score in rows.tolist()]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"images": [{"id": i} for i in range(len(objects))], "annotations": annotations,
                        "categories": [{"id": k} for k in range(classes)]}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:2]


@pytest.mark.parametrize("seed", range(6))
def test_pycocotools_gives_the_same_average_precision(seed):
    detections, objects = random_case(seed)
    objects[..., 5] = 0  # COCO has crowds instead, whose overlap is another measure
    whole, at_half = coco_average_precision(detections, objects, 3)
    measured = metrics.evaluate(detections, objects, "abc")
    points = [ap(detections, objects, 101, kind=kind) for kind in range(3)]
    assert 0.2 < whole < 0.9 and measured["map"] == pytest.approx(whole, abs=1e-9)
    assert np.mean(points) == pytest.approx(at_half, abs=1e-9)
