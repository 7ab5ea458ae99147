"""The arrays of a data set: statistics, normalisation, and the errors of unusable arrays."""

import numpy as np
import pytest

from minquant.data import DataError, Dataset, Split, load
from minquant.data.dataset import pixel_statistics
from test_data_files import synthetic_images


def test_statistics_are_those_of_the_remaining_training_part():
    data = load("digits", validation=0.3)
    expected = data.train.images / 255
    assert np.allclose(data.mean, expected.mean(), rtol=1e-6)
    assert np.allclose(data.std, expected.std(), rtol=1e-6)
    assert not np.array_equal(data.mean, load("digits", validation=0).mean)
    assert data.mean.dtype == data.std.dtype == np.float32


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_and_normalisation_are_per_channel(channels):
    images = synthetic_images(5000, (2, 3, channels)) // np.array([1, 2, 4][:channels], np.uint8)
    mean, std = pixel_statistics(images)
    assert np.allclose(mean, (images / 255).mean((0, 1, 2)))
    assert np.allclose(std, (images / 255).std((0, 1, 2)))
    split = Split(images, np.zeros(5000, np.int64))
    data = Dataset("x", split, split, split, ("a",), mean, std)
    for dtype in (np.float32, np.float64):
        x = data.normalise(images, dtype)
        exact = (images / 255 - mean.astype(float)) / std
        assert x.dtype == dtype and np.allclose(x, exact, rtol=np.finfo(dtype).eps, atol=1e-12)


def test_constant_channel_normalises_to_zero_not_nan():
    images = np.full((4, 2, 2, 1), 255, np.uint8)
    mean, std = pixel_statistics(images)
    split = Split(images, np.zeros(4, np.int64))
    data = Dataset("x", split, split, split, ("a",), mean, std)
    assert np.array_equal(data.normalise(images), np.zeros(images.shape))


IMAGES, LABELS = np.zeros((4, 2, 2, 1), np.uint8), np.arange(4)
NAN = np.full((4, 2, 2, 1), 0.5)
NAN[2, 1, 0, 0] = np.nan
BAD_ARRAYS = {
    "no channel axis": (IMAGES[..., 0], LABELS, r"shape \(4, 2, 2\); expected 4 axes"),
    "empty": (IMAGES[:0], LABELS[:0], "the data set is empty"),
    "NaN": (NAN, LABELS, r"1 pixels are NaN or infinite, the first at index \(2, 1, 0, 0\)"),
    "floats": (IMAGES / 255, LABELS, "images are float64; expected uint8"),
    "more labels": (IMAGES, np.arange(5), "5 labels for 4 images"),
    "fewer labels": (IMAGES, np.arange(3), "3 labels for 4 images"),
    "label too large": (IMAGES, np.array([0, 1, 9, 4]), r"label 9 of image 2 is not in 0..3 \(2 of 4"),
    "label negative": (IMAGES, np.array([0, -1, 2, 3]), "label -1 of image 1 is not in 0..3"),
    "label floats": (IMAGES, LABELS / 1.0, "expected one integer per image"),
    "label table": (IMAGES, np.eye(4, dtype=int), "expected one integer per image"),
}


@pytest.mark.parametrize("part", ["train", "validation", "test"])
@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_unusable_arrays_are_errors_that_name_the_split(case, part):
    images, labels, message = BAD_ARRAYS[case]
    splits = {key: Split(IMAGES, LABELS) for key in ("train", "validation", "test")}
    splits[part] = Split(images, labels)
    arguments = dict(splits, classes=tuple("abcd"), mean=np.zeros(1), std=np.ones(1))
    if (case, part) == ("empty", "validation"):
        assert len(Dataset("x", **arguments).validation) == 0
        return
    with pytest.raises(DataError, match=message) as caught:
        Dataset("x", **arguments)
    assert f"data set 'x', {part} split" in str(caught.value)


def test_normalise_refuses_floats_and_foreign_shapes():
    data = load("digits", limit=20)
    with pytest.raises(DataError, match="normalise: images are float32; expected uint8"):
        data.normalise(data.train.images.astype(np.float32))
    with pytest.raises(DataError, match=r"images of shape \(28, 28, 1\); expected \(8, 8, 1\)"):
        data.normalise(np.zeros((1, 28, 28, 1), np.uint8))
