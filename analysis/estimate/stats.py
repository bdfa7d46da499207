"""Estimates and intervals for a handful of runs. The unit of every statistic here is a run (a seed), never a response.

Bootstrap functions take the generator as an argument. Conventions: values (n,) or (..., n) with runs last; statistics
reduce the last axis; intervals are two-sided at `level`.

With 5 runs a bootstrap interval is too short (it can only rearrange what was seen), so bootstrap intervals describe, and
tests with small-sample guarantees decide: see `paired_effect`, `rate_effect`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats

MIN_SEEDS = 5  # nothing is decided from fewer
Statistic = Callable[..., np.ndarray]


class Interval(NamedTuple):
    estimate: float
    low: float
    high: float


class Effect(NamedTuple):
    """A difference between two arms: estimate, interval at the level asked, two-sided p, and n pairs (or runs an arm)."""

    estimate: float
    low: float
    high: float
    p: float
    n: int


def iqm(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Interquartile mean over `axis`: ⌊n/4⌋ runs are cut at either end (Agarwal et al. 2108.13264, §4.3)."""
    return stats.trim_mean(values, 0.25, axis=axis)


def bootstrap(values: np.ndarray, statistic: Statistic, generator: np.random.Generator, *, repetitions: int = 2000,
              level: float = 0.95) -> Interval:  # fmt: skip
    """Percentile bootstrap of `statistic` over runs: values (n,) → estimate and interval, all NaN for n = 0."""
    values = np.asarray(values, dtype=float)
    if len(values) == 0:
        return Interval(np.nan, np.nan, np.nan)
    draws = statistic(values[generator.integers(len(values), size=(repetitions, len(values)))])
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(values)), float(low), float(high))


def paired_effect(differences: np.ndarray, level: float = 0.95) -> Effect:
    """Mean of paired differences (one a seed) with its t interval.

    Differences without any spread carry no estimate of their own error: their interval is unbounded, and their p is the
    exact sign test's, 2·2⁻ⁿ (1 if they are all zero).
    """
    differences = np.asarray(differences, dtype=float)
    differences = differences[np.isfinite(differences)]
    n = len(differences)
    if n < 2:
        return Effect(float(differences.mean()) if n else np.nan, -np.inf, np.inf, 1.0, n)
    average, error = differences.mean(), differences.std(ddof=1) / np.sqrt(n)
    if error <= 1e-12 * max(1.0, abs(average)):
        p = 1.0 if average == 0 else 2.0 ** (1 - n)
        return Effect(float(average), -np.inf, np.inf, p, n)
    half = stats.t.ppf((1 + level) / 2, n - 1) * error
    p = 2 * stats.t.sf(abs(average) / error, n - 1)
    return Effect(float(average), float(average - half), float(average + half), float(p), n)


def clopper_pearson(events: int, n: int, level: float = 0.95) -> Interval:
    """Exact interval of a rate (Clopper & Pearson 1934), [0, 1] for n = 0.

    It covers the true rate at least as often as `level` says: 0 of 5 still allows 52 %.
    """
    if n == 0:
        return Interval(np.nan, 0.0, 1.0)
    low, high = stats.binomtest(events, n).proportion_ci(level, method="exact")
    return Interval(events / n, float(low), float(high))


def _wilson(events: int, n: int, z: float) -> tuple[float, float]:
    """Wilson's score interval of a rate."""
    centre, spread = (events + z * z / 2) / (n + z * z), np.sqrt(events * (n - events) / n + z * z / 4)
    return centre - z * spread / (n + z * z), centre + z * spread / (n + z * z)


def rate_effect(treated: int, n_treated: int, controls: int, n_control: int, level: float = 0.95) -> Effect:
    """Difference of two rates: Newcombe's hybrid score interval (1998, method 10) and Boschloo's exact two-sided p (1970).

    Boschloo's test treats the arms as independent. Common seeds correlate arms positively, which only makes it cautious;
    McNemar's test could not decide at all below six pairs.
    """
    if min(n_treated, n_control) == 0:
        return Effect(np.nan, -1.0, 1.0, 1.0, 0)
    z = stats.norm.ppf((1 + level) / 2)
    a, b = treated / n_treated, controls / n_control
    (low_a, high_a), (low_b, high_b) = _wilson(treated, n_treated, z), _wilson(controls, n_control, z)
    low = a - b - np.hypot(a - low_a, high_b - b)
    high = a - b + np.hypot(high_a - a, b - low_b)
    if a == b:
        p = 1.0
    else:
        p = _boschloo(treated, n_treated, controls, n_control)
    return Effect(a - b, float(low), float(high), p, min(n_treated, n_control))


@lru_cache(maxsize=4096)
def _boschloo(a: int, n_a: int, b: int, n_b: int) -> float:
    return float(min(stats.boschloo_exact([[a, b], [n_a - a, n_b - b]], n=64).pvalue, 1.0))


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's (1979) step-down p values, (m,) → (m,): the family-wise error holds under any dependence.

    A NaN stays NaN and does not count as a test. scipy adjusts for the false discovery rate only.
    """
    p = np.asarray(p, dtype=float)
    adjusted, known = np.full(p.shape, np.nan), np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    m = len(order)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * (m - np.arange(m))), 1.0)
    return adjusted
