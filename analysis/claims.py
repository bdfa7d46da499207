"""Claims as data, judged by intervals: supported, contradicted, cannot tell.

A claim has parts, each one comparison in one outcome. An arm pair is found by its settings, not by its name: treatment
and control must differ in nothing but the part's own settings, so one claim can be judged in any sweep that holds such a
pair; several pairs (a factorial) are averaged within each seed.

When a part is decided (α = 5 %, margin m = the least difference that matters for that outcome):

| expects | supported | contradicted |
|---|---|---|
| higher, lower | two-sided p < α on that side | p < α on the other side, or the 95 % interval excludes m and more |
| same | 90 % interval within ± m (two one-sided tests) | 95 % interval outside ± m |
| different | p < α | 90 % interval within ± m |
| below, above (a rate or level against a bound) | 95 % interval on that side | 95 % interval on the other |

So each part errs in at most 5 % of studies whatever the truth. A claim is supported if all its parts are (which needs no
correction), contradicted if one is at α / number of parts, and nothing is decided from fewer than `LEAST_SEEDS` seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.effects import arm_effect, pairs
from analysis.power import seeds_for_bound, seeds_for_equivalence, seeds_for_mean, seeds_for_rates
from analysis.stats import Effect, clopper_pearson, paired_effect

ALPHA = 0.05
LEAST_SEEDS = 5
SUPPORTED, CONTRADICTED, CANNOT_TELL = "supported", "contradicted", "cannot tell"
# What a researcher would call a difference: gold in SDs of SFT's gold, rates, updates as a share of the horizon.
MARGINS = {"gold": 0.5, "gold_gain": 0.5, "gold_at_kl": 0.5, "gold_at_proxy": 0.5, "win": 0.1, "win_at_kl": 0.1,
           "win_at_proxy": 0.1, "collapsed": 0.25, "stable_updates": 0.2}  # fmt: skip
NAMES = {"collapsed": "collapse rate", "stable_updates": "updates before collapse", "gold": "gold at the end",
         "win": "win rate at the end", "proxy": "proxy at the end", "kl": "KL at the end", "gold_gain": "gold gained over SFT",
         "proxy_gain": "proxy gained over SFT", "gold_at_kl": "gold at matched KL", "win_at_kl": "win rate at matched KL",
         "gold_at_proxy": "gold at matched proxy", "win_at_proxy": "win rate at matched proxy", "length": "length at the end"}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One comparison. `treatment`, `control`: dotted settings; no control: the treatment alone against `bound`."""

    outcome: str
    expects: str  # higher | lower | same | different | below | above
    treatment: dict[str, Any]
    control: dict[str, Any] | None = None
    bound: float = 0.0
    linked: tuple[str, ...] = ()  # settings that may differ too: amounts of a trick that is off in the control


@dataclass(frozen=True)
class Claim:
    figure: str
    text: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Verdict:
    """`effect` is the comparison's (treatment − control, or the level itself); `seeds` how many would do, None: too many."""

    verdict: str
    sentence: str
    parts: tuple["Verdict", ...] = ()
    effect: Effect | None = None
    seeds: int | None = None
    arms: tuple[str, ...] = ()


def find_arms(settings: pd.DataFrame, part: Part) -> tuple[list[str], list[str]]:
    """Matched arms (treatment[i], control[i]) in a study; without a control every arm that has the treatment's settings."""
    treated = _having(settings, part.treatment)
    if part.control is None:
        return treated, []
    named = {*part.treatment, *part.control, *part.linked}
    found = [(a, b) for a in treated for b in _having(settings, part.control)
             if a != b and set(settings.columns[settings.loc[a] != settings.loc[b]]) <= named]  # fmt: skip
    return [a for a, _ in found], [b for _, b in found]


def _having(settings: pd.DataFrame, wanted: dict[str, Any]) -> list[str]:
    if not set(wanted) <= set(settings.columns):
        return []
    return [arm for arm in settings.index if all(_equal(settings.loc[arm, name], value) for name, value in wanted.items())]


def _equal(text: str, value: Any) -> bool:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(text) == value
        except ValueError:
            return False
    return text == str(value)


def judge(claim: Claim, outcomes: pd.DataFrame, settings: pd.DataFrame) -> Verdict | None:
    """The verdict on a claim from one study's outcomes; None if the study has no arms for one of its parts."""
    matched = [find_arms(settings, part) for part in claim.parts]
    if not all(treated for treated, _ in matched):
        return None
    m = len(claim.parts)
    parts = tuple(judge_part(part, outcomes, *arms, parts=m) for part, arms in zip(claim.parts, matched))
    verdicts = [part.verdict for part in parts]
    if CONTRADICTED in verdicts:
        overall = CONTRADICTED
    else:
        overall = SUPPORTED if set(verdicts) == {SUPPORTED} else CANNOT_TELL
    return Verdict(overall, f"{overall}: {claim.text} [{claim.figure}]", parts)


def judge_part(part: Part, outcomes: pd.DataFrame, treated: Sequence[str], controls: Sequence[str], *, parts: int = 1) -> Verdict:
    """The verdict on one comparison; `parts` is the number that its claim has, which divides α for a contradiction."""
    def at(level: float) -> Effect:
        if controls:
            return arm_effect(outcomes, treated, controls, part.outcome, level)
        return _level(outcomes, treated, part, level)

    effect = at(1 - ALPHA)
    margin = margin_of(part.outcome, outcomes)
    verdict = CANNOT_TELL if effect.n < LEAST_SEEDS else decide(part, effect, at(1 - 2 * ALPHA), at(1 - ALPHA / parts), margin, ALPHA / parts)
    seeds = None if verdict != CANNOT_TELL else _seeds(part, outcomes, treated, controls, effect, margin)
    sentence = f"{verdict}: {_describe(part, outcomes, treated, controls, effect)}"
    if verdict == CANNOT_TELL:
        sentence += f"; about {seeds} seeds would do" if seeds else "; no number of seeds below 1000 would do at this size of effect"
    return Verdict(verdict, sentence, effect=effect, seeds=seeds, arms=(*treated, *controls))


def decide(part: Part, effect: Effect, inner: Effect, outer: Effect, margin: float, strict: float) -> str:
    """The table above. `effect` at 1 − α, `inner` at 1 − 2α for two one-sided tests, `outer` at 1 − `strict` for contradictions."""
    within = -margin < inner.low and inner.high < margin
    if part.expects in ("above", "below"):
        side = 1 if part.expects == "above" else -1
        low, high = sorted((side * (effect.low - part.bound), side * (effect.high - part.bound)))
        strict_high = max(side * (outer.low - part.bound), side * (outer.high - part.bound))
        return SUPPORTED if low > 0 else CONTRADICTED if strict_high < 0 else CANNOT_TELL
    if part.expects in ("higher", "lower"):
        side = 1 if part.expects == "higher" else -1
        if effect.p < ALPHA and side * effect.estimate > 0:
            return SUPPORTED
        against = outer.p < strict and side * effect.estimate < 0
        return CONTRADICTED if against or max(side * outer.low, side * outer.high) < margin else CANNOT_TELL
    if part.expects == "same":
        outside = outer.low > margin or outer.high < -margin
        return SUPPORTED if within else CONTRADICTED if outside else CANNOT_TELL
    return SUPPORTED if effect.p < ALPHA else CONTRADICTED if within else CANNOT_TELL


def _level(outcomes: pd.DataFrame, treated: Sequence[str], part: Part, level: float) -> Effect:
    """An arm's own rate or mean, with its exact or t interval; several arms are averaged within each seed."""
    if part.outcome == "collapsed":
        values = outcomes.loc[outcomes["arm"].isin(treated), "collapsed"].dropna()
        return Effect(*clopper_pearson(int(values.sum()), len(values), level), p=np.nan, n=len(values))
    wide = outcomes.pivot(index="seed", columns="arm", values=part.outcome)
    return paired_effect(wide[list(treated)].mean(axis=1, skipna=False).to_numpy(), level)


def margin_of(outcome: str, outcomes: pd.DataFrame) -> float:
    """The margin of an outcome in its own units; 0 for outcomes without one, which can be ordered but not called the same."""
    scale = outcomes["sft_gold_sd"].median() if outcome.startswith("gold") else 1.0
    scale = outcomes["horizon"].min() if outcome == "stable_updates" else scale
    return MARGINS.get(outcome, 0.0) * float(scale)


def _seeds(part: Part, outcomes: pd.DataFrame, treated: Sequence[str], controls: Sequence[str], effect: Effect, margin: float) -> int | None:
    """Seeds with which a study like this would decide, never fewer than one more than now."""
    if effect.n == 0:
        return None
    if part.outcome == "collapsed" and len(treated) == 1:
        groups = [outcomes.loc[outcomes["arm"] == arm, "collapsed"].dropna() for arm in (*treated, *controls)]
        rates = [(group.sum() + 0.5) / (len(group) + 1) for group in groups]  # shrunk: 0 of 5 is no proof of 0
        if len(rates) == 2:
            needed = seeds_for_rates(*rates)
        else:
            bound = part.bound if part.expects == "below" else 1 - part.bound
            needed = seeds_for_bound(groups[0].mean() if part.expects == "below" else 1 - groups[0].mean(), bound)
    else:
        if controls:
            both = pairs(outcomes, treated, controls, part.outcome)
            differences = (both["treatment"] - both["control"]).to_numpy()
        else:
            differences = outcomes.pivot(index="seed", columns="arm", values=part.outcome)[list(treated)].mean(axis=1).to_numpy() - part.bound
        needed = seeds_for_equivalence(differences, margin) if part.expects == "same" else seeds_for_mean(differences)
    return None if needed is None else max(needed, effect.n + 1, LEAST_SEEDS)


def _describe(part: Part, outcomes: pd.DataFrame, treated: Sequence[str], controls: Sequence[str], effect: Effect) -> str:
    name = NAMES.get(part.outcome, part.outcome)
    who = " and ".join(treated) if len(treated) < 3 else f"{len(treated)} arms"
    value = outcomes.loc[outcomes["arm"].isin(treated), part.outcome].mean()
    if not controls:
        expected = f"expected {part.expects} {part.bound:g}"
        return f"{name} of {who} is {effect.estimate:.2f} [{effect.low:.2f}, {effect.high:.2f}], {expected}, {effect.n} seeds"
    against = " and ".join(controls) if len(controls) < 3 else f"{len(controls)} arms"
    other = outcomes.loc[outcomes["arm"].isin(controls), part.outcome].mean()
    interval = f"difference {effect.estimate:+.2f} [{effect.low:.2f}, {effect.high:.2f}], p = {effect.p:.2g}"
    return f"{name} of {who} {value:.2f} against {other:.2f} of {against} ({interval}, {effect.n} seeds), expected {part.expects}"

