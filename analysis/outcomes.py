"""Curves → one row a run: did it collapse, when, and what it had at the end and at matched KL or proxy.

`status` decides what is known. A run that diverged counts as an event at its last update: it was not stable. A run that is
still going, was interrupted or failed tells its collapse if it had one, and is censored otherwise; its end is unknown.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.collapse import collapse_times, evaluations

ENDED = ("completed", "diverged")
END_METRICS = {"gold": "eval/gold", "proxy": "eval/proxy", "kl": "eval/kl_to_sft", "length": "eval/length", "perplexity": "eval/perplexity"}
MATCHED_ON = {"kl": "eval/sqrt_kl", "proxy": "eval/proxy"}


def outcomes(runs: pd.DataFrame, curves: pd.DataFrame, *, threshold: float | None = None, patience: int | None = None) -> pd.DataFrame:
    """One row a run.

    Columns: run, study, arm, seed, status; event, time (updates; for survival); collapsed (1, 0, NaN unknown);
    stable_updates = min(time, horizon), NaN if not known up to the study's horizon, the shortest planned length;
    gold, proxy, win (ties half), kl, length, perplexity at the last evaluation (NaN unless ended); gold_gain, proxy_gain
    over SFT; sft_gold_sd, the unit of gold; gold_at_kl, gold_at_proxy, win_at_kl, win_at_proxy where the run first reaches
    the study's matched_kl or matched_proxy.
    """
    table = runs[["run", "study", "arm", "seed", "status"]].copy()
    times = collapse_times(runs, curves, threshold, patience).set_index("run").loc[table["run"]]
    at_evaluations = evaluations(curves)
    if {"eval/win", "eval/tie"} <= set(at_evaluations.columns):
        at_evaluations = at_evaluations.assign(**{"eval/half_win": at_evaluations["eval/win"] + at_evaluations["eval/tie"] / 2})
    if "eval/kl_to_sft" in at_evaluations:
        # Gold is far from linear in KL but close to it in √KL: between distant evaluations, lines in KL would favour slow arms.
        at_evaluations = at_evaluations.assign(**{"eval/sqrt_kl": np.sqrt(at_evaluations["eval/kl_to_sft"].clip(lower=0))})
    diverged, last = table["status"].to_numpy() == "diverged", runs["last_update"].to_numpy(dtype=float)
    collapse, judged = times["collapse_update"].to_numpy(), times["judged"].to_numpy()
    ended = table["status"].isin(ENDED).to_numpy()
    table["event"] = np.isfinite(collapse) | diverged
    table["time"] = np.where(np.isfinite(collapse), collapse, last)
    table["collapsed"] = np.where(table["event"], 1.0, np.where(ended & judged, 0.0, np.nan))
    planned = runs["ppo.updates"].to_numpy(dtype=float) if "ppo.updates" in runs else last
    horizon = pd.Series(planned).groupby(runs["study"].to_numpy()).transform("min").to_numpy()
    known = judged & (table["event"] | (last >= horizon))
    table["horizon"], table["sft_gold_sd"] = horizon, runs["sft/eval/gold_sd"].to_numpy(dtype=float)
    table["stable_updates"] = np.where(known, np.minimum(table["time"], horizon), np.nan)
    return _add_ends(table, at_evaluations, ended)


def _add_ends(table: pd.DataFrame, at_evaluations: pd.DataFrame, ended: np.ndarray) -> pd.DataFrame:
    parts = at_evaluations.groupby("run", observed=True, sort=False)
    final, first = parts.last().reindex(table["run"]), parts.first().reindex(table["run"])
    for name, metric in {**END_METRICS, "win": "eval/half_win"}.items():
        table[name] = np.where(ended, final[metric], np.nan) if metric in final else np.nan
    for name in ("gold", "proxy"):
        metric = END_METRICS[name]
        table[f"{name}_gain"] = table[name] - first[metric].where(first["update"] == 0).to_numpy() if metric in first else np.nan
    for on, metric in MATCHED_ON.items():
        for value in ("gold", "win"):
            table[f"{value}_at_{on}"] = np.nan
        for study, members in table.groupby("study", observed=True):
            part = at_evaluations[at_evaluations["study"] == study]
            target = matched_value(part, metric)
            for value, column in (("gold", "eval/gold"), ("win", "eval/half_win")):
                if column in part and np.isfinite(target):
                    table.loc[members.index, f"{value}_at_{on}"] = (
                        at_matched(part, metric, target, column).reindex(members["run"]).to_numpy()
                    )
            table.loc[members.index, f"matched_{on}"] = target**2 if on == "kl" else target
    return table


def matched_value(at_evaluations: pd.DataFrame, on: str) -> float:
    """A value of `on` that at least half of the runs of every arm reach: the least over arms of the median of the runs' largest."""
    if on not in at_evaluations or at_evaluations[on].notna().sum() == 0:
        return np.nan
    largest = at_evaluations.groupby(["arm", "run"], observed=True)[on].max()
    return float(largest.groupby("arm", observed=True).median().min())


def at_matched(at_evaluations: pd.DataFrame, on: str, target: float, value: str) -> pd.Series:
    """`value` where a run's `on` first reaches `target`, linear between evaluations; NaN for runs that never reach it."""
    found = {}
    for run, part in at_evaluations.groupby("run", observed=True, sort=False):
        found[run] = interpolate_at(part[on].to_numpy(), part[value].to_numpy(), target)
    return pd.Series(found, dtype=float)


def interpolate_at(x: np.ndarray, y: np.ndarray, target: float) -> float:
    """y at the first crossing of `target` by the path x, linear between neighbours; NaN if x stays below."""
    whole = np.isfinite(x) & np.isfinite(y)
    x, y = x[whole], y[whole]
    reached = np.flatnonzero(x >= target)
    if len(reached) == 0:
        return np.nan
    after = reached[0]
    if after == 0:
        return float(y[0])
    share = (target - x[after - 1]) / (x[after] - x[after - 1])
    return float(y[after - 1] + share * (y[after] - y[after - 1]))
