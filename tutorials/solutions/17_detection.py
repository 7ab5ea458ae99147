"""A shift of one pixel: IoU = s (s - 1) / (s (s + 1)) = (s - 1) / (s + 1)."""

import numpy as np

from minquant.detection import boxes

for s in (2, 3, 8, 32, 39, 64):
    overlap = boxes.iou(np.array([[0.0, 0, s, s]]), np.array([[1.0, 0, s + 1, s]]))[0, 0]
    assert np.isclose(overlap, (s - 1) / (s + 1))
    print(f"{s} x {s} pixels: IoU {overlap:.3f}")

# (s - 1) / (s + 1) >= t  from  s = (1 + t) / (1 - t)  on: 3 pixels for 0.5, 39 for 0.95. The mean over thresholds up
# to 0.95 asks of a small box for less than a pixel of error, which cells of 8 pixels can only give by their offset.
for threshold, least in ((0.5, 3), (0.95, 39)):
    assert np.isclose((1 + threshold) / (1 - threshold), least)
