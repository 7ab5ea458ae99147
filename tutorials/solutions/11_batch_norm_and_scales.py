"""gamma < 0 turns the staircase round: large sums give small codes, and a threshold is reached from above. gamma = 0
makes it flat: every sum gives the same code."""

import numpy as np

from minquant.deploy.requantize import scaled, thresholds

gamma = np.array([1.0, -1.0, 0.0])
expression = scaled(0.1, 3).then("multiply", gamma).then("add", 0.8)   # value = (acc * 0.1) * gamma + 0.8
boundary = np.array([0.5, 1.5, 2.5])                                    # code j from this value on
ladder = thresholds(expression, boundary, np.full(3, -100), np.full(3, 100))
print("direction", ladder.direction, "thresholds", (ladder.thresholds[0] * ladder.direction).T.tolist())

acc = np.arange(-100, 101)[:, None]
codes = (expression(np.broadcast_to(acc, (201, 3)))[..., None] >= boundary).sum(-1)
assert ladder.direction.tolist()[:2] == [1, -1]
assert (np.diff(codes[:, 0]) >= 0).all() and (np.diff(codes[:, 1]) <= 0).all() and len(set(codes[:, 2])) == 1
reached = (ladder.direction * acc)[..., None] >= ladder.thresholds[0].T  # acc counts mirrored where gamma < 0
assert np.array_equal(reached.sum(-1), codes)
