"""Time to collapse as an event in time: runs that end, stop or are still going without it are censored, not "never".

Throughout: times (n,) the last update known without the event, or the event's; events (n,) bool.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.estimate.stats import Interval


class LogRank(NamedTuple):
    statistic: float
    p: float


def kaplan_meier(times: np.ndarray, events: np.ndarray, level: float = 0.95) -> pd.DataFrame:
    """Product-limit estimate S(t) = Π_{tᵢ ≤ t} (1 − dᵢ/nᵢ), a row a distinct time, and a row at 0.

    Columns: time, at_risk, events, survival, low, high. The band is Greenwood's on the log(−log S) scale
    (Kalbfleisch & Prentice), which stays within [0, 1]; where S is 1 or 0 it has no width there and is NaN.
    """
    times, events = np.asarray(times, dtype=float), np.asarray(events, dtype=bool)
    distinct = np.unique(times)
    at_risk = np.array([(times >= t).sum() for t in distinct])
    deaths = np.array([(events & (times == t)).sum() for t in distinct])
    survival = np.cumprod(1 - deaths / at_risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        greenwood = np.cumsum(deaths / (at_risk * (at_risk - deaths)))
        width = stats.norm.ppf((1 + level) / 2) * np.sqrt(greenwood) / np.log(survival)
        low, high = survival ** np.exp(-width), survival ** np.exp(width)
    table = pd.DataFrame(dict(time=distinct, at_risk=at_risk, events=deaths, survival=survival, low=low, high=high))
    start = pd.DataFrame(dict(time=[0.0], at_risk=[len(times)], events=[0], survival=[1.0], low=[np.nan], high=[np.nan]))
    return table if len(distinct) and distinct[0] == 0 else pd.concat([start, table], ignore_index=True)


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


def logrank(times: np.ndarray, events: np.ndarray, groups: np.ndarray, strata: np.ndarray | None = None) -> LogRank:
    """k-sample log-rank test, summed over `strata` if given: χ² = (O − E)ᵀ V⁻ (O − E) with rank-of-V degrees of freedom.

    Asymptotic: with few events read it beside the exact tests of rates.
    """
    times, events, groups = np.asarray(times, dtype=float), np.asarray(events, dtype=bool), np.asarray(groups)
    strata = np.zeros(len(times)) if strata is None else np.asarray(strata)
    labels = np.unique(groups)
    excess, variance = np.zeros(len(labels)), np.zeros((len(labels), len(labels)))
    for stratum in np.unique(strata):
        inside = strata == stratum
        member = groups[inside][:, None] == labels
        for t in np.unique(times[inside & events]):
            at_risk = member[times[inside] >= t].sum(axis=0)
            dead = member[(times[inside] == t) & events[inside]].sum(axis=0)
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
