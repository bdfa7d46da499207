"""Names of arms are readable and sorted, are valid folder names, and differ for different overrides."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from ablate.runs.compose import composed, composing
from ablate.settings.arms import DEFAULT_OPTIONS, MAX_LENGTH, arm_name, changing, preset_values
from ablate.settings.fields import flat
from ablate.sweeps.expand import by_setting, expand
from ablate.sweeps.study import Study


@pytest.mark.parametrize(
    ("overrides", "sweep_arm", "name"),
    [
        ([], None, "ppo_max"),
        (["ppo.kl_penalty=false"], None, "kl_penalty=false"),
        (["ppo=vanilla"], None, "vanilla"),
        (["ppo.kl_coef=0.2", "ppo=vanilla"], None, "vanilla,kl_coef=0.2"),
        (["ppo.updates=10"], "kl", "kl,updates=10"),
        (["ppo.value_clip=false", "bugs.reward_on_pad=true", "ppo.kl_coef=1"], None, "bugs.reward_on_pad=true,kl_coef=1,value_clip=false"),
        (["pipeline_seed=3", "seed=3"], None, "pipeline_seed=3"),
        (["fork=results/x/y/seed=0/checkpoints/40", "ppo.kl_penalty=true"], None, "fork=y@40,kl_penalty=true"),
        (["fork='results/x/vanilla,a=1/seed=0/checkpoints/40'"], None, "fork=vanilla,a=1@40"),
        (["+ppo.adam_betas=[0.9,0.99]"], None, "adam_betas=[0.9,0.99]"),
        (["preferences=hard", "data.language=zh"], "full", "full,data.language=zh,preferences=hard"),
    ],
)
def test_a_name_is_the_sweeps_arm_the_preset_and_the_sorted_overrides(overrides, sweep_arm, name):
    assert arm_name(overrides, "ppo_max", sweep_arm) == name


def test_settings_that_decide_no_number_are_left_out():
    where = ["seed=1", "study=a", "arm=b", "results=/r", "cache=/c", "jobs=2", "tracker=none", "checkpoint.every=1", "sweep=vanilla"]
    hydra = ["hydra.launcher.timeout=3", "hydra/launcher=submitit_slurm", "~hydra.sweep"]
    assert arm_name([*where, *hydra], "vanilla") == "vanilla"


def test_a_name_is_one_folder_and_stays_unique_when_it_must_change():
    names = [arm_name([f"model.path={path}"], "ppo_max") for path in ("/models/a b", "/models/a/b", "-models-a-b")]
    assert all("/" not in name and " " not in name for name in names) and len(set(names)) == 3
    long = [arm_name([f"ppo.kl_coef={'1' * 200}{last}"], "ppo_max") for last in "12"]
    assert [len(name) for name in long] == [MAX_LENGTH] * 2 and long[0] != long[1]


@pytest.mark.parametrize(("overrides", "before", "kept"), [
    (["ppo.updates=100", "seed=0"], [], []),
    (["ppo=vanilla", "ppo.kl_penalty=false"], [], ["ppo=vanilla"]),
    (["ppo=ppo_max", "ppo.kl_penalty=false"], [], ["ppo.kl_penalty=false"]),
    (["ppo.kl_penalty=true", "ppo.kl_coef=1e-1", "ppo.adam_betas=[0.9,0.95]", "data.language='en'", "seed=0"], [], []),
    (["ppo.kl_penalty=1"], [], ["ppo.kl_penalty=1"]),
    (["model=gpt2", "sft.learning_rate=3e-3"], [], ["model=gpt2", "sft.learning_rate=3e-3"]),
    (["model=gpt2", "sft.learning_rate=5e-5"], [], ["model=gpt2"]),
    (["preferences=default", "preferences.noise=0.5"], ["preferences=hard"], ["preferences=default"]),
    (["ppo.updates=100"], ["ppo.updates=40"], ["ppo.updates=100"]),
    (["ppo.updates=40"], ["ppo.updates=40"], []),
    (["fork=r/x/y/seed=0/checkpoints/40", "ppo.kl_penalty=true"], [], ["fork=r/x/y/seed=0/checkpoints/40", "ppo.kl_penalty=true"]),
])  # fmt: skip
def test_a_value_that_is_there_anyway_is_in_no_name(overrides, before, kept):
    assert changing(overrides, before) == kept


@pytest.mark.parametrize(
    "options", [{}, {"ppo": "verl"}, {"model": "gpt2", "ppo": "moss_script"}, {"preferences": "hard", "data": "jsonl"}]
)
def test_the_values_of_presets_are_those_that_hydra_composes(options):
    with composing():
        config = composed([f"{group}={option}" for group, option in options.items()])
    assert preset_values(**DEFAULT_OPTIONS | options) == {**dict(flat(asdict(config))), "model.path": config.model.path}


def test_a_sweep_names_no_value_that_its_arms_have_anyway():
    study = Study("s", "?", "", "", base=("ppo=vanilla", "ppo.updates=5"), arms={"plain": (), "kl": ("ppo.kl_penalty=true",)})
    choices = {"ppo.updates": ["ppo.updates=5"], "ppo.kl_penalty": ["ppo.kl_penalty=false", "ppo.kl_penalty=true"]}
    jobs = expand(study, choices, "ppo_max")
    assert [by_setting(job)["arm"] for job in jobs] == [
        "arm='plain'",
        "arm='kl,kl_penalty=false'",
        "arm='plain,kl_penalty=true'",
        "arm='kl'",
    ]
    assert [by_setting(job)["arm"] for job in expand(None, choices, "ppo_max")] == ["arm='kl_penalty=false,updates=5'", "arm='updates=5'"]
