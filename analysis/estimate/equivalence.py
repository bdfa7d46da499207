"""When two arms are shown the same: margins that matter, and tests that a rare collapse cannot fool."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.estimate.effects import ENDS, arm_effect, like_fate
from analysis.estimate.stats import paired_effect
from analysis.estimate.units import Sample, by_pair, differences

ALPHA = 0.05
COLLAPSE_SENSITIVE = (*ENDS, "stable_updates")  # outcomes that a rare collapse dominates
CONTINUOUS = ("gold", "proxy", "kl")  # two different runs never agree in these to the bit
# What a researcher would call a difference: gold in SDs of SFT's gold, rates, accuracies, updates as a share of the horizon.
MARGINS = {"gold": 0.5, "gold_gain": 0.5, "gold_at_kl": 0.5, "gold_at_proxy": 0.5, "win": 0.1, "win_at_kl": 0.1,
           "win_at_proxy": 0.1, "collapsed": 0.25, "stable_updates": 0.2,
           "rm_accuracy": 0.03, "lm_loss": 0.05, "choice_accuracy": 0.03}  # fmt: skip


def margin_of(outcome: str, outcomes: pd.DataFrame) -> float:
    """The margin of an outcome in its own units; 0 for outcomes without one, which can be ordered but not called the same."""
    scale = outcomes["sft_gold_sd"].median() if outcome.startswith("gold") else 1.0
    scale = outcomes["horizon"].min() if outcome == "stable_updates" else scale
    return MARGINS.get(outcome, 0.0) * float(scale)


def identical(outcomes: pd.DataFrame, treated: Sequence[str], controls: Sequence[str]) -> bool:
    """Whether every pair of runs that both arms have ended with the same gold, proxy and KL, to the bit."""
    found = []
    for outcome in CONTINUOUS:
        if outcome in outcomes:
            _, values = by_pair(outcomes, outcome, [*treated, *controls])
            gaps = values[:, : len(treated)] - values[:, len(treated) :]
            found.append(gaps[np.isfinite(gaps)])
    gaps = np.concatenate(found) if found else np.empty(0)
    return len(gaps) > 0 and bool((gaps == 0).all())


def never_acted(outcomes: pd.DataFrame, base: str) -> list[str]:
    """The arms, sorted, of which every run is the run of `base` with its reward model and seed, to the bit (`identical`)."""
    return [arm for arm in sorted(outcomes["arm"].unique()) if arm != base and identical(outcomes, [arm], [base])]


def shown_same(outcome: str, outcomes: pd.DataFrame, treated: Sequence[str], controls: Sequence[str], margin: float) -> bool:
    """Whether the difference is shown to lie within ± margin.

    Means: two one-sided tests at 5 %, that is a 90 % interval within ± margin. Rates: a 95 % interval, as Newcombe's at 90 % lets
    0.25 apart pass for the same in 7 % of studies. Outcomes that a rare collapse dominates take both, the mean over pairs of one
    fate, and a mean difference over all pairs below the margin. Arms whose runs are equal to the bit are the same.
    """
    if identical(outcomes, treated, controls):
        return True
    if margin == 0:
        return False
    if outcome in COLLAPSE_SENSITIVE or outcome == "collapsed":
        rates = arm_effect(outcomes, treated, controls, "collapsed", 1 - ALPHA)
        alike = rates.basis.enough(rate=True) and -MARGINS["collapsed"] < rates.low and rates.high < MARGINS["collapsed"]
        if outcome == "collapsed" or not alike:
            return bool(alike)
    if outcome in COLLAPSE_SENSITIVE:
        everywhere = differences(outcomes, outcome, treated, controls)
        if len(everywhere.values) and abs(everywhere.values.mean()) >= margin:
            return False
    gaps = comparable(outcome, outcomes, treated, controls)
    if not gaps.basis.enough():
        return False
    if (gaps.values == 0).all():
        return outcome == "stable_updates"  # both arms held to the horizon in every pair
    inner = paired_effect(gaps.values, 1 - 2 * ALPHA)
    return bool(-margin < inner.low and inner.high < margin)


def comparable(outcome: str, outcomes: pd.DataFrame, treated: Sequence[str], controls: Sequence[str]) -> Sample:
    """Differences per unit; for outcomes at the end of runs only over pairs of which both collapsed or neither did."""
    chosen = like_fate if outcome in COLLAPSE_SENSITIVE else differences
    return chosen(outcomes, outcome, treated, controls)
