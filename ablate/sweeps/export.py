"""A study as a sweep of wandb, for those who run its agents."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import yaml

from ablate.errors import UserError
from ablate.runs.compose import composed, composing
from ablate.settings.arms import DEFAULT_OPTIONS
from ablate.settings.overrides import check_overrides, quoted
from ablate.sweeps.expand import by_setting, distinct, expand, refuse_invalid
from ablate.sweeps.study import load_study

# An agent writes `overrides=<words>` in the place of ${args_no_hyphens}: the shell makes the arguments of one run of it. The agent knows
# its runs by the server, so they are online; wandb itself gives each the id that the agent has for it.
SHELL = 'eval "exec $0 -m ablate.run ${1#overrides=}"'
COMMAND = ("${env}", "WANDB_MODE=online", "sh", "-c", SHELL, "${interpreter}", "${args_no_hyphens}")


def wandb_sweep(name: str, given: Sequence[str], seeds: int) -> str:
    """The YAML of `wandb sweep`: a grid over one parameter, `overrides`, with a value per arm and seed, which is what follows
    `python -m ablate.run` for that run.

    given: overrides of all arms, which replace those of the study. Raises UserError for an unknown study and for settings that are refused.
    """
    if seeds < 1:
        raise UserError(f"--seeds {seeds} makes no run: give 1 or more")
    overrides = [quoted(override) for override in given]
    check_overrides(overrides)
    study = load_study(name)
    jobs = expand(study, {key: [override] for key, override in by_setting(overrides).items()}, DEFAULT_OPTIONS["ppo"])
    every = [(*job, f"seed={seed}") for job in jobs for seed in range(seeds)]
    with composing():
        configs = [composed(job) for job in every]
    refuse_invalid(configs)
    kept, _ = distinct(configs)
    tree = {
        "name": study.name,
        "description": study.question,
        "program": "ablate.run",
        "command": list(COMMAND),
        "method": "grid",
        "metric": {"name": "eval/gold", "goal": "maximize"},
        "parameters": {"overrides": {"values": [shlex.join(every[index]) for index in kept]}},
    }
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=10_000)
