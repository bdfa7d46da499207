"""Time to collapse as an event in time: runs that end, stop or are still going without it are censored, not "never".

Throughout, with n runs: times (n,) is the update of the event, or the last update known without it; events (n,) is bool.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.estimate.stats import Interval


class LogRank(NamedTuple):
    statistic: float
    p: float


def kaplan_meier(times: np.ndarray, events: np.ndarray, level: float = 0.95) -> pd.DataFrame:
    """Product-limit estimate S(t) = Π_{tᵢ ≤ t} (1 − dᵢ/nᵢ): one row per distinct time, and a row at 0.

    Columns: time, at_risk, events, survival, low, high. The band is Greenwood's on the log(−log S) scale
    (Kalbfleisch & Prentice), which stays within [0, 1]. It has no width where S is 1, and is NaN where S is 0 and at the added row.
    """
    times, events = np.asarray(times, dtype=float), np.asarray(events, dtype=bool)
    estimate = stats.ecdf(stats.CensoredData.right_censored(times, ~events)).sf
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The confidence interval is undefined", RuntimeWarning)  # S = 1 and S = 0, as said above
        band = estimate.confidence_interval(level, method="log-log")
    distinct, certain = estimate.quantiles, estimate.probabilities == 1
    table = pd.DataFrame(dict(
        time=distinct,
        at_risk=[int((times >= time).sum()) for time in distinct],
        events=[int((events & (times == time)).sum()) for time in distinct],
        survival=estimate.probabilities,
        low=np.where(certain, 1.0, band.low.probabilities),
        high=np.where(certain, 1.0, band.high.probabilities),
    ))  # fmt: skip
    start = pd.DataFrame(dict(time=[0.0], at_risk=[len(times)], events=[0], survival=[1.0], low=[np.nan], high=[np.nan]))
    return table if distinct[0] == 0 else pd.concat([start, table], ignore_index=True)


def median_time(times: np.ndarray, events: np.ndarray, level: float = 0.95) -> Interval:
    """First time with S(t) ≤ ½, and the times where the band's ends cross it (Brookmeyer & Crowley 1982); ∞ if never."""
    table = kaplan_meier(times, events, level)
    first = [table["time"][(table[column] <= 0.5 + 1e-12)].min() for column in ("survival", "low", "high")]
    return Interval(*(np.inf if np.isnan(value) else float(value) for value in first))


def restricted_mean(times: np.ndarray, events: np.ndarray, horizon: float, level: float = 0.95) -> Interval:
    """Mean event-free time up to `horizon`, ∫₀^τ S(t) dt, with the normal interval from Greenwood's variance.

    Variance: Σᵢ (∫_{tᵢ}^τ S)² dᵢ / (nᵢ (nᵢ − dᵢ)) over event times before τ; a term with nᵢ = dᵢ has no area left and is 0.
    """
    table = kaplan_meier(times, events)
    table = table[table["time"] < horizon]
    edges = np.append(table["time"].to_numpy(), horizon)
    areas = table["survival"].to_numpy() * np.diff(edges)
    remaining = np.cumsum(areas[::-1])[::-1]
    n, d = table["at_risk"].to_numpy(), table["events"].to_numpy()
    terms = np.divide(remaining**2 * d, n * (n - d), out=np.zeros(len(n)), where=n > d)
    half = stats.norm.ppf((1 + level) / 2) * np.sqrt(terms.sum())
    return Interval(float(areas.sum()), float(max(areas.sum() - half, 0)), float(min(areas.sum() + half, horizon)))


def logrank(times: np.ndarray, events: np.ndarray, groups: np.ndarray) -> LogRank:
    """k-sample log-rank test of groups (n,): χ² = (O − E)ᵀ V⁻ (O − E) with rank-of-V degrees of freedom.

    Asymptotic: where there are few events, read it beside the exact tests of rates.
    """
    times, events, groups = np.asarray(times, dtype=float), np.asarray(events, dtype=bool), np.asarray(groups)
    labels = np.unique(groups)
    member = groups[:, None] == labels
    excess, variance = np.zeros(len(labels)), np.zeros((len(labels), len(labels)))
    for time in np.unique(times[events]):
        at_risk = member[times >= time].sum(axis=0)
        dead = member[(times == time) & events].sum(axis=0)
        n, d = at_risk.sum(), dead.sum()
        share = at_risk / n
        excess += dead - d * share
        if n > 1:
            variance += d * (n - d) / (n - 1) * (np.diag(share) - np.outer(share, share))
    rank = np.linalg.matrix_rank(variance)
    if rank == 0:
        return LogRank(0.0, 1.0)
    statistic = float(excess @ np.linalg.pinv(variance) @ excess)
    return LogRank(statistic, float(stats.chi2.sf(statistic, rank)))
