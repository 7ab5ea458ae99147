"""With levels -1 and +1 the border is 0: w swings there, and is +1 in (1 + t) / 2 = 65 % of the steps."""

import numpy as np

from minquant.estimators.straight_through import sign_ste, sign_ste_backward

t, lr, path = 0.3, 0.01, [0.5]
for _ in range(2000):
    q, inside = sign_ste(np.array(path[-1]))
    path.append(path[-1] - lr * float(sign_ste_backward(2 * (q - t), inside)))
tail = np.array(path[200:])
share = (tail >= 0).mean()
assert np.abs(tail).max() < 0.05
assert abs(share - (1 + t) / 2) < 0.02  # the mean of q is then (+1) 0.65 + (-1) 0.35 = 0.3 = t
print(f"+1 in {share:.1%} of the steps")
