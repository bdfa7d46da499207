"""Studies: what `sweeps/*.yaml` says, and the jobs it expands to. `python -m ablate.sweeps` lists them.

A file named `tune_…` is no study but a search for `python -m ablate.tune`, and is read by `ablate.tune.space`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from ablate.config import Config, PPOConfig
from ablate.errors import UserError
from ablate.runs.store import read_config, read_summary
from ablate.settings.arms import arm_name
from ablate.settings.validation import config_hash, identity, validate
from ablate.sweeps.table import duration

SEARCH = "tune_"  # how the name of a search begins
# Settings that no shared stage reads: runs that differ in these alone are built on the same SFT model, pairs and RM.
OUTSIDE_PIPELINE = ("ppo", "evaluation", "collapse", "bugs", "seed", "fork")


@dataclass(frozen=True)
class Study:
    """One question: the overrides common to all arms, each arm's own, and values crossed with every arm."""

    name: str
    question: str
    figure: str
    claim: str
    base: tuple[str, ...] = ()
    arms: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"": ()})
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


def sweep_folder() -> Path:
    """The folder of the study files: `sweeps/` of a checkout, or where the wheel carries them."""
    package = Path(__file__).resolve().parent
    for folder in (package / "sweep_files", package.parent / "sweeps"):
        if folder.is_dir():
            return folder
    raise UserError("no study files were found beside the package: install it again, or run from a checkout")


def sweep_names() -> list[str]:
    """Everything that `sweep=` can name: studies, and searches."""
    return sorted(path.stem for path in sweep_folder().glob("*.yaml"))


def study_names() -> list[str]:
    return [name for name in sweep_names() if not name.startswith(SEARCH)]


def load_study(name: str) -> Study:
    """Read one study. UserError for a name that is none (naming them all) or a file of another form."""
    if name not in study_names():
        if name in sweep_names():
            raise UserError(f"sweep={name} is a search, not a study: run python -m ablate.tune sweep={name}")
        near = get_close_matches(name, study_names(), n=1)
        meant = f"did you mean {near[0]}? The studies are" if near else "the studies are"
        raise UserError(f"sweep={name} is not a study: {meant} {', '.join(study_names())}")
    content = yaml.safe_load((sweep_folder() / f"{name}.yaml").read_text(encoding="utf-8"))
    known = {"question", "figure", "claim", "base", "arms", "grid"}
    if set(content) - known or not {"question", "figure", "claim"} <= set(content):
        raise UserError(f"sweeps/{name}.yaml must hold question, figure, claim, base and arms or grid, and no other key")
    arms = {str(arm): tuple(overrides or ()) for arm, overrides in content.get("arms", {"": ()}).items()}
    grid = {key: tuple(values) for key, values in content.get("grid", {}).items()}
    texts = {key: str(content[key]) for key in ("question", "figure", "claim")}
    return Study(name=name, base=tuple(content.get("base") or ()), arms=arms, grid=grid, **texts)


def check_sweep_choice(overrides: Sequence[str], multirun: bool) -> None:
    """Refuse, before Hydra composes anything, a mistyped study, or a study in a single run.

    `overrides`: the command line's arguments; those that do not start with `sweep=` are passed over.
    """
    for argument in overrides:
        if argument.startswith("sweep=") and argument != "sweep=null":
            for name in argument.removeprefix("sweep=").split(","):
                load_study(name)
            if not multirun:
                raise UserError(f"{argument} is a study of several arms: add -m to run them all")


def expand(study: Study | None, choices: Mapping[str, Sequence[str]], preset: str) -> list[tuple[str, ...]]:
    """The jobs of a study, or of plain choices: for each, the overrides to compose, `study=` and `arm=` among them.

    choices: the user's overrides, setting → `setting=value` for each of its values. They win over the study's, and every
    combination of them meets every arm. Later settings vary fastest; arms and grid vary faster than the user's choices.
    preset: the name of an arm that nothing else names.
    """
    arms, grid, base = (study.arms, study.grid, study.base) if study else ({"": ()}, {}, ())
    crossed = [[f"{key}={_hydra_text(value)}" for value in values] for key, values in grid.items() if key not in choices]
    jobs = []
    for mine in product(*choices.values()):
        for arm, own in arms.items():
            for point in product(*crossed):
                settings = _by_setting(base) | _by_setting(own) | _by_setting(point) | dict(zip(choices, mine, strict=True))
                name = arm_name([*point, *mine], preset, sweep_arm=arm or None)
                if study:
                    settings.setdefault("study", f"study={study.name}")
                settings.setdefault("arm", f"arm='{name}'")  # quoted: the name holds = and ,
                jobs.append(tuple(settings.values()))
    return jobs


def _by_setting(overrides: Sequence[str]) -> dict[str, str]:
    return {override.partition("=")[0]: override for override in overrides}


def _hydra_text(value: Any) -> str:
    """A YAML value as Hydra's override grammar writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def refuse_invalid(configs: Sequence[Config]) -> None:
    """Raise one UserError that names every arm `validate` refuses, so that a sweep is mended in one go."""
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
    """Indices of the jobs to run, and a sentence for each arm that is another arm under these settings.

    Within a study, equal `config_hash` is the same run, and the first is kept. Two different runs that would share a folder
    are refused.
    """
    first: dict[tuple[str, str], int] = {}
    folders: dict[tuple[str, str | None, int], int] = {}
    notes: list[str] = []
    for index, config in enumerate(configs):
        same = first.setdefault((config.study, config_hash(config)), index)
        if same != index:
            note = f"{config.arm} is {configs[same].arm} under these settings: run once"
            if config.arm != configs[same].arm and note not in notes:
                notes.append(note)
            continue
        if folders.setdefault((config.study, config.arm, config.seed), index) != index:
            raise UserError(f"two different runs would be written to arm={config.arm} seed={config.seed}: leave arm= out")
    return sorted(first.values()), notes


def pipeline_key(config: Config) -> str:
    """Equal for runs whose shared stages are the same."""
    tree = identity(config)
    return repr(sorted((key, value) for key, value in tree.items() if key not in OUTSIDE_PIPELINE))


def responses(overrides: Sequence[str]) -> int:
    """Responses that a job samples; the presets share the updates and batch size that PPOConfig has by default."""
    settings = _by_setting(overrides)
    updates, batch = (
        int(settings[key].partition("=")[2]) if key in settings else default
        for key, default in (("ppo.updates", PPOConfig.updates), ("ppo.batch_size", PPOConfig.batch_size))
    )
    return updates * batch


def measured_speed(results: Path) -> float | None:
    """Median responses per second of the completed runs on the world under `results`, evaluation included; None where there is none."""
    speeds = []
    for path in results.glob("*/*/seed=*/summary.json"):
        summary, known = read_summary(path.parent), read_config(path.parent)
        if summary is None or known is None or summary["status"] != "completed" or known["data"]["source"] != "world":
            continue
        speeds.append(summary["updates"] * known["ppo"]["batch_size"] / summary["wall_seconds"])
    return median(speeds) if speeds else None


def listing(results: Path, at_a_time: int) -> str:
    """Every study with its figure, question, number of runs a seed, and the time of one seed of them once the stages are built.

    Last their sum. A run that two studies share is done once, so all together take less.
    """
    speed = measured_speed(results)
    lines, runs, seconds = [], 0, 0.0
    for name in study_names():
        study = load_study(name)
        jobs = expand(study, {}, preset="ppo_max")
        on_world = not any(setting.startswith(("data", "model")) for setting in study.base)
        time = "time not measured yet" if on_world else "its own model and data"
        if speed and on_world:
            estimate = sum(responses(job) for job in jobs) / speed / min(at_a_time, len(jobs))
            runs, seconds = runs + len(jobs), seconds + estimate
            time = f"about {duration(estimate)} a seed"
        figure = f"Fig. {study.figure}" if study.figure[0].isdigit() else study.figure
        lines += [f"{name}  ({figure}; {len(jobs)} runs a seed, {time})", f"    {study.question}"]
    if speed:
        lines.append(f"all on the world: {runs} runs, about {duration(seconds)} a seed, {duration(8 * seconds)} for 8 seeds")
    return "\n".join(lines)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def register() -> None:
    """Put every study in Hydra's ConfigStore as group `sweep`, so that `--help` and completion know them."""
    from hydra.core.config_store import ConfigStore

    for name in study_names():
        node = {key: value for key, value in asdict(load_study(name)).items() if key in ("question", "figure", "claim")}
        ConfigStore.instance().store(group="sweep", name=name, node=node, provider="ablate")


if __name__ == "__main__":
    print(listing(Path(sys.argv[1] if len(sys.argv) > 1 else "results"), at_a_time=cores()))
