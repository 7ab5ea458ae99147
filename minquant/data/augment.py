"""Training-time augmentation of whole batches: pad-and-crop, horizontal flip, cutout.

    pad-crop   He et al., Deep Residual Learning for Image Recognition (2016), section 4.2
    cutout     DeVries & Taylor, Improved Regularization of CNNs with Cutout (2017), section 3
"""

import difflib
import re

import numpy as np

from .dataset import DataError


def pad_crop(images, pad, rng, fill=0):
    """Each image shifted by dy, dx drawn uniformly from -pad..pad; what enters at the border is `fill`.

    (Equal to padding by `pad` on every side and cropping the original size at a random place.)
    """
    return shift(images, pad, *draw_shift(len(images), pad, rng), fill)


def draw_shift(n, pad, rng):
    """(top, left) of n crops, each 0 .. 2 pad; `pad` is the middle, no shift."""
    return rng.integers(0, 2 * pad + 1, size=(2, n))


def shift(images, pad, top, left, fill=0):
    """Every image padded by `pad` and cropped at its (top, left)."""
    n, height, width, _ = images.shape
    padded = np.empty((n, height + 2 * pad, width + 2 * pad, images.shape[3]), images.dtype)
    padded[...] = fill
    padded[:, pad:pad + height, pad:pad + width] = images
    rows = top[:, None] + np.arange(height)
    columns = left[:, None] + np.arange(width)
    return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def flip(images, rng):
    """Each image mirrored left to right with probability 1/2."""
    return mirror(images, draw_mirrored(len(images), rng))


def draw_mirrored(n, rng):
    """Whether each of n images is mirrored."""
    return rng.random(n) < 0.5


def mirror(images, mirrored):
    """The images with those mirrored left to right for which `mirrored` (N,) is true."""
    return np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def cutout(images, size, rng, fill=0):
    """A square of `size` pixels set to `fill`, its centre uniform over the image (so it may stick out)."""
    n, height, width, _ = images.shape
    top = rng.integers(0, height, size=n) - size // 2
    left = rng.integers(0, width, size=n) - size // 2
    in_rows = (np.arange(height) >= top[:, None]) & (np.arange(height) < top[:, None] + size)
    in_columns = (np.arange(width) >= left[:, None]) & (np.arange(width) < left[:, None] + size)
    square = in_rows[:, :, None] & in_columns[:, None, :]
    return np.where(square[..., None], np.asarray(fill, images.dtype), images)


# Operation -> meaning of its size, None where it takes none.
_OPERATIONS = {"crop": "pixels of padding, as in crop4", "flip": None,
               "cutout": "side in pixels, as in cutout8"}


def parse(spec):
    """List of (operation, size) of a string such as "crop4,flip,cutout8"; "" and "none" give an empty list.

    Raises DataError for an unknown operation (naming the nearest), a missing, superfluous or zero size, and
    an operation given twice.

    >>> parse("crop4,flip,cutout8")
    [('crop', 4), ('flip', None), ('cutout', 8)]
    """
    if spec.strip() in ("", "none"):
        return []
    operations = []
    for item in (part.strip() for part in spec.split(",")):
        word, digits = re.fullmatch(r"(.*?)([0-9]*)", item, re.DOTALL).groups()
        if word not in _OPERATIONS:
            near = difflib.get_close_matches(word, _OPERATIONS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise DataError(f"augmentation {spec!r}: unknown operation {item!r}{hint} "
                            f"(known: {', '.join(_OPERATIONS)}, as in crop4,flip,cutout8)")
        meaning = _OPERATIONS[word]
        if meaning is None and digits:
            raise DataError(f"augmentation {spec!r}: {item!r} takes no size; write {word!r}")
        if meaning is not None and (not digits or int(digits) == 0):
            raise DataError(f"augmentation {spec!r}: {item!r} needs a size of at least 1 ({meaning})")
        if word in (known for known, _ in operations):
            raise DataError(f"augmentation {spec!r}: {word!r} is given twice; once is enough")
        operations.append((word, int(digits) if digits else None))
    return operations


class Augmentation:
    """The operations of a spec string, applied from left to right to a batch (N, height, width, channels).

    fill: value of pixels that enter at a border or are cut out, a number or one per channel; 0 is black in
    uint8 images and the mean colour in normalised ones. The dtype is kept; the input is not altered.

    >>> augment = Augmentation("crop1,flip")
    >>> augment(np.zeros((2, 4, 4, 1), np.uint8), np.random.default_rng(0)).shape
    (2, 4, 4, 1)
    """

    def __init__(self, spec, fill=0):
        self.spec, self.fill = spec, fill
        self.operations = parse(spec)

    def __repr__(self):
        return f"Augmentation({self.spec!r})"

    def __call__(self, images, rng):
        if images.ndim != 4:
            raise DataError(f"{self!r}: images have shape {images.shape}; expected "
                            "(images, height, width, channels)")
        self.check_fit(images)
        for word, size in self.operations:
            if word == "crop":
                images = pad_crop(images, size, rng, self.fill)
            elif word == "flip":
                images = flip(images, rng)
            else:
                images = cutout(images, size, rng, self.fill)
        return images

    def check_fit(self, images):
        """Raise DataError where an operation is larger than the images."""
        side = min(images.shape[1:3])
        for word, size in self.operations:
            if size is not None and size > side:
                raise DataError(f"{self!r}: {word}{size} is larger than the image side {side}; choose 1..{side}")
