"""EVBMF as its papers print it and as the widely used implementation does it: a full SVD, and every formula."""

import math

import numpy as np
from scipy.optimize import minimize_scalar


def textbook_omega(sigma2, s, alpha, M, x_bar):
    x = s**2 / (M * sigma2)
    kept, noise = x[x > x_bar], x[x <= x_bar]
    tau = 0.5 * (kept - (1 + alpha) + np.sqrt((kept - (1 + alpha)) ** 2 - 4 * alpha))
    signal = np.sum(kept - tau + np.log((tau + 1) / kept)) + alpha * np.sum(np.log(tau / alpha + 1))
    return np.sum(noise - np.log(noise)) + signal


def textbook_bounds(s, L, M, x_bar):
    H = math.ceil(L / (1 + L / M)) - 1
    return max(s[H] ** 2 / (M * x_bar), np.mean(s[H:] ** 2) / M), np.sum(s**2) / (L * M)


def textbook_shrunk(s, L, M, sigma2):
    part = 1 - (L + M) * sigma2 / s**2
    return s / 2 * (part + np.sqrt(part**2 - 4 * L * M * sigma2**2 / s**4))


def textbook_reference(Y):
    """Rank, noise variance and shrunk singular values of the widely used implementation."""
    Y = Y if Y.shape[0] <= Y.shape[1] else Y.T
    L, M = Y.shape
    alpha = L / M
    tau_bar = 2.5129 * np.sqrt(alpha)
    x_bar = (1 + tau_bar) * (1 + alpha / tau_bar)
    s = np.linalg.svd(Y)[1]
    bounds = textbook_bounds(s, L, M, x_bar)
    sigma2 = minimize_scalar(textbook_omega, args=(s, alpha, M, x_bar), bounds=bounds, method="Bounded").x
    kept = s[s > np.sqrt(M * sigma2 * x_bar)]
    return len(kept), sigma2, textbook_shrunk(kept, L, M, sigma2)
