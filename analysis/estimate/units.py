"""The unit of inference: the reward model wherever it varies, else the seed.

Runs with one reward model share its errors: a trick may help with one reward model and harm with the next, and more seeds
with the same one do not show it. So where the compared runs have several reward models, the runs of each are averaged to
one number per reward model and arm, and estimates, intervals and tests are over these. Where all runs have one reward
model, the unit is the seed, and what is said holds given that reward model.

A pair is two runs with the same reward model and the same seed: they share prompts and sampling noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

MIN_SEEDS = 5  # runs (or pairs) without which nothing is decided
MIN_REWARD_MODELS = 4  # of several seeds each, for a mean
MIN_FOR_RATES = 6  # reward models for a rate: 2·2⁻⁶ is the first p of `sign_flip_p` below 0.05


class Basis(NamedTuple):
    """What an estimate rests on: reward models, the fewest and the most seeds with one of them, and runs (or pairs) in all."""

    reward_models: int = 0
    fewest: int = 0
    most: int = 0
    runs: int = 0

    @property
    def unit(self) -> str:
        return "reward model" if self.reward_models > 1 else "seed"

    @property
    def units(self) -> int:
        return self.reward_models if self.reward_models > 1 else self.runs

    def __str__(self) -> str:
        """'5 seeds, one reward model', '8 reward models, one seed each' or '8 reward models × 2 seeds'."""
        if self.reward_models == 0:
            return "no run"
        if self.reward_models == 1:
            return f"{self.runs} seed{'s' * (self.runs != 1)}, one reward model"
        if self.most == 1:
            return f"{self.reward_models} reward models, one seed each"
        return f"{self.reward_models} reward models × {self.fewest}{f'–{self.most}' * (self.most > self.fewest)} seeds"

    def enough(self, *, rate: bool = False) -> bool:
        """Whether a mean (or, with `rate`, a rate) may be decided from so much."""
        return self.units >= self.least(rate=rate) and self.runs >= MIN_SEEDS

    def least(self, *, rate: bool = False) -> int:
        """The fewest units from which a mean (or a rate) is decided, of a design like this."""
        if self.reward_models < 2:
            return MIN_SEEDS
        return MIN_FOR_RATES if rate else MIN_REWARD_MODELS if self.most > 1 else MIN_SEEDS


class Sample(NamedTuple):
    """One number per unit of inference, (units,), without what is not known; and what they rest on."""

    values: np.ndarray
    basis: Basis


def by_pair(outcomes: pd.DataFrame, outcome: str, arms: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(reward models (pairs,), values (pairs, arms)): a row per reward model and seed of these arms, NaN where unknown.

    Other arms are left out first: a study's arms are compared one by one, each of them with all runs at hand.
    """
    names = outcomes["arm"].to_numpy()
    members = [np.flatnonzero(names == arm) for arm in arms]
    index = np.unique(np.concatenate(members)) if members else np.empty(0, dtype=int)
    models = outcomes["reward_model"].to_numpy()[index] if "reward_model" in outcomes else np.zeros(len(index), dtype=int)
    model_of, model = np.unique(models.astype(str), return_inverse=True)
    seeds, seed = np.unique(outcomes["seed"].to_numpy()[index], return_inverse=True)
    keys, row = np.unique(model * max(len(seeds), 1) + seed, return_inverse=True)
    values = outcomes[outcome].to_numpy(dtype=float)
    table = np.full((len(keys), len(arms)), np.nan)
    for column, member in enumerate(members):
        table[row[np.searchsorted(index, member)], column] = values[member]
    return model_of[keys // max(len(seeds), 1)], table


def per_unit(reward_models: np.ndarray, values: np.ndarray) -> Sample:
    """Values (pairs,) → one per unit. NaN takes no part, neither in the values nor in what they rest on."""
    known = np.isfinite(values)
    models, index, counts = np.unique(reward_models[known], return_inverse=True, return_counts=True)
    if len(models) == 0:
        return Sample(np.empty(0), Basis())
    basis = Basis(len(models), int(counts.min()), int(counts.max()), int(counts.sum()))
    means = np.bincount(index, values[known]) / counts if len(models) > 1 else values[known]
    return Sample(means, basis)


def levels(outcomes: pd.DataFrame, outcome: str, arms: Sequence[str]) -> Sample:
    """The arms' mean of an outcome per unit; a run that lacks one of the arms takes no part."""
    models, values = by_pair(outcomes, outcome, arms)
    return per_unit(models, values.mean(axis=1))


def differences(outcomes: pd.DataFrame, outcome: str, treatment: Sequence[str], control: Sequence[str]) -> Sample:
    """Treatment − control per unit, over pairs that all arms have: the mean over matched arm pairs (treatment[i], control[i])."""
    models, values = by_pair(outcomes, outcome, [*treatment, *control])
    return per_unit(models, (values[:, : len(treatment)] - values[:, len(treatment) :]).mean(axis=1))


def paired_levels(outcomes: pd.DataFrame, outcome: str, treatment: Sequence[str], control: Sequence[str]) -> tuple[Sample, Sample]:
    """Both sides' levels per unit, over the same pairs as `differences`."""
    models, values = by_pair(outcomes, outcome, [*treatment, *control])
    values[~np.isfinite(values).all(axis=1)] = np.nan
    sides = values[:, : len(treatment)], values[:, len(treatment) :]
    first, second = (per_unit(models, side.mean(axis=1)) for side in sides)
    return first, second


def common_levels(outcomes: pd.DataFrame, outcome: str, treatment: Sequence[str], control: Sequence[str]) -> tuple[Sample, Sample]:
    """Both sides' levels per unit, each over all runs that are known, with the reward models that both sides have."""
    models, values = by_pair(outcomes, outcome, [*treatment, *control])
    sides = [values[:, : len(treatment)].mean(axis=1), values[:, len(treatment) :].mean(axis=1)]
    shared = np.intersect1d(*(models[np.isfinite(side)] for side in sides))
    kept = np.isin(models, shared)
    first, second = (per_unit(models[kept], side[kept]) for side in sides)
    return first, second
