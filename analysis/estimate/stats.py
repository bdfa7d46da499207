"""Estimates and intervals for a handful of units: the reward model where it varies, else the seed (`units`); never a response.

Conventions: values (n,) with one number per unit; intervals are two-sided at `level`. Nothing here is random.

An interval of a mean is Student's t interval. It covers as often as it says where units are about normal. Where one unit in
many is far from the rest (a rare collapse), a sample that lacks the rare one gives an interval without it: a rate's interval
beside it says how rare that may be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, TypeVar

import numpy as np
from scipy import stats

from analysis.estimate.units import Basis

MOST_SIGN_FLIPS = 14
Rates = TypeVar("Rates", float, np.ndarray)


class Interval(NamedTuple):
    estimate: float
    low: float
    high: float


class Effect(NamedTuple):
    """A difference between two arms: estimate, interval at the level asked, two-sided p, n units, and what they rest on."""

    estimate: float
    low: float
    high: float
    p: float
    n: int
    basis: Basis = Basis()


def mean_interval(values: np.ndarray, level: float = 0.95) -> Interval:
    """Mean of units with its t interval: values (n,), NaN left out; all NaN for n = 0, unbounded for n = 1 or without spread."""
    effect = paired_effect(values, level)
    return Interval(effect.estimate, *((effect.low, effect.high) if effect.n else (np.nan, np.nan)))


def paired_effect(differences: np.ndarray, level: float = 0.95) -> Effect:
    """Mean of paired differences, one per unit, with its t interval.

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


def separation_p(treated: np.ndarray, controls: np.ndarray) -> float:
    """Two-sided exact p of two samples of which every value of one lies above every value of the other; 1 if they overlap.

    Of the C(a + b, a) ways to deal a + b exchangeable values into groups of a and b, two separate them: p = 2 / C(a + b, a), 0.008
    for five and five. Like Boschloo's test it takes the two sides as independent, which common random numbers make cautious.
    """
    if min(len(treated), len(controls)) == 0 or (treated.min() <= controls.max() and controls.min() <= treated.max()):
        return 1.0
    return min(1.0, 2 / math.comb(len(treated) + len(controls), len(treated)))


def clopper_pearson(events: int, n: int, level: float = 0.95) -> Interval:
    """Exact interval of a rate (Clopper & Pearson 1934), [0, 1] for n = 0.

    It covers the true rate at least as often as `level` says: 0 of 5 still allows 52 %.
    """
    if n == 0:
        return Interval(np.nan, 0.0, 1.0)
    low, high = stats.binomtest(events, n).proportion_ci(level, method="exact")
    return Interval(events / n, float(low), float(high))


def clustered_rate(shares: np.ndarray, runs: int, level: float = 0.95) -> Interval:
    """Interval of a rate from shares of events per reward model, (n,), of `runs` runs in all (Korn & Graubard 1998).

    The Clopper-Pearson interval for an effective number of runs p(1 − p) / Var(p̂), Var(p̂) the variance of the shares' mean,
    corrected for its n − 1 degrees of freedom by (t of runs − 1 / t of n − 1)², and kept between n and `runs`. Where every
    reward model says the same, nothing is known of what runs add to reward models, and it is n. With one run per reward model
    it is Clopper-Pearson's interval.
    """
    shares = np.asarray(shares, dtype=float)
    n = len(shares)
    if n == 0:
        return Interval(np.nan, 0.0, 1.0)
    p = float(shares.mean())
    effective = float(n)
    if n > 1 and runs > n and 0 < p < 1 and (variance := shares.var(ddof=1) / n) > 0:
        quantiles = stats.t.ppf((1 + level) / 2, np.array([runs - 1, n - 1]))
        effective = float(np.clip(p * (1 - p) / variance * (quantiles[0] / quantiles[1]) ** 2, n, runs))
    events, tail = p * effective, (1 - level) / 2
    low = 0.0 if events <= 1e-12 else float(stats.beta.ppf(tail, events, effective - events + 1))
    high = 1.0 if effective - events <= 1e-12 else float(stats.beta.ppf(1 - tail, events + 1, effective - events))
    return Interval(p, low, high)


def _wilson(rate: Rates, n: int, z: float) -> tuple[Rates, Rates]:
    """Wilson's score interval of a rate, or of each of an array of rates."""
    centre, spread = (rate * n + z * z / 2) / (n + z * z), np.sqrt(n * rate * (1 - rate) + z * z / 4)
    return centre - z * spread / (n + z * z), centre + z * spread / (n + z * z)


def newcombe(a: Rates, n_a: int, b: Rates, n_b: int, level: float = 0.95) -> tuple[Rates, Rates]:
    """Bounds of the difference a − b of two rates of n_a and n_b units: Newcombe's hybrid score interval (1998, method 10).

    Rates may be arrays that broadcast against each other.
    """
    z = stats.norm.ppf((1 + level) / 2)
    (low_a, high_a), (low_b, high_b) = _wilson(a, n_a, z), _wilson(b, n_b, z)
    return a - b - np.hypot(a - low_a, high_b - b), a - b + np.hypot(high_a - a, b - low_b)


def rate_effect(treated: int, n_treated: int, controls: int, n_control: int, level: float = 0.95) -> Effect:
    """Difference of two rates of independent runs: `newcombe`'s interval and Boschloo's exact two-sided p (1970).

    Common seeds correlate arms positively, which only makes it cautious; the paired exact tests could not decide at all below
    six pairs. Where runs of two arms tend to collapse in opposite seeds it errs in up to 8 % of studies.
    """
    if min(n_treated, n_control) == 0:
        return Effect(np.nan, -1.0, 1.0, 1.0, 0)
    a, b = treated / n_treated, controls / n_control
    p = 1.0 if a == b else _boschloo(treated, n_treated, controls, n_control)
    low, high = newcombe(a, n_treated, b, n_control, level)
    return Effect(a - b, float(low), float(high), p, min(n_treated, n_control))


def sign_flip_p(differences: np.ndarray) -> float:
    """Two-sided exact p of a mean of paired differences (n,), under sign changes of each (Fisher 1935, Pitman 1937).

    The share of the 2ⁿ ways to sign the differences whose mean is at least as far from 0. It assumes no shape, and no
    independence of the two sides; its least value is 2·2⁻ⁿ. Above `MOST_SIGN_FLIPS` differences it is the t test's p.
    """
    differences = np.asarray(differences, dtype=float)
    if len(differences) == 0 or not differences.any():
        return 1.0
    if len(differences) > MOST_SIGN_FLIPS:
        return paired_effect(differences).p
    return float((_flipped(differences) >= abs(differences.sum()) * (1 - 1e-9)).mean())


def sign_flip_levels(differences: np.ndarray) -> np.ndarray | None:
    """Every p that `sign_flip_p` can have where only the signs of these differences (n,) are random: (k,), ascending, the last 1.

    n differences of which m are not 0, all of one size, have the tails of a binomial of m: none below 2·2⁻ᵐ. None above
    `MOST_SIGN_FLIPS`, where the p is a t test's and may be anything.
    """
    differences = np.asarray(differences, dtype=float)
    if len(differences) > MOST_SIGN_FLIPS:
        return None
    if len(differences) == 0 or not differences.any():
        return np.ones(1)
    sums = np.sort(_flipped(differences))
    return np.unique([float((sums >= value * (1 - 1e-9)).mean()) for value in np.unique(sums)])


def _flipped(differences: np.ndarray) -> np.ndarray:
    """The absolute sum of the differences (n,) under each of the 2ⁿ ways to sign them, (2ⁿ,)."""
    n = len(differences)
    signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
    return np.abs(signs @ differences)


@lru_cache(maxsize=4096)
def _boschloo(a: int, n_a: int, b: int, n_b: int) -> float:
    return float(min(stats.boschloo_exact([[a, b], [n_a - a, n_b - b]], n=64).pvalue, 1.0))


def holm(p: np.ndarray, levels: Sequence[np.ndarray | None] | None = None) -> np.ndarray:
    """Holm's (1979) step-down p values, (m,) → (m,): the family-wise error holds under any dependence.

    Of the tests in the order of their p the k-th has max over j ≤ k of Σ_{i ≥ j} aᵢ(pⱼ), where aᵢ(t) is the probability that test i
    has a p ≤ t when nothing differs. levels: of each test the p values that it can have, ascending; None where it may have any, and then
    aᵢ(t) = t. With None for all it is Holm's; else a test that cannot have so small a p costs the others nothing
    (Westfall and Wolfinger 1997; the idea is Tarone's, 1990), and no value is greater than Holm's.
    A NaN stays NaN and does not count as a test. scipy adjusts for the false discovery rate only.
    """
    p = np.asarray(p, dtype=float)
    adjusted, known = np.full(p.shape, np.nan), np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    sums = [sum(_chance(p[first], None if levels is None else levels[i]) for i in order[rank:]) for rank, first in enumerate(order)]
    adjusted[order] = np.minimum(np.maximum.accumulate(np.array(sums, dtype=float)), 1.0)
    return adjusted


def _chance(p: float, levels: np.ndarray | None) -> float:
    """The probability of a p as small as this one when nothing differs: itself, or the greatest of `levels` that does not exceed it."""
    if levels is None:
        return p
    within = levels[levels <= p * (1 + 1e-9)]
    return float(within[-1]) if len(within) else 0.0
