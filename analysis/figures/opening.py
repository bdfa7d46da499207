"""The figure that opens the README: the update at which each run collapsed, and its gold at the end."""

from __future__ import annotations

import textwrap

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ablate.errors import UserError
from analysis.estimate.effects import base_arm, change
from analysis.estimate.outcomes import ENDED, miscounted, outcomes
from analysis.estimate.units import MIN_SEEDS
from analysis.figures.estimate import mean_and_band
from analysis.figures.style import arm_label, arm_labels, units
from analysis.load.designs import arm_settings

BASE, CONSTRAINT, OTHER = "#222222", "#0072B2", "#D55E00"  # the last two are Okabe and Ito's, safe for colour-blind readers
# §5.3.3 of the paper: token-level KL penalty, importance sampling, entropy bonus; eq. 14: PPO-penalty (`policy_kl`); and χ² in KL's place
CONSTRAINTS = ("kl_", "importance_sampling", "entropy_", "policy_kl", "chi2_penalty")
TITLES = {"add_one_in": "vanilla PPO, and one trick added", "leave_one_out": "PPO-max, and one trick left out"}
LEGEND = {CONSTRAINT: "the trick constrains the policy (KL, entropy, importance sampling)", OTHER: "any other trick",
          BASE: "the preset itself"}  # fmt: skip
ROW = 0.185  # inches
SPREAD = 0.34  # of a row, to either side


def opening(runs: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """One block per study, one row per arm. Left: one line per run, to a dot at its collapse or divergence, else to its end. Right: gold.

    The base arm comes first, then the other arms by share of collapses, the least first. A run that cannot have collapsed, since it was
    evaluated too few times or has no gold, is dotted and not counted. Gold is that at the end: runs, the mean over units and its 95 % t
    interval (`mean_and_band`), cut where it goes beyond all runs. SFT's mean gold is dotted, and shaded from its least to its most.
    runs, curves: as `analysis.load.frames.load` returns them. The studies in `TITLES` are drawn, or all if none of these is loaded. The
    arms of a study should differ from one base by one trick each.

    Raises:
        UserError: no run has ended with a gold reward.
    """
    studies, blocks = _blocks(runs, curves)
    known = np.array([value for block in blocks for row in block for value in row["gold"] if np.isfinite(value)])
    if not len(known):
        raise UserError("no run has ended with a gold reward: there is nothing to draw")
    heights = [len(block) + 1.5 for block in blocks]
    with matplotlib.rc_context({"font.size": 8.5, "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False}):
        figure = Figure(figsize=(9, ROW * sum(heights) + 1.1), layout="constrained")
        axes = figure.subplots(len(blocks), 2, height_ratios=heights, width_ratios=(2.3, 1), sharex="col", squeeze=False)
        horizon = runs.loc[runs["study"].isin(studies), "ppo.updates"].max()
        for study, block, (lives, gold) in zip(studies, blocks, axes, strict=True):
            _draw_lives(lives, block, horizon)
            _draw_gold(gold, block, runs.loc[runs["study"] == study, "sft/eval/gold"].dropna().to_numpy())
            lives.set_title(TITLES.get(study, study), loc="left", fontweight="bold", fontsize=9.5)
        axes[0, 1].set_xlim(known.min() - 0.06 * np.ptp(known), known.max() + 0.06 * np.ptp(known))
        axes[0, 1].set_title("gold at the end", loc="left", fontsize=9.5)
        axes[-1, 0].set_xlabel("update; each line is a run, and ends where its gold reward collapsed")
        axes[-1, 1].set_xlabel("runs, and their mean")
        marks = [Line2D([], [], color=colour, marker="o", markersize=3.5, linewidth=1.5, label=label) for colour, label in LEGEND.items()]
        figure.legend(handles=marks, loc="outside upper left", ncols=3, frameon=False, handlelength=1.4, columnspacing=1.6)
        figure.supxlabel(
            textwrap.fill(_caption(runs[runs["study"].isin(studies)], blocks), 150), x=0.01, ha="left", fontsize=7.5, color="0.25"
        )
        return figure


def opening_table(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """What `opening` shows: one row per run, then one per arm, block by block from the top.

    Columns: study, arm (its label), kind ('run' or 'mean'), update (the run's end, by collapse or not), collapsed (1, 0, or NaN: not
    known), gold at the end, and of a mean low and high.
    """
    rows = []
    for study, block in zip(*_blocks(runs, curves), strict=True):
        for row in block:
            who = dict(study=study, arm=row["label"])
            lives = zip(row["times"], row["collapsed"], row["gold"], strict=True)
            rows += [dict(**who, kind="run", update=time, collapsed=collapsed, gold=gold) for time, collapsed, gold in lives]
            rows.append(dict(**who, kind="mean", gold=row["mean"], low=row["low"], high=row["high"]))
    return pd.DataFrame(rows, columns=["study", "arm", "kind", "update", "collapsed", "gold", "low", "high"])


def _blocks(runs: pd.DataFrame, curves: pd.DataFrame) -> tuple[list[str], list[list[dict]]]:
    """(the studies that are drawn, the rows of each): those in `TITLES`, or all if none of these is loaded."""
    present = sorted(runs["study"].unique())
    studies = [study for study in TITLES if study in present] or present
    return studies, [_block(runs[runs["study"] == study], curves[curves["study"] == study]) for study in studies]


def _caption(runs: pd.DataFrame, blocks: list[list[dict]]) -> str:
    """What the points and intervals are over, what dotted lines are, and which runs were made by code that erred."""
    bounded = any(np.isfinite(row["low"]) for block in blocks for row in block)
    short = any(np.isnan(row["collapsed"]).any() for block in blocks for row in block)
    erred = [_label(arm_label(arm)) for arm in miscounted(runs)]
    return " ".join(filter(None, [
        f"Means over {units(runs)}, {'with 95 % t intervals' if bounded else f'without intervals below {MIN_SEEDS}'}.",
        "Dotted runs: too short to collapse, or without gold; they are not counted." if short else "",
        f"{', '.join(erred)}: run by code that counted the score of a truncated answer twice." if erred else "",
    ]))  # fmt: skip


def _block(runs: pd.DataFrame, curves: pd.DataFrame) -> list[dict]:
    """The rows of a study from the top: label, is_base, colour; of the ended runs times (updates), collapsed (NaN: not known), too_short
    and gold, in order of reward models and seeds; mean, low and high of gold."""
    table, settings = outcomes(runs, curves).sort_values(["reward_model", "seed"]), arm_settings(runs)
    base, labels = base_arm(settings), arm_labels(list(settings.index))
    rows = []
    for arm, part in table[table["status"].isin(ENDED)].groupby("arm", observed=True):
        constrains = change(settings, arm, base).startswith(CONSTRAINTS)
        level = mean_and_band(part["gold"].to_numpy(dtype=float)[None], part["reward_model"]).iloc[0]
        rows.append(dict(
            label=labels[arm] if arm == base else _label(labels[arm]), is_base=arm == base,
            colour=BASE if arm == base else CONSTRAINT if constrains else OTHER,
            times=part["end_update"].to_numpy(), collapsed=part["collapsed"].to_numpy(), too_short=part["too_short"].to_numpy(),
            gold=part["gold"].to_numpy(), mean=level["mean"], low=level["low"], high=level["high"],
        ))  # fmt: skip

    def place(row: dict) -> tuple:
        known = row["collapsed"][np.isfinite(row["collapsed"])]
        share = known.mean() if len(known) else 1.0
        return (row["is_base"], -share, row["times"].mean(), row["gold"].mean())

    return sorted(rows, key=place, reverse=True)


def fates(row: dict) -> str:
    """'5 of 5 collapsed', '5 of 5 held', '1 of 3 collapsed, 2 too short': of the runs of a row."""
    known, short = np.isfinite(row["collapsed"]), int(row["too_short"].sum())
    n, died = int(known.sum()), int(np.nansum(row["collapsed"]))
    unknown = len(known) - n - short
    told = [f"{died} of {n} collapsed" if died else f"{n} of {n} held"] * bool(n)
    told += [f"{short} too short{'' if n else ' to collapse'}"] * bool(short) + [f"{unknown} without gold"] * bool(unknown)
    return ", ".join(told)


def _label(label: str) -> str:
    text = label.removesuffix(" =")  # "GAE λ =" without a value
    return text.replace("no ", "− ", 1) if text.startswith("no ") else f"+ {text}"


def _draw_lives(axes: Axes, block: list[dict], horizon: float) -> None:
    for y, row in enumerate(block):
        runs = len(row["times"])
        offsets = np.linspace(-SPREAD, SPREAD, runs) if runs > 1 else [0.0]
        width = min(0.9, 0.6 * 2 * SPREAD * ROW * 72 / max(runs - 1, 1))  # points; lines of many runs stay apart
        for offset, time, collapsed in zip(offsets, row["times"], row["collapsed"], strict=True):
            known = np.isfinite(collapsed)
            style = "-" if known else (0, (1, 2))
            axes.plot([0, time], [y + offset] * 2, color=row["colour"], linewidth=width, linestyle=style, alpha=0.75, solid_capstyle="butt")
            if collapsed == 1:
                axes.plot(time, y + offset, "o", color=row["colour"], markersize=2.9 * width)
        text = fates(row)
        axes.annotate(text, (horizon, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=7.5,
                      color=row["colour"], fontweight="bold" if text.endswith("held") else "normal", annotation_clip=False)  # fmt: skip
    axes.set(xlim=(0, horizon), ylim=(len(block) - 0.4, -0.6), xticks=np.linspace(0, horizon, 6))
    axes.set_yticks(range(len(block)), [row["label"] for row in block])
    axes.tick_params(axis="y", length=0)
    for tick, row in zip(axes.get_yticklabels(), block, strict=True):
        tick.set(color=row["colour"], fontweight="bold" if row["is_base"] else "normal")


def _draw_gold(axes: Axes, block: list[dict], sft: np.ndarray) -> None:
    for y, row in enumerate(block):
        known = row["gold"][np.isfinite(row["gold"])]
        axes.plot(known, [y] * len(known), "o", color=row["colour"], markersize=2, alpha=0.35, markeredgewidth=0)
        axes.plot([row["low"], row["high"]], [y, y], color=row["colour"], linewidth=1.5)
        axes.plot(row["mean"], y, "o", color=row["colour"], markersize=4)
    if len(sft):
        axes.axvline(sft.mean(), color="0.5", linewidth=0.8, linestyle=":")
        axes.axvspan(sft.min(), sft.max(), color="0.5", alpha=0.12, linewidth=0)
        axes.annotate("SFT", (sft.mean(), -0.6), xytext=(0, 1), textcoords="offset points", ha="center", va="bottom", fontsize=7.5,
                      color="0.4")  # fmt: skip
    axes.set(ylim=(len(block) - 0.4, -0.6), yticks=[])
