"""GDRQ: what Scale-Clip, the groups, the grids and the search promise. Filters are the last axis."""

import numpy as np
import pytest

from minquant.estimators.scale_clip import Grid, group_index, project, search_alpha, threshold
from minquant.quantizers.gdrq import GDRQWeight
from tests.helpers import assert_close, vectors

SHAPE = (3, 3, 2, 6)
ONE = np.zeros(1, int)
SOURCES = {"gauss": lambda rng, n: rng.standard_normal(n), "laplace": lambda rng, n: rng.laplace(size=n),
           "uniform": lambda rng, n: rng.uniform(-1, 1, n)}


def normal(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).standard_normal(shape)


def ready(weight, bits=4, **settings):
    quantizer = GDRQWeight(bits, weight.shape[-1], **settings).astype(weight.dtype)
    quantizer.init_from(weight, np.random.default_rng(0))
    return quantizer


def kurtosis(w):
    return np.mean((w - w.mean()) ** 4) / np.var(w) ** 2


# Scale-Clip ------------------------------------------------------------------------------------------

def test_the_threshold_is_k_times_the_mean_magnitude_of_a_group():
    w, group = normal(), group_index(6, 4)
    want = [2.5 * np.abs(w[..., :4]).mean(), 2.5 * np.abs(w[..., 4:]).mean()]
    assert_close(threshold(w, 2.5, group), np.array(want), 1e-12)


def test_the_threshold_scales_with_the_weights_and_ignores_their_order_and_sign():
    w, group, rng = normal(), group_index(6, 3), np.random.default_rng(1)
    wall = threshold(w, 2.0, group)
    shuffled = w.copy()
    shuffled[..., :3] = rng.permutation(w[..., :3].ravel()).reshape(3, 3, 2, 3)
    assert_close(threshold(-3.5 * w, 2.0, group), 3.5 * wall, 1e-12)
    assert_close(threshold(shuffled, 2.0, group), wall, 1e-12)
    assert np.array_equal(threshold(w * rng.choice([-1, 1], SHAPE), 2.0, group), wall)


def test_projection_stays_within_the_wall_keeps_signs_and_leaves_the_inside_alone():
    w, group = normal(), group_index(6, 2)
    wall, clipped = threshold(w, 1.5, group), w.copy()
    project(clipped, wall, group)
    inside = np.abs(w) <= wall[group]
    assert 0 < inside.sum() < w.size and (np.abs(clipped) <= wall[group]).all()
    assert np.array_equal(clipped[inside], w[inside]) and np.array_equal(np.sign(clipped), np.sign(w))
    again = clipped.copy()
    project(again, wall, group)
    assert np.array_equal(again, clipped)


@pytest.mark.parametrize("source,k,limit,slack",
                         [("gauss", 2, 1.470, 0.02), ("gauss", 3, 2.376, 0.03), ("laplace", 2, 1.594, 0.02)])
def test_repeated_projection_settles_at_the_wall_of_the_source(source, k, limit, slack):
    w = SOURCES[source](np.random.default_rng(0), 10 ** 5)[:, None]
    for _ in range(200):
        wall = threshold(w, k, ONE)
        project(w, wall, ONE)
    assert abs(wall[0] - limit) <= slack


def test_repeated_projection_with_k_one_shrinks_the_wall_at_every_step():
    w, walls = normal(0, (10 ** 5, 1)), []
    for _ in range(200):
        wall = threshold(w, 1, ONE)
        walls.append(wall[0])
        project(w, wall, ONE)
    assert (np.diff(walls) < 0).all() and walls[-1] < 0.05


def test_a_uniform_tensor_is_left_alone_by_k_two():
    w = np.random.default_rng(0).uniform(-1, 1, (10 ** 5, 1))
    wall, clipped = threshold(w, 2, ONE), w.copy()
    project(clipped, wall, ONE)
    assert abs(wall[0] - 1) <= 0.01 and (clipped != w).mean() < 0.01


def diffuse(k, steps=4000, size=20000):
    """Weights under random updates of 0.02, projected after each where k is given."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((size, 1), np.float32)
    for _ in range(steps):
        w += np.float32(0.02) * rng.standard_normal(w.shape, np.float32)
        if k:
            project(w, threshold(w, k, ONE), ONE)
    return w


def test_under_noise_projection_with_k_two_makes_weights_uniform():
    w = diffuse(2.0)
    assert abs(kurtosis(w) - 1.82) <= 0.08 and np.abs(w).max() / np.abs(w).mean() < 2.2


def test_under_noise_projection_with_k_below_two_collapses():
    assert threshold(diffuse(1.5), 1.5, ONE)[0] < 0.1


def test_under_noise_weights_that_are_not_projected_stay_gaussian():
    """The forward-only clip with the passed gradient moves the stored weights exactly so: clip or no clip."""
    assert abs(kurtosis(diffuse(None, steps=500)) - 3) <= 0.15


def test_an_outlier_is_brought_back_by_repeated_projection():
    w = normal(0, (1000, 1))
    w[0] = 1e6
    for _ in range(60):
        project(w, threshold(w, 2, ONE), ONE)
    assert np.isfinite(w).all() and abs(np.abs(w).max() - 1.47) < 0.1


# Groups ----------------------------------------------------------------------------------------------

def test_a_last_group_may_be_short_and_every_filter_has_one_group():
    assert group_index(7, 3).tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert group_index(7, -1).tolist() == group_index(7, 7).tolist() == group_index(7, 99).tolist() == [0] * 7


def test_one_group_per_layer_is_a_group_of_all_filters():
    w = normal()
    assert np.array_equal(ready(w, group_size=-1).forward(w)[0], ready(w, group_size=6).forward(w)[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("alpha_mode", ["threshold", "search"])
def test_groups_of_one_quantize_each_filter_alone(dtype, alpha_mode):
    w = normal().astype(dtype)
    together = ready(w, group_size=1, alpha_mode=alpha_mode).forward(w)[0]
    alone = [ready(w[..., c:c + 1], alpha_mode=alpha_mode).forward(w[..., c:c + 1])[0] for c in range(6)]
    assert np.array_equal(together, np.concatenate(alone, -1))


@pytest.mark.parametrize("grid", ["twos", "sym", "tile"])
def test_halving_the_groups_does_not_raise_the_error_of_the_search(grid):
    w = normal(3, (8, 3, 3, 16)) * np.random.default_rng(4).lognormal(0, 0.5, 16)
    errors = []
    for size in (16, 8, 4, 2, 1):
        quantizer = ready(w, 3, group_size=size, alpha_mode="search", grid=grid)
        errors.append(np.sum((w - quantizer.forward(w)[0]) ** 2))
    assert all(fine <= 1.01 * coarse for coarse, fine in zip(errors, errors[1:]))
    assert errors[-1] < 0.6 * errors[0]


# Grids -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("grid", ["twos", "sym", "tile"])
def test_codes_fit_their_bits_and_decode_to_the_forward(grid, bits):
    w = normal(1, (40, 5, 6)).astype(np.float32)
    quantizer = ready(w, bits, group_size=4, grid=grid)
    stored, limits = quantizer.encode(w), quantizer.grid
    integers = stored.levels[stored.codes]
    assert limits.q_min <= integers.min() and integers.max() <= limits.q_max
    assert len(stored.levels) == (2 ** bits if grid == "twos" else 2 ** bits - 1)
    assert np.array_equal(stored.decode(), quantizer.forward(w)[0])
    assert np.array_equal(stored.decode(), integers * limits.step(quantizer.alpha(w))[quantizer.group])


def test_ties_go_to_the_even_code():
    x = np.array([.5, -.5, 1.5, -1.5, 2.5, -2.5, 7.5, -7.5, 8, -8, 10, -9])
    want = [0, 0, 2, -2, 2, -2, 7, -8, 7, -8, 7, -8]
    assert Grid.signed(4, "twos").codes(x, np.array(8.0)).tolist() == want


@pytest.mark.parametrize("grid", ["sym", "tile", "twos"])
def test_grids_are_odd_except_where_a_twos_complement_code_is_at_an_end(grid):
    w, limits, alpha = normal(), Grid.signed(3, grid), np.array(1.3)
    codes, mirrored = limits.codes(w, alpha), limits.codes(-w, alpha)
    free = (np.abs(codes) < limits.q_max) | (grid != "twos")
    assert np.array_equal(mirrored[free], -codes[free]) and free.sum() > 20


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("grid", ["sym", "tile", "twos"])
def test_the_error_inside_the_clip_is_at_most_half_a_step(grid, bits):
    alpha, limits = np.array(0.7), Grid.signed(bits, grid)
    w, step = np.linspace(-0.7, 0.7, 10001), limits.step(np.array(0.7))
    error = np.abs(w - limits.codes(w, alpha) * step)
    cut = w > alpha - step / 2 if grid == "twos" else np.zeros(w.shape, bool)
    assert (error[~cut] <= step / 2 + 1e-12).all() and (error <= step + 1e-12).all()


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("grid", ["twos", "sym", "tile"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_relative_error_of_a_fixed_source_matches_the_table(source, grid, bits):
    w, mean = SOURCES[source](np.random.default_rng(1), 2 * 10 ** 5), {}
    limits = Grid.signed(bits, grid)
    best_k, at_best, at_two = vectors("gdrq")[f"t_{source}_{grid}"][bits - 2]
    for k in (best_k, 2.0):
        alpha = np.asarray(k * np.abs(w).mean())
        mean[k] = np.mean((w - limits.codes(w, alpha) * limits.step(alpha)) ** 2) / np.mean(w ** 2)
    assert mean[best_k] == pytest.approx(at_best, rel=0.03) and mean[2.0] == pytest.approx(at_two, rel=0.03)


@pytest.mark.parametrize("norm", [1, 2])
def test_the_least_quantized_loss_falls_from_laplace_over_gauss_to_uniform(norm):
    rng, grid = np.random.default_rng(0), Grid.signed(4, "twos")
    losses = [search_alpha(SOURCES[source](rng, (20000, 1)), ONE, grid, norm)[1][0]
              for source in ("laplace", "gauss", "uniform")]
    assert losses[0] > losses[1] > losses[2]


def test_the_losses_printed_in_figure_five_are_those_of_the_grid_with_both_ends():
    rng, grid = np.random.default_rng(0), Grid.signed(4, "full")
    for source, printed in (("laplace", 0.133), ("gauss", 0.096), ("uniform", 0.059)):
        loss = search_alpha(SOURCES[source](rng, (50000, 1)), ONE, grid, 1)[1][0]
        assert loss == pytest.approx(printed, abs=0.004)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("grid,bias", [("twos", -0.25), ("tile", 0.0)])
def test_twos_complement_has_the_bias_minus_alpha_over_four_h_squared_and_tile_has_none(grid, bias, bits):
    w = np.random.default_rng(0).uniform(-1, 1, 10 ** 6)
    alpha, limits = np.array(1.0), Grid.signed(bits, grid)
    error = limits.codes(w, alpha) * limits.step(alpha) - w
    assert abs(error.mean() - bias / 4 ** (bits - 1)) <= 3 * error.std() / 1000


def test_the_search_is_no_worse_than_the_threshold():
    for seed in range(5):
        w, group, limits = normal(seed, (50, 4)), group_index(4, 2), Grid.signed(3, "twos")
        wall, loss = threshold(w, 2.0, group), search_alpha(w, group, limits)[1]
        step = limits.step(wall)[group]
        error = (w - limits.codes(w, wall[group]) * step) ** 2
        at_wall = np.sqrt([error[:, g].sum() / (w[:, g] ** 2).sum() for g in (slice(0, 2), slice(2, 4))])
        assert (loss <= 1.01 * at_wall).all()


def test_the_search_takes_the_smallest_of_equally_good_clip_values():
    w = np.array([[1.0], [0.5]])  # ternary, p = 1: the loss is 1/2 for every alpha from 0.5 to 1
    assert search_alpha(w, ONE, Grid.signed(2, "sym"), 1)[0].tolist() == [0.5]


def test_the_search_reaches_down_to_a_tenth_of_the_largest_weight():
    w = np.array([1.0] + [0.1] * 1000)[:, None]
    assert search_alpha(w, ONE, Grid.signed(2, "sym"))[0].tolist() == [0.1]
