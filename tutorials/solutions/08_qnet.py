"""dL/dalpha = sum dy y / alpha, because y is linear in alpha. x and beta occur only as their product, so
beta dL/dbeta = sum x dx. The library has both as `scale_gradients`."""

import numpy as np

from minquant.estimators.sigmoids import Steps, scale_gradients, soft, soft_backward

rng = np.random.default_rng(0)
x, dy = rng.standard_normal(200), rng.standard_normal(200)
steps, t, alpha, beta = Steps(np.array([-1, 0, 1]), np.array([-0.4, 0.6])), 7.0, 0.8, 1.3


def loss(alpha, beta):
    return float(np.vdot(dy, soft(x, alpha, beta, steps, t, clip=None)))


y = soft(x, alpha, beta, steps, t, clip=None)
dx = soft_backward(dy, x, alpha, beta, steps, t, clip=None)
dalpha, dbeta = np.vdot(dy, y) / alpha, np.vdot(x, dx) / beta
h = 1e-5
assert abs(dalpha - (loss(alpha + h, beta) - loss(alpha - h, beta)) / (2 * h)) < 1e-6
assert abs(dbeta - (loss(alpha, beta + h) - loss(alpha, beta - h)) / (2 * h)) < 1e-6
assert np.allclose(scale_gradients(dy, x, y, dx), (alpha * dalpha, beta * dbeta))
print(dalpha, dbeta)
