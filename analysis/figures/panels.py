"""The table of `trajectories` → a grid of panels over updates, with arms labelled at the ends of their lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator

from ablate.errors import UserError
from analysis.figures.labels import SIZE, label_ends, spread_labels, wrap
from analysis.figures.style import PALETTE, WIDTH, add_caption, arm_colours, arm_dashes, arm_labels, style

LEVELS = {"sft": (0, (5, 3)), "limit": (0, (1, 2))}  # horizontal lines of gold panels
MAX_LABELLED = len(PALETTE)  # more arms than this go into a legend


def draw_panels(table: pd.DataFrame, arms: Sequence[str], caption: str, *, columns: int, scales: dict[str, str]) -> Figure:
    """One panel per (panel, group) of the table, row by row.

    arms: all arms in order, for colours and line styles. scales: panel → scale of its vertical axis.

    Raises:
        UserError: a panel has no means.
    """
    cells = list(table[["panel", "group"]].drop_duplicates().itertuples(index=False, name=None))
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    colours, dashes = arm_colours(arms), arm_dashes(arms)
    labelled = 1 < len(arms) <= MAX_LABELLED
    with style():
        figure = Figure(figsize=(WIDTH, rows * _row_height(arms, labelled, columns) + 0.7), layout="constrained")
        grouped = table["group"].nunique() > 1  # the columns are groups: their panels share the vertical axis
        grid = figure.subplots(rows, columns, squeeze=False, sharey="row" if grouped else False).ravel()
        last, labels = float(table["update"].max()), {}
        for axes, (panel, group) in zip(grid, cells, strict=False):
            part = table[(table["panel"] == panel) & (table["group"] == group)]
            labels[axes] = draw_panel(axes, part, colours, dashes, scale=scales.get(panel, "linear"), labelled=labelled)
            axes.set_title(f"{group} – {panel}" if grouped else panel)
            axes.set_xlim(0, last)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2.5, 5, 10]))
        for axes in grid[len(cells) :]:
            axes.remove()
        for axes in grid[max(0, len(cells) - columns) : len(cells)]:
            axes.set_xlabel("PPO update")
        if len(arms) > MAX_LABELLED:
            handles = [Line2D([], [], color=colours[arm], linestyle=dashes[arm], label=label) for arm, label in arm_labels(arms).items()]
            figure.legend(handles=handles, loc="outside upper left", ncols=5, frameon=False, handlelength=2.2, columnspacing=1.2)
        add_caption(figure, caption)
        spread_labels(figure, labels)
    return figure


def _row_height(arms: Sequence[str], labelled: bool, columns: int) -> float:
    """Inches, enough for the labels of all arms one below the other."""
    lines = sum(wrap(label).count("\n") + 1 for label in arm_labels(arms).values()) if labelled else 0
    return max(1.65 if columns < 3 else 1.5, (lines * SIZE * 1.25 + 3 * len(arms)) / 72 + 0.35)


def draw_panel(axes: Axes, part: pd.DataFrame, colours: Mapping[str, str], dashes: Mapping[str, object], *, scale: str = "linear",
               labelled: bool = True) -> list[Annotation]:  # fmt: skip
    """Draw all arms of one panel. Returns their labels, which `spread_labels` has yet to move apart.

    Raises:
        UserError: the panel has no means.
    """
    means = part[part["kind"] == "mean"]
    if means.empty:
        raise UserError(f"nothing to draw in the panel {part['panel'].iloc[0]!r}")
    if scale == "sqrt":
        axes.set_yscale("function", functions=(lambda y: np.sign(y) * np.sqrt(np.abs(y)), lambda y: np.sign(y) * y**2))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    for level in part[part["kind"].isin(LEVELS)].dropna(subset=["value"]).itertuples():
        axes.axhline(level.value, color="0.45", linewidth=0.8, linestyle=LEVELS[level.kind], zorder=1)
        if level.high > level.low:
            axes.axhspan(level.low, level.high, color="0.45", alpha=0.12, linewidth=0, zorder=0)
    ends, labels = {}, arm_labels(list(colours))
    for arm, rows in means.groupby("arm", sort=False):
        own = part[part["arm"] == arm]
        for _, run in own[own["kind"] == "run"].groupby(["reward_model", "seed"]):
            axes.plot(run["update"], run["value"], color=colours[arm], alpha=0.22, linewidth=0.5, zorder=1)
        low = rows["low"].to_numpy(dtype=float)
        low = np.where(low < 0, 0.0, low) if scale == "sqrt" else low  # such quantities are not negative
        axes.fill_between(rows["update"].to_numpy(dtype=float), low, rows["high"].to_numpy(dtype=float),
                          color=colours[arm], alpha=0.18, linewidth=0, zorder=2)  # fmt: skip
        axes.plot(rows["update"], rows["value"], color=colours[arm], linestyle=dashes[arm], zorder=3)
        events = own[own["kind"] == "collapse"]
        axes.plot(events["update"], events["value"], "x", markersize=4, markeredgewidth=1.1, color=colours[arm], zorder=4)
        ends[labels[arm]] = tuple(rows.sort_values("update")[["update", "value"]].iloc[-1])
    return label_ends(axes, ends, {labels[arm]: colour for arm, colour in colours.items()}) if labelled else []
