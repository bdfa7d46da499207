"""The order, colour, line style and label of arms, the sizes and fonts, and the sentences of captions, for all figures."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from analysis.estimate.effects import base_arm
from analysis.load.designs import arm_settings

# Okabe and Ito's palette, safe for colour-blind readers, without black and without yellow, which is faint on white. The base arm is
# grey. Every colour has a contrast of at least 2.2 on white and on black.
PALETTE = ("#666666", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))
WIDTH = 7.2  # inches: the text width of a page
WORDS = {"kl": "KL", "ppo": "PPO", "sft": "SFT", "rm": "RM", "gae": "GAE", "eos": "EOS", "lambda": "λ", "en": "English", "zh": "Chinese"}
RC = {
    "font.size": 8, "axes.titlesize": 8.5, "axes.labelsize": 7.5, "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "axes.titlelocation": "left", "axes.titlepad": 5, "axes.labelcolor": "0.25", "lines.linewidth": 1.5, "pdf.fonttype": 42,
}  # fmt: skip


def style() -> AbstractContextManager:
    """The matplotlib context in which figures are made and saved."""
    return matplotlib.rc_context(RC)


def arm_order(runs: pd.DataFrame) -> list[str]:
    """Arms of `runs` in drawing order: by name, with numbers in names sorted as numbers.

    The base arm comes first, and is drawn in grey. It is 'vanilla', or without it the arm with the fewest changes to all others.
    """
    arms = [str(arm) for arm in runs["arm"].unique()]
    base = "vanilla" if "vanilla" in arms else base_arm(arm_settings(runs)) if len(arms) > 1 else None
    return sorted(arms, key=lambda arm: (arm != base, natural(arm)))


def natural(name: str) -> tuple:
    """A key that sorts kl_0.05, kl_0.2, kl_10 in this order."""
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    return tuple((1, float(part), "") if index % 2 else (0, 0.0, part) for index, part in enumerate(parts))


def arm_colours(arms: Sequence[str]) -> dict[str, str]:
    """One colour per arm, by its place in `arms`. After seven arms the colours are repeated, with another line style."""
    return {arm: PALETTE[index % len(PALETTE)] for index, arm in enumerate(arms)}


def arm_dashes(arms: Sequence[str]) -> dict[str, str | tuple]:
    """One matplotlib line style per arm: solid for the first seven, then dashed, dotted and mixed."""
    return {arm: DASHES[index // len(PALETTE) % len(DASHES)] for index, arm in enumerate(arms)}


def arm_label(arm: str) -> str:
    """The name of an arm in words: 'kl_and_importance_sampling' → 'KL and importance sampling', 'lambda_0.9' → 'λ = 0.9'."""
    text = re.sub(r"\bppo_(max|ptx)", r"PPO-\1", re.sub(r"lambda_(?=\d)", "lambda = ", arm))
    text = re.sub(r"data\.language=|preferences=", "", text).replace(",", ", ").replace("_", " ")
    return re.sub(r"[A-Za-z]+", lambda word: WORDS.get(word[0], word[0]), text)


def add_caption(figure: Figure, caption: str) -> None:
    """Write the caption below the panels, in the figure itself, so that it is in the PNG too."""
    width = int(figure.get_size_inches()[0] * 18)
    figure.supxlabel(textwrap.fill(caption, width), x=0.01, ha="left", fontsize=7, color="0.25", linespacing=1.25)


def seeds(runs: pd.DataFrame) -> str:
    """'5 seeds per arm, study policy_constraints.', with the numbers of unfinished and diverged runs if there are any."""
    counts = runs.groupby("arm", observed=True)["seed"].nunique()
    least, most = int(counts.min()), int(counts.max())
    n = f"{least}" if least == most else f"{least} to {most}"
    text = f"{n} seed{'s' * (most > 1)}{' per arm' * (len(counts) > 1)}"
    going, diverged = int((~runs["status"].isin(["completed", "diverged"])).sum()), int((runs["status"] == "diverged").sum())
    notes = [f"{going} of {len(runs)} runs not at their end"] * bool(going) + [f"{diverged} diverged"] * bool(diverged)
    studies = ", ".join(sorted(runs["study"].unique()))
    return f"{text}{' (' + ', '.join(notes) + ')' if notes else ''}, study {studies}."


def bands(runs: pd.DataFrame, table: pd.DataFrame) -> str:
    """What the lines, bands and crosses in `table` are, as far as it has any."""
    parts = []
    if table["low"].notna().any():
        parts.append("Bold: mean over seeds; band: its 95 % bootstrap interval, too narrow for few seeds; faint: seeds.")
    elif (table["n"] > 1).any():
        parts.append("Lines: means over seeds, without bands because of the many arms.")
    if (table["kind"] == "collapse").any():
        parts.append("×: where a seed collapsed.")
    return " ".join(parts)


def gold_source(runs: pd.DataFrame) -> str:
    """Which reward is called gold."""
    world = "data.source" not in runs or (runs["data.source"] == "world").all()
    source = "the embedded world's programmatic reward" if world else "the reward of the judge"
    return f"Gold: {source}, which no model is trained on."


def collapse_is(runs: pd.DataFrame) -> str:
    """The rule of collapse, and what the dotted line of a gold panel is."""
    if any(name in runs and runs[name].nunique() > 1 for name in ("collapse.threshold", "collapse.patience")):
        return "Collapse: by each run's own threshold and patience, which differ; dotted: the mean limit of gold."
    threshold = runs["collapse.threshold"].iloc[0] if "collapse.threshold" in runs else 1
    patience = runs["collapse.patience"].iloc[0] if "collapse.patience" in runs else 3
    return f"Collapse: gold below the dotted line, SFT's mean − {threshold:g} SD, at {patience:g} evaluations in a row."
