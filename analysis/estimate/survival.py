"""Time to collapse as an event in time: runs that end, stop or are still going without it are censored, not "never".

Throughout, with n runs: times (n,) is the time of the event, or the last time known without it; events (n,) is bool; the
unit of time is the caller's (`outcomes` says which).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from analysis.estimate.stats import Interval


def kaplan_meier(times: np.ndarray, events: np.ndarray, reward_models: np.ndarray | None = None, level: float = 0.95) -> pd.DataFrame:
    """Product-limit estimate S(t) = Π_{tᵢ ≤ t} (1 − dᵢ/nᵢ): one row per distinct time, and a row at 0.

    Columns: time, at_risk, events, survival, low, high. The band is pointwise: Clopper and Pearson's for an effective number of
    runs S (1 − S) / Var(S), which without censoring is the number of runs and the band exact. Var(S) is Greenwood's; with several
    runs of one reward model it is the larger of Greenwood's and the jackknife's over reward models (`reward_models`, (n,)), and
    where S is 0 or 1 the effective number is at most that of reward models.
    """
    times, events = np.asarray(times, dtype=float), np.asarray(events, dtype=bool)
    estimate = stats.ecdf(stats.CensoredData.right_censored(times, ~events)).sf
    distinct, survival = estimate.quantiles, estimate.probabilities
    at_risk = np.array([(times >= time).sum() for time in distinct])
    died = np.array([(events & (times == time)).sum() for time in distinct])
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = survival**2 * np.cumsum(died / (at_risk * (at_risk - died)))
    models = np.unique(np.arange(len(times)) if reward_models is None else np.asarray(reward_models, dtype=str), return_inverse=True)[1]
    clusters = int(models.max()) + 1
    if 1 < clusters < len(times):
        without = np.stack([_survival(times[models != k], events[models != k], distinct) for k in range(clusters)])
        variance = np.fmax(variance, (clusters - 1) / clusters * ((without - without.mean(axis=0)) ** 2).sum(axis=0))
    clustered = 1 < clusters < len(times)
    followed = np.where(survival == 0, np.cumsum(died), at_risk)  # without variance: the runs whose fate by then is known
    low, high = _exact_band(survival, variance, np.minimum(followed, clusters) if clustered else followed, len(times), level)
    table = pd.DataFrame(dict(time=distinct, at_risk=at_risk, events=died, survival=survival, low=low, high=high))
    start = pd.DataFrame(dict(time=[0.0], at_risk=[len(times)], events=[0], survival=[1.0], low=[np.nan], high=[np.nan]))
    return table if distinct[0] == 0 else pd.concat([start, table], ignore_index=True)


def _survival(times: np.ndarray, events: np.ndarray, at: np.ndarray) -> np.ndarray:
    """S at given times; the last estimate beyond the last time known."""
    if len(times) == 0:
        return np.ones(len(at))
    estimate = stats.ecdf(stats.CensoredData.right_censored(times, ~events)).sf
    index = np.searchsorted(estimate.quantiles, at, side="right") - 1
    return np.where(index >= 0, estimate.probabilities[np.maximum(index, 0)], 1.0)


def _exact_band(survival: np.ndarray, variance: np.ndarray, followed: np.ndarray, runs: int, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Clopper and Pearson's bounds of S for S (1 − S) / Var(S) runs; where S is 0 or 1, for as many as `followed`."""
    inside = (survival > 0) & (survival < 1) & (variance > 0)
    n = np.where(inside, np.divide(survival * (1 - survival), variance, out=np.ones(len(survival)), where=inside), followed)
    n = np.clip(n, 1, runs)
    alive, tail = n * survival, (1 - level) / 2
    with np.errstate(invalid="ignore"):
        low = np.where(survival == 0, 0.0, stats.beta.ppf(tail, alive, n - alive + 1))
        high = np.where(survival == 1, 1.0, stats.beta.ppf(1 - tail, alive + 1, n - alive))
    return low, high


def median_time(times: np.ndarray, events: np.ndarray, reward_models: np.ndarray | None = None, level: float = 0.95) -> Interval:
    """First time with S(t) ≤ ½, and the times where the band's ends cross it (Brookmeyer & Crowley 1982); ∞ if never.

    With fewer than four runs the lower end is 0: the first event of three comes after the median in one study of eight.
    """
    table = kaplan_meier(times, events, reward_models, level)
    first = [table["time"][(table[column] <= 0.5 + 1e-12)].min() for column in ("survival", "low", "high")]
    median, low, high = (np.inf if np.isnan(value) else float(value) for value in first)
    return Interval(median, low if len(times) > 3 else 0.0, high)
