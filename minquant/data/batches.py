"""Which images go where: shuffled batches, and the validation images held out of the training set."""

import numpy as np

from .dataset import DataError


def batches(n, batch_size, rng=None, *, drop_last=False):
    """List of index arrays (int64) that together hold 0..n-1 once, shuffled by `rng`, in order without one.

    The last batch holds the remainder; `drop_last` leaves it out. The list has ceil(n / batch_size) entries
    (floor with drop_last) and depends on n, batch_size and the state of the Generator alone.

    >>> [b.tolist() for b in batches(5, 2)]
    [[0, 1], [2, 3], [4]]
    >>> first, again = (batches(5, 2, np.random.default_rng(3)) for _ in range(2))
    >>> all((a == b).all() for a, b in zip(first, again))
    True
    """
    if n < 1:
        raise DataError(f"n={n} images: nothing to make batches of; at least 1 is needed")
    if batch_size < 1:
        raise DataError(f"batch_size={batch_size} is not positive; choose 1..{n}")
    if drop_last and batch_size > n:
        raise DataError(f"batch_size={batch_size} exceeds the n={n} images and drop_last leaves no batch; "
                        f"choose 1..{n}")
    order = np.arange(n) if rng is None else rng.permutation(n)
    stop = n - n % batch_size if drop_last else n
    return [order[start:start + batch_size] for start in range(0, stop, batch_size)]


def hold_out(labels, share, rng):
    """(training, validation) indices, each ascending; round(share * n) images are held out, stratified.

    Stratified: every class gives its proportional number of images, rounded down, and the images still
    missing come one each from the classes with the largest remainders (ties: the smaller label). Within
    a class the images are drawn by `rng` without replacement. share = 0 holds nothing out.
    Raises DataError when share is not in [0, 1) or leaves no image to train on.

    >>> train, validation = hold_out(np.array([0, 0, 0, 0, 1, 1]), 0.5, np.random.default_rng(0))
    >>> len(train), np.array([0, 0, 0, 0, 1, 1])[validation].tolist()
    (3, [0, 0, 1])
    """
    if not 0 <= share < 1:
        raise DataError(f"validation={share} is not in [0, 1) (it is the share of the training images held "
                        "out); choose 0.1 for a tenth, 0 for none")
    wanted = round(share * len(labels))
    if wanted >= len(labels):
        raise DataError(f"validation={share} holds out all {len(labels)} training images; choose less")
    classes, counts = np.unique(labels, return_counts=True)
    quota = wanted * counts / len(labels)
    taken = np.floor(quota).astype(np.int64)
    largest = np.argsort(taken - quota, kind="stable")[:wanted - taken.sum()]
    taken[largest] += 1
    held = np.zeros(len(labels), bool)
    for label, count in zip(classes, taken):
        held[rng.permutation(np.flatnonzero(labels == label))[:count]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)
