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
from analysis.estimate.units import MIN_SEEDS, Basis, levels
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


def arm_labels(arms: Sequence[str]) -> dict[str, str]:
    """Arm → label, without the parts between commas that all arms share: 'kl,updates=40', 'vanilla,updates=40' → 'KL', 'vanilla'.

    A part stays where an arm would be left without a name.
    """
    parts = {arm: arm.split(",") for arm in arms}
    shared = set.intersection(*(set(own) for own in parts.values())) if len(parts) > 1 else set()
    if any(set(own) <= shared for own in parts.values()):
        shared = set()
    return {arm: arm_label(",".join(part for part in own if part not in shared)) for arm, own in parts.items()}


def add_caption(figure: Figure, caption: str) -> None:
    """Write the caption below the panels, in the figure itself, so that it is in the PNG too."""
    width = int(figure.get_size_inches()[0] * 18)
    figure.supxlabel(textwrap.fill(caption, width), x=0.01, ha="left", fontsize=7, color="0.25", linespacing=1.25)


def bases(runs: pd.DataFrame) -> list[Basis]:
    """What the arms of `runs` rest on, without repetitions, the least first."""
    return sorted({levels(runs.assign(one=1.0), "one", [arm]).basis for arm in runs["arm"].unique()})


def basis(runs: pd.DataFrame) -> str:
    """'5 seeds, one reward model, study s.', with the numbers of arms and of unfinished and diverged runs if there are any."""
    text, arms = " or ".join(map(str, bases(runs))), runs["arm"].nunique()
    going, diverged = int((~runs["status"].isin(["completed", "diverged"])).sum()), int((runs["status"] == "diverged").sum())
    notes = [f"for each of {arms} arms"] * (arms > 1)
    notes += [f"{going} of {len(runs)} runs not at their end"] * bool(going) + [f"{diverged} diverged"] * bool(diverged)
    studies = ", ".join(sorted(runs["study"].unique()))
    return f"{text}{' (' + ', '.join(notes) + ')' if notes else ''}, study {studies}."


def units(runs: pd.DataFrame) -> str:
    """What means are taken over: '5 seeds', '8 reward models × 2 seeds', or without numbers where arms differ."""
    found = bases(runs)
    if len(found) == 1:
        return str(found[0]).removesuffix(", one reward model")
    return " or ".join(sorted({f"{one.unit}s" for one in found}, reverse=True))


def bands(runs: pd.DataFrame, table: pd.DataFrame) -> str:
    """What the lines, bands and crosses in `table` are, as far as it has any."""
    parts, means = [], table[table["kind"] == "mean"]
    if means["low"].notna().any():
        parts.append(f"Bold: mean over {units(runs)}; band: its 95 % t interval; faint: runs.")
    elif "run" not in set(table["kind"]):
        parts.append(f"Lines: means over {units(runs)}, without bands and runs because of the many arms.")
    elif (means["n"] > 1).any():
        parts.append(f"Bold: mean over {units(runs)}, without a band below {MIN_SEEDS}; faint: runs.")
    if (table["kind"] == "collapse").any():
        parts.append("×: where a run collapsed.")
    return " ".join(parts)


def points(runs: pd.DataFrame, table: pd.DataFrame) -> str:
    """'means over 5 seeds with 95 % t intervals', or without intervals where there are too few units for one."""
    bounded = table["low"].notna().any()
    return f"means over {units(runs)}{' with 95 % t intervals' if bounded else f', without intervals below {MIN_SEEDS}'}"


def gold_source(runs: pd.DataFrame) -> str:
    """Which reward is called gold."""
    world = "data.source" not in runs or (runs["data.source"] == "world").all()
    source = "the embedded world's programmatic reward" if world else "the reward of the judge"
    return f"Gold: {source}, which no model is trained on."


def gold_levels_are(table: pd.DataFrame) -> str:
    """What the dashed line of a gold panel is, and the shade around it and the dotted one where runs differ."""
    found = table[table["kind"].isin(["sft", "limit"])]
    shade = "; shaded: from the least to the most of the runs" if (found["high"] > found["low"]).any() else ""
    return f"Dashed: SFT's mean gold{shade}." if (found["kind"] == "sft").any() else ""


def collapse_is(runs: pd.DataFrame) -> str:
    """The rule of collapse, and what the dotted line of a gold panel is."""
    if any(name in runs and runs[name].nunique() > 1 for name in ("collapse.threshold", "collapse.patience")):
        return "Collapse: by each run's own threshold and patience, which differ; dotted: the mean limit of gold."
    threshold = runs["collapse.threshold"].iloc[0] if "collapse.threshold" in runs else 1
    patience = runs["collapse.patience"].iloc[0] if "collapse.patience" in runs else 3
    return f"Collapse: gold below the dotted line, SFT's mean − {threshold:g} SD, at {patience:g} evaluations in a row."
