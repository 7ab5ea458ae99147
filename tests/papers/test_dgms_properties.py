"""What DGMS promises of its forward, backward and start, for any mixture."""

import numpy as np
import pytest

from minquant.estimators import mixture as mixture_module
from minquant.estimators.mixture import (Mixture, expectation_maximisation, hard, initial_mixture,
                                         responsibilities, smallest_width, soft, soft_backward,
                                         zero_anchored_kmeans)
from minquant.quantizers.dgms import start_temperature

SIZES = [2, 4, 8, 16]


def draw(components, tau=0.1, seed=0, size=200, robust=True, spread=0.25):
    """Weights and a mixture that overlaps: (w, mixture), float64."""
    rng = np.random.default_rng(seed)
    mu = np.append(0, rng.normal(0, 0.3, components - 1))
    pi = rng.uniform(0.2, 1, components) * rng.choice([-1, 1], components)
    sigma = rng.uniform(0.5, 1.5, components) * spread / np.sqrt(components) * rng.choice([-1, 1], components)
    make = Mixture.robust if robust else Mixture
    return rng.normal(0, 0.3, size), make(mu, pi, sigma, tau)


def with_tau(mixture, tau):
    return mixture._replace(tau=tau)


@pytest.mark.parametrize("components", SIZES)
def test_responsibilities_are_probabilities_and_weights_stay_within_the_codebook(components):
    w, m = draw(components)
    gamma, phi = responsibilities(w, m)
    for share in (gamma, phi):
        assert (share >= 0).all()
        np.testing.assert_allclose(share.sum(0), 1, atol=1e-12)
    s = soft(w, m)
    assert (s >= m.mu.min() - 1e-15).all() and (s <= m.mu.max() + 1e-15).all()
    assert set(m.mu[hard(w, m)]) <= set(m.mu)


@pytest.mark.parametrize("tau", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("components", SIZES)
def test_soft_and_hard_weights_differ_by_less_than_the_bound(components, tau):
    w, m = draw(components, tau)
    gamma, phi = responsibilities(w, m)
    hard_weight = m.mu[hard(w, m)]
    ordered = np.sort(gamma, axis=0)
    lead, reach = ordered[-1] - ordered[-2], np.abs(m.mu[:, None] - hard_weight).max(0)
    bound = (components - 1) * np.exp(-lead / tau) * reach
    assert (np.abs(soft(w, m) - hard_weight) <= bound + 1e-12).all()
    assert phi.max() <= 1 / (1 + (components - 1) * np.exp(-1 / tau)) + 1e-12


@pytest.mark.parametrize("components", SIZES)
def test_the_first_temperature_gives_a_certain_weight_nine_tenths_of_its_mean(components):
    tau = start_temperature(components)
    _, m = draw(components, tau)
    assert m.sharpen(np.eye(components)).max() == pytest.approx(0.9, abs=1e-12)


@pytest.mark.parametrize("components", SIZES)
def test_scaling_all_shares_changes_nothing_and_their_gradient_has_no_radial_part(components):
    w, m = draw(components)
    np.testing.assert_allclose(soft(w, m._replace(pi=3.7 * m.pi)), soft(w, m), atol=1e-13)
    dpi = soft_backward(np.random.default_rng(1).standard_normal(w.shape), w, m)[2]
    assert abs((m.pi * dpi).sum()) <= 1e-10 * np.abs(m.pi * dpi).sum()


@pytest.mark.parametrize("components", SIZES)
def test_scaling_weights_means_and_widths_scales_the_soft_weight(components):
    w, m = draw(components)
    a = 1.75
    scaled = Mixture.robust(a * m.mu, m.pi, a * m.sigma, m.tau)
    np.testing.assert_allclose(soft(a * w, scaled), a * soft(w, m), atol=1e-12)


@pytest.mark.parametrize("components", SIZES)
def test_without_clipped_weights_the_gradients_obey_eulers_theorem(components):
    w, m = draw(components)
    w = np.clip(w, m.mu.min() + 1e-6, m.mu.max() - 1e-6)
    dy = np.random.default_rng(2).standard_normal(w.shape)
    dw, dmu, _, dsigma, _ = soft_backward(dy, w, m)
    total = (w * dw).sum() + (m.mu * dmu).sum() + (m.sigma * dsigma).sum()
    assert total == pytest.approx((dy * soft(w, m)).sum(), rel=1e-9)


@pytest.mark.parametrize("robust", [True, False])
def test_mirroring_weights_and_means_mirrors_the_soft_weight(robust):
    w, m = draw(8, robust=robust)
    mirrored = (Mixture.robust if robust else Mixture)(-m.mu, m.pi, m.sigma, m.tau)
    np.testing.assert_allclose(soft(-w, mirrored), -soft(w, m), atol=1e-13)


@pytest.mark.parametrize("components", SIZES)
def test_equal_shares_and_widths_choose_the_nearest_mean(components):
    w, m = draw(components, size=2000)
    m = m._replace(pi=np.ones(components), sigma=np.full(components, 0.1))
    np.testing.assert_array_equal(hard(w, m), np.abs(w - m.mu[:, None]).argmin(0))


def test_two_components_of_equal_width_meet_at_the_boundary_formula():
    mu, pi, sigma = np.array([0.0, 0.4]), np.array([0.7, 0.3]), 0.1
    boundary = mu.mean() + sigma ** 2 * np.log(pi[0] / pi[1]) / (mu[1] - mu[0])
    m = Mixture.robust(mu, pi, np.full(2, sigma), 0.1)
    gamma, _ = responsibilities(np.array([boundary]), m)
    np.testing.assert_allclose(gamma[:, 0], 0.5, atol=1e-9)
    assert soft(np.array([boundary]), m)[0] == pytest.approx(mu.mean(), abs=1e-12)


@pytest.mark.parametrize("components", SIZES)
def test_a_high_temperature_averages_all_means_and_a_low_one_takes_one(components):
    w, m = draw(components)
    np.testing.assert_allclose(soft(w, with_tau(m, 1e6)), m.mu.mean(), atol=1e-6)
    gamma = np.sort(responsibilities(w, m)[0], axis=0)
    clear = w[gamma[-1] - gamma[-2] > 0.05]
    assert len(clear) > 20
    np.testing.assert_allclose(soft(clear, with_tau(m, 1e-4)), m.mu[hard(clear, m)], atol=1e-12)


def test_weights_beyond_the_codebook_take_its_ends_and_get_no_gradient():
    _, m = draw(8)
    for wall, direction in ((m.mu.max(), 1), (m.mu.min(), -1)):
        w = wall + direction * np.array([0, 1e-9, 0.1, 1, 1e3, 1e6])
        assert len(np.unique(soft(w, m))) == 1 and len(np.unique(hard(w, m))) == 1
        assert not soft_backward(np.ones_like(w), w, m)[0].any()


def test_the_official_form_prunes_far_weights():
    w, m = draw(8, robust=False)
    np.testing.assert_array_equal(hard(np.array([1e3, -1e3]), m), 0)
    np.testing.assert_allclose(soft(np.array([1e3, -1e3]), m), m.mu.mean(), atol=1e-12)


def test_of_equally_probable_components_the_first_wins():
    m = Mixture.robust(np.array([0.0, 1.0, 1.0, 0.0]), np.ones(4), np.full(4, 0.1), 0.1)
    np.testing.assert_array_equal(hard(np.array([0.0, 0.5, 1.0]), m), [0, 0, 1])


@pytest.mark.parametrize("tau,tolerance", [(0.3, 1e-4), (0.05, 1e-4), (0.01, 1e-3)])
@pytest.mark.parametrize("components", SIZES)
def test_single_precision_follows_double_precision(components, tau, tolerance):
    w, m = draw(components, tau, size=4000)
    dy = np.random.default_rng(3).standard_normal(w.shape)
    small = Mixture.robust(*(a.astype(np.float32) for a in m[:3]), m.tau)
    w32, dy32 = w.astype(np.float32), dy.astype(np.float32)
    large = Mixture.robust(*(a.astype(np.float64) for a in small[:3]), m.tau)
    wide, wide_dy = w32.astype(np.float64), dy32.astype(np.float64)
    np.testing.assert_array_equal(hard(w32, small), hard(wide, large))
    singles = [soft(w32, small), *soft_backward(dy32, w32, small)]
    doubles = [soft(wide, large), *soft_backward(wide_dy, wide, large)]
    limits = [tolerance] * 5 + [10 * tolerance]  # the temperature's gradient is a sum whose terms cancel
    for single, double, limit in zip(singles, doubles, limits):
        assert np.abs(single - double).max() <= limit * np.abs(double).max()
        assert single.dtype == np.float32


@pytest.mark.parametrize("components", SIZES)
def test_lower_temperature_moves_the_soft_weights_closer_to_the_hard_ones(components):
    w, m = draw(components, size=2000)
    gaps = [np.abs(soft(w, with_tau(m, tau)) - m.mu[hard(w, m)]).mean() for tau in (0.3, 0.1, 0.03, 0.01)]
    assert (np.diff(gaps) < 0).all()


def test_results_do_not_depend_on_how_the_layer_is_cut_into_blocks(monkeypatch):
    w, m = draw(8, size=1001)
    dy = np.random.default_rng(4).standard_normal(w.shape)
    whole = [soft(w, m), hard(w, m), *soft_backward(dy, w, m)]
    monkeypatch.setattr(mixture_module, "BLOCK", 8 * 37)
    for ours, theirs in zip([soft(w, m), hard(w, m), *soft_backward(dy, w, m)], whole):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-12)


START = {"normal": lambda r: r.normal(0, 0.1, 400), "single": lambda r: np.array([0.2]),
         "zero": lambda r: np.zeros(50), "constant": lambda r: np.full(50, 0.3),
         "negative constant": lambda r: np.full(50, -0.3), "binary": lambda r: r.choice([-1.0, 1.0], 60),
         "ternary": lambda r: r.choice([-1.0, 0.0, 1.0], 60),
         "outlier": lambda r: np.append(r.normal(0, 0.1, 99), 1e5),
         "negative outlier": lambda r: np.append(r.normal(0, 0.1, 99), -1e5),
         "huge": lambda r: r.normal(0, 1e20, 64), "tiny": lambda r: r.normal(0, 1e-30, 64)}


@pytest.mark.parametrize("init", ["anchored", "em", "kmeans", "empirical"])
@pytest.mark.parametrize("kind", START)
@pytest.mark.parametrize("components", SIZES)
def test_every_start_ends_with_a_usable_mixture_on_every_tensor(components, kind, init):
    w = START[kind](np.random.default_rng(5)).astype(np.float32)
    mu, pi, sigma = initial_mixture(w, components, init, np.random.default_rng(6))
    assert mu.shape == pi.shape == sigma.shape == (components,) and mu[0] == 0.0
    assert np.isfinite([mu, pi, sigma]).all() and (pi > 0).all()
    assert (sigma >= 0.999 * smallest_width(w)).all()
    m = Mixture.robust(*(a.astype(np.float32) for a in (mu, pi, sigma)), 0.1)
    parts = [soft(w, m), *soft_backward(np.ones_like(w), w, m)]
    assert all(np.isfinite(part).all() for part in parts)


def test_all_zero_weights_take_the_zero_component():
    w = np.zeros(12)
    m = Mixture.robust(*zero_anchored_kmeans(w, 4), 0.1)
    assert not hard(w, m).any() and not soft(w, m).any()


def test_the_anchored_start_ignores_the_order_of_the_weights_and_orders_its_means():
    w = np.random.default_rng(7).laplace(0, 0.1, 500)
    shuffled = np.random.default_rng(8).permutation(w)
    first, second = zero_anchored_kmeans(w, 8), zero_anchored_kmeans(shuffled, 8)
    for ours, theirs in zip(first, second):
        np.testing.assert_array_equal(ours, theirs)
    assert (np.diff(first[0][1:]) > 0).all()


def test_the_anchored_start_fits_better_than_pinning_the_nearest_centre_afterwards():
    w = np.random.default_rng(9).normal(0, 0.1, 4000)
    errors = {}
    for init in ("anchored", "kmeans"):
        mu = initial_mixture(w, 4, init, np.random.default_rng(10))[0]
        errors[init] = np.square(w - mu[np.abs(w - mu[:, None]).argmin(0)]).mean()
    assert errors["anchored"] < errors["kmeans"]


def test_equal_generators_draw_equal_starts():
    w = np.random.default_rng(11).normal(0, 0.1, 300)
    first, second, other = (initial_mixture(w, 4, "kmeans", np.random.default_rng(s))[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_expectation_maximisation_raises_the_likelihood_and_keeps_the_zero():
    rng = np.random.default_rng(12)
    w = np.concatenate([rng.normal(0, 0.02, 400), rng.normal(0.2, 0.05, 300), rng.normal(-0.3, 0.03, 300)])

    def likelihood(mu, pi, sigma):
        density = np.abs(pi / sigma)[:, None] * np.exp(-np.square((w - mu[:, None]) / sigma[:, None]) / 2)
        return np.log(density.sum(0) / pi.sum()).mean()

    start = zero_anchored_kmeans(w, 4)
    refined = expectation_maximisation(w, start)
    assert likelihood(*refined) > likelihood(*start) and refined[0][0] == 0.0
