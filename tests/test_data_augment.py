"""Augmentation, batches and the stratified hold-out: exact meaning, statistics, bad input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minquant.data import Augmentation, DataError, batches, hold_out
from minquant.data.augment import cutout, flip, pad_crop, parse


def coordinates(n, height, width):
    """Images whose two channels are the row + 1 and the column + 1 of each pixel."""
    row, column = np.mgrid[1:height + 1, 1:width + 1]
    return np.broadcast_to(np.stack([row, column], -1).astype(np.uint8), (n, height, width, 2)).copy()


def test_crop_shifts_each_image_as_a_whole_and_fills_the_border():
    images = coordinates(300, 6, 9)
    out = pad_crop(images, 2, np.random.default_rng(0), fill=0)
    shifts = set()
    for image in out:
        inside = image[..., 0] > 0
        y, x = np.argwhere(inside)[0]
        dy, dx = int(image[y, x, 0]) - 1 - y, int(image[y, x, 1]) - 1 - x
        expected = np.zeros((6, 9, 2), np.uint8)
        for i in range(6):
            for j in range(9):
                if 0 <= i + dy < 6 and 0 <= j + dx < 9:
                    expected[i, j] = i + dy + 1, j + dx + 1
        assert np.array_equal(image, expected)
        shifts.add((dy, dx))
    assert shifts == {(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)}


def test_flip_mirrors_about_half_of_the_images_and_leaves_the_others():
    images = coordinates(1000, 2, 3)
    out = flip(images, np.random.default_rng(0))
    mirrored = np.array([np.array_equal(image, images[0][:, ::-1]) for image in out])
    kept = np.array([np.array_equal(image, images[0]) for image in out])
    assert (mirrored ^ kept).all() and 440 < mirrored.sum() < 560


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_cutout_blanks_one_square_that_may_stick_out(size):
    out = cutout(np.ones((500, 5, 7, 1), np.uint8), size, np.random.default_rng(0), fill=9)
    areas = set()
    for image in out[..., 0]:
        rows, columns = np.flatnonzero((image == 9).any(1)), np.flatnonzero((image == 9).any(0))
        assert (image == 9).sum() == len(rows) * len(columns) > 0
        assert np.ptp(rows) < size and np.ptp(columns) < size
        areas.add((image == 9).sum())
    assert max(areas) == size * size and (size == 1 or min(areas) < size * size)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_augmentation_keeps_dtype_and_shape_and_its_input(dtype):
    images = coordinates(8, 8, 8).astype(dtype)
    before = images.copy()
    out = Augmentation("crop2,flip,cutout3")(images, np.random.default_rng(0))
    assert out.dtype == dtype and out.shape == images.shape and np.array_equal(images, before)


def test_fill_may_differ_by_channel():
    out = Augmentation("cutout8", fill=(3, 200))(coordinates(50, 8, 8), np.random.default_rng(0))
    assert ((out == (3, 200)).all(-1)).any((1, 2)).all()


def test_augmentation_is_a_function_of_the_generator_alone():
    augment, images = Augmentation("crop2,flip,cutout3"), coordinates(20, 8, 8)
    first, again, other = (augment(images, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize("spec", ["", "none", " "])
def test_empty_spec_changes_nothing_and_draws_nothing(spec):
    images, rng = coordinates(4, 3, 3), np.random.default_rng(0)
    assert Augmentation(spec)(images, rng) is images
    assert rng.integers(1 << 60) == np.random.default_rng(0).integers(1 << 60)


def test_operations_keep_the_order_of_the_spec():
    assert parse("cutout16, flip ,crop1") == [("cutout", 16), ("flip", None), ("crop", 1)]


@pytest.mark.parametrize("spec, message", [
    ("crap4", "unknown operation 'crap4'; did you mean 'crop'"),
    ("crop", "'crop' needs a size of at least 1"),
    ("crop0", "'crop0' needs a size of at least 1"), ("flip2", "'flip2' takes no size; write 'flip'"),
    ("crop4,,flip", "unknown operation ''"), ("crop-4", "unknown operation 'crop-4'; did you mean 'crop'"),
    ("crop4.5", "unknown operation"), ("flip,flip", "'flip' is given twice"), ("CROP4", "unknown operation"),
    ("crop\u0664", "unknown operation"), ("mixup", r"known: crop, flip, cutout")])
def test_wrong_spec_is_an_error_that_quotes_it(spec, message):
    with pytest.raises(DataError, match=message) as caught:
        parse(spec)
    assert repr(spec) in str(caught.value)


def test_size_beyond_the_image_and_wrong_axes_are_errors():
    with pytest.raises(DataError, match="cutout9 is larger than the image side 8"):
        Augmentation("cutout9")(coordinates(2, 8, 10), np.random.default_rng(0))
    with pytest.raises(DataError, match=r"images have shape \(8, 8, 2\)"):
        Augmentation("flip")(coordinates(1, 8, 8)[0], np.random.default_rng(0))


@given(n=st.integers(1, 200), size=st.integers(1, 250), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_batches_hold_every_index_once_and_are_full_but_the_last(n, size, seed):
    parts = batches(n, size, np.random.default_rng(seed))
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(n)) and len(parts) == -(-n // size)
    assert all(len(part) == size for part in parts[:-1])
    again = batches(n, size, np.random.default_rng(seed))
    assert all(np.array_equal(a, b) for a, b in zip(parts, again))
    if size <= n:
        whole = batches(n, size, np.random.default_rng(seed), drop_last=True)
        assert len(whole) == n // size and all(np.array_equal(a, b) for a, b in zip(whole, parts))


def test_batches_without_generator_keep_the_order_and_with_one_change_from_epoch_to_epoch():
    assert np.array_equal(np.concatenate(batches(10, 3)), np.arange(10))
    rng = np.random.default_rng(0)
    assert not np.array_equal(batches(50, 50, rng)[0], batches(50, 50, rng)[0])


@pytest.mark.parametrize("arguments, message", [
    ((0, 4), "n=0 images"), ((4, 0), "batch_size=0"), ((4, -1), "-1")])
def test_batches_of_nothing_are_an_error(arguments, message):
    with pytest.raises(DataError, match=message):
        batches(*arguments)
    with pytest.raises(DataError, match="batch_size=5 exceeds the n=4 images"):
        batches(4, 5, drop_last=True)


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=80), share=st.floats(0, 0.95),
       seed=st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_hold_out_partitions_and_takes_each_class_in_proportion(labels, share, seed):
    labels = np.array(labels)
    wanted = round(share * len(labels))
    if wanted == len(labels):
        with pytest.raises(DataError, match="holds out all"):
            hold_out(labels, share, np.random.default_rng(seed))
        return
    train, held = hold_out(labels, share, np.random.default_rng(seed))
    assert len(held) == wanted
    assert np.array_equal(np.sort(np.concatenate([train, held])), np.arange(len(labels)))
    for label in np.unique(labels):
        quota = wanted * (labels == label).sum() / len(labels)
        assert abs((labels[held] == label).sum() - quota) < 1


def test_hold_out_is_by_seed():
    labels = np.arange(100) % 10
    first, again, other = (hold_out(labels, 0.1, np.random.default_rng(seed))[1] for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
