"""The arrays of a data set, checked once: `Split`, `Dataset`, and the errors of this package."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


class DataError(ValueError):
    """A data set that cannot be used: the message names the place, what was found and what was expected."""


class DataNotFoundError(DataError, FileNotFoundError):
    """The files of a data set are in none of the folders searched; the message lists the folders."""

    # FileNotFoundError would print its two-argument (errno, text) form.
    __str__ = Exception.__str__


def check_images(images, where):
    """Raise DataError unless `images` is a non-empty uint8 array (N, height, width, channels)."""
    images = np.asarray(images)
    if images.ndim != 4:
        raise DataError(f"{where}: images have shape {images.shape}; expected 4 axes "
                        "(images, height, width, channels), add the channel axis to grey images")
    if images.size == 0:
        raise DataError(f"{where}: the data set is empty (images have shape {images.shape}); "
                        "at least 1 image is needed")
    if np.issubdtype(images.dtype, np.inexact) and not np.isfinite(images).all():
        first = tuple(int(i) for i in np.argwhere(~np.isfinite(images))[0])
        count = int((~np.isfinite(images)).sum())
        raise DataError(f"{where}: {count} pixels are NaN or infinite, the first at index {first}; "
                        "expected uint8 pixels 0..255")
    if images.dtype != np.uint8:
        raise DataError(f"{where}: images are {images.dtype}; expected uint8 pixels 0..255 "
                        "(normalisation to floats is done by Dataset.normalise)")


def check_labels(labels, count, classes, where):
    """Raise DataError unless `labels` are `count` integers in 0..classes-1."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{where}: labels are {labels.dtype} of shape {labels.shape}; "
                        "expected one integer per image")
    if len(labels) != count:
        raise DataError(f"{where}: {len(labels)} labels for {count} images; each image needs exactly one")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise DataError(f"{where}: label {labels[wrong[0]]} of image {wrong[0]} is not in 0..{classes - 1} "
                        f"({len(wrong)} of {count} labels are outside)")


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images uint8 (N, height, width, channels) and their labels int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray

    task = "classify"

    def __len__(self):
        return len(self.labels)

    def check(self, classes, where):
        """Raise DataError unless there is one label in 0..classes-1 per image."""
        check_labels(self.labels, len(self.images), classes, where)

    def __repr__(self):
        return f"Split({len(self)} images {'x'.join(map(str, self.images.shape[1:]))})"


def pixel_statistics(images):
    """Mean and standard deviation per channel of images/255, float32 (channels,).

    Both come from the exact histogram of the 256 pixel values, so the result is independent of the
    order of the images. A constant channel gets standard deviation 1 (normalising it gives zeros).

    >>> pixel_statistics(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1))
    (array([0.5], dtype=float32), array([0.5], dtype=float32))
    """
    channels = images.shape[-1]
    histogram = np.zeros((channels, 256), np.int64)
    for start in range(0, len(images), 4096):  # bincount widens its input to int64: bound the copy
        block = images[start:start + 4096]
        for channel in range(channels):
            histogram[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
    share = histogram / histogram.sum(axis=1, keepdims=True)
    pixel = np.arange(256) / 255
    mean = share @ pixel
    variance = (share * (pixel - mean[:, None]) ** 2).sum(axis=1)
    std = np.where(variance > 0, np.sqrt(variance), 1.0)
    return mean.astype(np.float32), std.astype(np.float32)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A named data set: three splits, class names and the statistics of the training images.

    `mean` and `std` are float32 (channels,), of train.images/255. `source` says where the files were.
    Raises DataError for images that are not uint8 NHWC, for labels that are missing or out of range,
    and for an empty training or test split; an empty validation split is allowed.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple
    mean: np.ndarray
    std: np.ndarray
    source: str = "arrays"

    def __post_init__(self):
        for part in ("train", "validation", "test"):
            split, where = getattr(self, part), f"data set {self.name!r}, {part} split"
            if part != "validation" or len(split.images):
                check_images(split.images, where)
            split.check(len(self.classes), where)
            if split.images.shape[1:] != self.image_shape:
                raise DataError(f"{where}: images of shape {split.images.shape[1:]}; "
                                f"the training images have shape {self.image_shape}")

    @property
    def image_shape(self):
        """(height, width, channels) of one image."""
        return self.train.images.shape[1:]

    @property
    def task(self):
        """What is learned from it: classify or detect (`minquant.tasks`)."""
        return self.train.task

    @cached_property
    def _normalised_pixels(self):
        """float64 (channels, 256): (x/255 - mean)/std of every pixel value x."""
        return (np.arange(256) / 255 - self.mean[:, None].astype(np.float64)) / self.std[:, None]

    def normalise(self, images, dtype=np.float32):
        """(x/255 - mean)/std per channel: uint8 (N, height, width, channels) -> floats of the same shape.

        Each value is computed in float64 and rounded once to `dtype`.
        Raises DataError when `images` is not uint8 or not of this data set's image shape.

        >>> from minquant.data import load
        >>> digits = load("digits")
        >>> x = digits.normalise(digits.train.images)
        >>> x.dtype, bool(abs(x.mean()) < 1e-4), bool(abs(x.std() - 1) < 1e-4)
        (dtype('float32'), True, True)
        """
        images = np.asarray(images)
        check_images(images, f"data set {self.name!r}, normalise")
        if images.shape[1:] != self.image_shape:
            raise DataError(f"data set {self.name!r}, normalise: images of shape {images.shape[1:]}; "
                            f"expected {self.image_shape}")
        pixels = self._normalised_pixels.astype(dtype)
        if len(pixels) == 1:
            return pixels[0][images]
        out = np.empty(images.shape, dtype)
        for channel, table in enumerate(pixels):
            out[..., channel] = table[images[..., channel]]
        return out
