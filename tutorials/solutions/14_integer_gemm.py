"""255 * w0 + 255 * w1 must stay within -32768 .. 32767, so |w0 + w1| <= 128: full 8-bit weights overflow (255 * 254 =
64770), 7-bit weights (-64 .. 63) never do: 255 * 2 * 64 = 32640."""

import numpy as np


def maddubs(u8, s8):
    pairs = (u8.astype(np.int32) * s8.astype(np.int32)).reshape(-1, 2).sum(1)
    return np.clip(pairs, -32768, 32767)                     # saturated, not wrapped


full = np.full(32, 255, np.uint8)
for bits in range(2, 9):
    low, high = -2 ** (bits - 1), 2 ** (bits - 1) - 1
    safe = all(np.array_equal(maddubs(full, np.full(32, w, np.int8)), np.full(16, 2 * 255 * w)) for w in (low, high))
    print(f"{bits}-bit weights: {'safe' if safe else 'may be cut off'}")
    assert safe == (bits <= 7)
