"""When two arms are shown the same: margins that matter, and two one-sided tests that a rare collapse cannot fool."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.estimate.effects import arm_effect, by_seed
from analysis.estimate.stats import MIN_SEEDS, paired_effect

ALPHA = 0.05
COLLAPSE_SENSITIVE = ("gold", "gold_gain", "win", "stable_updates")  # outcomes that a rare collapse dominates
# What a researcher would call a difference: gold in SDs of SFT's gold, rates, accuracies, updates as a share of the horizon.
MARGINS = {"gold": 0.5, "gold_gain": 0.5, "gold_at_kl": 0.5, "gold_at_proxy": 0.5, "win": 0.1, "win_at_kl": 0.1,
           "win_at_proxy": 0.1, "collapsed": 0.25, "stable_updates": 0.2,
           "rm_accuracy": 0.03, "lm_loss": 0.05, "choice_accuracy": 0.03}  # fmt: skip


def margin_of(outcome: str, outcomes: pd.DataFrame) -> float:
    """The margin of an outcome in its own units; 0 for outcomes without one, which can be ordered but not called the same."""
    scale = outcomes["sft_gold_sd"].median() if outcome.startswith("gold") else 1.0
    scale = outcomes["horizon"].min() if outcome == "stable_updates" else scale
    return MARGINS.get(outcome, 0.0) * float(scale)


def shown_same(outcome: str, outcomes: pd.DataFrame, treated: Sequence[str], controls: Sequence[str], margin: float) -> bool:
    """Whether two one-sided tests place the difference within ± margin, and that of collapse rates within theirs."""
    if margin == 0:
        return False
    if outcome in COLLAPSE_SENSITIVE or outcome == "collapsed":
        rates = arm_effect(outcomes, treated, controls, "collapsed", 1 - 2 * ALPHA)
        alike = rates.n >= MIN_SEEDS and -MARGINS["collapsed"] < rates.low and rates.high < MARGINS["collapsed"]
        if outcome == "collapsed" or not alike:
            return bool(alike)
    differences = same_collapse(outcome, outcomes, treated, controls)
    if len(differences) < MIN_SEEDS:
        return False
    if (differences == 0).all():
        return outcome == "stable_updates"  # both arms held to the horizon with every seed
    inner = paired_effect(differences, 1 - 2 * ALPHA)
    return bool(-margin < inner.low and inner.high < margin)


def same_collapse(outcome: str, outcomes: pd.DataFrame, treated: Sequence[str], controls: Sequence[str]) -> np.ndarray:
    """Differences by seed; for outcomes at the end of runs only within pairs of which both collapsed or neither did."""
    gaps = by_seed(outcomes, outcome, treated) - by_seed(outcomes, outcome, controls)
    if outcome in COLLAPSE_SENSITIVE:
        alike = by_seed(outcomes, "collapsed", treated) == by_seed(outcomes, "collapsed", controls)
        gaps = np.where(alike, gaps, np.nan)
    measured = np.isfinite(gaps)
    any_pair = measured.any(axis=1)
    return np.where(measured, gaps, 0).sum(axis=1)[any_pair] / measured.sum(axis=1)[any_pair]
