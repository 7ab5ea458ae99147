"""Mixture responsibilities: weights as soft averages of a Gaussian mixture's means, with exact gradients.

A weight w belongs to component k of a mixture with the posterior gamma_k(w). A softmax of temperature tau
sharpens the posterior to phi, and the training weight of DGMS is the phi-average of the means:

    gamma_k = pi_k N(w; mu_k, sigma_k^2) / sum_j ...       pi_k = |p_k| / sum_j |p_j|
    phi     = softmax_k(gamma / tau),   S = sum_k mu_k phi_k,   code = argmax_k

No straight-through step: `soft_backward` is the derivative of `soft`. The posterior has two forms. The
*official* one (walls=None) works with densities and adds 1e-11 to their sum, so that a weight some 7 sigma
outside loses all components and the largest weights of a layer become zero. The *robust* one takes
logarithms and first clips w to walls = (smallest, largest mean), which count as constants in the gradient.

The second half finds a first mixture: k-means with a centre pinned to 0, the k-means of the published code,
EM.

Temporaries of components x elements exist for one block at a time; backward computes the responsibilities
again.
"""

import math
from typing import NamedTuple

import numpy as np

EPSILON = 1e-11  # added to the sum of the densities in the official form
SIGMA_FLOOR = 1e-2  # smallest width, in standard deviations of the weights
PI_FLOOR = 1e-4  # smallest share
EM_SAMPLE = 2 ** 14  # weights that expectation maximisation looks at
BLOCK = 2 ** 16  # entries of components x elements that are alive at a time: they stay in the cache


class Mixture(NamedTuple):
    """K components in one dtype; `pi` holds the raw shares p; of p and sigma only the magnitudes count."""

    mu: np.ndarray
    pi: np.ndarray
    sigma: np.ndarray
    tau: float
    walls: tuple | None = None

    @classmethod
    def robust(cls, mu, pi, sigma, tau):
        """The mixture whose walls are its smallest and its largest mean."""
        return cls(mu, pi, sigma, tau, (mu.min(), mu.max()))

    def confine(self, w):
        """x: w clipped to the walls, or w itself."""
        return w if self.walls is None else np.clip(w, *self.walls)

    def standardise(self, w):
        """u_k = (x - mu_k) / |sigma_k|, (K, n), of weights w (n,), x being w after the clip."""
        u = self.confine(w) - self.mu[:, None]
        u /= np.abs(self.sigma)[:, None]
        return u

    def log_joint(self, u):
        """ln pi_k - ln|sigma_k| - u_k^2 / 2, (K, n): without the constant of the normal density."""
        share = np.abs(self.pi)
        logs = u * u
        logs *= -0.5
        logs += (np.log(share) - np.log(share.sum()) - np.log(np.abs(self.sigma)))[:, None]
        return logs

    def posterior(self, u):
        """gamma, (K, n), from u_k."""
        if self.walls is None:
            share = np.abs(self.pi)
            gamma = np.exp(-0.5 * u * u)
            gamma *= (share / share.sum() / (math.sqrt(2 * math.pi) * np.abs(self.sigma)))[:, None]
            gamma /= gamma.sum(0) + np.asarray(EPSILON, u.dtype)
            return gamma
        return softmax(self.log_joint(u))

    def sharpen(self, gamma):
        """phi = softmax_k(gamma / tau), (K, n)."""
        return softmax(gamma / np.asarray(self.tau, gamma.dtype))


def softmax(z):
    """Softmax over axis 0, computed in place."""
    z -= z.max(0)
    np.exp(z, out=z)
    z /= z.sum(0)
    return z


def responsibilities(w, mixture):
    """(gamma, phi), each (K, N), of all of w at once: for inspection; the functions below work in blocks."""
    gamma = mixture.posterior(mixture.standardise(w.reshape(-1)))
    return gamma, mixture.sharpen(gamma)


def _blocks(size, components):
    step = max(1, BLOCK // components)
    return [slice(start, start + step) for start in range(0, size, step)]


def soft(w, mixture):
    """S = sum_k mu_k phi_k, in the shape and dtype of w."""
    flat, s = w.reshape(-1), np.empty(w.size, w.dtype)
    for part in _blocks(w.size, len(mixture.mu)):
        phi = mixture.sharpen(mixture.posterior(mixture.standardise(flat[part])))
        np.einsum("k,kn->n", mixture.mu, phi, out=s[part])
    return s.reshape(w.shape)


def hard(w, mixture):
    """The most probable component of every weight (uint8, shape of w); of equals the first."""
    flat, codes = w.reshape(-1), np.empty(w.size, np.uint8)
    for part in _blocks(w.size, len(mixture.mu)):
        u = mixture.standardise(flat[part])
        score = mixture.sharpen(mixture.posterior(u)) if mixture.walls is None else mixture.log_joint(u)
        codes[part] = score.argmax(0)
    return codes.reshape(w.shape)


def soft_backward(dy, w, mixture):
    """Return (dw, dmu, dpi, dsigma, dtau) of `soft`, given dy = dL/dS in the shape of w.

    u_k = (x - mu_k) / |sigma_k|,   A_k = phi_k (mu_k - S) / tau = dS/dgamma_k,
    B_k = dy gamma_k (A_k - sum_j A_j gamma_j)

    dw        = -sum_k B_k u_k / |sigma_k|, and 0 at and beyond the walls
    dmu_k     = sum_n dy phi_k + sum_n B_k u_k / |sigma_k|
    dsigma_k  = sum_n B_k (u_k^2 - 1) / sigma_k
    dp_k      = sign(p_k) / P (T_k / pi_k - sum_j T_j),   T_k = sum_n B_k,   P = sum_j |p_j|
    dtau      = -sum_n dy sum_k A_k gamma_k / tau

    dmu includes component 0: whoever pins a mean drops its entry. Block sums add up in float64.
    """
    mu, sigma, tau = mixture.mu, mixture.sigma, np.asarray(mixture.tau, w.dtype)
    flat, upstream, dw = w.reshape(-1), dy.reshape(-1), np.empty(w.size, w.dtype)
    sums, dtau = np.zeros((4, len(mu))), 0.0
    for part in _blocks(w.size, len(mu)):
        g = upstream[part]
        u = mixture.standardise(flat[part])
        gamma = mixture.posterior(u)
        phi = mixture.sharpen(gamma)
        a = mu[:, None] - np.einsum("k,kn->n", mu, phi)
        a *= phi
        a /= tau
        mean = np.einsum("kn,kn->n", a, gamma)
        dtau -= float(np.einsum("n,n->", g, mean))
        a -= mean
        a *= gamma
        a *= g  # now B
        sums[0] += np.einsum("kn,n->k", phi, g)
        sums[1] += a.sum(1)
        a *= u
        sums[2] += a.sum(1)
        sums[3] += np.einsum("kn,kn->k", a, u)
        np.einsum("k,kn->n", -1 / np.abs(sigma), a, out=dw[part])
    if mixture.walls is not None:
        # Deviation: the walls are constants here, although they are means; beyond them S is constant in w.
        dw *= (flat > mixture.walls[0]) & (flat < mixture.walls[1])
    return (dw.reshape(w.shape), *_parameter_gradients(sums, dtau, mixture))


def _parameter_gradients(sums, dtau, mixture):
    """(dmu, dpi, dsigma, dtau) in the mixture's dtype from the sums over n of dy phi, B, B u, B u^2."""
    sigma, share = mixture.sigma.astype(np.float64), np.abs(mixture.pi).astype(np.float64)
    total = share.sum()
    dmu = sums[0] + sums[2] / np.abs(sigma)
    dsigma = (sums[3] - sums[1]) / sigma
    dpi = np.sign(mixture.pi) * (sums[1] / share - sums[1].sum() / total)
    dtau = np.asarray(dtau / float(mixture.tau))
    return tuple(part.astype(mixture.mu.dtype) for part in (dmu, dpi, dsigma, dtau))


def smallest_width(w):
    """Floor of sigma: 0.01 std(w), at least 1e-8 and a millionth of max|w|, so that no square overflows."""
    largest = float(np.abs(w).max())
    spread = largest * float((w / largest).std(dtype=np.float64)) if largest else 0.0
    return max(SIGMA_FLOOR * spread, 1e-6 * largest, 1e-8)


def _lloyd(w, centres, pinned, done, max_iter):
    """Lloyd's algorithm on ascending w from ascending centres; return (centres, K + 1 borders in w).

    A weight half-way between two centres joins the lower one. `pinned` is the index of a centre that stays,
    or None; an empty cluster keeps its centre; done(shifts) ends the loop.
    """
    def borders(c):
        return np.concatenate([[0], np.searchsorted(w, (c[:-1] + c[1:]) / 2, side="right"), [len(w)]])

    for _ in range(max_iter):
        edges = borders(centres)
        moved = np.array([w[a:b].mean() if b > a and k != pinned else centres[k]
                          for k, (a, b) in enumerate(zip(edges[:-1], edges[1:]))])
        shifts, centres = np.abs(moved - centres), moved
        if done(shifts):
            break
    return centres, borders(centres)


def _cluster_mixture(w, centres, edges, order):
    """(mu, pi, sigma) of clusters of ascending w in the given order; the first is the zero component."""
    centres = np.where(np.arange(len(centres)) == order[0], 0.0, centres)
    counts = np.diff(edges)
    squares = np.array([np.square(w[a:b] - c).sum() for a, b, c in zip(edges[:-1], edges[1:], centres)])
    sigma = np.maximum(np.sqrt(squares / np.maximum(counts - 1, 1)), smallest_width(w))
    return centres[order], np.maximum(counts / len(w), PI_FLOOR)[order], sigma[order]


def zero_anchored_kmeans(w, components, max_iter=100, tol=1e-9):
    """(mu, pi, sigma), float64 (K,), zero component first: deterministic k-means with one centre pinned to 0.

    The centres start at the quantiles (k + 1/2) / K, the one nearest to 0 is pinned there. Does not depend on
    the order of w. Cost: one sort and at most `max_iter` passes.
    """
    w = np.sort(w.reshape(-1).astype(np.float64))
    centres = np.quantile(w, (np.arange(components) + 0.5) / components)
    nearest = np.abs(centres).argmin()
    others = np.delete(centres, nearest)
    zero = int(np.searchsorted(others, 0.0))  # of equal or equally near quantiles any one may be the pinned
    centres = np.insert(others, zero, 0.0)
    centres, edges = _lloyd(w, centres, zero, lambda shifts: shifts.max() < tol, max_iter)
    return _cluster_mixture(w, centres, edges, [zero, *np.delete(np.arange(components), zero)])


def official_kmeans(w, draw, max_iter=300):
    """(mu, pi, sigma), zero component first: k-means from the weights at flat indices `draw`, as in the code.

    It stops when (sum of shifts)^2 < 1e-11; then the centre nearest to 0 becomes the zero component, and the
    others keep the order of the draw.
    """
    flat = w.reshape(-1).astype(np.float64)
    order = np.argsort(flat[draw], kind="stable")
    ordered = np.sort(flat)
    start = flat[draw][order]
    centres, edges = _lloyd(ordered, start, None, lambda shifts: shifts.sum() ** 2 < 1e-11, max_iter)
    zero = np.abs(centres).argmin()
    rank = np.argsort(order)  # rank[i]: where the i-th draw stands among the ascending centres
    return _cluster_mixture(ordered, centres, edges, [zero, *rank[rank != zero]])


def expectation_maximisation(w, start, max_iter=100, tol=1e-5):
    """(mu, pi, sigma) refined by EM with mu_0 pinned to 0, until the mean log-likelihood gains under `tol`.

    The code has an unconstrained EM that nothing calls. More than 16 384 weights are represented by as many
    evenly spaced order statistics. A component without weights keeps its mean; the floors hold.
    """
    w = np.sort(w.reshape(-1).astype(np.float64))
    floor = smallest_width(w)
    if len(w) > EM_SAMPLE:
        w = w[np.linspace(0, len(w) - 1, EM_SAMPLE).round().astype(int)]
    mu, pi, sigma = start
    last = -np.inf
    for _ in range(max_iter):
        mixture = Mixture(mu, pi, sigma, 1.0)
        joint = mixture.log_joint(mixture.standardise(w))
        peak = joint.max(0)
        gamma = np.exp(joint - peak)
        total = gamma.sum(0)
        likelihood = float((peak + np.log(total)).mean())
        if likelihood - last < tol:
            break
        last = likelihood
        gamma /= total
        weight = gamma.sum(1)
        mu = np.where(weight > 1e-6, np.einsum("kn,n->k", gamma, w) / np.maximum(weight, 1e-6), mu)
        mu[0] = 0.0
        squares = np.einsum("kn,kn->k", gamma, np.square(w - mu[:, None]))
        sigma = np.maximum(np.sqrt(squares / np.maximum(weight, 1e-6)), floor)
        pi = np.maximum(weight / len(w), PI_FLOOR)
    return mu, pi, sigma


def initial_mixture(w, components, init, rng):
    """(mu, pi, sigma) for w by `anchored`, `em`, `kmeans` or `empirical` (k-means, then all widths 0.01)."""
    if init in ("anchored", "em"):
        mixture = zero_anchored_kmeans(w, components)
        return expectation_maximisation(w, mixture) if init == "em" else mixture
    draw = rng.choice(w.size, components, replace=w.size < components)
    mu, pi, sigma = official_kmeans(w, draw)
    return mu, pi, np.full_like(sigma, max(0.01, smallest_width(w))) if init == "empirical" else sigma
