"""From a name to a Dataset: find the files, read them, check them, hold out the validation images."""

import zipfile
import zlib
from functools import lru_cache

import numpy as np

from . import cifar, idx, voc
from .batches import hold_out
from .dataset import DataError, Dataset, Split, check_images, check_labels, pixel_statistics
from .digits import read_digits
from .locate import locate
from .scenes import TEST_SCENES, TRAINING_SCENES, compose
from .sources import SOURCES, source_of


def _read_idx_set(source, paths):
    shapes = (source.item_shape[:2], (), source.item_shape[:2], ())
    return [idx.read_idx(path, shape) for path, shape in zip(paths, shapes)]


def _read_npz_set(source, paths):
    """Keras' cache: one .npz with x_train, y_train, x_test, y_test."""
    keys = ("x_train", "y_train", "x_test", "y_test")
    shapes = (source.item_shape[:2], (), source.item_shape[:2], ())
    try:
        with np.load(paths[0], allow_pickle=False) as stored:
            arrays = [stored[key] for key in keys]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{paths[0]}: cannot be read as .npz with {', '.join(keys)} ({error}); "
                        "fetch it again") from error
    for key, array, shape in zip(keys, arrays, shapes):
        if array.dtype != np.uint8 or array.shape[1:] != shape:
            raise DataError(f"{paths[0]}: {key} is {array.dtype} of shape {array.shape}; "
                            f"expected uint8 of shape {('N', *shape)}")
    return arrays


def _read_batches(read, paths):
    """Five training batches and one test batch; a shortened training batch shows by its length."""
    parts = [read(path) for path in paths]
    for path, (images, labels) in zip(paths, parts):
        if len(images) != len(labels):
            raise DataError(f"{path}: {len(labels)} labels for {len(images)} images")
        if path is not paths[-1] and len(images) != len(parts[0][0]):
            raise DataError(f"{path}: {len(images)} images; {paths[0].name} has {len(parts[0][0])}, and the "
                            "training batches are equally long (truncated, fetch it again)")
    train = parts[:-1]
    return [np.concatenate([images for images, _ in train]), np.concatenate([labels for _, labels in train]),
            *parts[-1]]


_READERS = {
    "idx": _read_idx_set,
    "npz": _read_npz_set,
    "binary": lambda source, paths: _read_batches(cifar.read_binary, paths),
    "pickled": lambda source, paths: _read_batches(cifar.read_pickled, paths),
}


def _refuse_other_set(source, layout, arrays, paths):
    """MNIST and Fashion-MNIST use the same file names: recognise the other one by its labels' checksum."""
    if layout.kind != "idx":
        return
    found = idx.sha256(arrays[1])
    for other in SOURCES.values():
        if other is not source and any(found in layout.checksums for layout in other.layouts):
            raise DataError(f"{paths[0].parent}: holds {other.name}, not {source.name}; "
                            f"load {other.name!r} or name another folder")


def _verify(source, layout, arrays, paths):
    """Compare the published checksums."""
    if not layout.checksums:
        raise DataError(f"{paths[0].parent}: no checksums are known for the {layout.kind} version of "
                        f"{source.name}; load it without verify")
    if layout.kind == "pickled":
        found, places = [cifar.md5(path) for path in paths], paths
    else:
        found = [idx.sha256(array) for array in arrays]
        places = paths if layout.kind == "idx" else paths * len(found)
    for place, want, got in zip(places, layout.checksums, found):
        if want != got:
            raise DataError(f"{place}: checksum of the content {got}; expected {want} (fetch it again)")


def _read(source, root, verify):
    """Train images, train labels, test images, test labels, and where they were."""
    if not source.layouts:
        arrays, folder, places = read_digits(), "embedded", ("embedded",) * 2
    else:
        layout, paths = locate(source, root)
        arrays = _READERS[layout.kind](source, paths)
        _refuse_other_set(source, layout, arrays, paths)
        if verify:
            _verify(source, layout, arrays, paths)
        folder, places = str(paths[0].parent), (paths[0], paths[2] if layout.kind == "idx" else paths[-1])
    arrays = [array.reshape(len(array), *source.item_shape) if array.ndim > 1 else array.astype(np.int64)
              for array in arrays]
    for place, images, labels in zip(places, arrays[::2], arrays[1::2]):
        check_images(images, place)
        check_labels(labels, len(images), len(source.classes), place)
    return (*arrays, folder)


@lru_cache(maxsize=1)  # composing takes as long as an epoch of training, and a comparison loads one set many times
def _scenes(name, root, validation, seed, verify, train, test):
    """Scenes of the items of each split, so that no item is seen in two of them; see `scenes`."""
    source = source_of(name)
    items = load(source.items, root, validation=validation, seed=seed, verify=verify)
    held = round(validation * train) if len(items.validation) else 0
    counts = train - held, held, test
    splits = [compose(part.images, part.labels, count, i)
              for i, (part, count) in enumerate(zip((items.train, items.validation, items.test), counts))]
    mean, std = pixel_statistics(splits[0].images)
    return Dataset(source.name, *splits, source.classes, mean, std, items.source)


def load(name="digits", root=None, *, validation=0.1, seed=0, limit=None, verify=False):
    """The data set `name` with its validation images held out of the training images.

    name        digits (embedded), mnist, fashion-mnist, cifar10, or an alias of `sources`; for detection
                digit-scenes (embedded), fashion-scenes, and voc with `root`, see `scenes` and `voc`
    root        folder to search first (see search_path)
    validation  share of the training images held out, stratified by class (see batches.hold_out)
    seed        of the Generator that chooses them; equal arguments give equal data sets
    limit       take only the first `limit` training images (before the hold-out) and test images
    verify      compare the published checksums as well; sizes, shapes and label ranges are always checked

    `mean` and `std` are those of the training part that remains after the hold-out.
    Raises DataError for an unknown name, damaged files and arguments out of range; DataNotFoundError
    (also a FileNotFoundError), naming every folder looked at, when the files are missing.

    >>> digits = load("digits")
    >>> digits.image_shape, len(digits.train), len(digits.validation), len(digits.test)
    ((8, 8, 1), 1293, 144, 360)
    """
    source = source_of(name)
    if limit is not None and limit < 1:
        raise DataError(f"limit={limit} images is not positive; choose at least 1 or leave it out")
    if source.items:
        train, test = (min(count, limit or count) for count in (TRAINING_SCENES, TEST_SCENES))
        return _scenes(source.name, root, validation, seed, verify, train, test)
    if source.name == "voc":
        return voc.load(root, validation=validation, seed=seed, limit=limit)
    *arrays, where = _read(source, root, verify)
    images, labels, test_images, test_labels = (array[:limit] for array in arrays)
    kept, held = hold_out(labels, validation, np.random.default_rng(seed))
    train = Split(images[kept], labels[kept])
    mean, std = pixel_statistics(train.images)
    return Dataset(source.name, train, Split(images[held], labels[held]), Split(test_images, test_labels),
                   source.classes, mean, std, where)
