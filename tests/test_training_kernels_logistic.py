"""The compiled logistic grid of CPQ and RQ equals its NumPy form at every instruction set and thread count.

References are computed in float64; the error of a float32 result is mostly that of x / sigma, which NumPy in
float32 has as well: the compiled form may be at most about as far from the reference as that.
"""

import itertools

import numpy as np
import pytest

from minquant import _kernels
from minquant.estimators import compiled, dropbits, multiclass
from minquant.estimators.concrete import gumbel_of_bits, noise_bits
from minquant.estimators.multiclass import Grid, grid_codes
from minquant.nn import ops
from minquant.quantizers import rq
from minquant.quantizers.cpq import ClusterPromoting, DropBits
from minquant.quantizers.rq import RelaxedQuantizer

KERNELS = _kernels.extension("train")
GRIDS = [*itertools.product((1, 2, 4, 8), (True, False), (1 / 3, 3.0, 30.0))]


@pytest.fixture(autouse=True)
def restore(monkeypatch):
    """Threads are used also where the work is small; what a test chooses does not outlive it."""
    monkeypatch.setattr(ops, "SMALL_ARRAY", 0)
    threads, isa = ops.get_threads(), KERNELS and KERNELS.isa()
    yield
    ops.set_threads(threads)
    if KERNELS:
        KERNELS.use_isa(isa)


@pytest.fixture(params=KERNELS.isas() if KERNELS else ["numpy"])
def isa(request, restore):
    """An instruction set of this machine, in use; without the extension the tests are about NumPy."""
    if KERNELS:
        KERNELS.use_isa(request.param)
    return request.param


def grid_of(bits, signed, kappa, alpha=0.3):
    return Grid(float(np.float32(alpha)), float(np.float32(alpha / kappa)), *grid_codes(bits, signed))


def values(grid, rng, n=3003):
    """Values inside and around the grid, a third of them 0, some far outside."""
    x = grid.alpha * rng.uniform(grid.n_min - 2, grid.n_max + 2, n)
    x[::3] = 0
    x[:4] = 1e6, -1e6, 50 * grid.sigma + grid.alpha * grid.n_max, -0.0
    off = np.abs(x / grid.alpha % 1 - 0.5) < 1e-4  # a tie may be rounded otherwise in float64
    x[off] += 1e-3 * grid.alpha
    return x.astype(np.float32), rng.standard_normal(n).astype(np.float32)


def assert_as_exact(found, slopes, slopes32, dy, allowed=1e-5):
    """(dx, sums) against dy times float64 slopes: `allowed`, and thrice the error of float32 NumPy."""
    dx, sums = found
    wanted, plain = dy * slopes[0], dy * slopes32[0]
    scale = np.abs(wanted).max() + 1e-30
    assert dx.dtype == np.float32
    assert np.abs(dx - wanted).max() <= allowed * scale + 3 * np.abs(plain - wanted).max()
    for total, slope, slope32 in zip(sums, slopes[1:], slopes32[1:], strict=True):
        wanted, plain = dy * slope, dy * slope32
        limit = allowed * np.abs(wanted).sum() + 3 * np.abs(plain - wanted).sum()
        assert abs(total - wanted.sum()) <= limit + 1e-30


def test_exponential_and_logarithm_are_within_three_units_in_the_last_place(isa):
    if isa == "numpy":
        return
    rng = np.random.default_rng(0)
    x = np.r_[rng.uniform(-87, 88, 100_000), rng.uniform(-1, 1, 100_003)].astype(np.float32)
    x = np.r_[x, np.exp(rng.uniform(-80, 80, 50_000)), -100, 100, -1e30, 1e30].astype(np.float32)
    e, l = np.empty_like(x), np.empty_like(x)
    KERNELS.exp_log(x, e, l)
    wide = x.astype(np.float64)
    exact = np.exp(np.clip(wide, -87, 88))
    assert (np.abs(e - exact) / np.spacing(exact.astype(np.float32))).max() < 3
    exact = np.log(np.abs(wide))
    assert (np.abs(l - exact) / np.spacing(np.abs(exact).astype(np.float32))).max() < 3


@pytest.mark.parametrize("bits, signed, kappa", GRIDS)
def test_levels_equal_those_of_numpy_to_the_bit(isa, bits, signed, kappa):
    grid = grid_of(bits, signed, kappa)
    ties = grid.alpha * (np.arange(grid.n_min - 3, grid.n_max + 3) + 0.5)
    x, _ = values(grid, np.random.default_rng(1))
    x = np.r_[x, ties, np.inf, -np.inf, np.nan, 1e38].astype(np.float32)
    x = np.r_[x, np.nextafter(x, np.float32(9)), np.nextafter(x, np.float32(-9))]
    np.testing.assert_array_equal(multiclass.nearest_level(x, grid), grid.nearest(x) * grid.alpha)


@pytest.mark.parametrize("bits, signed, kappa", GRIDS)
@pytest.mark.parametrize("rule", ["imax", "full"])
@pytest.mark.parametrize("normalize", [True, False])
def test_slopes_equal_those_of_numpy(isa, bits, signed, kappa, rule, normalize):
    grid = grid_of(bits, signed, kappa)
    x, dy = values(grid, np.random.default_rng(2))
    dx, *sums = multiclass.backward(dy, x, grid, rule, normalize)
    slopes = [multiclass.RULES[rule](v, grid, normalize) for v in (x.astype(np.float64), x)]
    assert_as_exact((dx, sums), *slopes, dy)


@pytest.mark.parametrize("bits, min_bits", [(2, 1), (4, 1), (4, 2), (8, 1), (8, 8)])
@pytest.mark.parametrize("kappa", [1 / 3, 3.0, 30.0])
def test_gated_slopes_equal_those_of_numpy_for_open_closed_and_partly_open_gates(isa, bits, min_bits, kappa):
    grid, rng = grid_of(bits, True, kappa), np.random.default_rng(3)
    x, dy = values(grid, rng)
    for gates in (rng.uniform(0.1, 1, bits - min_bits), rng.integers(0, 2, bits - min_bits)):
        gates = gates.astype(np.float32)
        n = dropbits.bits_codes(x, grid, gates, min_bits)
        found = dropbits.bits_backward(dy, x, n, grid, gates, min_bits)
        slopes = [dropbits.bits_slopes(v, n.astype(v.dtype), grid, gates, min_bits)
                  for v in (x.astype(np.float64), x)]
        assert_as_exact(found, *slopes, dy)


@pytest.mark.parametrize("bits, signed, kappa", GRIDS)
@pytest.mark.parametrize("delta", [0, 3, 6])
@pytest.mark.parametrize("hard, tau", [(False, 1.0), (False, 0.5), (True, 1.0)])
def test_relaxed_samples_and_slopes_equal_those_of_numpy(isa, bits, signed, kappa, delta, hard, tau):
    grid, rng = grid_of(bits, signed, kappa), np.random.default_rng(4)
    x, dy = values(grid, rng)
    x = np.clip(x, -50, 50)
    levels, local = rq.local_levels(grid, delta)
    random_bits = noise_bits(rng, (levels, x.size))
    settings = levels, local, hard, tau
    y = compiled.sample(x, grid, settings, random_bits)
    assert (y is None) == (isa == "numpy" or levels > compiled.MOST_LEVELS)
    if y is None:
        return

    def reference(v):
        codes, noise = rq.local_codes(x, grid, delta).astype(v.dtype), gumbel_of_bits(random_bits, v.dtype)
        z = rq.relaxed_sample(v, grid, codes, noise, tau)
        return (grid.alpha * rq.chosen_codes(z, codes, hard),
                rq.relaxed_slopes(v, grid, codes, noise, tau, hard))

    (y64, slopes), (y32, slopes32) = reference(x.astype(np.float64)), reference(x)
    assert np.abs(y - y64).max() <= 1e-5 * np.abs(y64).max() + 3 * np.abs(y32 - y64).max()
    assert_as_exact(compiled.sample_slopes(dy, x, grid, settings, random_bits), slopes, slopes32, dy, 3e-5)


def results(quantizer, x, dy):
    quantizer.state["ready"][...] = True
    y, cache = quantizer.forward(x, True, np.random.default_rng(6))
    dx, grads = quantizer.backward(dy, cache)
    return y, dx, *grads.values()


QUANTIZERS = [lambda: ClusterPromoting(4, False, "full"), lambda: ClusterPromoting(4, True, "imax"),
              lambda: DropBits(4, keep=0.6), lambda: RelaxedQuantizer(4),
              lambda: RelaxedQuantizer(4, hard=True)]
NAMES = ["full", "imax", "masked", "RQ", "RQ-ST"]


@pytest.mark.parametrize("make", QUANTIZERS, ids=NAMES)
def test_number_of_threads_does_not_change_a_bit(make):
    x, dy = values(grid_of(4, True, 3.0, 1.0), np.random.default_rng(5), 30_001)
    found = []
    for count in (1, 2, 3):
        ops.set_threads(count)
        found.append(results(make(), x, dy))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("make", QUANTIZERS, ids=NAMES)
def test_a_quantizer_computes_the_same_in_numpy_where_nothing_is_compiled(make, monkeypatch):
    x, dy = values(grid_of(4, True, 3.0, 1.0), np.random.default_rng(5))
    x = np.clip(x, -50, 50)
    found = results(make(), x, dy)
    monkeypatch.setattr(ops, "_train", None)
    for ours, reference in zip(found, results(make(), x, dy), strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=5e-4)


def test_views_are_copied_and_float64_or_extreme_noise_is_left_to_numpy():
    grid, rng = grid_of(4, True, 3.0), np.random.default_rng(7)
    x, dy = values(grid, rng, 3000)
    ours = multiclass.backward(dy[::2], x[::2], grid, "full")
    of_copies = multiclass.backward(dy[::2].copy(), x[::2].copy(), grid, "full")
    for a, b in zip(ours, of_copies):
        np.testing.assert_array_equal(a, b)
    wide = x.astype(np.float64)
    assert compiled.full(dy.astype(np.float64), wide, grid, True) is None
    assert compiled.nearest_level(wide, grid) is None
    assert compiled.full(dy, x, Grid(0.3, 0.3 / 100, -8, 7), True) is None
    assert multiclass.nearest_level(wide, grid).dtype == np.float64


def test_kernels_refuse_what_would_read_or_write_beyond_an_array():
    if KERNELS is None:
        assert not ops.compiled()
        return
    grid, x = (0.3, 0.1, -8, 7), np.zeros(5, np.float32)
    short, noise = np.zeros(4, np.float32), np.zeros((3, 5), np.uint32)
    for call in (lambda: KERNELS.logistic_round(grid, x, short, 1),
                 lambda: KERNELS.logistic_full(grid, True, x, x, short, 1),
                 lambda: KERNELS.logistic_gated(grid, [], 0, x, x, short, x, 1),
                 lambda: KERNELS.logistic_sample(grid, (5, False, False, 1.0), x, noise, x, 1)):
        with pytest.raises(ValueError, match="arrays of different size"):
            call()
    with pytest.raises(ValueError, match="1..32 levels, not 33"):
        KERNELS.logistic_sample(grid, (33, False, False, 1.0), x, noise, x, 1)
    with pytest.raises(ValueError, match="more gates than the kernels take"):
        KERNELS.logistic_gated(grid, [(-1, 1.0, 0, 1)] * 16, 0, x, x, None, x, 1)
    with pytest.raises(ValueError, match="is no gated interval"):
        KERNELS.logistic_gated(grid, [(1, 1.0, 0, 1)], 1, x, x, None, x, 1)
    with pytest.raises(ValueError, match="take no logistic grid of step 0.3, noise 0.001"):
        KERNELS.logistic_full((0.3, 0.001, -8, 7), True, x, x, x.copy(), 1)
