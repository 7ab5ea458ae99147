"""Each weight takes `bits` bits, packed, so going from b to 2 b bits adds weights * b / 8 bytes and little else: tables
of levels grow with 2^b, but there is one per layer; requantization stays what it is."""

import numpy as np

from minquant import calibrate, data, lower, models, quantize

digits, stored = data.load("digits"), {}
for bits in (2, 4, 8):
    rng = np.random.default_rng(0)
    model = quantize(models.lenet5((8, 8, 1), 10, rng), "lsq", bits=bits, act_bits=2, rng=rng)
    calibrate(model, digits.normalise(digits.train.images[:64]), rng)
    program = lower(model, (8, 8, 1), digits.normalise)
    stored[bits] = program.nbytes()
weights = sum(int(np.prod(op.shape)) for op in program.ops if hasattr(op, "bits"))
for bits in (2, 4):
    grown = stored[2 * bits] - stored[bits]
    print(f"{bits} -> {2 * bits} bits: {grown:,} bytes more, {weights * bits // 8:,} of them weights")
    assert 0 <= grown - weights * bits // 8 < 2000
