"""Scenes for object detection, composed from the items of a classification set (Fashion-MNIST, digits).

A scene is 96 x 96 x 3: a smooth coloured background with noise, up to four pieces of items as clutter, and one to four
items, resized to 32 .. 64 pixels, tinted and pasted at random places. Their boxes are tight, and no two boxes share
more than a quarter of the smaller one.

All arithmetic is on integers (products of integers in float64 are exact), and scene i is drawn from its own
`Generator`, made of (split, i): the same bytes on every machine, whatever the number of scenes.
"""

from functools import lru_cache

import numpy as np

from .boxes import COLUMNS, BoxSplit

TRAINING_SCENES, TEST_SCENES = 12000, 1000
SIZE, CHANNELS = 96, 3
MOST_ITEMS, MOST_CLUTTER = 4, 4
SIDES = np.repeat(np.arange(32, 65), 2048 // np.arange(32, 65))  # of items, in pixels; each as often as 1/side
SHARE = 4  # two boxes overlap by at most 1/SHARE of the smaller one
TRIES = 30  # places tried for an item before it is left out
VISIBLE = 20  # grey value from which a pixel belongs to an item
FIXED = 256  # one, in the fixed-point weights of a resize
OPACITY = np.clip(8 * (np.arange(256) - 16), 0, 255).astype(np.uint16)  # of a pixel of an item, by its grey value


def compose(items, labels, count, split):
    """Return a `BoxSplit` of `count` scenes.

    items : uint8 (N, h, h, 1), grey items on black;  labels : their classes (N,)
    split : number of the split in the seed of every scene, so that training and test scenes differ

    >>> from minquant.data import load
    >>> digits = load("digits").test
    >>> scenes = compose(digits.images, digits.labels, 3, split=2)
    >>> scenes.images.shape, scenes.labels.shape
    ((3, 96, 96, 3), (3, 4, 6))
    """
    images = np.empty((count, SIZE, SIZE, CHANNELS), np.uint8)
    objects = np.zeros((count, MOST_ITEMS, len(COLUMNS)), np.float32)
    objects[..., 0] = -1
    for i in range(count):
        rng = np.random.default_rng([split, i])
        images[i] = background(rng)
        clutter(images[i], items, rng)
        for slot, (label, box) in enumerate(place_items(images[i], items, labels, rng)):
            objects[i, slot, :5] = label, *box
    return BoxSplit(images, objects)


@lru_cache(maxsize=None)
def resize_weights(source, target):
    """(target, source) float64 matrix of integers, rows summing to FIXED: linear interpolation of pixel centres."""
    centre = (2 * np.arange(target) + 1) * source * FIXED // (2 * target) - FIXED // 2
    centre = np.clip(centre, 0, (source - 1) * FIXED)
    left = np.minimum(centre // FIXED, max(source - 2, 0))
    weights = np.zeros((target, source))
    weights[np.arange(target), np.minimum(left + 1, source - 1)] = centre - left * FIXED
    weights[np.arange(target), left] += FIXED - (centre - left * FIXED)
    return weights


def resize(image, height, width):
    """Bilinear resize of an image (h, w) of integers 0 .. 255, rounded down, uint8; exact, so equal everywhere."""
    rows, columns = resize_weights(image.shape[0], height), resize_weights(image.shape[1], width)
    return _rounded_down(rows @ image.astype(np.float64) @ columns.T)


def _rounded_down(values):
    """What two resizes left multiplied by FIXED^2, an integer below 2^31 - 1, as uint8."""
    return (values.astype(np.int32) >> 16).astype(np.uint8)


def background(rng):
    """A smooth field between 4 x 4 random colours, and noise of -8 .. 7 on every pixel; uint8 (SIZE, SIZE, 3)."""
    colours = rng.integers(30, 200, (CHANNELS, 4, 4))
    weights = resize_weights(4, SIZE)
    field = _rounded_down(weights @ colours.astype(np.float64) @ weights.T)
    noise = rng.integers(0, 16, (SIZE, SIZE, CHANNELS), dtype=np.uint8)
    return field.transpose(1, 2, 0) - 8 + noise  # colours are 30 .. 199: nothing wraps around


def clutter(image, items, rng):
    """Paste up to MOST_CLUTTER pieces of 6 .. 12 pixels cut out of the middle of resized items."""
    for _ in range(rng.integers(0, MOST_CLUTTER + 1)):
        item = items[rng.integers(len(items)), :, :, 0]
        side, piece, tint = SIDES[rng.integers(len(SIDES))], rng.integers(6, 13), draw_tint(rng)
        top, left = rng.integers(0, SIZE - piece + 1, 2)
        start = (side - piece) // 2
        part = resize(item, side, side)[start:start + piece, start:start + piece]
        paste(image[top:top + piece, left:left + piece], part, tint)


def draw_tint(rng):
    """A colour that multiplies the grey of an item; 255 keeps it."""
    return rng.integers(110, 256, CHANNELS, dtype=np.uint16)


def paste(region, grey, tint):
    """Blend a tinted item over a region of the scene in place: opaque from a grey value of 48, absent up to 16.

    No product or sum exceeds 255^2, which uint16 holds.
    """
    opacity = OPACITY[grey][..., None]
    colour = grey[..., None] * tint // 255
    region[...] = (region * (255 - opacity) + colour * opacity) // 255


def place_items(image, items, labels, rng):
    """Paste 1 .. MOST_ITEMS items; return [(label, (x1, y1, x2, y2))]. An item that finds no place is left out."""
    placed = []
    for _ in range(rng.integers(1, MOST_ITEMS + 1)):
        index, side, tint = rng.integers(len(items)), SIDES[rng.integers(len(SIDES))], draw_tint(rng)
        grey = resize(items[index, :, :, 0], side, side)
        rows, columns = (np.flatnonzero((grey > VISIBLE).any(axis)) for axis in (1, 0))
        if not len(rows):
            continue
        grey = grey[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
        height, width = grey.shape
        for left, top in rng.integers(0, (SIZE - width + 1, SIZE - height + 1), (TRIES, 2)):
            box = (left, top, left + width, top + height)
            if all(overlap_is_small(box, other) for _, other in placed):
                paste(image[top:top + height, left:left + width], grey, tint)
                placed.append((labels[index], box))
                break
    return placed


def overlap_is_small(a, b):
    """True where the common area of two boxes is at most 1/SHARE of the smaller one's."""
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width <= 0 or height <= 0 or SHARE * width * height <= smaller
