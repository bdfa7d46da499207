"""The figure in docs/explanation/world.md, drawn by `analysis.world_check`: proxy reward and gold reward of the same runs, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.estimate import mean_and_band

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7")  # Okabe and Ito, safe for colour-blind readers


def proxy_and_gold(curves: pd.DataFrame, arms: Mapping[str, str], limit: float) -> Figure:
    """Two panels over updates: proxy reward, which the policy is trained on, and gold reward. Faint: runs. Bold: their mean over units.

    curves: as `analysis.load.frames.load` returns them. arms: arm → label, in drawing order, at most four. limit: the gold below which
    a run counts as collapsed, drawn as a dotted line. Dashed: SFT's gold, the mean of the runs at update 0.
    """
    with matplotlib.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for (arm, label), colour in zip(arms.items(), COLOURS, strict=False):
            rows = curves[curves["arm"] == arm].dropna(subset=["eval/proxy"])
            draw_arm(left, rows, "eval/proxy", colour, label)
            draw_arm(right, rows, "eval/gold", colour, label)
        start = curves.loc[curves["arm"].isin(list(arms)) & (curves["update"] == 0), "eval/gold"]
        right.axhline(start.mean(), color="0.4", linewidth=1, linestyle=(0, (5, 3)))
        right.annotate("SFT", (1, start.mean()), xycoords=("axes fraction", "data"), xytext=(2, 0), textcoords="offset points", va="center",
                       fontsize=8, color="0.35")  # fmt: skip
        right.axhline(limit, color="0.4", linewidth=1, linestyle=":")
        right.annotate("collapsed below", (0, limit), xytext=(2, -3), textcoords="offset points", va="top", fontsize=8, color="0.35")
        left.set(title="what PPO maximises: the reward model", xlabel="update", ylabel="proxy reward")
        right.set(title="what the answers are worth", xlabel="update", ylabel="gold reward")
        left.legend(frameon=False, loc="lower right")
        return figure


def proxy_and_gold_table(curves: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """What `proxy_and_gold` shows, one row per run and evaluation: arm, reward_model, seed, update, eval/proxy, eval/gold."""
    shown = curves[curves["arm"].isin(list(arms))].dropna(subset=["eval/proxy"])
    columns = ["arm", "reward_model", "seed", "update", "eval/proxy", "eval/gold"]
    return shown[columns].astype({"arm": str, "reward_model": str}).sort_values(columns[:4], ignore_index=True)


def draw_arm(axes: Axes, rows: pd.DataFrame, metric: str, colour: str, label: str) -> None:
    """Draw one arm in one panel: its runs and their mean over reward models where these vary, else over seeds."""
    rows = rows.assign(run=rows["run"].astype(str))
    runs = rows.pivot(index="update", columns="run", values=metric)
    models = rows.drop_duplicates("run").set_index("run")["reward_model"].astype(str).loc[runs.columns]
    axes.plot(runs.index, runs.to_numpy(), color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(runs.index, mean_and_band(runs.to_numpy(), models)["mean"], color=colour, linewidth=2, label=label)
