"""What a trick does: arms compared seed by seed, one setting (or one linked group of settings) apart."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.estimate.stats import Effect, holm, paired_effect, rate_effect

EFFECT_OUTCOMES = ("collapsed", "stable_updates", "gold", "win", "gold_at_kl")
_TOP_LEVEL_SETTINGS = ("fork", "precision")
_NOT_AN_ARM = ("checkpoint.",)


def arm_settings(runs: pd.DataFrame) -> pd.DataFrame:
    """Arms × settings, as text; only settings that are one value within every arm (seeds and paths are not).

    `pipeline_seed` is a setting too: its value, or 'seed' where every run has a world and a reward model of its own.
    """
    names = [name for name in runs.columns if ("." in name and "/" not in name and not name.startswith(_NOT_AN_ARM))
             or name in _TOP_LEVEL_SETTINGS]  # fmt: skip
    text = runs[names].astype(object).where(runs[names].notna(), None).map(str).assign(arm=runs["arm"].to_numpy())
    distinct = text.groupby("arm", observed=True).nunique()
    constant = distinct.columns[(distinct <= 1).all()]
    settings = text.groupby("arm", observed=True)[list(constant)].first()
    return settings.assign(pipeline_seed=_pipeline_seeds(runs)) if "pipeline_seed" in runs else settings


def _pipeline_seeds(runs: pd.DataFrame) -> pd.Series:
    """Arm → its pipeline_seed as text. One run whose two seeds are equal could be either; it is read as the other arms are."""
    found, unsure = {}, {}
    for arm, part in runs.groupby("arm", observed=True):
        values, own = part["pipeline_seed"], bool((part["pipeline_seed"] == part["seed"]).all())
        if values.nunique() > 1:
            found[arm] = "seed" if own else "several"
        else:
            (unsure if own else found)[arm] = str(values.iloc[0])
    all_own = set(found.values()) == {"seed"}
    return pd.Series({**{arm: "seed" if all_own else value for arm, value in unsure.items()}, **found}, dtype=object)


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


def by_seed(outcomes: pd.DataFrame, outcome: str, arms: Sequence[str]) -> np.ndarray:
    """(seeds, arms) of an outcome, NaN where an arm lacks the seed or its value is not known."""
    seeds, row = np.unique(outcomes["seed"].to_numpy(), return_inverse=True)
    names, values = outcomes["arm"].to_numpy(), outcomes[outcome].to_numpy(dtype=float)
    table = np.full((len(seeds), len(arms)), np.nan)
    for column, arm in enumerate(arms):
        member = names == arm
        table[row[member], column] = values[member]
    return table


def differences(outcomes: pd.DataFrame, treatment: Sequence[str], control: Sequence[str], outcome: str) -> np.ndarray:
    """Treatment − control for every seed that all arms have: the mean over matched arm pairs (treatment[i], control[i])."""
    gaps = (by_seed(outcomes, outcome, treatment) - by_seed(outcomes, outcome, control)).mean(axis=1)
    return gaps[np.isfinite(gaps)]


def arm_effect(outcomes: pd.DataFrame, treatment: Sequence[str], control: Sequence[str], outcome: str, level: float = 0.95) -> Effect:
    """Effect of `treatment` against `control` on `outcome`: a paired t over seeds, but exact for collapse rates.

    With several arm pairs a seed counts as collapsed if it did in all of them: where every seed is unanimous the seeds are
    the runs of the exact test; else the seeds' shares of collapses are compared by the paired t.
    """
    if outcome == "collapsed":
        shares = [by_seed(outcomes, outcome, arms).mean(axis=1) for arms in (treatment, control)]
        known = [share[np.isfinite(share)] for share in shares]
        if all(np.isin(share, (0.0, 1.0)).all() for share in known):
            (a, n_a), (b, n_b) = [(int(share.sum()), len(share)) for share in known]
            return rate_effect(a, n_a, b, n_b, level)
    return paired_effect(differences(outcomes, treatment, control, outcome), level)


def trick_effects(outcomes: pd.DataFrame, settings: pd.DataFrame, base: str | None = None,
                  measures: Sequence[str] = EFFECT_OUTCOMES) -> pd.DataFrame:  # fmt: skip
    """Every arm against the base: arm, change, outcome, estimate, low, high, p, p_holm (over arms, within an outcome), n."""
    base = base_arm(settings) if base is None else base
    rows = []
    for measure in measures:
        found = {arm: arm_effect(outcomes, [arm], [base], measure) for arm in settings.index if arm != base}
        adjusted = holm(np.array([effect.p if effect.n > 1 else np.nan for effect in found.values()]))
        for (arm, effect), p_holm in zip(found.items(), adjusted, strict=True):
            rows.append(dict(arm=arm, base=base, change=change(settings, arm, base), outcome=measure, **effect._asdict(), p_holm=p_holm))
    return pd.DataFrame(rows)


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
    """Main and two-way effects of a full 2^k design: term, estimate, low, high, p, p_holm, n.

    With ±1 coding a main effect is mean(y | +) − mean(y | −) and a two-way effect half the difference between one factor's
    effects at the other's two levels. Each is a contrast within a seed, so seeds are blocks and the test is a paired t.
    """
    arms = list(next(iter(design.values())))
    wide = by_seed(outcomes, outcome, arms)
    wide = wide[np.isfinite(wide).all(axis=1)]
    terms = [(name,) for name in design] + list(itertools.combinations(design, 2))
    rows = []
    for term in terms:
        signs = np.array([np.prod([design[name][arm] for name in term]) for arm in arms])
        effect = paired_effect(2 * (wide * signs).mean(axis=1))
        rows.append(dict(term=" × ".join(term), outcome=outcome, **effect._asdict()))
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p"].to_numpy()))
