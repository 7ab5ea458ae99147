"""Powers of two are dense near 0 and sparse where it matters: between 1 and 2 there is no level, however many bits.
More bits only add smaller levels. A uniform grid halves its step with every bit."""

import numpy as np

from minquant.quantizers.dq import PowerOfTwo, Uniform

rng = np.random.default_rng(0)
w = rng.standard_normal(20_000)
errors = {}
for bits in (3, 4):
    for kind, form in ((Uniform, "u3"), (PowerOfTwo, "p3")):
        quantizer = kind(bits, form).astype(np.float64)
        quantizer.init_from(w, rng)
        errors[form, bits] = float(((quantizer.forward(w)[0] - w) ** 2).mean())
print(errors)
assert errors["u3", 4] < 0.5 * errors["u3", 3]      # a bit helps a uniform grid
assert errors["p3", 4] > 0.5 * errors["p3", 3]      # and powers of two hardly
assert errors["p3", 4] > errors["u3", 4]
