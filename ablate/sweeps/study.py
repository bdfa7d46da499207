"""The study files `sweeps/*.yaml`: reading and checking them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from hydra.core.override_parser.types import Glob

from ablate.errors import UserError
from ablate.settings.fields import cut, spelled
from ablate.settings.groups import sweep_folder, sweep_names
from ablate.settings.overrides import parsed, reason, values
from ablate.system.reading import read_yaml

KEYS = ("question", "figure", "claim", "base", "arms", "grid")
SEARCH = "tune_"  # how the name of a search begins


@dataclass(frozen=True)
class Study:
    """One question: the overrides of all arms (`base`), those of each arm (`arms`), and values crossed with every arm (`grid`)."""

    name: str
    question: str
    figure: str = ""  # of the paper
    claim: str = ""
    base: tuple[str, ...] = ()
    arms: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"": ()})
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


def study_names() -> list[str]:
    return [name for name in sweep_names() if not name.startswith(SEARCH)]


def load_study(name: str) -> Study:
    """Read one study. Raises UserError for an unknown name, whose message lists the studies, and for a file of another form."""
    if name not in study_names():
        if name in sweep_names():
            raise UserError(f"sweep={name} is a search, not a study: run python -m ablate.tune sweep={name}")
        near = get_close_matches(name, study_names(), n=1)
        meant = f"did you mean {near[0]}? The studies are" if near else "the studies are"
        raise UserError(f"sweep={cut(name)} is not a study: {meant} {', '.join(study_names())}")
    content = read_mapping(name)
    if "question" not in content:
        raise UserError(f"sweeps/{name}.yaml lacks the key question: add what the study asks")
    for key in content:
        if key not in KEYS:
            raise UserError(f"sweeps/{name}.yaml has the unknown key {cut(str(key))}: it may hold {', '.join(KEYS)}")
    base, arms, grid = content.get("base") or [], content.get("arms") or {"": []}, content.get("grid") or {}
    if not isinstance(base, list) or not isinstance(arms, dict) or not isinstance(grid, dict):
        raise UserError(f"sweeps/{name}.yaml: base must be a list of overrides, arms and grid mappings to lists")
    for key, entries in [*arms.items(), *grid.items()]:
        if not isinstance(entries or [], list):
            raise UserError(f"sweeps/{name}.yaml: {cut(str(key))} must be a list: write [{cut(str(entries))}]")
    return Study(
        name=name,
        base=tuple(map(str, base)),
        arms={str(arm): tuple(map(str, overrides or ())) for arm, overrides in arms.items()},
        grid={str(key): tuple(values or ()) for key, values in grid.items()},
        **{key: str(content.get(key) or "") for key in ("question", "figure", "claim")},
    )


def read_mapping(name: str) -> dict:
    """The mapping in sweeps/<name>.yaml. Raises UserError for a file that is none."""
    try:
        content = read_yaml(sweep_folder() / f"{name}.yaml")
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"sweeps/{name}.yaml is not readable ({reason(error)}): correct or remove it") from error
    if not isinstance(content, dict):
        raise UserError(f"sweeps/{name}.yaml is no mapping of keys: it may hold {', '.join(KEYS)}")
    return content


def check_sweep_choice(overrides: Sequence[str], multirun: bool) -> None:
    """Check `sweep=` before Hydra composes anything. Raises UserError for an unknown study, and for a study without `-m`.

    overrides: the arguments of the command line, of which only those that begin with `sweep=` are read.
    """
    for argument in overrides:
        if argument.startswith("sweep=") and argument != "sweep=null":
            override = parsed(argument)
            pattern = override.value()
            for name in pattern.filter(study_names()) if isinstance(pattern, Glob) else values(override):
                load_study(spelled(name))
            if not multirun:
                raise UserError(f"{argument} is a study of several arms: add -m to run them all")


def register() -> None:
    """Put every study in Hydra's ConfigStore as group `sweep`, so that `--help` and completion show them."""
    from hydra.core.config_store import ConfigStore

    for name in study_names():
        ConfigStore.instance().store(group="sweep", name=name, node=described(name), provider="ablate")


def described(name: str) -> dict[str, str]:
    """What a study asks and claims. A file that cannot be read has nothing here, so that it disturbs the command that chooses it alone."""
    try:
        study = load_study(name)
    except UserError:
        return {}
    return {"question": study.question, "figure": study.figure, "claim": study.claim}
