"""What is estimated from a set of finished runs, study by study: everything that the documents say of the committed runs rests on this."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.claims.judge import CANNOT_TELL, Claim, Verdict, judge
from analysis.claims.study import ALL_CLAIMS, arm_table, frontier_table, runs_to_score
from analysis.estimate.effects import base_arm, trick_effects
from analysis.estimate.equivalence import ALPHA
from analysis.estimate.outcomes import miscounted, outcomes, proxy_tails
from analysis.estimate.units import Basis, levels
from analysis.load.designs import arm_settings
from analysis.load.frames import Loaded, load, load_rows

BASES = {"add_one_in": "vanilla", "leave_one_out": "ppo_max"}  # of other studies the most central arm
DISAGREE = "the studies disagree"


@dataclass(frozen=True)
class Study:
    """One study of the set.

    runs, curves: as `load` returns them. outcomes: one row per run. settings: `arm_settings`. base: the arm that others are compared
    with. arms: `arm_table` by arm. effects: `trick_effects` on collapse and on gold at the end. claims: with their verdicts. frontier:
    `frontier_table`. Of a study with one seed per arm nothing is compared: effects, claims and frontier are empty.
    basis: what the base arm's estimates rest on. miscounted: arms whose runs measure an error of the code that made them.
    """

    name: str
    runs: pd.DataFrame
    curves: pd.DataFrame
    outcomes: pd.DataFrame
    settings: pd.DataFrame
    base: str
    arms: pd.DataFrame
    effects: pd.DataFrame
    claims: list[tuple[Claim, Verdict]]
    frontier: pd.DataFrame
    basis: Basis
    miscounted: tuple[str, ...]

    @property
    def layout_only(self) -> bool:
        """Whether every arm has one run: it shows what a run of this kind looks like, and decides nothing."""
        return bool((self.arms["runs"] == 1).all())

    def effect(self, arm: str, outcome: str) -> pd.Series | None:
        """The row of `effects` for an arm and an outcome; None where the study compares no such arm."""
        if self.effects.empty:
            return None
        rows = self.effects[(self.effects["arm"] == arm) & (self.effects["outcome"] == outcome)]
        return rows.iloc[0] if len(rows) else None


@dataclass(frozen=True)
class ReferenceSet:
    """The runs below a folder and what is estimated of each of their studies, by name and in the order of names."""

    folder: Path
    loaded: Loaded
    studies: dict[str, Study]

    @property
    def compared(self) -> list[Study]:
        """The studies with several runs per arm."""
        return [study for study in self.studies.values() if not study.layout_only]

    def several(self, name: str) -> Study | None:
        """The study of this name, if the set has it with several runs per arm."""
        study = self.studies.get(name)
        return None if study is None or study.layout_only else study


def estimated(folder: Path) -> ReferenceSet:
    """Read a packed set, or a results folder, and estimate what the documents say of it.

    Raises:
        UserError: `folder` is not a folder, or an archive of it is damaged.
    """
    loaded = load(folder)
    return ReferenceSet(folder, loaded, {name: study_of(loaded, name) for name in sorted(loaded.runs["study"].unique())})


def study_of(loaded: Loaded, name: str) -> Study:
    """The estimates of one study."""
    runs = loaded.runs[loaded.runs["study"] == name].reset_index(drop=True)
    curves = loaded.curves[loaded.curves["study"] == name]
    table, settings = outcomes(runs, curves), arm_settings(runs)
    wanted = BASES.get(name)
    base = wanted if wanted in settings.index else base_arm(settings)
    arms = arm_table(table).set_index("arm")
    several = bool((arms["runs"] > 1).any())
    if several and len(scores := load_rows(runs_to_score(loaded, name), "scores")):
        table["proxy_tail"] = proxy_tails(table, scores)
    judged = [(claim, judge(claim, table, settings)) for claim in ALL_CLAIMS] if several else []
    compared = several and len(settings) > 1
    return Study(
        name, runs, curves, table, settings, base, arms,
        effects=trick_effects(table, settings, base, ("collapsed", "gold")) if compared else pd.DataFrame(),
        claims=[(claim, verdict) for claim, verdict in judged if verdict is not None],
        frontier=frontier_table(table, curves, settings) if several and name == "kl_frontier" else pd.DataFrame(),
        basis=levels(table.assign(one=1.0), "one", [base]).basis,
        miscounted=miscounted(runs),
    )  # fmt: skip


def verdicts_on(reference: ReferenceSet, text: str) -> dict[str, Verdict]:
    """Study → its verdict on the claim of these words, of the studies that can judge it."""
    return {study.name: verdict for study in reference.compared for claim, verdict in study.claims if claim.text == text}


def overall(verdicts: dict[str, Verdict]) -> str:
    """One verdict over studies: that of those that decide, `DISAGREE` if they decide differently, else cannot tell."""
    decided = {verdict.verdict for verdict in verdicts.values()} - {CANNOT_TELL}
    return CANNOT_TELL if not decided else decided.pop() if len(decided) == 1 else DISAGREE


def out_of_reach(study: Study) -> float | None:
    """The least p of the exact test of collapse rates, where over the study's reward models not even that is below `ALPHA`; else None.

    Over n reward models the sign-flip test has no p below 2 · 2⁻ⁿ. Over seeds of one reward model another test is used, and nothing is
    said.
    """
    n = study.basis.reward_models
    least = 2.0 ** (1 - n)
    return None if n < 2 or least < ALPHA else least


def most_allowed(study: Study) -> tuple[int, float]:
    """(runs n of the largest arm without a collapse, the greatest rate that 0 of n still allows); (0, NaN) without such an arm."""
    none = study.arms[(study.arms["collapses"] == 0) & (study.arms["n"] > 0)]
    if none.empty:
        return 0, np.nan
    largest = none.loc[none["n"].idxmax()]
    return int(largest["n"]), float(largest["rate_high"])


def arms_by_effect(study: Study, outcome: str) -> tuple[list[str], list[str], list[str]]:
    """(arms below the base after Holm, arms above it, arms not shown to differ), without the base and what was miscounted."""
    below, above, rest = [], [], []
    for arm in study.arms.index:
        effect = study.effect(arm, outcome)
        if effect is None or arm in study.miscounted:
            continue
        (rest if not effect["p_holm"] < ALPHA else below if effect["estimate"] < 0 else above).append(arm)
    return below, above, rest
