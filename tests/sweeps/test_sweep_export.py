"""A study exported for `wandb sweep`: the command line of each of its runs means what the study's arm means."""

import os
import shlex
import subprocess
import sys

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from ablate.runs.compose import composed, composing
from ablate.settings.identity import config_hash
from ablate.sweeps.__main__ import main
from ablate.sweeps.expand import distinct, expand
from ablate.sweeps.export import wandb_sweep
from ablate.sweeps.study import load_study, study_names

NEEDS_PATH = ("hh", "hh_gpu")


def command(tree: dict, words: str) -> list[str]:
    """What an agent of wandb starts for one value of the parameter, by its own function."""
    known = create_sweep_command_args({"args": {"overrides": {"value": words}}})
    known |= {"interpreter": ["python"], "env": ["/usr/bin/env"]}
    parts = []
    for part in tree["command"]:
        parts += known[part[2:-1]] if part.startswith("${") and part.endswith("}") else [part]
    return parts


def compare(name: str, given: list[str], seeds: int) -> None:
    """The runs of an exported study are those of the study itself, by hash, folder and order."""
    values = yaml.safe_load(wandb_sweep(name, given, seeds))["parameters"]["overrides"]["values"]
    jobs = expand(load_study(name), {"data.path": given} if given else {}, "ppo_max")
    with composing():
        exported = [composed(shlex.split(words)) for words in values]
        own = [composed((*job, f"seed={seed}")) for job in jobs for seed in range(seeds)]
    own = [own[index] for index in distinct(own)[0]]
    assert [config_hash(config) for config in exported] == [config_hash(config) for config in own]
    assert [(config.study, config.arm, config.seed) for config in exported] == [(run.study, run.arm, run.seed) for run in own]


@pytest.mark.parametrize(("name", "seeds"), [("kl_coef", 2), ("precision", 1)])
def test_every_arm_composes_to_the_hash_of_the_studys_own_arm(name, seeds):
    compare(name, [], seeds)


@pytest.mark.slow
@pytest.mark.parametrize("name", study_names())
def test_so_does_every_arm_of_every_study(name):
    compare(name, ["data.path=/data/a b.jsonl"] * (name in NEEDS_PATH), 1)


def test_the_shell_gives_the_run_the_words_of_its_value(tmp_path):
    (tmp_path / "python").write_text('#!/bin/sh\necho "$WANDB_MODE"\nfor word in "$@"; do echo "[$word]"; done\n')
    (tmp_path / "python").chmod(0o755)
    words = shlex.join(["study=kl", "arm='kl,coef=1'", "ppo.kl_coef=0.05", "data.path=/a b/$x", "seed=3"])
    (tree,) = [yaml.safe_load(wandb_sweep("kl_coef", [], 1))]
    done = subprocess.run(
        command(tree, words), env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, capture_output=True, text=True, check=True
    )
    expected = ["-m", "ablate.run", "study=kl", "arm='kl,coef=1'", "ppo.kl_coef=0.05", "data.path=/a b/$x", "seed=3"]
    assert done.stdout.splitlines() == ["online", *(f"[{word}]" for word in expected)]


def test_the_command_prints_the_sweep_and_overrides_replace_the_studys(capsys):
    main(["export", "kl_coef", "--format", "wandb", "--seeds", "2", "ppo.updates=7"])
    tree = yaml.safe_load(capsys.readouterr().out)
    values = tree["parameters"]["overrides"]["values"]
    assert (tree["method"], tree["name"], len(values)) == ("grid", "kl_coef", 6)
    assert all("ppo.updates=7" in value for value in values) and values[1].endswith("seed=1")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["klcoef"], "sweep=klcoef is not a study: did you mean kl_coef?"),
        (["kl_coef", "--seeds", "0"], "--seeds 0 makes no run: give 1 or more"),
        (["kl_coef", "ppo.kl_coeff=1"], "ppo.kl_coeff is not a setting: did you mean ppo.kl_coef?"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(arguments, said):
    with pytest.raises(SystemExit) as ended:
        main(["export", *arguments])
    assert said in str(ended.value.code)


def test_the_help_of_export_takes_no_composition():
    done = subprocess.run([sys.executable, "-m", "ablate.sweeps", "export", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "wandb agent" in done.stdout
