"""Planted run folders → `load` → `study_verdicts`: what the verdicts on each study say of the treatment.

Nothing here names more of `analysis` than the three functions that every version of it has, so that the same folders can be
judged by an earlier checkout.
"""

from __future__ import annotations

import inspect
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from simulate import Arm, write_study

from analysis.claims.judge import Claim, Part
from analysis.claims.study import study_verdicts
from analysis.load.frames import load

ON, OFF = {"ppo.kl_penalty": True}, {"ppo.kl_penalty": False}
OUTCOMES = ("collapsed", "stable_updates", "gold", "win", "gold_at_kl")
LINKED = ("ppo.batch_size", "ppo.updates", "evaluation.every")  # in which arms of other batch sizes differ as well
SIDES = ("higher", "lower", "same")
QUESTIONS = {(outcome, side): Claim("sim", f"{outcome} is {side}", (Part(outcome, side, ON, OFF, linked=LINKED),))
             for outcome in OUTCOMES for side in SIDES}  # fmt: skip
FRONTIER = {"moves the frontier": "higher", "lowers the frontier": "lower", "acts like early stopping": "same", "cannot tell": ""}


def two_arms(treatment: Arm, control: Arm) -> dict[str, Arm]:
    return {"control": control, "kl": replace(treatment, settings={**treatment.settings, **ON})}


def write_studies(root: Path, treatment: Arm, control: Arm, seeds: int, studies: int, generator: np.random.Generator, **options) -> None:
    """Run folders of many studies with one truth; `options` are `write_study`'s."""
    for study in range(studies):
        write_study(root, two_arms(treatment, control), seeds, generator, study=f"s{study:04d}", every_update=False, **options)


def said_of_folders(root: Path, treatment: Arm, control: Arm, seeds: int, studies: int, generator: np.random.Generator,
                    **options) -> dict[str, list[str]]:  # fmt: skip
    """Outcome → what each study's verdicts say of the treatment: 'higher', 'lower', 'same', two of them, or '' for nothing.

    'frontier' is the same of `frontier_test`.
    """
    write_studies(root, treatment, control, seeds, studies, generator, **options)
    loaded = load(root)
    shutil.rmtree(root)
    found: dict[str, list[str]] = {outcome: [] for outcome in (*OUTCOMES, "frontier")}
    drawn = {"generator": generator} if "generator" in inspect.signature(study_verdicts).parameters else {}  # of earlier checkouts
    for study in sorted(loaded.runs["study"].unique()):
        about = study_verdicts(loaded, study, claims=list(QUESTIONS.values()), **drawn)
        supported = {claim.text for claim, verdict in about.claims if verdict.verdict == "supported"}
        for outcome in OUTCOMES:
            found[outcome].append(", ".join(side for side in SIDES if f"{outcome} is {side}" in supported))
        found["frontier"].append(FRONTIER[about.frontier["verdict"].iloc[0]])
    return found
