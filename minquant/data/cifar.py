"""CIFAR-10 batches: the binary version, and the Python version read without executing what it holds.

A pickle is a program. The reader here offers it two inert record types in place of NumPy's array and
dtype, refuses every other name, and builds the array itself from the recorded bytes.
"""

import hashlib
import io
import pickle
from pathlib import Path

import numpy as np

from .dataset import DataError

ITEM_SHAPE = (32, 32, 3)
_PLANES = 3 * 32 * 32
_RECORD = 1 + _PLANES
# The standard files hold 31 MB each; a limit keeps a foreign file from filling the memory.
_MAX_BYTES = 64 << 20


def _contents(path):
    try:
        size = Path(path).stat().st_size
        if size > _MAX_BYTES:
            raise DataError(f"{path}: {size} bytes; a CIFAR-10 batch has at most {_MAX_BYTES}")
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _to_nhwc(planes):
    """(N, 3072) red, green and blue planes -> (N, 32, 32, 3)."""
    return np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def read_binary(path):
    """Images uint8 (N, 32, 32, 3) and labels uint8 (N,) of one .bin file: 1 label byte + 3072 bytes each.

    Raises DataError when the size is zero or no multiple of 3073 bytes.
    """
    data = _contents(path)
    if not data or len(data) % _RECORD:
        raise DataError(f"{path}: {len(data)} bytes; expected a positive multiple of {_RECORD} "
                        "(1 label + 3072 pixels per image): truncated or not a CIFAR-10 binary batch")
    records = np.frombuffer(data, np.uint8).reshape(-1, _RECORD)
    return _to_nhwc(records[:, 1:]), records[:, 0].copy()


class _BatchUnpickler(pickle.Unpickler):
    """Reads plain containers, and arrays as inert records; knows no other name."""

    def __init__(self, stream, path):
        # Python 2 wrote these files: its str are bytes.
        super().__init__(stream, encoding="bytes")
        self._path = path

        # Made anew for each file, so that a hostile one cannot alter what the next one is read with.
        class Array:
            state = None

            def __setstate__(self, state):
                self.state = state

        class DType(Array):
            def __init__(self, code, *_):
                self.code = code

        def reconstruct(kind, *_):
            if kind is not Array:
                raise DataError(f"{path}: reconstructs something other than a numpy array; refused")
            return Array()

        self.array, self.dtype = Array, DType
        self._allowed = {("numpy", "ndarray"): Array, ("numpy", "dtype"): DType}
        for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            self._allowed[module, "_reconstruct"] = reconstruct

    def find_class(self, module, name):
        if (module, name) not in self._allowed:
            raise DataError(f"{self._path}: the pickle asks for {module}.{name}; a CIFAR-10 batch needs only "
                            "numpy arrays. Refused: the file is not a CIFAR-10 batch and may be hostile")
        return self._allowed[module, name]

    def persistent_load(self, pid):
        raise DataError(f"{self._path}: the pickle refers to an outside object {pid!r}; refused")


def _array(record, path):
    """The uint8 (N, 3072) array that a record describes."""
    try:
        _, shape, dtype, fortran, data = record.state
        code = dtype.code
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{path}: b'data' is not a numpy array") from error
    if code not in (b"u1", "u1") or not isinstance(data, bytes):
        raise DataError(f"{path}: b'data' has dtype {code!r}; expected 'u1' (uint8)")
    rows = len(data) // _PLANES
    if rows == 0 or shape != (rows, _PLANES) or len(data) != rows * _PLANES:
        raise DataError(f"{path}: b'data' has shape {shape} and {len(data)} bytes; expected (N, {_PLANES})")
    return np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")


def read_pickled(path):
    """Images uint8 (N, 32, 32, 3) and labels int64 (N,) of one Python batch, nothing in it being executed.

    Raises DataError for a damaged pickle, for one that names anything but numpy arrays, and for a batch
    without the entries b'data' (N, 3072) and b'labels' (N integers).
    """
    data = _contents(path)
    reader = _BatchUnpickler(io.BytesIO(data), path)
    try:
        batch = reader.load()
    except DataError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything, from EOFError to KeyError
        raise DataError(f"{path}: not a readable pickle after {len(data)} bytes "
                        f"({type(error).__name__}: {error}); truncated or damaged, fetch it again") from error
    if not isinstance(batch, dict) or b"data" not in batch or b"labels" not in batch:
        found = sorted(map(repr, batch)) if isinstance(batch, dict) else type(batch).__name__
        raise DataError(f"{path}: holds {found}; expected a dict with b'data' and b'labels'")
    labels = batch[b"labels"]
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < 256 for label in labels):
        raise DataError(f"{path}: b'labels' is not a list of small integers")
    return _to_nhwc(_array(batch[b"data"], path)), np.array(labels, np.int64)


def md5(path):
    """MD5 (hex) of a file: the checksum published with the Python version of CIFAR-10."""
    return hashlib.md5(_contents(path), usedforsecurity=False).hexdigest()
