"""The figure in docs/explanation/world.md, drawn by `analysis.world_check`: proxy reward and gold reward of the same runs, side by side."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7")  # Okabe and Ito, safe for colour-blind readers


def proxy_and_gold(curves: pd.DataFrame, arms: Mapping[str, str], limit: float) -> Figure:
    """Two panels over updates: proxy reward, which the policy is trained on, and gold reward. Faint: seeds. Bold: their mean.

    curves: as `analysis.load.frames.load` returns them. arms: arm → label, in drawing order, at most four. limit: the gold below which
    a run counts as collapsed, drawn as a dotted line.
    """
    with matplotlib.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for (arm, label), colour in zip(arms.items(), COLOURS, strict=False):
            rows = curves[curves["arm"] == arm].dropna(subset=["eval/proxy"])
            draw_arm(left, rows, "eval/proxy", colour, label)
            draw_arm(right, rows, "eval/gold", colour, label)
        right.axhline(limit, color="0.4", linewidth=1, linestyle=":")
        right.annotate("collapsed below", (0, limit), xytext=(2, -3), textcoords="offset points", va="top", fontsize=8, color="0.35")
        left.set(title="what PPO maximises: the reward model", xlabel="update", ylabel="proxy reward")
        right.set(title="what the answers are worth", xlabel="update", ylabel="gold reward")
        left.legend(frameon=False, loc="lower right")
        return figure


def draw_arm(axes: Axes, rows: pd.DataFrame, metric: str, colour: str, label: str) -> None:
    """Draw one arm in one panel: its seeds and their mean."""
    seeds = rows.pivot(index="update", columns="seed", values=metric)
    axes.plot(seeds.index, seeds.to_numpy(), color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(seeds.index, seeds.mean(axis=1), color=colour, linewidth=2, label=label)
