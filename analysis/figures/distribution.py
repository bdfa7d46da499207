"""Figure 13: the distribution of scores over training."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablate.errors import UserError
from analysis.figures.estimate import Drawn, Frames
from analysis.figures.panels import LEVELS
from analysis.figures.style import WIDTH, add_caption, arm_label, arm_order, basis, gold_source, style

RIDGES, BINS, HEIGHT = 9, 60, 0.84
PANELS = {"proxy": "Proxy reward of held-out answers", "gold": "Gold reward of the same answers"}


def shown_updates(updates: np.ndarray, count: int = RIDGES) -> list[int]:
    """At most `count` of the evaluated updates, evenly spaced, with the first and the last."""
    distinct = np.unique(updates)
    return distinct[np.unique(np.linspace(0, len(distinct) - 1, min(count, len(distinct))).round().astype(int))].tolist()


def common_updates(scores: pd.DataFrame) -> np.ndarray:
    """The updates at which all runs of `scores` have scores, in order."""
    counts = scores.groupby("update")["run"].nunique()
    return counts.index[counts == scores["run"].nunique()].to_numpy()


def score_table(scores: pd.DataFrame, updates: list[int]) -> pd.DataFrame:
    """Histograms of the answers' scores, averaged over runs. Panels without values are absent.

    One row per panel, update and bin: panel ('proxy' or 'gold'), update, left, right (edges), share (of answers), median (of all answers
    at that update), n (runs).
    """
    rows = []
    for panel in (name for name in PANELS if name in scores and scores[name].notna().any()):
        shown = scores[scores["update"].isin(updates) & scores[panel].notna()].astype({panel: float})
        # A few extreme answers would stretch the axis. Those beyond its ends count in the outermost bins.
        low, high = np.quantile(shown[panel], [0.001, 0.999])
        edges = np.linspace(low - 0.03 * (high - low), high + 0.03 * (high - low), BINS + 1)
        for update, part in shown.groupby("update"):
            shares = [np.histogram(one[panel].clip(edges[0], edges[-1]), edges)[0] / len(one) for _, one in part.groupby("run")]
            rows += [dict(panel=panel, update=update, left=left, right=right, share=share, median=part[panel].median(), n=len(shares))
                     for left, right, share in zip(edges, edges[1:], np.mean(shares, axis=0), strict=False)]  # fmt: skip
    return pd.DataFrame(rows)


def fig13(frames: Frames) -> Drawn:
    """Distributions of the base arm's proxy scores and gold over training.

    Raises:
        UserError: no run of the base arm has kept its scores, or no evaluation is common to its runs.
    """
    arm = arm_order(frames.runs)[0]
    scores = frames.scores[frames.scores["arm"] == arm] if len(frames.scores) else frames.scores
    if scores.empty:
        raise UserError(f"no run of {arm} has kept its scores.jsonl")
    runs, common = frames.runs[frames.runs["run"].isin(set(scores["run"]))], common_updates(scores)
    if not len(common):
        raise UserError(f"no evaluation of {arm} whose scores all {len(runs)} runs have kept in scores.jsonl")
    table = score_table(scores, shown_updates(common))
    shown, kept = table["update"].nunique(), scores["update"].nunique()
    others = f" ({kept - len(common)} more were kept by some runs only)" if kept > len(common) else ""
    caption = (
        f"Figure 13. Scores of held-out answers over the training of {arm_label(arm)}. Ridges: {shown} of the {len(common)} evaluations "
        f"that all {len(runs)} runs have kept{others}; each is the mean of the runs' histograms, scaled to its peak; triangles: medians "
        f"over all answers. {basis(runs)}"
    )
    if "gold" in set(table["panel"]):
        caption += f" Dashed: SFT's mean gold. {gold_source(runs)}"
    with style():
        figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
        panels = list(dict.fromkeys(table["panel"]))
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw_ridges(axes, table[table["panel"] == panel])
            axes.set_title(PANELS[panel])
            if panel == "gold":
                axes.axvline(runs["sft/eval/gold"].mean(), color="0.45", linewidth=0.8, linestyle=LEVELS["sft"], zorder=1)
        figure.axes[0].set_ylabel("PPO update")
        add_caption(figure, caption)
    return Drawn(figure, table)


def _draw_ridges(axes: Axes, part: pd.DataFrame) -> None:
    """Draw the ridges with the first update on top. All are equally high, so that the tails of broad ones are seen too."""
    ridges = list(part.groupby("update"))
    colours = matplotlib.colormaps["cividis"](np.linspace(0.05, 0.8, len(ridges)))
    for index, (_, rows) in enumerate(ridges):
        base = len(ridges) - 1 - index
        edges, heights = np.append(rows["left"], rows["right"].iloc[-1]), base + rows["share"] / rows["share"].max() * HEIGHT
        axes.stairs(heights, edges, baseline=base, fill=True, color=colours[index])
        axes.axhline(base, color=colours[index], linewidth=0.5)
        axes.plot(rows["median"].iloc[0], base - 0.06, marker="^", markersize=3.5, color="#D55E00", clip_on=False, zorder=3)
    axes.set_yticks(range(len(ridges)), [str(update) for update, _ in reversed(ridges)])
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(part["left"].min(), part["right"].max())
