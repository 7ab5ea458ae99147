"""dx = dy alpha n_m dpi_m/dx. In the cell of n_m = -1, dpi_m/dx is positive left of the level and negative right of it,
so dx changes its sign at the level and sums to 0 over the cell. Gradient descent moves x by -dx: for dy alpha n_m > 0
away from the level, for dy alpha n_m < 0 towards it: where the loss wants the weight larger in magnitude."""

import numpy as np

from minquant.estimators.multiclass import Grid, imax_slopes

grid = Grid(1.0, 1 / 3, -4, 3)
for code in (-2, -1, 1, 2):
    x = code + np.linspace(-0.49, 0.49, 99)
    for dy in (-1.0, 1.0):
        dx = dy * imax_slopes(x, grid)[0]
        assert abs(dx.mean()) < 0.05 * np.abs(dx).max()          # hardly any drift of the cell as a whole
        towards = np.sign(-dx) == np.sign(code - x)              # the step -dx leads to the level
        clusters = towards[np.abs(x - code) > 0.05].mean()
        print(f"code {code:2d}, dy {dy:+.0f}: {clusters:.0%} of the weights step towards their level")
        assert clusters == (1.0 if dy * code < 0 else 0.0)
