"""IDX files (the MNIST family), raw or gzipped: a checked reader that trusts no header.

Layout: two zero bytes, type code (0x08 = uint8), number of axes, the axes as big-endian uint32,
then the values in C order.
"""

import gzip
import hashlib
import math
import struct
import zlib

import numpy as np

from .dataset import DataError

UINT8 = 0x08
_TYPE_NAMES = {0x08: "uint8", 0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}
_CHUNK = 1 << 20


def _read_at_most(stream, count):
    """The next `count` bytes of `stream`, or fewer where it ends; memory grows with what is really there."""
    data = bytearray()
    while len(data) < count:
        chunk = stream.read(min(_CHUNK, count - len(data)))
        if not chunk:
            break
        data += chunk
    return data


def _header(stream, path, ndim):
    """The shape that the header of an IDX file announces."""
    magic = _read_at_most(stream, 4)
    expected = bytes((0, 0, UINT8, ndim))
    if magic != expected:
        kind = _TYPE_NAMES.get(magic[2]) if len(magic) == 4 and magic[:2] == b"\0\0" else None
        found = f" (IDX of {kind} with {magic[3]} axes)" if kind else ""
        raise DataError(f"{path}: starts with bytes {magic.hex() or 'none'}{found}; "
                        f"expected {expected.hex()} (IDX of uint8 with {ndim} axes)")
    sizes = _read_at_most(stream, 4 * ndim)
    if len(sizes) != 4 * ndim:
        raise DataError(f"{path}: the header ends after {4 + len(sizes)} bytes; expected {4 + 4 * ndim} "
                        "(the file is truncated, fetch it again)")
    return struct.unpack(f">{ndim}I", sizes)


def _read(stream, path, item_shape):
    shape = _header(stream, path, 1 + len(item_shape))
    if shape[1:] != tuple(item_shape):
        raise DataError(f"{path}: the header announces items of shape {shape[1:]}; "
                        f"expected {tuple(item_shape)}")
    size = math.prod(shape)
    # One byte more than announced: finds surplus bytes and makes gzip compare its checksum at the end.
    values = _read_at_most(stream, size + 1)
    if len(values) != size:
        found = f"only {len(values)}" if len(values) < size else f"more than {size}"
        raise DataError(f"{path}: holds {found} values; its header announces "
                        f"{' x '.join(map(str, shape))} = {size} (truncated or damaged, fetch it again)")
    return np.frombuffer(values, np.uint8).reshape(shape)


def read_idx(path, item_shape=()):
    """The uint8 array (N, *item_shape) of an IDX file; gzip is recognised by content, not by name.

    item_shape: (28, 28) for images, () for labels.
    Raises DataError naming the file, what was expected and what was found: wrong magic number, other
    shape, too few or too many values, truncated or damaged gzip stream, unreadable file.
    """
    try:
        with open(path, "rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not zipped:
                return _read(raw, path, item_shape)
            with gzip.GzipFile(fileobj=raw) as stream:
                return _read(stream, path, item_shape)
    except EOFError as error:
        raise DataError(f"{path}: the gzip stream ends too early (truncated, fetch it again)") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: the gzip stream is damaged ({error}); fetch it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def idx_bytes(values):
    """The IDX file (header and values) that holds the uint8 array `values`.

    >>> idx_bytes(np.array([7, 9], np.uint8)).hex()
    '00000801000000020709'
    """
    header = bytes((0, 0, UINT8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.tobytes()


def sha256(values):
    """SHA-256 (hex) of the uncompressed IDX file that holds `values`.

    Taken of the content and not of a .gz, because recompressing (as distributions do) changes the .gz.
    """
    return hashlib.sha256(idx_bytes(values)).hexdigest()
