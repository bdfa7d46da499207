"""Every figure, with the function that draws it and the studies whose runs it shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from analysis.figures import curves, distribution, judged, reward_models, tax
from analysis.figures.estimate import Drawn, Frames


class Source(NamedTuple):
    """A study and those of its arms that a figure shows. No arm named: all of them."""

    study: str
    arms: tuple[str, ...] = ()


class Entry(NamedTuple):
    """A figure. draw: the function. sources: where its runs come from, its own sweep first. reads: what it reads beside the curves."""

    draw: Callable[[Frames], Drawn]
    sources: tuple[Source, ...]
    reads: str = "curves"  # nothing else; or "judgements", "scores" (and judgements), "reward_models"


# A figure whose own sweep has not been run is drawn from other sweeps that hold its arms with the same settings.
VANILLA = (Source("vanilla"), *(Source(study, ("vanilla",)) for study in ("policy_constraints", "add_one_in", "world_check")))
RM = (Source("rm_training"), Source("world_check", ("ppo_max", "rm_fewer_pairs", "rm_noisier_pairs")))
WINS = (Source("win_rate"), *(Source(study, ("ppo_max",)) for study in ("leave_one_out", "world_check")))

FIGURES: dict[str, Entry] = {
    "fig02": Entry(reward_models.fig02, RM, "reward_models"),
    "fig03": Entry(reward_models.fig03, RM, "reward_models"),
    "fig04": Entry(curves.fig04, VANILLA),
    "fig06": Entry(curves.fig06, (Source("score_reparameterisation"),)),
    "fig07": Entry(curves.fig07, (Source("policy_constraints"),)),
    "fig08": Entry(curves.fig08, (Source("initialisation"),)),
    "fig09": Entry(curves.fig09, (Source("ppo_max_long"),)),
    "fig10": Entry(judged.fig10, WINS, "judgements"),
    "fig11": Entry(judged.fig11, WINS, "scores"),
    "fig12": Entry(tax.fig12, (Source("ptx"),)),
    "fig13": Entry(distribution.fig13, VANILLA, "scores"),
    "fig14": Entry(curves.fig14, (Source("joint_clipping"),)),
    "fig15": Entry(curves.fig15, (Source("kl_coef"),)),
    "fig16": Entry(curves.fig16, (Source("entropy_clip"),)),
    "fig17": Entry(curves.fig17, (Source("surrogate_clip"),)),
    "fig18": Entry(curves.fig18, (Source("grad_clip"),)),
    "fig19": Entry(curves.fig19, (Source("gae_lambda"),)),
    "perplexity": Entry(curves.perplexity, (Source("policy_constraints"), *VANILLA)),
}


def find_source(entry: Entry, runs: pd.DataFrame) -> Source | None:
    """The first of the entry's sources whose study and arms are all in `runs`, or None."""
    held = {study: set(part["arm"]) for study, part in runs.groupby("study")}
    return next((source for source in entry.sources if source.study in held and set(source.arms) <= held[source.study]), None)
