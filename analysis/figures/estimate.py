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
from analysis.load.judgements import COLUMNS as JUDGEMENT_COLUMNS

COLUMNS = ["group", "panel", "arm", "kind", "seed", "update", "value", "low", "high", "n"]


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


def mean_and_band(values: np.ndarray, generator: np.random.Generator, *, repetitions: int = 1000, level: float = 0.95) -> pd.DataFrame:
    """Mean over seeds with its percentile bootstrap interval. values: (points, seeds), NaN where absent.

    One row per point: mean, low, high, n (seeds). The seeds of all points with the same seeds present are redrawn together, as whole
    seeds. The interval of a single seed is NaN.
    """
    values = np.asarray(values, dtype=float)
    band = np.full((len(values), 4), np.nan)
    patterns, which = np.unique(np.isfinite(values), axis=0, return_inverse=True)
    for index, present in enumerate(patterns):
        points, n = np.flatnonzero(which.ravel() == index), int(present.sum())
        if n == 0:
            continue
        seeds = values[np.ix_(points, np.flatnonzero(present))]
        band[points, 0], band[points, 3] = seeds.mean(axis=1), n
        if n > 1:
            draws = seeds[:, generator.integers(n, size=(repetitions, n))].mean(axis=-1)
            band[points, 1:3] = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=1).T
    return pd.DataFrame(band, columns=["mean", "low", "high", "n"])


def trajectories(frames: Frames, panels: Sequence[Panel], groups: Mapping[str, Sequence[str]], generator: np.random.Generator, *,
                 many: bool = False) -> pd.DataFrame:  # fmt: skip
    """Curves over updates, one row per point: group, panel (titles), arm, kind, seed, update, value, low, high, n. NaN where not given.

    kind: 'seed', a run at an update; 'mean', over the runs measured at an update, with low, high and n; 'collapse', a run at the update
    of its collapse; 'limit', the gold below which a run counts as collapsed. groups: title → arms. many: leave out seeds and intervals.
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
            drawn = [_arm(arm, rows, panel.metric, collapses, generator, many) for arm, rows in members if len(rows)]
            if panel is GOLD and drawn:
                drawn.append(pd.DataFrame([dict(arm="", kind="limit", value=collapse_limit(frames.runs))]))
            parts += [part.assign(group=group, panel=panel.title) for part in drawn]
    if not parts:
        raise UserError("none of the panels has been logged by these runs: " + ", ".join(panel.metric for panel in panels))
    return pd.concat(parts, ignore_index=True).reindex(columns=COLUMNS)


def _arm(arm: str, rows: pd.DataFrame, metric: str, collapses: pd.DataFrame, generator: np.random.Generator, many: bool) -> pd.DataFrame:
    """One arm in one panel: arm, kind, seed, update, value, low, high, n of `trajectories`, as far as they are given."""
    seeds = rows.pivot(index="update", columns="seed", values=metric)
    band = mean_and_band(seeds.to_numpy(), generator).rename(columns={"mean": "value"}).assign(kind="mean", update=seeds.index)
    when = rows["run"].astype(str).map(collapses.set_index("run")["collapse_update"])
    events = rows[rows["update"] == when][["seed", "update", metric]].rename(columns={metric: "value"}).assign(kind="collapse")
    if many:
        parts = [band.drop(columns=["low", "high"]), events]
    else:
        faint = rows[["seed", "update", metric]].rename(columns={metric: "value"}).sort_values(["seed", "update"])
        parts = [faint.assign(kind="seed"), band, events]
    return pd.concat([part for part in parts if len(part)], ignore_index=True).assign(arm=arm)


def collapse_limit(runs: pd.DataFrame) -> float:
    """The gold below which a run counts as collapsed, SFT's mean − threshold × SD of SFT's gold, averaged over runs."""
    threshold = pd.to_numeric(runs["collapse.threshold"]) if "collapse.threshold" in runs else 1.0
    return float((runs["sft/eval/gold"] - threshold * runs["sft/eval/gold_sd"]).mean())
