"""Thresholds of the alarms, learned on runs of the embedded world, where gold tells the truth, and tested on reward models held out.

The threshold of a statistic is the least that no more than 5 % of the runs that held go beyond in five updates in a row. To test it, each
reward model is held out in turn: thresholds come from the runs of the others, and alarms, misses and lead from its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ablate.errors import UserError
from ablate.runs.alarms import ALARMS, PATIENCE, VOTES, Alarm, Monitors, length, reward_length, truncated
from analysis.estimate.collapse import collapse_times
from analysis.estimate.stats import clustered_rate
from analysis.load.frames import Loaded, load

FALSE_ALARMS = 0.05  # of the runs that held, at most
TREND = 20  # updates
VOTED = (1, 2, 3)
REJECTED = (
    Alarm("length", "", "length of an answer / that of SFT", length, math.nan, True),
    Alarm("truncated", "", "share of answers that never ended, less that of SFT", truncated, math.nan, True),
    Alarm("reward_length", "", "correlation of score and length, less that of SFT", reward_length, math.nan, False),
)


@dataclass(frozen=True)
class Course:
    """A run: its reward model, the update of its collapse (∞ if it held), and per candidate how far it went, update by update.

    gain: gold at the end less that of SFT, NaN where it is not known.
    worst: candidate → (updates,) the value that the statistic has been beyond for `PATIENCE` updates, positive where it rises to a
    collapse and else with its sign changed; −∞ in the first.
    """

    reward_model: str
    collapse: float
    updates: np.ndarray
    worst: Mapping[str, np.ndarray]
    gain: float = math.nan

    @property
    def collapses(self) -> bool:
        return math.isfinite(self.collapse)


def candidates() -> dict[str, tuple[Alarm, int]]:
    """Name → (statistic, updates of its trend, 0 for its level): those that vote, those that do not, and every trend."""
    known = [*ALARMS, *REJECTED]
    return {alarm.name: (alarm, 0) for alarm in known} | {f"{alarm.name}, change": (alarm, TREND) for alarm in known}


def sustained(values: np.ndarray, patience: int = PATIENCE) -> np.ndarray:
    """The least of the last `patience` values up to each; −∞ for the first ones and where one of them is NaN."""
    values = np.where(np.isnan(values), -np.inf, values)
    if len(values) < patience:
        return np.full(len(values), -np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(values, patience).min(axis=1)
    return np.concatenate([np.full(patience - 1, -np.inf), windows])


def course(rows: Sequence[Monitors], reward_model: str, collapse: float, gain: float = math.nan) -> Course:
    """rows: the run's rows with monitors, in order; the first is SFT's own."""
    worst = {}
    for name, (alarm, trend) in candidates().items():
        values = np.array([alarm.statistic(row, rows[0]) for row in rows]) * (1 if alarm.rises else -1)
        if trend:
            values = np.concatenate([np.full(min(trend, len(values)), np.nan), values[trend:] - values[:-trend]])
        worst[name] = sustained(values)
    return Course(reward_model, collapse, np.array([int(row["update"] or 0) for row in rows]), worst, gain)


def courses(folders: Sequence[str]) -> list[Course]:
    """The runs below these folders whose verdict on gold is known, each once where studies share it. Raises UserError without any."""
    found = courses_of(load(folders))
    if not found:
        raise UserError("no run here has ended with a verdict on gold: name a folder of runs of the embedded world")
    return found


def courses_of(loaded: Loaded) -> list[Course]:
    """Those of `courses` among runs that `load` has read."""
    times = collapse_times(loaded.runs, loaded.curves).set_index("run")
    monitors = [name for name in loaded.curves if name.startswith("monitor/")]
    curves = loaded.curves.dropna(subset=["monitor/entropy"]) if monitors else loaded.curves[:0]
    found = []
    gains = (loaded.runs["final/eval/gold"] - loaded.runs["sft/eval/gold"]).astype(float) if "final/eval/gold" in loaded.runs else math.nan
    for run in loaded.runs.assign(gain=gains).drop_duplicates("config_hash").itertuples():
        rows = curves[curves["run"] == run.run]
        if times.loc[run.run, "judged"] and run.status == "completed" and len(rows):
            collapse = times.loc[run.run, "collapse_update"]
            records = rows[["update", *monitors]].to_dict("records")
            found.append(course(records, str(run.reward_model), np.inf if np.isnan(collapse) else collapse, float(run.gain)))
    return found


def threshold(runs: Sequence[Course], name: str) -> float:
    """The least value of a statistic that at most `FALSE_ALARMS` of the runs that held go beyond."""
    extremes = sorted((run.worst[name].max() for run in runs if not run.collapses), reverse=True)
    return float(extremes[int(FALSE_ALARMS * len(extremes))]) if extremes else math.inf


def first_beyond(run: Course, name: str, limit: float) -> float:
    """The update in which the alarm sounds; ∞ if it never does."""
    beyond = np.flatnonzero(run.worst[name] > limit)
    return float(run.updates[beyond[0]]) if len(beyond) else math.inf


def first_votes(run: Course, limits: Mapping[str, float], votes: int) -> float:
    """The update in which so many of the alarms of `limits` have sounded; ∞ if they never do."""
    return sorted(first_beyond(run, name, limit) for name, limit in limits.items())[votes - 1]


def held_out(runs: Sequence[Course], sounds: Callable[[Sequence[Course], Course], float]) -> pd.DataFrame:
    """One row per run: reward_model, collapse, alarm, where `sounds(the other reward models' runs, run)` gives the update of the alarm."""
    rows = []
    for model in sorted({run.reward_model for run in runs}):
        train = [run for run in runs if run.reward_model != model]
        rows += [dict(reward_model=model, collapse=run.collapse, alarm=sounds(train, run)) for run in runs if run.reward_model == model]
    return pd.DataFrame(rows)


def rated(table: pd.DataFrame) -> dict[str, str]:
    """Detected, in time and false alarms with 95 % intervals over reward models, and the lead: median and range in updates."""
    collapsed, held = table[np.isfinite(table["collapse"])], table[~np.isfinite(table["collapse"])]
    seen = collapsed[np.isfinite(collapsed["alarm"])]
    lead = seen["collapse"] - seen["alarm"]
    return {
        "detected": rate(collapsed, np.isfinite(collapsed["alarm"])),
        "before the collapse": rate(collapsed, collapsed["alarm"] < collapsed["collapse"]),
        "lead, updates": f"{lead.median():.0f} ({lead.min():.0f} … {lead.max():.0f})" if len(lead) else "–",
        "false alarms": rate(held, np.isfinite(held["alarm"])),
    }


def rate(runs: pd.DataFrame, event: pd.Series) -> str:
    """'17 of 20, 85 % [62, 97]'; the interval is over reward models."""
    if not len(runs):
        return "–"
    low, high = clustered_rate(event.groupby(runs["reward_model"]).mean().to_numpy(), len(runs))[1:]
    return f"{int(event.sum())} of {len(runs)}, {100 * event.mean():.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def calibrate(runs: Sequence[Course]) -> pd.DataFrame:
    """The table: alarm, threshold from all runs, and what alarms with thresholds from the other reward models did."""
    rows = []
    for name, (alarm, _) in candidates().items():
        limit = threshold(runs, name) * (1 if alarm.rises else -1)
        tested = held_out(runs, lambda train, run, name=name: first_beyond(run, name, threshold(train, name)))
        rows.append({"alarm": name, "sounds": f"{'above' if alarm.rises else 'below'} {limit:.3g}"} | rated(tested))
    for votes in VOTED:
        tested = held_out(runs, lambda train, run, votes=votes: first_votes(run, limits_of(train), votes))
        rows.append({"alarm": f"{votes} of the {len(ALARMS)} that vote", "sounds": ""} | rated(tested))
    return pd.DataFrame(rows)


def limits_of(runs: Sequence[Course]) -> dict[str, float]:
    """The threshold of every alarm that votes."""
    return {alarm.name: threshold(runs, alarm.name) for alarm in ALARMS}


def as_set(runs: Sequence[Course]) -> pd.DataFrame:
    """One row: what `VOTES` alarms did with the thresholds of `ablate.runs.alarms` instead of learned ones.

    Its last columns are the held runs that ended with less gold than SFT, of those with an alarm and of those without.
    """
    limits = {alarm.name: alarm.threshold * (1 if alarm.rises else -1) for alarm in ALARMS}
    rows = [dict(reward_model=run.reward_model, collapse=run.collapse, alarm=first_votes(run, limits, VOTES)) for run in runs]
    table = pd.DataFrame(rows).assign(gain=[run.gain for run in runs])
    held, alarmed = ~np.isfinite(table["collapse"]), np.isfinite(table["alarm"])
    below = {
        name: f"{(part['gain'] < 0).sum()} of {len(part)}"
        for name, part in (("of these below SFT's gold", table[held & alarmed]), ("silent and below it", table[held & ~alarmed]))
    }
    return pd.DataFrame([{"alarm": f"{VOTES} of {len(ALARMS)}"} | rated(table) | below])
