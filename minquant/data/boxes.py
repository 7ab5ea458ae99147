"""Images with boxes: a split of a detection set, and the augmentation that moves boxes along."""

from dataclasses import dataclass

import numpy as np

from . import augment
from .dataset import DataError, Split

COLUMNS = ("class", "x1", "y1", "x2", "y2", "difficult")


@dataclass(frozen=True, eq=False, repr=False)
class BoxSplit(Split):
    """Images uint8 (N, height, width, channels) and their objects, `labels` float32 (N, M, 6).

    A row is (class, x1, y1, x2, y2, difficult): edges in pixels, x to the right, y down, so that x2 - x1 is the
    width; class -1 is a row without object. Difficult objects are trained on, but neither asked for nor counted
    as wrong when a detector is measured.
    """

    task = "detect"

    def check(self, classes, where):
        """Raise DataError unless every object has a class and a box of positive area inside its image."""
        check_boxes(self.labels, self.images.shape, classes, where)


def check_boxes(objects, shape, classes, where):
    """Raise DataError unless `objects` (N, M, 6) fit N images of this shape and `classes` classes."""
    objects = np.asarray(objects)
    if objects.ndim != 3 or objects.shape[2] != len(COLUMNS) or objects.dtype.kind != "f":
        raise DataError(f"{where}: objects are {objects.dtype} of shape {objects.shape}; expected floats "
                        f"(images, objects, {len(COLUMNS)}) with {', '.join(COLUMNS)}")
    if len(objects) != shape[0]:
        raise DataError(f"{where}: objects of {len(objects)} images for {shape[0]} images")
    kind, x1, y1, x2, y2, difficult = np.moveaxis(objects, 2, 0)
    real = kind != -1
    problems = (("a class that is not in 0..%d" % (classes - 1), ~((kind >= 0) & (kind < classes) & (kind % 1 == 0))),
                ("a box without area", ~((x2 > x1) & (y2 > y1))),
                (f"a box outside the image of {shape[2]}x{shape[1]}",
                 ~((x1 >= 0) & (y1 >= 0) & (x2 <= shape[2]) & (y2 <= shape[1]))),
                ("a difficult flag that is not 0 or 1", (difficult != 0) & (difficult != 1)))
    for what, wrong in problems:
        found = np.argwhere(wrong & real)
        if len(found):
            image, slot = map(int, found[0])
            raise DataError(f"{where}: object {slot} of image {image} has {what}: "
                            f"{dict(zip(COLUMNS, objects[image, slot].tolist()))} ({len(found)} such objects)")


class BoxAugmentation(augment.Augmentation):
    """The operations of `Augmentation` on images and their objects (N, M, 6).

    An object that a crop leaves less than half of is no longer one; cutout leaves objects as they are.
    """

    def __call__(self, images, objects, rng):
        """Return (images, objects), both new where something changed."""
        self.check_fit(images)
        for word, size in self.operations:
            if word == "crop":
                top, left = augment.draw_shift(len(images), size, rng)
                images = augment.shift(images, size, top, left, self.fill)
                objects = move(objects, size - left, size - top, images.shape[2], images.shape[1])
            elif word == "flip":
                mirrored = augment.draw_mirrored(len(images), rng)
                images = augment.mirror(images, mirrored)
                objects = np.where(mirrored[:, None, None], mirror(objects, images.shape[2]), objects)
            else:
                images = augment.cutout(images, size, rng, self.fill)
        return images, objects


def mirror(objects, width):
    """Objects of images mirrored left to right."""
    mirrored = objects.copy()
    mirrored[..., 1], mirrored[..., 3] = width - objects[..., 3], width - objects[..., 1]
    return mirrored


def move(objects, dx, dy, width, height):
    """Objects of images moved by (dx, dy) pixels (each (N,)), cut at the border; class -1 where under half is left."""
    moved = objects.copy()
    for column, by, limit in ((1, dx, width), (2, dy, height), (3, dx, width), (4, dy, height)):
        moved[..., column] = np.clip(objects[..., column] + by[:, None], 0, limit)
    before, after = ((o[..., 3] - o[..., 1]) * (o[..., 4] - o[..., 2]) for o in (objects, moved))
    moved[..., 0] = np.where(2 * after < before, -1, objects[..., 0])
    return moved
