"""How many seeds would do: sample sizes from what has been seen so far.

An effect seen in few seeds is itself uncertain, so these are orders of magnitude, not promises.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

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
        return 6  # without spread only signs speak, and 2·2⁻⁶ is the first below 0.05
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


def seeds_for_bound(rate: float, bound: float, alpha: float = 0.05) -> int | None:
    """Least runs whose Clopper-Pearson upper end is below `bound` if events go on at `rate`; None above `MAX_SEEDS`."""
    n = np.arange(1, MAX_SEEDS + 1)
    events = np.rint(rate * n)
    with np.errstate(invalid="ignore"):
        reached = (events < n) & (stats.beta.ppf(1 - alpha / 2, events + 1, n - events) < bound)
    return int(n[reached.argmax()]) if reached.any() else None


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
    """Least runs an arm to decide whether two rates like these are the same within ± margin; None above `MAX_SEEDS`.

    Inside the margin by two one-sided tests, n = ((z_{1−α} + z_{(1 + power) / 2}) / (margin − |a − b|))² (a(1 − a) + b(1 − b)),
    never below the n at which even 0 of n against 0 of n has a 90 % Wilson bound within the margin; outside it with z_{1−α/2}
    and z_power in their places.
    """
    distance = margin - abs(rate_a - rate_b)
    if distance == 0:
        return None
    variance = rate_a * (1 - rate_a) + rate_b * (1 - rate_b)
    if distance < 0:
        n = math.ceil(((stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power)) / distance) ** 2 * variance)
        return max(n, 2) if n <= MAX_SEEDS else None
    z = stats.norm.ppf(1 - alpha)
    n = math.ceil(((z + stats.norm.ppf((1 + power) / 2)) / distance) ** 2 * variance)
    least = math.ceil(z * z * (1 - margin) / margin + 1e-9)
    return max(n, least) if n <= MAX_SEEDS else None
