"""What a trick does: arms compared pair by pair, one setting (or one linked group of settings) apart.

A pair is two runs with the same reward model and seed; the unit of every test is the reward model where it varies, else the
seed (`units`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.estimate.stats import Effect, holm, newcombe, paired_effect, rate_effect, separation_p, sign_flip_levels, sign_flip_p
from analysis.estimate.units import Sample, by_pair, common_levels, differences, paired_levels, per_unit

EFFECT_OUTCOMES = ("collapsed", "stable_updates", "gold", "win", "gold_at_kl")
ENDS = ("gold", "gold_gain", "win")  # at the end of runs, where a collapse decides more than anything else


def differing(settings: pd.DataFrame) -> pd.DataFrame:
    """The columns of `arm_settings` in which arms differ."""
    return settings.loc[:, settings.nunique() > 1]


def base_arm(settings: pd.DataFrame) -> str:
    """The arm that the fewest changes separate from all others: vanilla in add-one-in, PPO-max in leave-one-out.

    Of equals the one with the fewest tricks on: between two arms, the one without.
    """
    values = differing(settings).to_numpy(dtype=object)
    changes, on = [int((values != row).sum()) for row in values], (values == "True").sum(axis=1)
    return min(zip(changes, on, settings.index, strict=True))[2]


def change(settings: pd.DataFrame, arm: str, base: str) -> str:
    """'kl_penalty False → True, kl_coef 0.1 → 0.05'."""
    apart = settings.columns[settings.loc[arm] != settings.loc[base]]
    return ", ".join(f"{name.removeprefix('ppo.')} {settings.loc[base, name]} → {settings.loc[arm, name]}" for name in apart)


def arm_effect(outcomes: pd.DataFrame, treatment: Sequence[str], control: Sequence[str], outcome: str, level: float = 0.95) -> Effect:
    """Effect of `treatment` against `control` on `outcome`: the mean difference over units, its t interval, and a p that decides.

    - Collapse rates over seeds of one reward model: `rate_effect`. Over reward models, whose own shares are compared: the exact
      sign-flip test, as a trick that helps with one reward model may harm with another (`sign_flip_p`), and the wider
      of the t interval and Newcombe's, within ± 1: differences of which most are 0 are far from normal.
    - Gold and wins at the end (`ENDS`): the p of `fate_p`, since a mean over five runs says nothing of a collapse that one run
      in ten would have.
    - All else: the paired t; without any spread, the exact test of separated samples (`separation_p`), or the sign test.
    """
    if outcome == "collapsed":
        return _collapse_effect(outcomes, treatment, control, level)
    gaps = differences(outcomes, outcome, treatment, control)
    effect = _mean_effect(outcomes, outcome, treatment, control, gaps, level)
    return effect._replace(p=fate_p(outcomes, treatment, control, outcome, effect)) if outcome in ENDS else effect


def _mean_effect(
    outcomes: pd.DataFrame, outcome: str, treatment: Sequence[str], control: Sequence[str], gaps: Sample, level: float
) -> Effect:
    effect = paired_effect(gaps.values, level)._replace(basis=gaps.basis)
    if effect.n > 1 and np.isinf(effect.low) and effect.estimate != 0:
        sides = paired_levels(outcomes, outcome, treatment, control)
        effect = effect._replace(p=min(effect.p, separation_p(sides[0].values, sides[1].values)))
    return effect


def _collapse_effect(outcomes: pd.DataFrame, treatment: Sequence[str], control: Sequence[str], level: float) -> Effect:
    """Of seeds: `rate_effect`, or the paired t of shares where several arm pairs are of two minds. Of reward models: see `arm_effect`."""
    sides = common_levels(outcomes, "collapsed", treatment, control)
    gaps = differences(outcomes, "collapsed", treatment, control)
    effect = paired_effect(gaps.values, level)._replace(basis=gaps.basis)
    if gaps.basis.reward_models > 1:
        low, high = newcombe(*(float(part) for side in sides for part in (side.values.mean(), len(side.values))), level)
        if np.isfinite(effect.low):
            low, high = max(min(low, effect.low), -1.0), min(max(high, effect.high), 1.0)
        return effect._replace(low=float(low), high=float(high), p=sign_flip_p(gaps.values))
    if not all(np.isin(side.values, (0.0, 1.0)).all() for side in sides):
        return effect
    (a, n_a), (b, n_b) = [(int(side.values.sum()), len(side.values)) for side in sides]
    return rate_effect(a, n_a, b, n_b, level)._replace(basis=min((side.basis for side in sides), key=lambda basis: basis.runs))


def like_fate(outcomes: pd.DataFrame, outcome: str, treatment: Sequence[str], control: Sequence[str]) -> Sample:
    """Differences per unit over those pairs alone of which both runs collapsed or neither did."""
    models, values = by_pair(outcomes, outcome, [*treatment, *control])
    _, fates = by_pair(outcomes, "collapsed", [*treatment, *control])
    k = len(treatment)
    gaps = np.where(fates[:, :k] == fates[:, k:], values[:, :k] - values[:, k:], np.nan)
    known = np.isfinite(gaps)
    return per_unit(models, np.divide(np.where(known, gaps, 0).sum(axis=1), known.sum(axis=1), out=np.full(len(gaps), np.nan),
                                      where=known.any(axis=1)))  # fmt: skip


def fate_p(outcomes: pd.DataFrame, treatment: Sequence[str], control: Sequence[str], outcome: str, overall: Effect) -> float:
    """Two-sided p that gold or wins at the end differ: like for like, or in how often runs collapse.

    Two tests at most: the paired t over pairs of one fate (`like_fate`), and the test of collapse rates. With both, p is twice the
    smaller (Bonferroni). A test that says the opposite of the mean difference counts as 1, and so does the whole if the two
    contradict each other. The paired t over all pairs stands where no run is judged collapsed or not.
    """
    if outcomes.loc[outcomes["arm"].isin([*treatment, *control]), "collapsed"].isna().all():
        return overall.p
    like, rate = like_fate(outcomes, outcome, treatment, control), _collapse_effect(outcomes, treatment, control, 0.95)
    alike = paired_effect(like.values)
    if alike.n > 1 and np.isinf(alike.low) and alike.estimate != 0 and like.basis == overall.basis:
        alike = alike._replace(p=overall.p)
    found = [(alike.p, alike.estimate)] if like.basis.enough() else []
    if rate.basis.enough(rate=True) and rate.estimate != 0:
        found.append((rate.p, -rate.estimate))
    if not found:
        return 1.0
    agreeing = [p if estimate * overall.estimate > 0 else 1.0 for p, estimate in found]
    against = [p for p, estimate in found if estimate * overall.estimate < 0]
    if against and min(against) * len(found) < 0.05:
        return 1.0
    return min(1.0, len(found) * min(agreeing))


def trick_effects(outcomes: pd.DataFrame, settings: pd.DataFrame, base: str | None = None,
                  measures: Sequence[str] = EFFECT_OUTCOMES) -> pd.DataFrame:  # fmt: skip
    """Every arm against the base: arm, change, outcome, estimate, low, high, p, p_holm (over arms, within an outcome), n, basis.

    The correction of collapse rates counts every arm with the p that its exact test can have (`collapse_levels`).
    """
    base = base_arm(settings) if base is None else base
    rows = []
    for measure in measures:
        found = {arm: arm_effect(outcomes, [arm], [base], measure) for arm in settings.index if arm != base}
        levels = [collapse_levels(outcomes, arm, base) for arm in found] if measure == "collapsed" else None
        adjusted = holm(np.array([effect.p if effect.n > 1 else np.nan for effect in found.values()]), levels)
        for (arm, effect), p_holm in zip(found.items(), adjusted, strict=True):
            rows.append(dict(arm=arm, base=base, change=change(settings, arm, base), outcome=measure, **_columns(effect), p_holm=p_holm))
    return pd.DataFrame(rows)


def collapse_levels(outcomes: pd.DataFrame, arm: str, base: str) -> np.ndarray | None:
    """The p values that the exact test of two arms' collapse rates over reward models can have (`sign_flip_levels`).

    An arm that collapses with the same reward models as the base can have none but 1. None over seeds of one reward model, where another
    test is used.
    """
    gaps = differences(outcomes, "collapsed", [arm], [base])
    return sign_flip_levels(gaps.values) if gaps.basis.reward_models > 1 else None


def _columns(effect: Effect) -> dict:
    return effect._asdict() | {"basis": str(effect.basis)}


def factors(settings: pd.DataFrame) -> dict[str, dict[str, int]]:
    """A full two-level design's factors → arm → ±1; {} if the arms are none. Settings that always move together are one factor.

    The level written later in sorted order (True after False, larger numbers, later words) is +1.
    """
    columns: dict[tuple, list[str]] = {}
    for name, values in differing(settings).items():
        if values.nunique() != 2:
            return {}
        high = max(values.unique(), key=_order)
        signs = tuple(1 if value == high else -1 for value in values)
        opposite = tuple(-sign for sign in signs)
        columns.setdefault(opposite if opposite in columns else signs, []).append(name)
    cells = set(zip(*columns, strict=True)) if columns else set()
    if len(columns) < 2 or len(cells) != 2 ** len(columns) or len(settings) != len(cells):
        return {}
    labels = {signs: "+".join(name.removeprefix("ppo.") for name in names) for signs, names in columns.items()}
    return {label: dict(zip(settings.index, signs, strict=True)) for signs, label in labels.items()}


def _order(text: str) -> tuple:
    try:
        return (1, float(text), "")
    except ValueError:
        return (0, 0.0, text)


def factorial_effects(outcomes: pd.DataFrame, design: Mapping[str, Mapping[str, int]], outcome: str) -> pd.DataFrame:
    """Main and two-way effects of a full 2^k design: term, outcome, estimate, low, high, p, n, basis, p_holm.

    With ±1 coding a main effect is mean(y | +) − mean(y | −) and a two-way effect half the difference between one factor's
    effects at the other's two levels. Each is a contrast within a pair's runs, and the test is a paired t over units.
    """
    arms = list(next(iter(design.values())))
    models, values = by_pair(outcomes, outcome, arms)
    terms = [(name,) for name in design] + list(itertools.combinations(design, 2))
    rows = []
    for term in terms:
        signs = np.array([np.prod([design[name][arm] for name in term]) for arm in arms])
        contrast = per_unit(models, 2 * (values * signs).mean(axis=1))
        effect = paired_effect(contrast.values)._replace(basis=contrast.basis)
        rows.append(dict(term=" × ".join(term), outcome=outcome, **_columns(effect)))
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p"].to_numpy()))
