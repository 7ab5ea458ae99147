"""Scenes: the same bytes everywhere, tight boxes, bounded overlap; splits with boxes and their augmentation."""

import hashlib

import numpy as np
import pytest

from minquant import data
from minquant.data import scenes
from minquant.data.boxes import BoxAugmentation, BoxSplit

DIGITS = data.load("digits")
DIGIT_IMAGES = "056dc16c12ff99c9e63c2be5dacb7271423706fe3287de71c32781b5ee25865b"
DIGIT_OBJECTS = "995f8a90cf1a6abfa8500cf42dfbf878632a3c11e6702bf77da8a1ad6547668e"
FASHION_IMAGES = "f8b8e2c380cd530ad28fe593e36df8d48f4d1f83126420f63f7b38062b79fbc2"
FASHION_OBJECTS = "16b8b4b1f0c279f28688dcfe7b54009e04fa7e4d094a5f3de1a50869a78daaa1"


def compose(count=8, split=0, items=DIGITS.train):
    return scenes.compose(items.images, items.labels, count, split)


@pytest.fixture(scope="module")
def many():
    return compose(60)


def test_the_first_scenes_have_the_same_bytes_on_every_machine():
    first = compose(4)
    assert hashlib.sha256(first.images.tobytes()).hexdigest() == DIGIT_IMAGES
    assert hashlib.sha256(first.labels.astype("<f4").tobytes()).hexdigest() == DIGIT_OBJECTS


def test_the_first_fashion_scenes_have_the_same_bytes_on_every_machine():
    fashion = data.load("fashion-mnist").test
    first = compose(4, 2, fashion)
    assert hashlib.sha256(first.images.tobytes()).hexdigest() == FASHION_IMAGES
    assert hashlib.sha256(first.labels.astype("<f4").tobytes()).hexdigest() == FASHION_OBJECTS


def test_a_scene_does_not_depend_on_how_many_there_are_and_splits_differ(many):
    np.testing.assert_array_equal(compose(3).images, many.images[:3])
    assert (compose(3, split=1).images != many.images[:3]).mean() > 0.5


def test_every_scene_has_one_to_four_objects_inside_with_little_overlap(many):
    many.check(10, "here")
    present = many.labels[..., 0] >= 0
    assert set(present.sum(1)) == {1, 2, 3, 4} and not many.labels[..., 5].any()
    for objects, real in zip(many.labels, present):
        boxes = objects[real, 1:5]
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
                smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
                assert max(width, 0) * max(height, 0) <= smaller / scenes.SHARE


def test_boxes_are_tight():
    item = np.zeros((1, 10, 10, 1), np.uint8)
    item[0, 2:8, 3:6] = 255  # 6 high, 3 wide, and a blurred edge when resized
    for seed in range(10):
        image, lit = np.zeros((96, 96, 3), np.uint8), np.zeros((96, 96), bool)
        for label, (x1, y1, x2, y2) in scenes.place_items(image, item, np.array([7]), np.random.default_rng(seed)):
            inside = image[y1:y2, x1:x2].any(2)
            assert label == 7 and 1.3 < (y2 - y1) / (x2 - x1) < 2
            assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
            lit[y1:y2, x1:x2] = True
        assert lit.any() and not image[~lit].any()


def test_a_resize_keeps_constants_and_follows_a_ramp():
    np.testing.assert_array_equal(scenes.resize(np.full((8, 8), 200), 29, 17), np.full((29, 17), 200))
    ramp = scenes.resize(np.tile(np.arange(0, 160, 20), (8, 1)), 8, 16)
    assert (np.diff(ramp[0]) >= 0).all() and ramp[0, 0] == 0 and ramp[0, -1] == 140
    np.testing.assert_array_equal(ramp[0, 1:-1], 5 + 10 * np.arange(14))


def test_no_item_appears_in_two_splits_of_a_set_of_scenes(monkeypatch):
    seen = []
    monkeypatch.setattr("minquant.data.loading.compose", lambda images, labels, count, split: (
        seen.append((images, count)), compose(count))[1])
    dataset = data.load("digit-scenes", limit=20, validation=0.2)
    items = data.load("digits", validation=0.2)
    for (images, count), part, expected in zip(seen, (items.train, items.validation, items.test), (16, 4, 20)):
        np.testing.assert_array_equal(images, part.images)
        assert count == expected
    assert dataset.task == "detect" and dataset.classes == items.classes and dataset.image_shape == (96, 96, 3)


@pytest.mark.parametrize("row,message", [
    ((10, 0, 0, 5, 5, 0), "object 1 of image 0 has a class that is not in 0..9"),
    ((1.5, 0, 0, 5, 5, 0), "a class that is not in 0..9"),
    ((1, 5, 0, 5, 5, 0), "a box without area"),
    ((1, 0, 5, 5, 4, 0), "a box without area"),
    ((1, -1, 0, 5, 5, 0), "a box outside the image of 96x96"),
    ((1, 0, 0, 5, 97, 0), "a box outside the image of 96x96"),
    ((1, 0, 0, np.nan, 5, 0), "a box without area"),
    ((1, 0, 0, 5, 5, 2), "a difficult flag"),
])
def test_objects_that_cannot_be_are_refused_with_their_place(row, message):
    objects = np.zeros((1, 2, 6), np.float32)
    objects[0, 0], objects[0, 1] = (3, 0, 0, 96, 96, 0), row
    with pytest.raises(data.DataError, match=message):
        BoxSplit(np.zeros((1, 96, 96, 3), np.uint8), objects).check(10, "here")


def test_a_row_without_object_is_not_looked_at_and_other_arrays_are_refused():
    images, objects = np.zeros((1, 96, 96, 3), np.uint8), np.zeros((1, 2, 6), np.float32)
    objects[..., 0], objects[..., 1] = -1, 500
    BoxSplit(images, objects).check(10, "here")
    for wrong in (objects[..., :5], objects.astype(int), objects[0]):
        with pytest.raises(data.DataError, match="expected floats"):
            BoxSplit(images, wrong).check(10, "here")
    with pytest.raises(data.DataError, match="objects of 2 images for 1 images"):
        BoxSplit(images, np.repeat(objects, 2, 0)).check(10, "here")


def boxed(x1, y1, x2, y2, size=12):
    """One black image whose object is white."""
    images, objects = np.zeros((1, size, size, 3), np.uint8), np.zeros((1, 1, 6), np.float32)
    images[0, y1:y2, x1:x2] = 255
    objects[0, 0] = 4, x1, y1, x2, y2, 0
    return images, objects


@pytest.mark.parametrize("spec", ["flip", "crop3", "crop3,flip", "flip,cutout2,crop2"])
def test_boxes_move_with_their_pixels(spec):
    rng, augment, changed = np.random.default_rng(0), BoxAugmentation(spec), 0
    for _ in range(20):
        images, objects = boxed(2, 4, 8, 7)
        moved, rows = augment(images, objects, rng)
        kind, x1, y1, x2, y2, _ = rows[0, 0]
        lit = np.argwhere(moved[0, ..., 0])
        if "cutout" not in spec:
            assert kind == 4 and (lit.min(0) == (y1, x1)).all() and (lit.max(0) + 1 == (y2, x2)).all()
        changed += (rows != objects).any()
    assert changed


def test_an_object_that_a_crop_leaves_less_than_half_of_is_gone():
    from minquant.data.boxes import move
    _, objects = boxed(0, 0, 4, 4)
    moved = move(objects, np.array([-2]), np.array([0]), 12, 12)
    assert moved[0, 0].tolist() == [4, 0, 0, 2, 4, 0]
    assert move(objects, np.array([-3]), np.array([0]), 12, 12)[0, 0, 0] == -1


def test_augmentation_leaves_its_input_alone():
    images, objects = boxed(3, 4, 9, 6)
    before = images.copy(), objects.copy()
    for seed in range(4):
        BoxAugmentation("crop2,flip")(images, objects, np.random.default_rng(seed))
    np.testing.assert_array_equal(images, before[0])
    np.testing.assert_array_equal(objects, before[1])
