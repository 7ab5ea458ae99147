"""Far outside, every density underflows against 1e-11: all components become equally unlikely, and the first one wins.
The first is the zero component, so the largest weights of a layer turn into 0. In logarithms nothing underflows."""

import numpy as np

from minquant.quantizers.dgms import DGMSWeight

rng = np.random.default_rng(0)
w = rng.standard_normal((40, 40)).astype(np.float32) * 0.1
largest = {}
for mode in ("official", "annealed"):
    quantizer = DGMSWeight(2, w.shape, mode=mode)
    quantizer.init_from(w, rng)
    means, widths = quantizer.means(np.float32), np.abs(quantizer.params["sigma"])
    last = means.argmax()
    outlier = np.full(w.shape, means[last] + 10 * widths.max(), np.float32)
    largest[mode] = quantizer.forward(outlier)[0].flat[0]
    print(f"{mode}: {outlier.flat[0]:.2f} becomes {largest[mode]:.2f}, the largest mean is {means[last]:.2f}")
assert largest["official"] == 0 and largest["annealed"] > 0.1
