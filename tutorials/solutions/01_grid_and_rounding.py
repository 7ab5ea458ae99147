"""Evenly spread values: nothing needs to be clipped, so the best step is range / 2^b, and a bit gains a factor of 4."""

import numpy as np

values = np.random.default_rng(0).uniform(-1, 1, 100_000)
errors = {}
for bits in (2, 3, 4, 5):
    step = 2 / 2 ** bits                                # the cells of 2^b levels tile -1 .. 1
    level = (np.floor(values / step) + 0.5) * step      # levels in the middle of the cells
    errors[bits] = ((values - level) ** 2).mean()
    assert abs(errors[bits] / (step ** 2 / 12) - 1) < 0.02  # the error is uniform in a cell: step^2 / 12
for bits in (2, 3, 4):
    assert abs(errors[bits] / errors[bits + 1] - 4) < 0.1   # half the step, a quarter of the error: 6 decibels
print(errors)
