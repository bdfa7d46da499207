"""The alarms of the page: where each sounded on a run's curves, and how often and when it did in each arm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ablate.runs.alarms import ALARMS, VOTES
from analysis.estimate.collapse import alarm_watch

# Alarm → the curves on which it is marked: those of the monitors that its statistic is made of.
MARKED = {
    "kl": ("monitor/kl_to_sft", "monitor/kl_per_token"),
    "nll_under_sft": ("monitor/perplexity_ref",),
    "entropy": ("monitor/entropy",),
    "distinct": ("monitor/distinct",),
    "distinct_across": ("monitor/distinct_across",),
}


def alarm_data(runs: pd.DataFrame, curves: pd.DataFrame, arms: Sequence[str]) -> dict[str, Any]:
    """{alarms, sounded, arms} of a study.

    alarms: {name, title, formula, sounds, marked} per alarm: `sounds` its threshold in words, `marked` as in `MARKED`.
    sounded: per run, in the order of `runs`, {name of the alarm: update}. The alarms are sounded again over the curves, so that runs of
        versions without alarms have them too.
    arms: per arm {runs, able, sounded: {name: [number of runs, median update or None]}, collapsed: the same of `VOTES` alarms together}.
        able: runs in which so many alarms have their monitors and updates enough.
    """
    members = curves.groupby("run", observed=True, sort=False).indices
    watches = [alarm_watch(run, curves.iloc[members.get(run["run"], [])]) for run in runs.to_dict("records")]
    of_arm = runs["arm"].to_numpy()
    rows = []
    for arm in arms:
        watched = [watch for watch, own in zip(watches, of_arm, strict=True) if own == arm]
        when = {alarm.name: [watch.sounded[alarm.name] for watch in watched if alarm.name in watch.sounded] for alarm in ALARMS}
        collapsed = [watch.collapse_update for watch in watched if watch.collapse_update is not None]
        rows.append(
            {
                "runs": len(watched),
                "able": sum(watch.collapsed is not None for watch in watched),
                "sounded": {name: _count(updates) for name, updates in when.items()},
                "collapsed": _count(collapsed),
            }
        )
    alarms = [
        {"name": alarm.name, "title": alarm.title, "formula": alarm.formula, "marked": list(MARKED[alarm.name]),
         "sounds": f"{'above' if alarm.rises else 'below'} {alarm.threshold:.2f}"}
        for alarm in ALARMS
    ]  # fmt: skip
    return {"alarms": alarms, "votes": VOTES, "sounded": [watch.sounded for watch in watches], "arms": rows}


def _count(updates: Sequence[int]) -> list[float | None]:
    return [len(updates), float(np.median(updates)) if updates else None]
