"""Claims as data, judged by intervals: supported, contradicted, cannot tell.

A claim has parts, each one comparison in one outcome. An arm pair is found by its settings, not by its name: treatment
and control must differ in nothing but the part's own settings, so one claim can be judged in any sweep that holds such a
pair; several pairs (a factorial) are averaged within each seed.

When a part is decided (α = 5 %, k the number of the claim's parts, m the least difference that matters in that outcome):

| expects | supported | contradicted |
|---|---|---|
| higher, lower | two-sided p < α on that side | p < α / k on the other side, or shown the same (not for ends of runs) |
| same | shown the same | 1 − α / k interval outside ± m |
| different | two-sided p < α | shown the same |
| below, above (a rate or level against a bound) | 95 % interval on that side | 1 − α / k interval on the other |

Shown the same: two one-sided tests at α, that is a 90 % interval within ± m. A mean over five runs says nothing about a
collapse that one run in ten would have, so for outcomes at the end of runs it takes two such intervals: one of the collapse
rates, one of the differences within pairs that shared a fate. Rates that differ by less than their margin can still move a
mean by more than its own, so this does not contradict a direction at the end of runs: only the opposite sign does.

So each part errs in at most 5 % of studies whatever the truth, where a difference below m is neither. A claim is supported
if all its parts are (which needs no correction), contradicted if one is, and nothing is decided from fewer than
`MIN_SEEDS` seeds.

Measured on simulated run folders (`tests/analysis/planted.py`, 200 studies a cell, a seed's luck correlated 0.5 between
arms; the slow tests repeat it): without an effect 0 to 6 % of directional verdicts claimed one, 2 % on average over rates,
outcomes and seeds (standard error of a cell 1.5 %; a t test's own rate is 5 %, both directions together). Share of studies that
found the planted effect:

| truth | outcome | 5 seeds | 8 | 16 |
|---|---|---|---|---|
| collapse rate 0.9 → 0.02 | collapse rate | 82 % | 100 % | 100 % |
| | updates before collapse | 82 % | 100 % | 100 % |
| | gold at the end | 84 % | 100 % | 100 % |
| collapse rate 0.9 → 0.3 | collapse rate | 37 % | 68 % | 98 % |
| | updates before collapse | 38 % | 79 % | 99 % |
| | gold at the end | 36 % | 85 % | 99 % |
| collapse always, at 30 → 50 | updates before collapse | 88 % | 100 % | |
| collapse rate 0.02, "below 0.25" | collapse rate | 0 % | 0 % | 78 % |
| no effect, both collapse at 0.9 | "the same" collapse rate | 0 % | 0 % | 42 % |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.estimate.effects import arm_effect, base_arm, by_seed, differences
from analysis.estimate.equivalence import ALPHA, COLLAPSE_SENSITIVE, MARGINS, margin_of, same_collapse, shown_same
from analysis.estimate.power import seeds_for_bound, seeds_for_equivalence, seeds_for_mean, seeds_for_rates, seeds_for_same_rates
from analysis.estimate.stats import MIN_SEEDS, Effect, clopper_pearson, paired_effect

SUPPORTED, CONTRADICTED, CANNOT_TELL = "supported", "contradicted", "cannot tell"
MAX_VALUE, MIN_VALUE = "largest amount in the study", "smallest amount in the study"
NAMES = {"collapsed": "collapse rate", "stable_updates": "updates before collapse", "gold": "gold at the end",
         "win": "win rate at the end", "proxy": "proxy at the end", "kl": "KL at the end", "gold_gain": "gold gained over SFT",
         "proxy_gain": "proxy gained over SFT", "gold_at_kl": "gold at matched KL", "win_at_kl": "win rate at matched KL",
         "gold_at_proxy": "gold at matched proxy", "win_at_proxy": "win rate at matched proxy", "length": "length at the end",
         "win_margin_helpful": "wins − losses against SFT on helpful prompts",
         "win_margin_harmful": "wins − losses against SFT on harmful prompts", "rm_accuracy": "held-out accuracy of the reward model",
         "lm_loss": "loss on held-out text at the end", "lm_loss_gain": "rise of the loss on held-out text over SFT",
         "choice_accuracy": "multiple-choice accuracy at the end", "choice_accuracy_gain": "multiple-choice accuracy gained over SFT",
         "third_losses": "losses to a third model minus SFT's to it",
         "proxy_tail": "growth of the excess kurtosis of proxy scores"}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One comparison. `treatment`, `control`: dotted settings, or `MAX_VALUE` and `MIN_VALUE` for the largest and smallest amount in the
    study; no control: the treatment alone against `bound`."""

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
    parts: tuple[Verdict, ...] = ()
    effect: Effect | None = None
    seeds: int | None = None
    arms: tuple[str, ...] = ()


def find_arms(settings: pd.DataFrame, part: Part) -> tuple[list[str], list[str]]:
    """Matched arms (treatment[i], control[i]) in a study; without a control the arm with the
    treatment's settings that is nearest to the study's base."""
    treated = _having(settings, part.treatment)
    if part.control is None:
        base = base_arm(settings) if treated else None
        return sorted(treated, key=lambda arm: (settings.loc[arm] != settings.loc[base]).sum())[:1], []
    rest = settings.drop(columns=[*part.treatment, *part.control, *part.linked], errors="ignore").to_numpy(dtype=object)
    fixed = dict(zip(settings.index, map(tuple, rest), strict=True))
    found = [(a, b) for a in treated for b in _having(settings, part.control) if a != b and fixed[a] == fixed[b]]
    return [a for a, _ in found], [b for _, b in found]


def _having(settings: pd.DataFrame, wanted: dict[str, Any]) -> list[str]:
    if not set(wanted) <= set(settings.columns):
        return []
    fits = [[_equal(text, value) for text in settings[name]] for name, value in
            ((name, _amount(settings[name], value)) for name, value in wanted.items())]  # fmt: skip
    return [arm for arm, has in zip(settings.index, zip(*fits, strict=True), strict=True) if all(has)]


def _amount(column: pd.Series, value: Any) -> Any:
    """`MAX_VALUE` and `MIN_VALUE` as the amount they stand for among the study's arms; any other value as it is."""
    if value not in (MAX_VALUE, MIN_VALUE):
        return value
    amounts = pd.to_numeric(column, errors="coerce")
    return float(amounts.max() if value == MAX_VALUE else amounts.min())


def _equal(text: str, value: Any) -> bool:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(text) == value
        except ValueError:
            return False
    return text == str(value)


def judge(claim: Claim, outcomes: pd.DataFrame, settings: pd.DataFrame) -> Verdict | None:
    """The verdict on a claim from one study's outcomes; None if the study has no arms or no such outcome for one of its parts."""
    if not {part.outcome for part in claim.parts} <= set(outcomes.columns):
        return None
    matched = [find_arms(settings, part) for part in claim.parts]
    if not all(treated for treated, _ in matched):
        return None
    m = len(claim.parts)
    parts = tuple(judge_part(part, outcomes, *arms, parts=m) for part, arms in zip(claim.parts, matched, strict=True))
    verdicts = [part.verdict for part in parts]
    if CONTRADICTED in verdicts:
        overall = CONTRADICTED
    else:
        overall = SUPPORTED if set(verdicts) == {SUPPORTED} else CANNOT_TELL
    sentence, seeds = f"{overall}: {claim.text} [{claim.figure}]", None
    if overall == CANNOT_TELL:
        unsure = [part for part in parts if part.verdict == CANNOT_TELL]
        seeds = None if any(part.seeds is None for part in unsure) else max(part.seeds for part in unsure)
        sentence += would_do(seeds, min((part.effect.n for part in unsure if part.effect is not None), default=0))
    return Verdict(overall, sentence, parts, seeds=seeds)


def would_do(seeds: int | None, n: int) -> str:
    """How many seeds would decide what `n` could not, as the end of a sentence."""
    if n == 0:
        return "; not known of any seed yet"
    if seeds is None:
        return "; no number of seeds below 1000 would do at this size of effect"
    return f"; at least {seeds} seeds are needed" if seeds == MIN_SEEDS and n < 2 else f"; about {seeds} seeds would do"


def judge_part(part: Part, outcomes: pd.DataFrame, treated: Sequence[str], controls: Sequence[str], *, parts: int = 1) -> Verdict:
    """The verdict on one comparison; `parts` is the number that its claim has, which divides α for a contradiction."""

    def at(level: float) -> Effect:
        if controls:
            return arm_effect(outcomes, treated, controls, part.outcome, level)
        return _level(outcomes, treated, part, level)

    effect = at(1 - ALPHA)
    margin = margin_of(part.outcome, outcomes)
    same = bool(controls) and shown_same(part.outcome, outcomes, treated, controls, margin)
    strict = at(1 - ALPHA / parts) if parts > 1 else effect
    verdict = decide(part, effect, strict, ALPHA / parts, margin, same) if effect.n >= MIN_SEEDS else CANNOT_TELL
    seeds = None if verdict != CANNOT_TELL else seeds_needed(part, outcomes, treated, controls, effect.n, margin)
    sentence = f"{verdict}: {_describe(part, outcomes, treated, controls, effect)}"
    if verdict == CONTRADICTED and same:
        sentence += f"; any difference is smaller than {margin:.2g}"
    if verdict == CANNOT_TELL:
        sentence += would_do(seeds, effect.n)
    return Verdict(verdict, sentence, effect=effect, seeds=seeds, arms=(*treated, *controls))


def decide(part: Part, effect: Effect, strict: Effect, alpha: float, margin: float, same: bool) -> str:
    """The module's table. `effect` at 1 − α; `strict` at 1 − `alpha`, α over the claim's parts, for contradictions."""
    if part.expects == "same":
        outside = margin > 0 and (strict.low > margin or strict.high < -margin)
        return SUPPORTED if same else CONTRADICTED if outside else CANNOT_TELL
    if part.expects == "different":
        return SUPPORTED if effect.p < ALPHA else CONTRADICTED if same else CANNOT_TELL
    side = 1 if part.expects in ("higher", "above") else -1
    if part.expects in ("above", "below"):
        supported = min(side * (effect.low - part.bound), side * (effect.high - part.bound)) > 0
        contradicted = max(side * (strict.low - part.bound), side * (strict.high - part.bound)) < 0
    else:
        supported = effect.p < ALPHA and side * effect.estimate > 0
        contradicted = (same and part.outcome not in COLLAPSE_SENSITIVE) or (strict.p < alpha and side * effect.estimate < 0)
    return SUPPORTED if supported else CONTRADICTED if contradicted else CANNOT_TELL


def _level(outcomes: pd.DataFrame, treated: Sequence[str], part: Part, level: float) -> Effect:
    """An arm's own rate or mean, with its exact or t interval; several arms are averaged within each seed."""
    if part.outcome == "collapsed":
        values = outcomes.loc[outcomes["arm"].isin(treated), "collapsed"].dropna()
        return Effect(*clopper_pearson(int(values.sum()), len(values), level), p=np.nan, n=len(values))
    return paired_effect(by_seed(outcomes, part.outcome, treated).mean(axis=1), level)


def seeds_needed(part: Part, outcomes: pd.DataFrame, treated: Sequence[str], controls: Sequence[str], n: int, margin: float) -> int | None:
    """Seeds with which a study like this would decide with power 0.8, more than now; None: no sensible number.

    A direction is decided by a test of the difference or, where sameness contradicts it, by equivalence: the fewer seeds of
    both. Without two seeds nothing is known of their spread, and the answer is `MIN_SEEDS`.
    """
    collapsed = part.outcome == "collapsed"
    if n < 2 and not collapsed:
        return MIN_SEEDS if n else None
    if n == 0:
        return None
    rates = [_shrunk(outcomes, arms) for arms in (treated, controls) if len(arms)]
    if not controls and collapsed:
        flip = part.expects == "above"
        found = [seeds_for_bound(1 - rates[0] if flip else rates[0], 1 - part.bound if flip else part.bound)]
    elif not controls:
        found = [seeds_for_mean(by_seed(outcomes, part.outcome, treated).mean(axis=1) - part.bound)]
    else:
        gaps = differences(outcomes, treated, controls, part.outcome)
        found = [] if part.expects == "same" else [seeds_for_rates(*rates) if collapsed else seeds_for_mean(gaps)]
        if part.expects in ("same", "different") or (margin > 0 and part.outcome not in COLLAPSE_SENSITIVE):
            found.append(_seeds_for_sameness(part, outcomes, treated, controls, rates, margin))
    needed = min((seeds for seeds in found if seeds is not None), default=None)
    return None if needed is None else max(needed, n + 1, MIN_SEEDS)


def _seeds_for_sameness(part: Part, outcomes: pd.DataFrame, treated: Sequence[str], controls: Sequence[str], rates: list[float],
                        margin: float) -> int | None:  # fmt: skip
    """Seeds that decide whether two arms are the same; the ends of runs need like collapse rates and like values both."""
    counts = [seeds_for_same_rates(*rates, MARGINS["collapsed"])] if part.outcome in (*COLLAPSE_SENSITIVE, "collapsed") else []
    if part.outcome != "collapsed":
        counts.append(seeds_for_equivalence(same_collapse(part.outcome, outcomes, treated, controls), margin))
    return None if None in counts else max(counts)


def _shrunk(outcomes: pd.DataFrame, arms: Sequence[str]) -> float:
    """Collapse rate over seeds drawn a little towards one half: 0 of 5 is no proof of 0."""
    shares = by_seed(outcomes, "collapsed", arms).mean(axis=1)
    known = shares[np.isfinite(shares)]
    return float((known.sum() + 0.5) / (len(known) + 1))


def _describe(part: Part, outcomes: pd.DataFrame, treated: Sequence[str], controls: Sequence[str], effect: Effect) -> str:
    name = NAMES.get(part.outcome, part.outcome)
    who, seeds = _named(treated), f"{effect.n} seed{'s' * (effect.n != 1)}"
    if effect.n == 0:
        return f"{name} of {who}" + (f" against {_named(controls)}" if controls else "") + f", expected {part.expects}"
    if not controls:
        return f"{name} of {who} is {effect.estimate:.2f} {_bounds(effect)}, expected {part.expects} {part.bound:g}, {seeds}"
    sides = [by_seed(outcomes, part.outcome, arms).mean(axis=1) for arms in (treated, controls)]
    paired = np.isfinite(sides[0]) & np.isfinite(sides[1])
    levels = [side[paired].mean() if paired.any() else np.nan for side in sides]
    interval = f"difference {effect.estimate:+.2f} {_bounds(effect)}, p = {effect.p:.2g}, {seeds}"
    return f"{name} {levels[0]:.2f} of {who} against {levels[1]:.2f} of {_named(controls)} ({interval}), expected {part.expects}"


def _named(arms: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(arms))
    return ", ".join(distinct) if len(distinct) < 5 else f"{len(distinct)} arms ({', '.join(distinct[:3])}, …)"


def _bounds(effect: Effect) -> str:
    """'[low, high]', or why there is none."""
    if np.isfinite(effect.low) and np.isfinite(effect.high):
        return f"[{effect.low:.2f}, {effect.high:.2f}]"
    return "(equal in all seeds)" if effect.n > 1 else "(no interval)"
