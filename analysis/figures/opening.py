"""The figure that opens the README: the update at which each run collapsed, and its gold at the end."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ablate.errors import UserError
from analysis.estimate.effects import base_arm, change
from analysis.estimate.outcomes import ENDED, outcomes
from analysis.estimate.stats import paired_effect
from analysis.figures.style import arm_label
from analysis.load.designs import arm_settings

BASE, CONSTRAINT, OTHER = "#222222", "#0072B2", "#D55E00"  # the last two are Okabe and Ito's, safe for colour-blind readers
CONSTRAINTS = ("kl_", "importance_sampling", "entropy_")  # §5.3.3 of the paper: token-level KL penalty, importance sampling, entropy bonus
TITLES = {"add_one_in": "vanilla PPO, and one trick added", "leave_one_out": "PPO-max, and one trick left out"}
LEGEND = {CONSTRAINT: "the trick constrains the policy (KL to SFT, entropy bonus, importance sampling)", OTHER: "any other trick",
          BASE: "the preset itself"}  # fmt: skip
ROW = 0.185  # inches


def opening(runs: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """One block per study, one row per arm. Left: one line per seed, to a dot at its collapse or divergence, else to its end. Right: gold.

    The base arm comes first, then the other arms by share of collapses, the least first. Gold is that at the end: seeds, their mean and
    its 95 % t interval, cut where it goes beyond all seeds. SFT's gold is dotted.
    runs, curves: as `analysis.load.frames.load` returns them. The studies in `TITLES` are drawn, or all if none of these is loaded. The
    arms of a study should differ from one base by one trick each.

    Raises:
        UserError: no run has ended with a gold reward.
    """
    present = sorted(runs["study"].unique())
    studies = [study for study in TITLES if study in present] or present
    blocks = [_block(runs[runs["study"] == study], curves[curves["study"] == study]) for study in studies]
    known = np.array([value for block in blocks for row in block for value in row["gold"] if np.isfinite(value)])
    if not len(known):
        raise UserError("no run has ended with a gold reward: there is nothing to draw")
    heights = [len(block) + 1.5 for block in blocks]
    with matplotlib.rc_context({"font.size": 8.5, "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False}):
        figure = Figure(figsize=(9, ROW * sum(heights) + 1.1), layout="constrained")
        axes = figure.subplots(len(blocks), 2, height_ratios=heights, width_ratios=(2.3, 1), sharex="col", squeeze=False)
        for study, block, (lives, gold) in zip(studies, blocks, axes, strict=True):
            _draw_lives(lives, block, runs.loc[runs["study"] == study, "ppo.updates"].max())
            _draw_gold(gold, block, runs.loc[runs["study"] == study, "sft/eval/gold"].mean())
            lives.set_title(TITLES.get(study, study), loc="left", fontweight="bold", fontsize=9.5)
        axes[0, 1].set_xlim(known.min() - 0.06 * np.ptp(known), known.max() + 0.06 * np.ptp(known))
        axes[0, 1].set_title("gold at the end", loc="left", fontsize=9.5)
        axes[-1, 0].set_xlabel("update; each line is a run, and ends where its gold reward collapsed")
        axes[-1, 1].set_xlabel("mean of the seeds, 95 % interval")
        marks = [Line2D([], [], color=colour, marker="o", markersize=3.5, linewidth=1.5, label=label) for colour, label in LEGEND.items()]
        figure.legend(handles=marks, loc="outside upper left", ncols=3, frameon=False, handlelength=1.4, columnspacing=1.6)
        return figure


def _block(runs: pd.DataFrame, curves: pd.DataFrame) -> list[dict]:
    """The rows of a study from the top: label, is_base, colour, and times, events and gold of the ended runs in order of seeds."""
    table, settings = outcomes(runs, curves).sort_values("seed"), arm_settings(runs)
    base = base_arm(settings)
    rows = []
    for arm, part in table[table["status"].isin(ENDED)].groupby("arm", observed=True):
        constrains = change(settings, arm, base).startswith(CONSTRAINTS)
        rows.append(dict(
            label=arm_label(arm) if arm == base else _label(arm), is_base=arm == base,
            colour=BASE if arm == base else CONSTRAINT if constrains else OTHER,
            times=part["time"].to_numpy(), events=part["event"].to_numpy(), gold=part["gold"].to_numpy(),
        ))  # fmt: skip
    return sorted(rows, key=lambda row: (row["is_base"], -row["events"].mean(), row["times"].mean(), row["gold"].mean()), reverse=True)


def _label(arm: str) -> str:
    text = arm_label(arm).removesuffix(" =")  # "GAE λ =" without a value
    return text.replace("no ", "− ", 1) if text.startswith("no ") else f"+ {text}"


def _draw_lives(axes: Axes, block: list[dict], horizon: float) -> None:
    for y, row in enumerate(block):
        offsets = np.linspace(-0.3, 0.3, len(row["times"])) if len(row["times"]) > 1 else [0.0]
        for offset, time, event in zip(offsets, row["times"], row["events"], strict=True):
            axes.plot([0, time], [y + offset] * 2, color=row["colour"], linewidth=0.9, solid_capstyle="butt", alpha=0.75)
            if event:
                axes.plot(time, y + offset, "o", color=row["colour"], markersize=2.6)
        died, n = int(row["events"].sum()), len(row["events"])
        text = f"{died} of {n} collapsed" if died else f"{n} of {n} held"
        axes.annotate(text, (horizon, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=7.5,
                      color=row["colour"], fontweight="normal" if died else "bold", annotation_clip=False)  # fmt: skip
    axes.set(xlim=(0, horizon), ylim=(len(block) - 0.4, -0.6), xticks=np.linspace(0, horizon, 6))
    axes.set_yticks(range(len(block)), [row["label"] for row in block])
    axes.tick_params(axis="y", length=0)
    for tick, row in zip(axes.get_yticklabels(), block, strict=True):
        tick.set(color=row["colour"], fontweight="bold" if row["is_base"] else "normal")


def _draw_gold(axes: Axes, block: list[dict], sft: float) -> None:
    for y, row in enumerate(block):
        known = row["gold"][np.isfinite(row["gold"])]
        axes.plot(known, [y] * len(known), "o", color=row["colour"], markersize=2, alpha=0.35, markeredgewidth=0)
        if len(known) > 1:
            effect = paired_effect(known)
            axes.plot([effect.low, effect.high], [y, y], color=row["colour"], linewidth=1.5)
            axes.plot(effect.estimate, y, "o", color=row["colour"], markersize=4)
    axes.axvline(sft, color="0.5", linewidth=0.8, linestyle=":")
    axes.annotate("SFT", (sft, -0.6), xytext=(0, 1), textcoords="offset points", ha="center", va="bottom", fontsize=7.5, color="0.4")
    axes.set(ylim=(len(block) - 0.4, -0.6), yticks=[])
