"""w = 2 bit - 1, so sum a w = 2 sum(a where bit) - sum a. With both binary: equal bits give +1, unequal ones -1."""

import numpy as np

rng = np.random.default_rng(0)
k = 64
a, bit = rng.integers(0, 16, k), rng.integers(0, 2, k)
assert 2 * a[bit == 1].sum() - a.sum() == (a * (2 * bit - 1)).sum()

other = rng.integers(0, 2, k)
unequal = int.from_bytes(np.packbits(bit ^ other).tobytes(), "big").bit_count()   # popcount of one 64-bit word
assert k - 2 * unequal == ((2 * bit - 1) * (2 * other - 1)).sum()
print("equal")
