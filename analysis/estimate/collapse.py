"""The collapse rule, recomputed from the curves at any threshold, so that no verdict hangs on one.

Deficit of an evaluation: (SFT's mean gold − mean gold) / SD of SFT's per-response gold. A run collapses at threshold τ
with patience k at the first of k consecutive evaluations whose deficit exceeds τ. With the least deficit of each window
of k, the run collapses at τ if and only if its largest window exceeds τ: one pass answers every τ.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.estimate.stats import clopper_pearson

THRESHOLDS = np.round(np.arange(0.25, 3.01, 0.25), 2)


def sustained_deficits(gold: np.ndarray, sft_mean: float, sft_sd: float, patience: int) -> np.ndarray:
    """Least deficit of every `patience` consecutive evaluations, at the first of them; −∞ where gold is missing in between."""
    deficit = np.nan_to_num((sft_mean - np.asarray(gold, dtype=float)) / sft_sd, nan=-np.inf)
    if len(deficit) < patience:
        return np.empty(0)
    return np.lib.stride_tricks.sliding_window_view(deficit, patience).min(axis=-1)


def evaluations(curves: pd.DataFrame) -> pd.DataFrame:
    """The rows of `curves` at which held-out prompts were evaluated."""
    measured = [name for name in curves.columns if name.startswith("eval/")]
    return curves[curves[measured].notna().any(axis=1)]


def collapse_times(runs: pd.DataFrame, curves: pd.DataFrame, threshold: float | None = None,
                   patience: int | None = None) -> pd.DataFrame:  # fmt: skip
    """A row a run: run, collapse_update (NaN if none), severity (the largest τ at which it still collapses), judged.

    `threshold` and `patience` default to each run's own settings. `judged` is False where gold or SFT's moments are
    missing: such a run has no verdict, which is not the same as having none collapsed.
    """
    evaluated = evaluations(curves)
    golds = (evaluated["eval/gold"] if "eval/gold" in evaluated else pd.Series(np.nan, evaluated.index)).to_numpy(dtype=float)
    updates, rows = evaluated["update"].to_numpy(), []
    members = evaluated.groupby("run", observed=True, sort=False).indices
    limits = _own(runs, "collapse.threshold", 1.0) if threshold is None else np.full(len(runs), threshold)
    patiences = _own(runs, "collapse.patience", 3) if patience is None else np.full(len(runs), patience)
    moments = [_own(runs, name, np.nan) for name in ("sft/eval/gold", "sft/eval/gold_sd")]
    for run, limit, length, mean, deviation in zip(runs["run"], limits, patiences, *moments, strict=True):
        index = members.get(run, np.empty(0, dtype=int))
        gold = golds[index]
        judged = bool(np.isfinite(gold).any() and np.isfinite(mean) and deviation > 0)
        row = dict(run=run, collapse_update=np.nan, severity=np.nan, judged=judged)
        if judged:
            windows = sustained_deficits(gold, mean, deviation, int(length))
            below = np.flatnonzero(windows > limit)
            row["severity"] = windows.max() if len(windows) else -np.inf
            row["collapse_update"] = updates[index][below[0]] if len(below) else np.nan
        rows.append(row)
    return pd.DataFrame(rows, columns=["run", "collapse_update", "severity", "judged"])


def _own(runs: pd.DataFrame, column: str, default: float) -> np.ndarray:
    """A number of each run; `default` where it has none."""
    if column not in runs:
        return np.full(len(runs), default)
    return pd.to_numeric(runs[column], errors="coerce").fillna(default).to_numpy(dtype=float)


def threshold_curve(runs: pd.DataFrame, curves: pd.DataFrame, thresholds: np.ndarray = THRESHOLDS,
                    patience: int | None = None) -> pd.DataFrame:  # fmt: skip
    """Collapse rate of every arm as a function of the threshold: arm, threshold, collapses, n, rate, low, high.

    Only runs that ended by themselves count, as in `outcomes`.
    """
    table = collapse_times(runs, curves, patience=patience).merge(runs[["run", "arm", "status"]], on="run")
    table = table[table["judged"] & table["status"].isin(["completed", "diverged"])]
    rows = []
    for arm, part in table.groupby("arm", sort=True, observed=True):
        for threshold in thresholds:
            event = (part["severity"] > threshold) | (part["status"] == "diverged")
            collapses, n = int(event.sum()), len(part)
            rate = clopper_pearson(collapses, n)
            rows.append(
                dict(arm=arm, threshold=float(threshold), collapses=collapses, n=n, rate=rate.estimate, low=rate.low, high=rate.high)
            )
    return pd.DataFrame(rows)


def disagreements(runs: pd.DataFrame, times: pd.DataFrame) -> list[str]:
    """Runs whose summary and curves tell different collapses: a sign of other code, cut curves or changed settings."""
    joined = runs[["run", "collapsed", "collapse_update"]].merge(times, on="run", suffixes=("_online", ""))
    found = []
    for row in joined[joined["judged"]].itertuples():
        if row.collapsed is None or pd.isna(row.collapsed):
            continue
        online = row.collapse_update_online if row.collapsed else np.nan
        if not (online == row.collapse_update or (pd.isna(online) and pd.isna(row.collapse_update))):
            found.append(f"{row.run}: summary says {online:g}, curves say {row.collapse_update:g}")
    return found
