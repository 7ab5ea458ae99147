"""ReLU and 2 x 2 max-pooling by hand. Of equal values the first one, row by row, gets the gradient."""

import numpy as np

from minquant.nn import MaxPool, ReLU

rng = np.random.default_rng(0)
x = rng.integers(-3, 4, (2, 6, 6, 3)).astype(float)  # integers: many equal values

y, dy = np.maximum(x, 0), rng.standard_normal(x.shape)
dx = dy * (x > 0)                                     # at 0 the gradient is 0
y_lib, cache = ReLU().forward(x)
assert np.array_equal(y, y_lib) and np.array_equal(dx, ReLU().backward(dy, cache)[0])

windows = x.reshape(2, 3, 2, 3, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 3, 3, 4, 3)  # (N, OH, OW, position, C)
y, winner = windows.max(3), windows.argmax(3)         # argmax takes the first of equals
dy = rng.standard_normal(y.shape)
dwindows = np.zeros_like(windows)
np.put_along_axis(dwindows, winner[:, :, :, None], dy[:, :, :, None], 3)
dx = dwindows.reshape(2, 3, 3, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(x.shape)
y_lib, cache = MaxPool(2).forward(x)
assert np.array_equal(y, y_lib) and np.array_equal(dx, MaxPool(2).backward(dy, cache)[0])
print("equal to the library")
