"""Which runs belong together: an arm is its settings, whatever its folder is called, and `pipeline_seed` draws a reward model.

A study repeats its arms over seeds, over reward models, or over both. The reward model is the larger draw: with another
`pipeline_seed` the run has another world, another SFT and another reward model. Arms whose settings differ in
`pipeline_seed` alone are therefore one arm over several reward models, and arms of equal settings are one arm as well.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

_TOP_LEVEL_SETTINGS = ("fork", "precision")
_NOT_AN_ARM = ("checkpoint.",)
_PIPELINE_SEED = re.compile(r"(^|,)pipeline_seed=[^,]*")


def arm_settings(runs: pd.DataFrame) -> pd.DataFrame:
    """Arms × settings, as text; only settings that are one value within every arm (seeds and paths are not)."""
    return _one_value_per_arm(_settings_text(runs), runs["arm"])


def _one_value_per_arm(text: dict[str, np.ndarray], arm: pd.Series) -> pd.DataFrame:
    """Arms × settings, of the settings that are equal in all runs of each arm."""
    codes, arms = pd.factorize(arm.to_numpy(), sort=True)
    first = np.unique(codes, return_index=True)[1]
    constant = {name: values[first] for name, values in text.items() if (values == values[first][codes]).all()}
    return pd.DataFrame(constant, index=pd.Index(arms, name="arm"), dtype=object)  # one block, of which a row is read at once


def _settings_text(runs: pd.DataFrame) -> dict[str, np.ndarray]:
    """Setting → its value in every run, as text."""
    names = [name for name in runs.columns if ("." in name and "/" not in name and not name.startswith(_NOT_AN_ARM))
             or name in _TOP_LEVEL_SETTINGS]  # fmt: skip
    return {name: _as_text(runs[name]) for name in names}


def _as_text(column: pd.Series) -> np.ndarray:
    """The values of a setting as text, missing ones as 'None'. Each distinct value is written once: few differ among thousands of runs."""
    codes, values = pd.factorize(column.astype(object))
    return np.array([*map(str, values), "None"], dtype=object)[codes]  # −1, of what is missing, is the last


def reward_models(runs: pd.DataFrame) -> pd.Series:
    """The reward model of every run, as text: the path of one that was given, else its `pipeline_seed`; "" where neither is known."""
    drawn = (
        runs["pipeline_seed"].map("pipeline_seed={:g}".format, na_action="ignore") if "pipeline_seed" in runs else pd.Series("", runs.index)
    )
    given = runs["reward_model.path"] if "reward_model.path" in runs else pd.Series(None, runs.index, dtype=object)
    return given.where(given.notna(), drawn).fillna("").astype(str)


def merge_arms(runs: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """(runs, twins): `runs` with the column reward_model, and with one name in `arm` for arms of a study that differ in
    `pipeline_seed` alone or in nothing. `folder_arm` keeps the name of the folder.

    `twins` maps a run that repeats the settings, the reward model and the seed of an earlier run to that run; `runs` is
    without it. The name is what the folders' names share once `pipeline_seed=…` is taken out; where nothing is shared, it is
    the name with the most runs, of equals the shortest.
    """
    runs = runs.assign(reward_model=reward_models(runs), folder_arm=runs["arm"])
    for _, study in runs.groupby("study", sort=False):
        for arms in _equal_arms(study):
            runs.loc[study.index[study["arm"].isin(arms)], "arm"] = _common_name(study, arms)
    first: dict[tuple, str] = {}
    twins: dict[str, str] = {}
    for run in runs[["run", "study", "arm", "reward_model", "seed"]].itertuples(index=False):
        if (earlier := first.setdefault(run[1:], run.run)) != run.run:
            twins[run.run] = earlier
    return runs[~runs["run"].isin(twins)].reset_index(drop=True), twins


def _equal_arms(study: pd.DataFrame) -> list[list[str]]:
    """Groups of two and more arms with equal settings.

    Settings that vary within an arm of the study must agree wherever two arms share a seed, and where they are one value in both.
    """
    text = _settings_text(study)
    settings = _one_value_per_arm(text, study["arm"])
    if settings.shape[1] == 0:  # runs of another tool: nothing is known of their settings
        return []
    varying = np.array([values for name, values in text.items() if name not in settings], dtype=object).reshape(-1, len(study))
    by_seed: dict[str, dict[int, tuple]] = {}
    for arm, seed, values in zip(study["arm"], study["seed"], map(tuple, varying.T), strict=True):
        by_seed.setdefault(arm, {})[seed] = values
    groups: dict[tuple, list[list[str]]] = {}
    for arm, row in zip(settings.index, settings.itertuples(index=False, name=None), strict=True):
        same = groups.setdefault(row, [])
        for group in same:
            if all(_agree(by_seed[arm], by_seed[other]) for other in group):
                group.append(arm)
                break
        else:
            same.append([arm])
    return [group for same in groups.values() for group in same if len(group) > 1]


def _agree(one: dict[int, tuple], other: dict[int, tuple]) -> bool:
    """Whether two arms, seed → values, agree in every shared seed and in every column that is one value in each of them."""
    columns = ([set(column) for column in zip(*arm.values(), strict=True)] for arm in (one, other))
    alike = all(a == b for a, b in zip(*columns, strict=True) if len(a) == len(b) == 1)
    return alike and all(one[seed] == other[seed] for seed in one.keys() & other.keys())


def _common_name(study: pd.DataFrame, arms: Sequence[str]) -> str:
    bare = {_PIPELINE_SEED.sub("", arm).strip(",") for arm in arms}
    if len(bare) == 1 and (name := bare.pop()):
        return name
    counts = study["arm"].value_counts()
    return min(arms, key=lambda arm: (-counts[arm], len(arm), arm))


def merged_names(runs: pd.DataFrame) -> dict[str, list[str]]:
    """Arm → the names of its folders, of arms that are listed under another name than every one of their folders."""
    names = runs.groupby("arm", observed=True)["folder_arm"].unique()
    return {arm: sorted(folders) for arm, folders in names.items() if len(folders) > 1}


def design_of(runs: pd.DataFrame) -> tuple[int, int, int]:
    """(reward models, fewest, most seeds of an arm with one reward model) of a study's runs."""
    counts = runs.groupby(["arm", "reward_model"], observed=True)["seed"].nunique()
    return int(runs["reward_model"].nunique()), int(counts.min()), int(np.max(counts))
