"""The embedded default: 1797 handwritten digits of 8x8 pixels (see NOTICE.md for source and licence)."""

import zipfile
import zlib
from importlib import resources

import numpy as np

from .batches import hold_out
from .dataset import DataError
from .idx import sha256

# The last images of the file are the test split, the same for every seed. A contiguous tail keeps
# neighbours in the file, which may come from one writer, on the same side of the split.
TEST_IMAGES = 360

_SHA256 = {"images": "359cd13f0f514122884198b78a131df597421cbf5e93a76678fa96fc548f0d96",
           "labels": "ce71631c1f31ce56fa54f31d1d498fafacff59b001e6c30c4a5e29508aa277ad"}


def read_digits(file=None):
    """(train images, train labels, test images, test labels): 1437 and 360 images uint8 (N, 8, 8, 1).

    The stored values count the dark pixels of a 4x4 block, v = 0..16; they are scaled to pixels as
    x = floor((255 v + 8) / 16), which maps 0 to 0 and 16 to 255 and rounds halves up.
    Raises DataError when the embedded file is missing or altered.
    """
    file = file or resources.files(__package__).joinpath("digits8x8.npz")
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in _SHA256}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file}: the embedded digits cannot be read ({error}); "
                        "reinstall minquant") from error
    for key, expected in _SHA256.items():
        found = sha256(arrays[key])
        if found != expected:
            raise DataError(f"{file}: SHA-256 of {key!r} is {found}; expected {expected}; reinstall minquant")
    images = ((arrays["images"].astype(np.uint16) * 255 + 8) // 16).astype(np.uint8)[..., None]
    labels = arrays["labels"]
    train, test = hold_out(labels, TEST_IMAGES / len(labels), np.random.default_rng(0))
    return images[train], labels[train], images[test], labels[test]
