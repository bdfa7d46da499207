"""A study or plain choices, expanded to the jobs of a sweep."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product

from ablate.config import Config
from ablate.errors import UserError
from ablate.settings.arms import arm_name, changing
from ablate.settings.fields import flat, spelled
from ablate.settings.identity import PPO_ONLY, config_hash, identity, inert
from ablate.settings.validation import validate
from ablate.sweeps.study import Study

# Settings that no shared stage reads. Runs that differ in these alone share their SFT model, preference pairs and reward model.
OUTSIDE_PIPELINE = ("critic", "ppo", "evaluation", "collapse", "bugs", "seed", "fork")


def expand(study: Study | None, choices: Mapping[str, Sequence[str]], preset: str) -> list[tuple[str, ...]]:
    """The jobs of a study, or of plain choices. A job is its overrides, `study=` and `arm=` among them.

    choices: the user's overrides, setting → `setting=value` per value. They replace those of the study, and every combination of
    them is crossed with every arm. Of several settings the last varies fastest; arms and grid vary faster than the choices.
    preset: the name of an arm that no override names.
    """
    arms, grid, base = (study.arms, study.grid, study.base) if study else ({"": ()}, {}, ())
    crossed = [[f"{key}={spelled(value)}" for value in values] for key, values in grid.items() if key not in choices]
    jobs = []
    for mine in product(*choices.values()):
        for arm, own in arms.items():
            for point in product(*crossed):
                planned = by_setting(base) | by_setting(own) | by_setting(point)
                settings = planned | dict(zip(choices, mine, strict=True))
                name = arm_name([*point, *changing(mine, list(planned.values()))], preset, sweep_arm=arm or None)
                if study:
                    settings.setdefault("study", f"study={study.name}")
                settings.setdefault("arm", f"arm='{name}'")  # quoted: the name holds = and ,
                jobs.append(tuple(settings.values()))
    return jobs


def by_setting(overrides: Sequence[str]) -> dict[str, str]:
    """Setting → its override, `setting=value`. Of several overrides of one setting the last counts."""
    return {override.partition("=")[0]: override for override in overrides}


def refuse_invalid(configs: Sequence[Config]) -> None:
    """Check every configuration. Raises UserError if `validate` refuses any; the message names all of them, with the reasons."""
    refused = {}
    for config in configs:
        try:
            validate(config)
        except UserError as error:
            refused[config.arm] = str(error)
    if refused:
        reasons = "\n".join(f"  {arm}: {reason}" for arm, reason in refused.items())
        raise UserError(f"nothing was started, because of these arms:\n{reasons}")


def distinct(configs: Sequence[Config]) -> tuple[list[int], list[str]]:
    """Indices of the jobs to run, and one sentence per arm that equals another arm under these settings.

    Within a study, jobs with equal `config_hash` are the same run, and the first is kept. Raises UserError if two different runs
    would be written to one folder.
    """
    first: dict[tuple[str, str], int] = {}
    folders: dict[tuple[str, str | None, int], int] = {}
    notes: list[str] = []
    for index, config in enumerate(configs):
        same = first.setdefault((config.study, config_hash(config)), index)
        if same != index:
            note = f"{config.arm} is {configs[same].arm} under these settings{why_equal(config, configs[same])}: run once"
            if config.arm != configs[same].arm and note not in notes:
                notes.append(note)
            continue
        if folders.setdefault((config.study, config.arm, config.seed), index) != index:
            raise UserError(f"two different runs would be written to arm={config.arm} seed={config.seed}: leave arm= out")
    return sorted(first.values()), notes


def why_equal(one: Config, other: Config) -> str:
    """`, since ppo.kl_coef acts only with ppo.kl_penalty=true` for the settings in which two configs of one run differ; "" without any."""
    here, there = dict(flat(asdict(one))), dict(flat(asdict(other)))
    reasons = inert(one, [name for name in here if here[name] != there[name]]).values()
    return f", since {' and '.join(reasons)}" if reasons else ""


def at_once(configs: Sequence[Config]) -> int:
    """How many of these runs are active at once: the setting `jobs`, or else the cores of this process divided by the largest `threads`."""
    return configs[0].jobs or max(1, cores() // max(config.threads for config in configs))


def pipeline_key(config: Config) -> str:
    """The settings that the shared stages read, as text. Runs with equal keys share their stages."""
    tree = identity(config)
    tree["model"] = {name: value for name, value in tree["model"].items() if name not in PPO_ONLY}
    return repr(sorted((key, value) for key, value in tree.items() if key not in OUTSIDE_PIPELINE))


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
