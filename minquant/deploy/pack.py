"""Packing: codes of b bits as one stream of ceil(b n / 8) bytes, the storage format of weights.

Code i occupies bits i*b .. i*b + b - 1 of the stream, its least significant bit first; bit k of the stream is bit
k % 8 of byte k // 8. Nothing is padded between rows; unused bits of the last byte are 0. Six codes of 3 bits:

    byte          0                          1                          2
    bit           7  6  5  4  3  2  1  0     7  6  5  4  3  2  1  0     7 ..  2  1  0
    code          2  2  1  1  1  0  0  0     5  4  4  4  3  3  3  2     -  -  -  5  5
    bit of code   1  0  2  1  0  2  1  0     0  2  1  0  2  1  0  2              2  1
"""

import numpy as np

from .. import kernels
from ..quantizers.base import check_bits


def packed_bytes(count, bits):
    """Bytes that `count` codes of `bits` bits take: ceil(bits count / 8)."""
    return (count * bits + 7) // 8


def pack(codes, bits):
    """Return the stream (uint8) of uint8 codes of any shape, in row-major order.

    >>> pack(np.array([1, 2, 3, 0], np.uint8), 2)
    array([57], dtype=uint8)

    Raises ValueError for bits outside 1..8 and for a code that does not fit.
    """
    check_bits(bits)
    codes = np.asarray(codes)
    if codes.dtype != np.uint8:
        raise ValueError(f"codes are {codes.dtype}, they must be uint8")
    flat = codes.reshape(-1)
    if flat.size and int(flat.max()) >= 2 ** bits:
        raise ValueError(f"code {int(flat.max())} does not fit {bits} bits; the largest that does is {2 ** bits - 1}")
    return kernels.pack_bits(flat, bits)


def unpack(stream, bits, count):
    """Return the first `count` codes (uint8) of a stream; the inverse of `pack`.

    >>> unpack(np.array([57], np.uint8), 2, 4)
    array([1, 2, 3, 0], dtype=uint8)

    Raises ValueError unless the stream has exactly the bytes of `count` codes.
    """
    check_bits(bits)
    if len(stream) != packed_bytes(count, bits):
        raise ValueError(f"a stream of {len(stream)} bytes is not {count} codes of {bits} bits; "
                         f"those take {packed_bytes(count, bits)} bytes")
    return kernels.unpack_bits(stream, bits, (count,))
