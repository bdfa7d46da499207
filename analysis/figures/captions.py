"""Sentences of captions: how many seeds, what bands and marks are, what gold is."""

from __future__ import annotations

import pandas as pd


def seeds(runs: pd.DataFrame) -> str:
    """'5 seeds an arm, study policy_constraints.', with what is still going and what diverged."""
    counts = runs.groupby("arm", observed=True)["seed"].nunique()
    least, most = int(counts.min()), int(counts.max())
    n = f"{least}" if least == most else f"{least} to {most}"
    text = f"{n} seed{'s' * (most > 1)}{' an arm' * (len(counts) > 1)}"
    going, diverged = int((~runs["status"].isin(["completed", "diverged"])).sum()), int((runs["status"] == "diverged").sum())
    notes = [f"{going} of {len(runs)} runs not at their end"] * bool(going) + [f"{diverged} diverged"] * bool(diverged)
    studies = ", ".join(sorted(runs["study"].unique()))
    return f"{text}{' (' + ', '.join(notes) + ')' if notes else ''}, study {studies}."


def bands(runs: pd.DataFrame, table: pd.DataFrame) -> str:
    """What lines, bands and crosses are, as far as they are there."""
    parts = []
    if table["low"].notna().any():
        parts.append("Bold: mean over seeds; band: its 95 % bootstrap interval, too short with few seeds; faint: seeds.")
    elif (table["n"] > 1).any():
        parts.append("Lines: means over seeds; without bands, for so many arms.")
    if (table["kind"] == "collapse").any():
        parts.append("× marks where a seed collapsed.")
    return " ".join(parts)


def gold_source(runs: pd.DataFrame) -> str:
    """What stands behind the word gold."""
    world = "data.source" not in runs or (runs["data.source"] == "world").all()
    source = "the embedded world's programmatic reward" if world else "the reward of the judge"
    return f"Gold: {source}, which no model is trained on."


def collapse_is(runs: pd.DataFrame) -> str:
    """What the dotted line of a gold panel is."""
    threshold = runs["collapse.threshold"].iloc[0] if "collapse.threshold" in runs else 1
    patience = runs["collapse.patience"].iloc[0] if "collapse.patience" in runs else 3
    return f"Collapse: gold below the dotted line, SFT's mean − {threshold:g} SD, at {patience:g} evaluations in a row."
