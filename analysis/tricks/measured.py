"""The effect of each trick alone, from finished runs: added to vanilla PPO, and taken out of PPO-max."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.claims.answer import two_digits
from analysis.claims.study import arm_table
from analysis.estimate.outcomes import miscounted, outcomes
from analysis.load.frames import Loaded

ADDED, LEFT_OUT = "add_one_in", "leave_one_out"
ARMS = {"critic_init": {LEFT_OUT: "no_critic_from_reward"}}  # where an arm has not the trick's name


def measured_arms(loaded: Loaded) -> dict[str, pd.DataFrame]:
    """Study → its arms as `arm_table` has them, for the studies of single tricks among the runs; `miscounted` arms are left out."""
    found = {}
    for study in (ADDED, LEFT_OUT):
        runs = loaded.runs[loaded.runs["study"] == study].reset_index(drop=True)
        if len(runs):
            table = outcomes(runs, loaded.curves[loaded.curves["study"] == study])
            found[study] = arm_table(table).set_index("arm").drop(index=list(miscounted(runs)))
    return found


def effects(trick: str, arms: dict[str, pd.DataFrame]) -> list[str]:
    """One sentence per study that has an arm of the trick alone; none where nothing was measured."""
    told = []
    for study, base, what in ((ADDED, "vanilla", "Added alone to vanilla PPO"), (LEFT_OUT, "ppo_max", "Taken out of PPO-max alone")):
        arm = ARMS.get(trick, {}).get(study, trick if study == ADDED else f"no_{trick}")
        if study in arms and {arm, base} <= set(arms[study].index):
            name = {"vanilla": "vanilla", "ppo_max": "PPO-max"}[base]
            told.append(f"{what}: {said(arms[study].loc[arm])}; {name} itself: {said(arms[study].loc[base])}.")
    return told


def said(row: pd.Series) -> str:
    """`collapsed in 0 of 5 runs, gold over SFT +0.63 [0.32, 0.95] for 5.4 nats`."""
    gold = f"gold over SFT {signed(row['gold_gain'])}"
    if np.isfinite(row["gold_gain_low"]):
        gold += f" [{minus(row['gold_gain_low'])}, {minus(row['gold_gain_high'])}]"
    return f"collapsed in {row['collapses']} of {row['n']} runs, {gold} for {two_digits(row['kl'])} nats"


def signed(number: float) -> str:
    return f"{number:+.2f}".replace("-", "−")


def minus(number: float) -> str:
    return f"{number:.2f}".replace("-", "−")
