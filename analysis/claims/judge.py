"""Claims as data, judged by intervals: supported, contradicted, cannot tell.

A claim has parts, each one comparison in one outcome. An arm pair is found by its settings, not by its name: treatment
and control must differ in nothing but the part's own settings, so one claim can be judged in any sweep that holds such a
pair; several pairs (a factorial) are averaged within each pair of runs.

The unit is the reward model where the compared runs have several, else the seed (`units`), and every sentence says which.
Nothing is decided from fewer than `MIN_SEEDS` runs, no mean from fewer than `MIN_REWARD_MODELS` reward models of several seeds
each, and no rate from fewer than `MIN_FOR_RATES` reward models.

When a part is decided (α = 5 %, k the number of the claim's parts, m the least difference that matters in that outcome):

| expects | supported | contradicted |
|---|---|---|
| higher, lower | two-sided p < α on that side, not shown the same | p < α / k on the other side, or shown the same (not ends of runs) |
| same | shown the same | 1 − α / k interval outside ± m |
| different | two-sided p < α, and not shown the same | shown the same |
| below, above (a rate or level against a bound) | 95 % interval on that side | 1 − α / k interval on the other |

Shown the same: `equivalence.shown_same`. A claim is supported if all its parts are (which needs no correction), contradicted
if one is.

What each part's error is, where there is no difference:

- Collapse rates: at most 5 % over reward models, whatever they have in common (an exact test of signs). Over seeds at most 5 % as
  long as the runs of two arms do not tend to collapse in opposite seeds, else up to 8 % (Boschloo's test takes arms as independent).
- Gold and wins at the end: at most 5 %, if a difference means one like for like (between runs that both collapsed or both
  held) or one in collapse rates (`effects.fate_p`). It is no statement on a mean over collapses too rare to have been seen. So
  the sentence says how many runs collapsed.
- All other means: 5 %, as the t test's, where units are about normal. A large loss in one run of ten that no run has shown
  yet is not covered. Where a trick helps with half of the reward models as much as it harms with the other half, up to 12 % of
  four reward models, and up to 8 % of five and more.
- The same: at most 5 % where the true difference is m or more, under the same conditions.

The tables of wrong verdicts, coverage and power on simulated run folders are in `docs/explanation/statistics.md`, with the command
that makes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.estimate.effects import ENDS, arm_effect, base_arm, like_fate
from analysis.estimate.equivalence import ALPHA, COLLAPSE_SENSITIVE, MARGINS, comparable, identical, margin_of, shown_same
from analysis.estimate.power import (
    reward_models_for_mean,
    reward_models_for_rates,
    seeds_for_bound,
    seeds_for_equivalence,
    seeds_for_mean,
    seeds_for_rates,
    seeds_for_same_rates,
)
from analysis.estimate.stats import Effect, clustered_rate, paired_effect
from analysis.estimate.units import MIN_SEEDS, Basis, by_pair, common_levels, differences, levels, paired_levels

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
    """`effect` is the comparison's (treatment − control, or the level itself); `needed` how many units of its basis would do, None: too
    many."""

    verdict: str
    sentence: str
    parts: tuple[Verdict, ...] = ()
    effect: Effect | None = None
    needed: int | None = None
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
    """The arms with the wanted settings; none where every largest or smallest amount asked for is the only one in the study."""
    if not set(wanted) <= set(settings.columns):
        return []
    extreme = [name for name, value in wanted.items() if value in (MAX_VALUE, MIN_VALUE)]
    if extreme and all(pd.to_numeric(settings[name], errors="coerce").nunique() < 2 for name in extreme):
        return []
    fits = [[_equal(text, value) for text in settings[name]] for name, value in
            ((name, _amount(settings[name], value)) for name, value in wanted.items())]  # fmt: skip
    return [arm for arm, has in zip(settings.index, zip(*fits, strict=True), strict=True) if all(has)]


def _amount(column: pd.Series, value: Any) -> Any:
    """`MAX_VALUE` and `MIN_VALUE` as the amount that they stand for among the study's arms; all else as it is."""
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
    known = [part.effect.basis for part in parts if part.effect is not None and part.effect.n]
    basis = min(known, key=lambda basis: (basis.reward_models, basis.runs), default=None)
    sentence, needed = f"{overall}{f', {scope(basis)}' if basis else ''}: {claim.text} [{claim.figure}]", None
    if overall == CANNOT_TELL:
        unsure = [(part.needed, part.effect.basis) for part in parts if part.verdict == CANNOT_TELL and part.effect is not None]
        needed, hardest = max(unsure, key=lambda one: (np.inf if one[0] is None else one[0], one[1].runs == 0, one[1].reward_models))
        sentence += would_do(needed, hardest)
    return Verdict(overall, sentence, parts, needed=needed)


def scope(basis: Basis) -> str:
    """What a verdict speaks of: 'over 8 reward models' or 'given one reward model'."""
    return f"over {basis.reward_models} reward models" if basis.reward_models > 1 else "given one reward model"


def would_do(needed: int | None, basis: Basis) -> str:
    """How many units would decide what those of `basis` could not, as the end of a sentence."""
    if basis.runs == 0:
        return "; not known of any run yet"
    several = basis.reward_models > 1
    if needed is None:
        return f"; no number of {basis.unit}s below 1000 would do at this size of effect"
    if basis.runs < 2 and needed == MIN_SEEDS:
        return f"; at least {needed} {basis.unit}s are needed"
    if several and basis.most > 1:
        return f"; about {needed} reward models of {basis.most} seeds each would do ({needed * basis.most} runs per arm)"
    return f"; about {needed} {basis.unit}s would do"


def judge_part(part: Part, outcomes: pd.DataFrame, treated: Sequence[str], controls: Sequence[str], *, parts: int = 1) -> Verdict:
    """The verdict on one comparison; `parts` is the number that its claim has, which divides α for a contradiction."""

    def at(level: float) -> Effect:
        if controls:
            return arm_effect(outcomes, treated, controls, part.outcome, level)
        return _level(outcomes, treated, part, level)

    effect = at(1 - ALPHA)
    margin = margin_of(part.outcome, outcomes)
    equal = bool(controls) and identical(outcomes, treated, controls)
    same = equal or (bool(controls) and shown_same(part.outcome, outcomes, treated, controls, margin))
    strict = at(1 - ALPHA / parts) if parts > 1 else effect
    decidable = effect.basis.enough(rate=part.outcome == "collapsed") or (equal and effect.basis.runs >= MIN_SEEDS)
    verdict = decide(part, effect, strict, ALPHA / parts, margin, same, equal) if decidable else CANNOT_TELL
    needed = None if verdict != CANNOT_TELL else units_needed(part, outcomes, treated, controls, effect.basis, margin)
    sentence = f"{verdict}: {_describe(part, outcomes, treated, controls, effect)}"
    if equal:
        sentence += "; the runs of both are equal to the bit"
    elif same:
        sentence += f"; any difference is smaller than {margin:.2g}"
    elif verdict == CANNOT_TELL:
        sentence += _why_not(part, outcomes, treated, controls) or would_do(needed, effect.basis)
        if needed is not None and controls and part.outcome not in ("collapsed", *ENDS):
            sentence += _with_one_seed_each(part, outcomes, treated, controls, needed, effect.basis)
    return Verdict(verdict, sentence, effect=effect, needed=needed, arms=(*treated, *controls))


def _why_not(part: Part, outcomes: pd.DataFrame, treated: Sequence[str], controls: Sequence[str]) -> str:
    """The reason why nothing is known where more runs of the same kind would not help; '' where they would."""
    runs = outcomes[outcomes["arm"].isin([*treated, *controls])]
    unknown = runs[part.outcome].isna()
    if part.outcome in ("collapsed", "stable_updates") and "too_short" in runs and unknown.any() and runs.loc[unknown, "too_short"].all():
        return "; these runs are too short to collapse: they need more evaluations than `collapse.patience`"
    if part.outcome.endswith(("_at_kl", "_at_proxy")) and unknown.all() and runs["gold"].notna().any():
        return "; not measured near the matched value: evaluate more often where it moves fast (evaluation.every, evaluation.dense_until)"
    return ""


def _with_one_seed_each(part: Part, outcomes: pd.DataFrame, treated: Sequence[str], controls: Sequence[str], needed: int,
                        basis: Basis) -> str:  # fmt: skip
    """'; or about 14 reward models of one seed each (14 runs per arm)', where reward models have several seeds each."""
    if basis.reward_models < 2 or basis.most < 2:
        return ""
    models, values = by_pair(outcomes, part.outcome, [*treated, *controls])
    gaps = (values[:, : len(treated)] - values[:, len(treated) :]).mean(axis=1)
    known = np.isfinite(gaps)
    single = reward_models_for_mean(gaps[known], models[known], 1)
    return (
        ""
        if single is None
        else f"; or about {max(single, MIN_SEEDS)} reward models of one seed each ({max(single, MIN_SEEDS)} runs per arm)"
    )


def decide(part: Part, effect: Effect, strict: Effect, alpha: float, margin: float, same: bool, equal: bool = False) -> str:
    """The module's table. `effect` at 1 − α; `strict` at 1 − `alpha`, α over the claim's parts, for contradictions.

    `equal`: the runs of both arms are equal to the bit.
    """
    if part.expects == "same":
        outside = margin > 0 and (strict.low > margin or strict.high < -margin)
        return SUPPORTED if same else CONTRADICTED if outside else CANNOT_TELL
    if part.expects == "different":
        return CONTRADICTED if same else SUPPORTED if effect.p < ALPHA else CANNOT_TELL
    side = 1 if part.expects in ("higher", "above") else -1
    if part.expects in ("above", "below"):
        supported = min(side * (effect.low - part.bound), side * (effect.high - part.bound)) > 0
        contradicted = max(side * (strict.low - part.bound), side * (strict.high - part.bound)) < 0
        return SUPPORTED if supported else CONTRADICTED if contradicted else CANNOT_TELL
    if same:
        return CONTRADICTED if equal or part.outcome not in COLLAPSE_SENSITIVE else CANNOT_TELL
    if effect.p < ALPHA and side * effect.estimate > 0:
        return SUPPORTED
    return CONTRADICTED if strict.p < alpha and side * effect.estimate < 0 else CANNOT_TELL


def _level(outcomes: pd.DataFrame, treated: Sequence[str], part: Part, level: float) -> Effect:
    """An arm's own rate or mean, with its exact or t interval; several arms are averaged within each pair."""
    found = levels(outcomes, part.outcome, treated)
    if part.outcome == "collapsed":
        return Effect(*clustered_rate(found.values, found.basis.runs, level), p=np.nan, n=found.basis.units, basis=found.basis)
    return paired_effect(found.values, level)._replace(basis=found.basis)


def units_needed(
    part: Part, outcomes: pd.DataFrame, treated: Sequence[str], controls: Sequence[str], basis: Basis, margin: float
) -> int | None:
    """Units of `basis` with which a study like this would decide with power 0.8, more than now; None: no sensible number.

    A direction is decided by a test of the difference or, where sameness contradicts it, by equivalence: the fewer units of
    both. Without two units nothing is known of their spread, and the answer is the least that anything is decided from.
    """
    collapsed = part.outcome == "collapsed"
    least = basis.least(rate=collapsed)
    if basis.units < 2 and not collapsed:
        return least if basis.units else None
    if basis.units == 0:
        return None
    rates = [_shrunk(outcomes, arms) for arms in (treated, controls) if len(arms)]
    if not controls and collapsed:
        flip = part.expects == "above"
        found = [seeds_for_bound(1 - rates[0] if flip else rates[0], 1 - part.bound if flip else part.bound)]
    elif not controls:
        found = [seeds_for_mean(levels(outcomes, part.outcome, treated).values - part.bound)]
    else:
        found = [] if part.expects == "same" else _for_a_difference(part, outcomes, treated, controls, rates)
        if part.expects in ("same", "different") or (margin > 0 and part.outcome not in COLLAPSE_SENSITIVE):
            found.append(_for_sameness(part, outcomes, treated, controls, rates, margin))
    needed = min((units for units in found if units is not None), default=None)
    return None if needed is None else max(needed, basis.units + 1, least)


def _for_a_difference(part: Part, outcomes: pd.DataFrame, treated: Sequence[str], controls: Sequence[str],
                      rates: list[float]) -> list[int | None]:  # fmt: skip
    """Units that show a difference; at the end of runs like for like or in collapse rates.

    Rates are decided by Boschloo's test of runs, by signs of reward models, or by the mean of their shares where each has several seeds.
    """
    shares = differences(outcomes, "collapsed", treated, controls)
    if shares.basis.reward_models < 2:
        of_rates = seeds_for_rates(*rates)
    else:
        of_rates = reward_models_for_rates(*rates) if shares.basis.most == 1 else seeds_for_mean(shares.values)
    if part.outcome == "collapsed":
        return [of_rates]
    chosen = like_fate if part.outcome in ENDS else differences
    gaps = chosen(outcomes, part.outcome, treated, controls).values
    return [seeds_for_mean(gaps), *([of_rates] if part.outcome in ENDS else [])]


def _for_sameness(part: Part, outcomes: pd.DataFrame, treated: Sequence[str], controls: Sequence[str], rates: list[float],
                  margin: float) -> int | None:  # fmt: skip
    """Units that decide whether two arms are the same; the ends of runs need like collapse rates and like values both."""
    counts = [seeds_for_same_rates(*rates, MARGINS["collapsed"])] if part.outcome in (*COLLAPSE_SENSITIVE, "collapsed") else []
    if part.outcome != "collapsed":
        counts.append(seeds_for_equivalence(comparable(part.outcome, outcomes, treated, controls).values, margin))
    return None if None in counts else max(counts)


def _shrunk(outcomes: pd.DataFrame, arms: Sequence[str]) -> float:
    """Collapse rate over units drawn a little towards one half: 0 of 5 is no proof of 0."""
    known = levels(outcomes, "collapsed", arms).values
    return float((known.sum() + 0.5) / (len(known) + 1))


def _describe(part: Part, outcomes: pd.DataFrame, treated: Sequence[str], controls: Sequence[str], effect: Effect) -> str:
    name, who, basis = outcome_name(part.outcome, outcomes), _named(treated), str(effect.basis)
    if effect.n == 0:
        return f"{name} of {who}" + (f" against {_named(controls)}" if controls else "") + f", expected {part.expects}"
    if not controls:
        return f"{name} of {who} is {effect.estimate:.2f} {_bounds(effect)}, expected {part.expects} {part.bound:g}; {basis}"
    chosen = common_levels if part.outcome == "collapsed" else paired_levels
    sides = [side.values.mean() if len(side.values) else np.nan for side in chosen(outcomes, part.outcome, treated, controls)]
    interval = f"difference {effect.estimate:+.2f} {_bounds(effect)}, p = {effect.p:.2g}; {basis}"
    if part.outcome in ENDS:
        interval += f"; {_collapses(outcomes, treated)} against {_collapses(outcomes, controls)} collapsed"
    return f"{name} {sides[0]:.2f} of {who} against {sides[1]:.2f} of {_named(controls)} ({interval}), expected {part.expects}"


def outcome_name(outcome: str, outcomes: pd.DataFrame) -> str:
    """An outcome in words; times by the unit that the study's times have."""
    name = NAMES.get(outcome, outcome)
    return name.replace("updates", str(outcomes["time_unit"].iloc[0])) if outcome == "stable_updates" and "time_unit" in outcomes else name


def _collapses(outcomes: pd.DataFrame, arms: Sequence[str]) -> str:
    known = outcomes.loc[outcomes["arm"].isin(arms), "collapsed"].dropna()
    return f"{int(known.sum())} of {len(known)}"


def _named(arms: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(arms))
    return ", ".join(distinct) if len(distinct) < 5 else f"{len(distinct)} arms ({', '.join(distinct[:3])}, …)"


def _bounds(effect: Effect) -> str:
    """'[low, high]', or why there is none."""
    if np.isfinite(effect.low) and np.isfinite(effect.high):
        return f"[{effect.low:.2f}, {effect.high:.2f}]"
    return f"(equal for all {effect.basis.unit}s)" if effect.n > 1 else "(no interval)"
