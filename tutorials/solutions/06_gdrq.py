"""It stops where the wall touches the largest weight, max|w| = 2 mean|w|, with a part of the weights on the wall."""

import numpy as np

from minquant.estimators.scale_clip import group_index, project, threshold

w, group, walls = np.random.default_rng(0).standard_normal((50_000, 1)), group_index(1, -1), []
for _ in range(200):
    wall = threshold(w, 2.0, group)
    walls.append(float(wall[0]))
    project(w, wall, group)
assert all(later <= earlier for earlier, later in zip(walls, walls[1:]))
assert abs(np.abs(w).max() / np.abs(w).mean() - 2) < 1e-3   # as of a uniform distribution
share = (np.abs(w) > 0.999 * np.abs(w).max()).mean()
assert 0.1 < share < 0.4
print(f"wall {walls[0]:.3f} -> {walls[-1]:.3f}, {share:.0%} of the weights on it")
