"""The study files `sweeps/*.yaml`: reading and checking them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from typing import Any

import yaml
from hydra.core.override_parser.types import Glob

from ablate.errors import UserError
from ablate.settings.fields import cut, spelled
from ablate.settings.groups import sweep_folder, sweep_names
from ablate.settings.overrides import parsed, values

SEARCH = "tune_"  # how the name of a search begins


@dataclass(frozen=True)
class Study:
    """One question: the overrides of all arms (`base`), those of each arm (`arms`), and values crossed with every arm (`grid`)."""

    name: str
    question: str
    figure: str
    claim: str
    base: tuple[str, ...] = ()
    arms: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"": ()})
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


def study_names() -> list[str]:
    return [name for name in sweep_names() if not name.startswith(SEARCH)]


def load_study(name: str) -> Study:
    """Read one study. Raises UserError for an unknown name, whose message lists the studies, and for a file with other keys."""
    if name not in study_names():
        if name in sweep_names():
            raise UserError(f"sweep={name} is a search, not a study: run python -m ablate.tune sweep={name}")
        near = get_close_matches(name, study_names(), n=1)
        meant = f"did you mean {near[0]}? The studies are" if near else "the studies are"
        raise UserError(f"sweep={cut(name)} is not a study: {meant} {', '.join(study_names())}")
    content = yaml.safe_load((sweep_folder() / f"{name}.yaml").read_text(encoding="utf-8"))
    known = {"question", "figure", "claim", "base", "arms", "grid"}
    if set(content) - known or not {"question", "figure", "claim"} <= set(content):
        raise UserError(f"sweeps/{name}.yaml must hold question, figure, claim, base and arms or grid, and no other key")
    arms = {str(arm): tuple(overrides or ()) for arm, overrides in content.get("arms", {"": ()}).items()}
    grid = {key: tuple(values) for key, values in content.get("grid", {}).items()}
    texts = {key: str(content[key]) for key in ("question", "figure", "claim")}
    return Study(name=name, base=tuple(content.get("base") or ()), arms=arms, grid=grid, **texts)


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
        node = {key: value for key, value in asdict(load_study(name)).items() if key in ("question", "figure", "claim")}
        ConfigStore.instance().store(group="sweep", name=name, node=node, provider="ablate")
