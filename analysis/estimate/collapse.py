"""The collapse rule, recomputed from the curves at any threshold, so that no verdict hangs on one.

Deficit of an evaluation: (SFT's mean gold − mean gold) / SD of SFT's per-response gold. A run collapses at threshold τ
with patience k at the first of k consecutive evaluations whose deficit exceeds τ. With the least deficit of each window
of k, the run collapses at τ if and only if its largest window exceeds τ: one pass answers every τ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ablate.runs.alarms import PATIENCE, AlarmWatch, watched
from analysis.estimate.stats import Interval, clustered_rate
from analysis.estimate.units import by_pair, per_unit

_WHO = ["run", "arm", "reward_model", "seed"]
THRESHOLDS = np.round(np.arange(0.25, 3.01, 0.25), 2)


def sustained_deficits(gold: np.ndarray, sft_mean: float, sft_sd: float, patience: int) -> np.ndarray:
    """Least deficit of every `patience` consecutive evaluations, at the first of them; −∞ where gold is missing in between.

    Where SFT's gold has no spread, any gold below SFT's is a deficit of ∞.
    """
    below = sft_mean - np.asarray(gold, dtype=float)
    deficit = np.nan_to_num(below / sft_sd if sft_sd > 0 else np.where(below > 0, np.inf, -np.inf), nan=-np.inf, posinf=np.inf)
    if len(deficit) < patience:
        return np.empty(0)
    return np.lib.stride_tricks.sliding_window_view(deficit, patience).min(axis=-1)


def evaluations(curves: pd.DataFrame) -> pd.DataFrame:
    """The rows of `curves` at which held-out prompts were evaluated."""
    measured = [name for name in curves.columns if name.startswith("eval/")]
    return curves[curves[measured].notna().any(axis=1)]


def collapse_times(runs: pd.DataFrame, curves: pd.DataFrame, threshold: float | None = None,
                   patience: int | None = None) -> pd.DataFrame:  # fmt: skip
    """One row per run: run, collapse_update (NaN if none), severity (the largest τ at which it still collapses), judged, too_short, by.

    `by` is 'gold', or 'alarms' for runs that have no gold reward or ask for it (`collapse.by`): of these `ablate.runs.alarms` judges the
    monitors, at whatever threshold, and severity is NaN. `threshold` and `patience` default to each run's own settings. `judged` is
    False where gold or SFT's moments are missing, and where the run is `too_short`: with `patience` evaluations or fewer, the one before
    training among them, it cannot collapse. Such a run has no verdict, which is not the same as having held.

    Of runs with `evaluation.dense_until` only evaluations at multiples of `evaluation.every` count, and the first and the last: how
    densely gold was looked at decides no collapse.
    """
    evaluated, by_alarms = evaluations(curves), alarm_times(runs, curves)
    golds = (evaluated["eval/gold"] if "eval/gold" in evaluated else pd.Series(np.nan, evaluated.index)).to_numpy(dtype=float)
    updates, rows = evaluated["update"].to_numpy(), []
    members = evaluated.groupby("run", observed=True, sort=False).indices
    limits = _own(runs, "collapse.threshold", 1.0) if threshold is None else np.full(len(runs), threshold)
    patiences = _own(runs, "collapse.patience", 3) if patience is None else np.full(len(runs), patience)
    moments = [_own(runs, name, np.nan) for name in ("sft/eval/gold", "sft/eval/gold_sd")]
    names = {"evaluation.dense_until": 0, "evaluation.every": 1, "ppo.updates": np.inf}
    grids = zip(*(_own(runs, name, default) for name, default in names.items()), strict=True)
    for run, limit, length, mean, deviation, (dense, every, last) in zip(runs["run"], limits, patiences, *moments, grids, strict=True):
        index = members.get(run, np.empty(0, dtype=int))
        if dense > 0:
            at = updates[index]
            index = index[(at % every == 0) | (at == at[0]) | (at == last)] if len(at) else index
        gold = golds[index]
        known = bool(np.isfinite(gold).any() and np.isfinite(mean) and np.isfinite(deviation))
        row = dict(run=run, collapse_update=np.nan, severity=np.nan, judged=known, too_short=False, by="gold")
        if run in by_alarms:
            row |= by_alarms[run]
        elif known:
            windows = sustained_deficits(gold, mean, deviation, int(length))
            below = np.flatnonzero(windows > limit)
            row["severity"] = windows.max() if len(windows) else -np.inf
            row["collapse_update"] = updates[index][below[0]] if len(below) else np.nan
            row["too_short"] = len(below) == 0 and len(index) <= length
            row["judged"] = not row["too_short"]
        rows.append(row)
    return pd.DataFrame(rows, columns=["run", "collapse_update", "severity", "judged", "too_short", "by"])


def alarm_times(runs: pd.DataFrame, curves: pd.DataFrame) -> dict[str, dict]:
    """Run → its collapse_update, judged, too_short and by, for runs that alarms judge.

    These are runs on human data without `gold.path`, and those that ask for it by `collapse.by`.
    """
    without = (_text(runs, "data.source", "world") != "world") & (_text(runs, "gold.path", "") == "")
    asked = _text(runs, "collapse.by", "")
    chosen = runs[(asked == "alarms") | ((asked == "") & without)]
    members = curves.groupby("run", observed=True, sort=False).indices if len(chosen) else {}
    found = {}
    for run in chosen.to_dict("records"):
        watch = alarm_watch(run, curves.iloc[members.get(run["run"], [])])
        update = np.nan if watch.collapse_update is None else watch.collapse_update
        short = watch.collapsed is None and watch.updates <= PATIENCE
        found[run["run"]] = dict(collapse_update=update, judged=watch.collapsed is not None, too_short=short, by="alarms")
    return found


def alarm_watch(run: Mapping[str, Any], rows: pd.DataFrame) -> AlarmWatch:
    """What the alarms say of one run, whatever judges it. run: its row of `runs`. rows: its rows of `curves`, in order of updates.

    The first row with monitors is SFT's own; a fork, which begins with another policy, has SFT's monitors in its summary.
    """
    monitors = [name for name in rows if name.startswith("monitor/")]
    rows = rows[rows[monitors].notna().any(axis=1)]
    own = {name.removeprefix("sft/"): value for name, value in run.items() if name.startswith("sft/monitor/") and pd.notna(value)}
    return watched(rows[["update", *monitors]].to_dict("records"), own if run.get("fork") else None)


def _text(runs: pd.DataFrame, column: str, default: str) -> np.ndarray:
    """A text of each run; `default` where it has none."""
    values = runs[column].astype(object) if column in runs else pd.Series(default, runs.index, dtype=object)
    return values.where(values.notna(), default).astype(str).to_numpy()


def _own(runs: pd.DataFrame, column: str, default: float) -> np.ndarray:
    """A number of each run; `default` where it has none."""
    if column not in runs:
        return np.full(len(runs), default)
    return pd.to_numeric(runs[column], errors="coerce").fillna(default).to_numpy(dtype=float)


def threshold_curve(runs: pd.DataFrame, curves: pd.DataFrame, thresholds: np.ndarray = THRESHOLDS,
                    patience: int | None = None) -> pd.DataFrame:  # fmt: skip
    """Collapse rate of every arm as a function of the threshold: arm, threshold, collapses, n, rate, low, high.

    Only runs that ended by themselves count, as in `outcomes`, and none that alarms judge; the interval is `clustered_rate`'s.
    """
    table = collapse_times(runs, curves, patience=patience).merge(runs[[*_WHO, "status"]], on="run")
    table = table[
        (table["by"] == "gold") & (table["judged"] | (table["status"] == "diverged")) & table["status"].isin(["completed", "diverged"])
    ].copy()
    table["severity"] = table["severity"].mask(table["status"] == "diverged", np.inf)
    rows = []
    for arm, part in table.groupby("arm", sort=True, observed=True):
        models, severities = by_pair(part, "severity", [arm])
        for threshold in thresholds:
            event = severities[:, 0] > threshold
            rates = per_unit(models, event.astype(float))
            interval = clustered_rate(rates.values, rates.basis.runs)
            rows.append(dict(arm=arm, threshold=float(threshold), collapses=int(event.sum()), n=len(part), **_rate(interval)))
    return pd.DataFrame(rows)


def _rate(interval: Interval) -> dict[str, float]:
    return dict(rate=interval.estimate, low=interval.low, high=interval.high)


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
