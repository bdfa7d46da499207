"""How many seeds would do: sample sizes from what has been seen so far.

An effect seen in few seeds is itself uncertain, so these are orders of magnitude, not promises.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy import stats

from analysis.estimate.stats import newcombe

MOST_SIGNS = 200
MAX_SEEDS = 1000  # beyond this the answer is "more than 1000": no sweep will do


def seeds_for_mean(differences: np.ndarray, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """Least pairs with which a two-sided paired t test shows a mean like this one with `power`; None above `MAX_SEEDS`.

    Effect size d = |mean| / SD of the differences; power from the noncentral t with n − 1 degrees of freedom.
    """
    differences = np.asarray(differences, dtype=float)
    differences = differences[np.isfinite(differences)]
    if len(differences) < 2 or differences.mean() == 0:
        return None
    deviation = differences.std(ddof=1)
    if deviation <= 1e-12 * abs(differences.mean()):
        return 5  # without spread: 5 against 5 separated values have p = 0.008
    n = np.arange(2, MAX_SEEDS + 1)
    critical = stats.t.ppf(1 - alpha / 2, n - 1)
    shift = abs(differences.mean()) / deviation * np.sqrt(n)
    reached = stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift) >= power
    return int(n[reached.argmax()]) if reached.any() else None


def seeds_for_rates(rate_a: float, rate_b: float, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """Least runs an arm with which two rates like these differ at level `alpha` with `power`; None above `MAX_SEEDS`.

    Cohen's h = 2 asin √a − 2 asin √b, n = 2 ((z_{α/2} + z_power) / h)²; never below 4, where 4 of 4 against 0 of 4 is the
    least that an exact test calls different.
    """
    h = abs(2 * math.asin(math.sqrt(rate_a)) - 2 * math.asin(math.sqrt(rate_b)))
    if h == 0:
        return None
    n = math.ceil(2 * ((stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power)) / h) ** 2)
    return max(n, 4) if n <= MAX_SEEDS else None


def reward_models_for_rates(rate_a: float, rate_b: float, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """Least reward models of one seed with which `sign_flip_p` shows two rates like these apart with `power`; None above `MOST_SIGNS`.

    With arms that collapse independently, D ~ Binomial(n, a(1 − b) + b(1 − a)) reward models tell the arms apart, and of these
    X ~ Binomial(D, share) are on a's side. The signs of D differences decide where 2 P(Binomial(D, ½) ≤ min(X, D − X)) < α.
    """
    apart = rate_a * (1 - rate_b), rate_b * (1 - rate_a)
    if rate_a == rate_b or sum(apart) == 0:
        return None
    decided = np.zeros(MOST_SIGNS + 1)  # P(the signs of D differences decide), by D
    for d in range(1, MOST_SIGNS + 1):
        x = np.arange(d + 1)
        decides = 2 * stats.binom.cdf(np.minimum(x, d - x), d, 0.5) < alpha
        decided[d] = stats.binom.pmf(x, d, apart[0] / sum(apart))[decides].sum()
    for n in range(1, MOST_SIGNS + 1):
        if (stats.binom.pmf(np.arange(n + 1), n, sum(apart)) * decided[: n + 1]).sum() >= power:
            return n
    return None


def seeds_for_bound(rate: float, bound: float, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """Least runs whose Clopper-Pearson upper end falls below `bound` with `power` if events come at `rate`; None above `MAX_SEEDS`.

    With n runs the end is below `bound` for up to c(n) events, and the power is P(Binomial(n, rate) ≤ c(n)).
    """
    if rate >= bound:
        return None
    n = np.arange(1, MAX_SEEDS + 1)
    most = np.array([_most_events(int(runs), bound, alpha) for runs in n])
    reached = stats.binom.cdf(most, n, rate) >= power
    return int(n[reached.argmax()]) if reached.any() else None


def _most_events(n: int, bound: float, alpha: float) -> int:
    """The most events of n runs with a Clopper-Pearson upper end below `bound`, −1 if none: P(X ≤ c | n, bound) < α / 2."""
    c = int(stats.binom.ppf(alpha / 2, n, bound))
    return c if stats.binom.cdf(c, n, bound) < alpha / 2 else c - 1


def reward_models_for_mean(differences: np.ndarray, reward_models: np.ndarray, seeds: int, power: float = 0.8,
                           alpha: float = 0.05) -> int | None:  # fmt: skip
    """Reward models with `seeds` seeds each that would show a mean like this one with `power`; None above `MAX_SEEDS`.

    `differences` (pairs,) with the reward model of each. Var of a reward model's mean = σ_b² + σ_w² / seeds: σ_w² is the pooled
    variance within reward models and σ_b² what the variance of their means has beyond it (0 at least). With one seed per reward
    model σ_w² is not known, and more seeds are taken to change nothing.
    """
    models, index, counts = np.unique(reward_models, return_inverse=True, return_counts=True)
    means = np.bincount(index, differences) / counts
    if len(models) < 2 or means.mean() == 0:
        return None
    freedom = len(differences) - len(models)
    within = ((differences - means[index]) ** 2).sum() / freedom if freedom else 0.0
    between = max(means.var(ddof=1) - within * (1 / counts).mean(), 0.0)
    spread = math.sqrt(between + within / seeds)
    if spread <= 1e-12 * abs(means.mean()):
        return 2
    unit = np.array([-1.0, 1.0]) / math.sqrt(2)
    return seeds_for_mean(means.mean() + spread * unit, power, alpha)


def seeds_for_equivalence(differences: np.ndarray, margin: float, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """Least pairs to decide whether a mean like this one lies within ± margin; None above `MAX_SEEDS`.

    n = ((z_{1−a} + z_p) SD / | |mean| − margin |)², inside the margin with a = α and z of (1 + power) / 2 (both one-sided
    tests must succeed), outside with a = α / 2 and z of the power.
    """
    differences = np.asarray(differences, dtype=float)
    differences = differences[np.isfinite(differences)]
    if len(differences) < 2:
        return None
    distance = margin - abs(differences.mean())
    if distance == 0:
        return None
    if distance > 0:
        quantiles = stats.norm.ppf(1 - alpha) + stats.norm.ppf((1 + power) / 2)
    else:
        quantiles = stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power)
    n = math.ceil((quantiles * differences.std(ddof=1) / distance) ** 2)
    return max(n, 2) if n <= MAX_SEEDS else None


def seeds_for_same_rates(rate_a: float, rate_b: float, margin: float, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """Least runs per arm to decide whether two rates like these are the same within ± margin; None above `MAX_SEEDS`.

    Inside the margin the least n at which the 1 − α interval of `newcombe` lies within ± margin with `power`, a sum over both
    binomial counts, or beyond `MOST_SIGNS` n = ((z_{1−α/2} + z_{(1 + power) / 2}) / (margin − |a − b|))² (a(1 − a) + b(1 − b)).
    Outside it that formula with z_power in the second's place.
    """
    distance = margin - abs(rate_a - rate_b)
    if distance == 0:
        return None
    variance = rate_a * (1 - rate_a) + rate_b * (1 - rate_b)
    z = stats.norm.ppf(1 - alpha / 2)
    if distance < 0:
        n = math.ceil(((z + stats.norm.ppf(power)) / distance) ** 2 * variance)
        return max(n, 2) if n <= MAX_SEEDS else None
    n = math.ceil(((z + stats.norm.ppf((1 + power) / 2)) / distance) ** 2 * variance)
    if n > MOST_SIGNS:
        return n if n <= MAX_SEEDS else None
    return next((n for n in range(2, MOST_SIGNS + 1) if _power_of_sameness(rate_a, rate_b, margin, n, alpha) >= power), MOST_SIGNS)


@lru_cache(maxsize=4096)
def _power_of_sameness(rate_a: float, rate_b: float, margin: float, n: int, alpha: float) -> float:
    counts = np.arange(n + 1)
    low, high = newcombe(counts[:, None] / n, n, counts[None, :] / n, n, 1 - alpha)
    chance = np.outer(stats.binom.pmf(counts, n, rate_a), stats.binom.pmf(counts, n, rate_b))
    return float(chance[(low > -margin) & (high < margin)].sum())
