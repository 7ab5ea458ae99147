"""Code e starts at bit e * b: in byte e * b // 8, shifted by e * b % 8. It ends at most b - 1 bits later, so for b <= 8
two bytes always hold it."""

import numpy as np

from minquant.deploy.pack import pack

rng = np.random.default_rng(0)
for bits in range(1, 9):
    codes = rng.integers(0, 2 ** bits, 200).astype(np.uint8)
    stream = np.append(pack(codes, bits), 0)             # one byte more, so that a pair can always be read
    for e, code in enumerate(codes):
        first, shift = divmod(e * bits, 8)
        assert shift + bits <= 16                        # never a third byte
        pair = int(stream[first]) | int(stream[first + 1]) << 8
        assert pair >> shift & (1 << bits) - 1 == code
print("every code read alone")
