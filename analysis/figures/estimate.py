"""Frames → the table that a figure draws, with one row per point. It is written beside the figure as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ablate.errors import UserError
from ablate.runs.metrics import BY_NAME
from analysis.estimate.collapse import collapse_times
from analysis.estimate.outcomes import with_win_rate
from analysis.estimate.stats import mean_interval
from analysis.estimate.units import MIN_SEEDS
from analysis.load.judgements import COLUMNS as JUDGEMENT_COLUMNS

COLUMNS = ["group", "panel", "arm", "kind", "reward_model", "seed", "update", "value", "low", "high", "n"]


@dataclass(frozen=True)
class Frames:
    """The frames of one study that figures are drawn from.

    runs, curves: as `load` returns them. scores: `load_rows`. training, pairs: `load_reward_models`. judgements: `load_judgements`.
    """

    runs: pd.DataFrame
    curves: pd.DataFrame
    scores: pd.DataFrame = field(default_factory=pd.DataFrame)
    training: pd.DataFrame = field(default_factory=pd.DataFrame)
    pairs: pd.DataFrame = field(default_factory=pd.DataFrame)
    judgements: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(JUDGEMENT_COLUMNS)))


class Drawn(NamedTuple):
    """A figure and the table of what it shows."""

    figure: Figure
    table: pd.DataFrame


class Panel(NamedTuple):
    """metric: a column of `curves`. title: that of the panel, with the unit. scale: of the vertical axis, 'linear' or 'sqrt'."""

    metric: str
    title: str
    scale: str = "linear"


def panel(name: str, scale: str = "linear", *, unit: bool = False) -> Panel:
    """The panel of the metric `name`. Its title is that of `ablate.runs.metrics`, followed by the unit in parentheses if `unit`."""
    metric = BY_NAME[name]
    title = metric.panel[0].upper() + metric.panel[1:]
    return Panel(name, f"{title} ({metric.unit})" if unit else title, scale)


PROXY = panel("eval/proxy")
GOLD = panel("eval/gold")
WIN = Panel("eval/win_rate", "Win rate against SFT")
KL = panel("monitor/kl_to_sft", "sqrt", unit=True)
PERPLEXITY = panel("monitor/perplexity")
LENGTH = panel("monitor/response_length", unit=True)


def mean_and_band(values: np.ndarray, reward_models: Sequence[str] | None = None, *, level: float = 0.95) -> pd.DataFrame:
    """Mean over units with its t interval. values: (points, runs), NaN where absent. reward_models: (runs,), the unit where they vary.

    One row per point: mean, low, high, n (units). The runs of each reward model are averaged first. With one reward model, or none named,
    every column is a unit. The interval is NaN below `MIN_SEEDS` units and where they do not differ: such units do not show their error.
    """
    values = np.asarray(values, dtype=float)
    models, index = np.unique(np.zeros(values.shape[1]) if reward_models is None else np.asarray(reward_models), return_inverse=True)
    if len(models) > 1:
        member = (index == np.arange(len(models))[:, None]).astype(float).T
        known = np.isfinite(values) @ member
        values = np.divide(np.nan_to_num(values) @ member, known, out=np.full(known.shape, np.nan), where=known > 0)
    rows = []
    for units in values:
        n, interval = int(np.isfinite(units).sum()), mean_interval(units, level)
        bounded = n >= MIN_SEEDS and np.isfinite(interval.low)
        rows.append((interval.estimate, *(interval[1:] if bounded else (np.nan, np.nan)), n))
    return pd.DataFrame(rows, columns=["mean", "low", "high", "n"])


def trajectories(frames: Frames, panels: Sequence[Panel], groups: Mapping[str, Sequence[str]], *,
                 many: bool = False) -> pd.DataFrame:  # fmt: skip
    """Curves over updates, one row per point: group, panel (titles), arm, kind, reward_model, seed, update, value, low, high, n. NaN where
    not given.

    kind: 'run', a run at an update; 'mean', over the units measured at an update (`mean_and_band`), with low, high and n; 'collapse', a
    run at the update of its collapse; 'sft', SFT's gold, and 'limit', the gold below which a run counts as collapsed, both as the mean of
    the runs with the least and the most of them as low and high. groups: title → arms. many: leave out runs and intervals.
    Panels that no run has logged are absent.

    Raises:
        UserError: no panel has been logged.
    """
    curves = with_win_rate(frames.curves)
    collapses = collapse_times(frames.runs, curves).dropna(subset=["collapse_update"])
    parts = []
    for panel in (panel for panel in panels if panel.metric in curves):
        logged = curves[curves[panel.metric].notna()]
        for group, arms in groups.items():
            members = [(arm, logged[logged["arm"] == arm]) for arm in arms]
            drawn = [_arm(arm, rows, panel.metric, collapses, many) for arm, rows in members if len(rows)]
            if panel is GOLD and drawn:
                drawn.append(gold_levels(frames.runs[frames.runs["arm"].isin(arms)]))
            parts += [part.assign(group=group, panel=panel.title) for part in drawn]
    if not parts:
        raise UserError("none of the panels has been logged by these runs: " + ", ".join(panel.metric for panel in panels))
    return pd.concat(parts, ignore_index=True).reindex(columns=COLUMNS)


def _arm(arm: str, rows: pd.DataFrame, metric: str, collapses: pd.DataFrame, many: bool) -> pd.DataFrame:
    """One arm in one panel: arm, kind, reward_model, seed, update, value, low, high, n of `trajectories`, as far as they are given."""
    rows = rows.assign(run=rows["run"].astype(str), reward_model=rows["reward_model"].astype(str)).rename(columns={metric: "value"})
    by_run = rows.pivot(index="update", columns="run", values="value")
    models = rows.drop_duplicates("run").set_index("run")["reward_model"].loc[by_run.columns]
    band = mean_and_band(by_run.to_numpy(), models).rename(columns={"mean": "value"}).assign(kind="mean", update=by_run.index)
    when = rows["run"].map(collapses.set_index("run")["collapse_update"])
    shown = ["reward_model", "seed", "update", "value"]
    events = rows.loc[rows["update"] == when, shown].assign(kind="collapse")
    if many:
        parts = [band.drop(columns=["low", "high"]), events]
    else:
        parts = [rows[shown].sort_values(shown[:3]).assign(kind="run"), band, events]
    return pd.concat([part for part in parts if len(part)], ignore_index=True).assign(arm=arm)


def gold_levels(runs: pd.DataFrame) -> pd.DataFrame:
    """SFT's gold and the limit of collapse: arm (''), kind ('sft', 'limit'), value (mean of the runs), low, high (least and most of them).

    The frame has no rows where no run has recorded SFT's gold.
    """
    levels = {"sft": runs["sft/eval/gold"].dropna(), "limit": _limits(runs).dropna()}
    rows = [dict(arm="", kind=kind, value=level.mean(), low=level.min(), high=level.max()) for kind, level in levels.items() if len(level)]
    return pd.DataFrame(rows)


def collapse_limit(runs: pd.DataFrame) -> float:
    """The gold below which a run counts as collapsed, SFT's mean − threshold × SD of SFT's gold, averaged over runs."""
    return float(_limits(runs).mean())


def _limits(runs: pd.DataFrame) -> pd.Series:
    threshold = pd.to_numeric(runs["collapse.threshold"]) if "collapse.threshold" in runs else 1.0
    return runs["sft/eval/gold"] - threshold * runs["sft/eval/gold_sd"]
