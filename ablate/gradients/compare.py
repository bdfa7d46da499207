"""Gradients of independent batches → angle and length of their expectations, with intervals.

A mean of n noisy gradients is longer than its expectation and turned away from it, so its own length and angle are biased. Products of
gradients of *different* batches are not: for estimators e and f, I(e, f) = Σ_{b≠c} g_e^b · g_f^c / (n (n − 1)) has the expectation
E[g_e] · E[g_f].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student


@dataclass(frozen=True)
class Measured:
    """One number with its 95 % interval; null where it cannot be told, as the angle of a gradient that may be 0."""

    value: float | None
    low: float | None
    high: float | None


def grams(gradients: np.ndarray) -> np.ndarray:
    """Inner products [n, E, n, E] of gradients [n, E, P] of n batches by E estimators, float64."""
    batches, estimators, size = gradients.shape
    rows = gradients.reshape(batches * estimators, size)
    return (rows @ rows.T).astype(np.float64).reshape(batches, estimators, batches, estimators)


def inner(products: np.ndarray, keep: Sequence[int]) -> np.ndarray:
    """I(e, f) [E, E] over the batches `keep`, from `grams`."""
    part = products[np.ix_(keep, range(products.shape[1]), keep, range(products.shape[3]))]
    n = len(keep)
    same = np.einsum("bebf->ef", part)
    return (part.sum((0, 2)) - same) / (n * (n - 1))


def compare(products: np.ndarray, estimator: int, target: int) -> dict[str, Measured]:
    """cosine, length (|E g_e| / |E g_*|) and along (E g_e · E g_* / |E g_*|²) of an estimator and a target, by the jackknife over batches.

    cosine and length are null where I(e, e) ≤ 0, which happens where the gradient's expectation is 0. Intervals are t intervals of the
    pseudo-values with n − 1 degrees of freedom.
    """
    n = len(products)
    whole = ratios(inner(products, range(n)), estimator, target)
    left_out = [ratios(inner(products, [b for b in range(n) if b != out]), estimator, target) for out in range(n)]
    quantile = float(student.ppf(0.975, n - 1))
    found = {}
    for name, value in whole.items():
        parts = [part[name] for part in left_out]
        if value is None or any(part is None for part in parts):
            found[name] = Measured(None, None, None)
            continue
        pseudo = n * value - (n - 1) * np.array(parts, dtype=float)
        half = quantile * float(pseudo.std(ddof=1)) / math.sqrt(n)
        found[name] = Measured(value, value - half, value + half)
    return found


def ratios(products: np.ndarray, estimator: int, target: int) -> dict[str, float | None]:
    """cosine, length and along from I(e, f)."""
    own, exact, both = products[estimator, estimator], products[target, target], products[estimator, target]
    if exact <= 0:
        return {"cosine": None, "length": None, "along": None}
    if own <= 0:
        return {"cosine": None, "length": None, "along": both / exact}
    return {"cosine": both / math.sqrt(own * exact), "length": math.sqrt(own / exact), "along": both / exact}
