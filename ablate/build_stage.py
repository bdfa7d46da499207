"""One stage without a run: `python -m ablate.stages build reward_model FOLDER sweep=hh preferences.half=second`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ablate.config import Config
from ablate.errors import UserError
from ablate.runs.compose import composed, composing
from ablate.settings.overrides import check_overrides, quoted
from ablate.settings.validation import validate
from ablate.sweeps.__main__ import expand, load_study, pipeline_key

STAGES = {"pretrain": "pretrained", "sft": "sft", "preferences": "preferences", "reward_model": "reward_model"}


def build_stage(stage: str, overrides: Sequence[str], to: Path, cache: Path) -> str:
    """Copy the stage of these settings, built if the cache has none, to the folder `to`; a line that says so. Raises UserError.

    cache: unless the overrides name another.
    """
    config = settings(overrides)
    if not any(override.startswith("cache=") for override in overrides):
        config.cache = str(cache)
    validate(config)
    from ablate.session import prepare

    source: Path = getattr(prepare(config), STAGES[stage])
    if to.exists():
        if content(to) == content(source):
            return f"{to} holds this {stage} already"
        raise UserError(f"{to} exists and holds something else: remove it, or name another folder")
    partial = to.with_name(f".{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, partial)
        os.replace(partial, to)
    except OSError as error:
        raise UserError(f"cannot write {to} ({error.strerror}): free space or name another folder") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return f"wrote {to}"


def settings(overrides: Sequence[str]) -> Config:
    """The Config whose stages are meant; `sweep=` brings the settings of a study whose arms all share them. Raises UserError.

    A gold model judges runs alone, so none is looked for.
    """
    overrides = [quoted(override) for override in overrides]
    check_overrides(overrides)
    chosen = {override.partition("=")[0]: override for override in [*overrides, "gold.path=null"]}
    name = chosen.pop("sweep", "sweep=null").partition("=")[2]
    study = None if name == "null" else load_study(name)
    with composing():
        configs = [composed(job) for job in expand(study, {key: [value] for key, value in chosen.items()}, preset="ppo_max")]
    if len({pipeline_key(config) for config in configs}) > 1:
        raise UserError(f"the arms of sweep={name} do not share their stages: leave sweep= out and name the settings of one arm")
    return configs[0]


def content(folder: Path) -> dict[str, bytes]:
    """File → bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
