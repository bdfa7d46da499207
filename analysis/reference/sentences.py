"""Sentences that README's findings and docs/findings.md share: pure functions of a study or of the set."""

from __future__ import annotations

from analysis.estimate.units import MIN_FOR_RATES
from analysis.reference.estimates import ReferenceSet, Study, most_allowed
from analysis.reference.prose import coded, counted

NAMES = {"vanilla": "vanilla PPO", "ppo_max": "PPO-max"}


def holds_given(reference: ReferenceSet) -> str:
    """What every interval holds given: over how many reward models, or given which."""
    compared = [study.basis.reward_models for study in reference.compared]
    if not compared:
        return "No study of the set has several runs per arm."
    if max(compared) == 1:
        return "All of it holds given one reward model: every run shares it."
    if min(compared) == max(compared):
        return f"All of it is over {max(compared)} reward models, which are the unit of every interval."
    alone = [study.name for study in reference.compared if study.basis.reward_models == 1]
    return "The unit of every interval is the reward model" + (
        f", but of {coded(alone)} the seed, given one reward model." if alone else "."
    )


def why_out_of_reach(study: Study, floor: float) -> str:
    """Why no difference in rates could be shown, and how many reward models could show one. floor: of `out_of_reach`."""
    over = counted(study.basis.reward_models, "reward model")
    return f"over {over} the exact test has no p below {floor:.2g}; {MIN_FOR_RATES} are the fewest that could tell."


def rate_still_allowed(study: Study) -> str:
    """What a count of none still allows."""
    n, most = most_allowed(study)
    return f"0 of {n} still allows a rate of up to {100 * most:.0f} %." if n else f"Rates rest on {study.basis} per arm."
