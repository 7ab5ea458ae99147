"""The file `.mqz`: a Program, packed, self-describing, checksummed, without pickles. Everything is little-endian.

    offset  bytes  content
    0       8      magic  89 4D 51 5A 0D 0A 1A 0A  ("\\x89MQZ\\r\\n\\x1a\\n": a transfer as text destroys it)
    8       4      version, uint32: 1. A reader refuses any other
    12      4      checksum, uint32: CRC-32 of all bytes of the file but these four
    16      8      header length h, uint64
    24      8      data length d, uint64; the file has exactly 32 + h + d bytes
    32      h      header: JSON in UTF-8, padded with spaces to a multiple of 8 bytes
    32 + h  d      data: the arrays, each padded with zeros to a multiple of 8 bytes

    header  {"image": [H, W, C], "info": {...}, "ops": [op, ...]}
    op      {"op": a name of `ops.OPS`, its plain fields, "arrays": {field: [dtype, shape], ...}}

The arrays lie in the data in the order in which the header names them, row-major; dtype is |u1, |i1, <i2, <i4, <f4
or <f8. Weight codes are a |u1 stream of ceil(bits n / 8) bytes (`pack`). `inputs` of an operation are indices: 0 is
the image, i + 1 what operation i gives. Every array starts at a multiple of 8 bytes, so a mapped file is used as it is.
docs/integers.md lists the fields of every operation and says what it computes.

Whatever the bytes, `load` gives a Program whose operations fit each other, or a ProgramFileError; what it allocates
is bounded by a multiple of the file's size.
"""

import json
import struct
import zlib
from dataclasses import fields
from pathlib import Path

import numpy as np

from ..runs import replacing
from .ops import OPS
from .program import Program

MAGIC, VERSION = b"\x89MQZ\r\n\x1a\n", 1
PREAMBLE = struct.Struct("<8sIIQQ")
ALIGNMENT = 8
MAX_INTEGER, MAX_TEXT = 2 ** 31 - 1, 1000


class ProgramFileError(ValueError):
    """A file that is not a whole, valid .mqz of this version; the message names the file and what is wrong."""


def save(program, path):
    """Write a Program to `path`, whole or not at all; return the number of bytes."""
    content = dump(program)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return len(content)


def dump(program):
    """The bytes of a Program's file."""
    described, data = [], bytearray()
    for op in program.ops:
        entry = {"op": type(op).__name__}
        entry.update({f.name: getattr(op, f.name) for f in fields(op) if "dtype" not in f.metadata})
        entry["arrays"] = {}
        for name, dtype, _ in schema(type(op)):
            values = np.ascontiguousarray(getattr(op, name), dtype)
            entry["arrays"][name] = [dtype, values.shape]
            data += values.tobytes() + bytes(-values.nbytes % ALIGNMENT)
        described.append(entry)
    header = {"image": program.image_shape, "info": program.info, "ops": described}
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return seal(text, bytes(data))


def seal(header, data):
    """The bytes of a file with this header and data: preamble and checksum in front."""
    checksum = zlib.crc32(data, zlib.crc32(header, _preamble_checksum(len(header), len(data))))
    return PREAMBLE.pack(MAGIC, VERSION, checksum, len(header), len(data)) + header + data


def _preamble_checksum(header_bytes, data_bytes):
    packed = PREAMBLE.pack(MAGIC, VERSION, 0, header_bytes, data_bytes)
    return zlib.crc32(packed[16:], zlib.crc32(packed[:12]))


def schema(kind):
    """[(field, dtype, number of axes)] of an operation's arrays, in the order of the file."""
    return [(f.name, f.metadata["dtype"], f.metadata["ndim"]) for f in fields(kind) if "dtype" in f.metadata]


def load(path, mapped=False):
    """Read a Program. mapped=True maps the file instead of reading it; it must then stay unchanged while in use.

    Raises ProgramFileError for any other content, FileNotFoundError and the like from opening.
    """
    path = Path(path)
    if mapped and path.stat().st_size:
        content = np.memmap(path, np.uint8, mode="r")
    else:
        content = np.frombuffer(path.read_bytes(), np.uint8)
    try:
        return parse(content)
    except ProgramFileError as error:
        raise ProgramFileError(f"{path}: {error}") from None


def parse(content):
    """The Program in the bytes of a file (uint8 array). Raises ProgramFileError."""
    header_bytes = _check_frame(content)
    start = PREAMBLE.size + header_bytes
    try:
        header = json.loads(content[PREAMBLE.size:start].tobytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ProgramFileError(f"its header is not JSON ({error})") from None
    try:
        _need(isinstance(header, dict) and set(header) == {"image", "info", "ops"}, "its header has other keys")
        _need(isinstance(header["info"], dict) and isinstance(header["ops"], list), "info or ops of another type")
        reader = _Arrays(content[start:])
        ops = tuple(_read_op(entry, reader) for entry in header["ops"])
        _need(reader.position == len(reader.data), "its data is longer than its header says")
        return Program(_read_plain("image", tuple[int, ...], header["image"]), ops, header["info"])
    except ProgramFileError:
        raise
    except ValueError as error:
        raise ProgramFileError(f"its operations do not fit together: {error}") from None


def _check_frame(content):
    """Check magic, version, lengths and checksum; return the length of the header."""
    _need(len(content) >= PREAMBLE.size,
          f"a file of {len(content)} bytes is shorter than the {PREAMBLE.size} that every .mqz starts with")
    magic, version, checksum, header_bytes, data_bytes = PREAMBLE.unpack(content[:PREAMBLE.size].tobytes())
    _need(magic == MAGIC, "it is not an .mqz file (its first 8 bytes differ)")
    _need(version == VERSION, f"it has format version {version}, this program reads {VERSION}; "
                              "read it with the version that wrote it, or export the run again")
    whole = PREAMBLE.size + header_bytes + data_bytes
    _need(len(content) == whole, f"it has {len(content)} bytes, its lengths say {whole}; it is cut off or damaged")
    rest = zlib.crc32(content[PREAMBLE.size:], _preamble_checksum(header_bytes, data_bytes))
    _need(rest == checksum, f"its checksum is {rest:08x}, it should be {checksum:08x}; the file is damaged")
    return header_bytes


def _need(condition, what):
    if not condition:
        raise ProgramFileError(what)


class _Arrays:
    """Hands out the arrays of the data part one after another; nothing is copied."""

    def __init__(self, data):
        self.data, self.position = data, 0

    def take(self, what, dtype, ndim, described):
        """The next array, which must be described as `dtype` with `ndim` axes and lie wholly in the data."""
        _need(isinstance(described, list) and len(described) == 2 and described[0] == dtype,
              f"{what} is {described!r}; expected [{dtype!r}, shape]")
        shape = _read_plain(what, tuple[int, ...], described[1])
        _need(len(shape) == ndim and min(shape) >= 0, f"{what} has shape {shape}; it has {ndim} axes")
        count = 1
        for n in shape:
            count *= n
        size = count * np.dtype(dtype).itemsize
        padded = size + -size % ALIGNMENT
        _need(padded <= len(self.data) - self.position, f"{what} of shape {shape} goes beyond the end of the file")
        values = self.data[self.position:self.position + size].view(dtype).reshape(shape)
        self.position += padded
        return values


def _read_op(entry, reader):
    """One operation from its entry in the header and its arrays."""
    _need(isinstance(entry, dict) and isinstance(entry.get("arrays"), dict), "an operation without arrays")
    kind = OPS.get(entry.get("op")) if isinstance(entry.get("op"), str) else None
    _need(kind is not None, f"there is no operation {entry.get('op')!r}")
    plain = [f for f in fields(kind) if "dtype" not in f.metadata]
    arrays = schema(kind)
    _need(set(entry) == {"op", "arrays", *(f.name for f in plain)} and set(entry["arrays"]) == {a[0] for a in arrays},
          f"operation {entry.get('name')!r} has other fields than a {kind.__name__}")
    values = {f.name: _read_plain(f.name, f.type, entry[f.name]) for f in plain}
    values.update({name: reader.take(f"'{values['name']}'.{name}", dtype, ndim, entry["arrays"][name])
                   for name, dtype, ndim in arrays})
    return kind(**values)


def _read_plain(what, kind, value):
    """A plain field: an integer, a text, or a tuple of them. Raises ProgramFileError for anything else."""
    if kind is int:
        _need(type(value) is int and abs(value) <= MAX_INTEGER, f"{what}={value!r} is not an integer of 32 bits")
        return value
    if kind is str:
        _need(type(value) is str and len(value) <= MAX_TEXT, f"{what} is not a text of up to {MAX_TEXT} characters")
        return value
    _need(isinstance(value, list) and 1 <= len(value) <= MAX_TEXT, f"{what} is not a short list")
    return tuple(_read_plain(what, kind.__args__[0], v) for v in value)
