"""Reuse finished runs of the same settings from other studies. Many studies have an arm of vanilla PPO, which is then computed once."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from ablate.config import Config
from ablate.errors import UserError
from ablate.runs.content import content, named
from ablate.runs.folder import STREAMS, read_content, run_folder
from ablate.runs.store import config_text
from ablate.runs.summary import FINISHED, read_summary, write_summary
from ablate.runs.versions import versions
from ablate.settings.identity import config_hash
from ablate.system.files import write_atomically, writing


def take_over(configs: Iterable[Config]) -> int:
    """Copy the result of each run that another study in its results folder has finished. Returns their number.

    Two runs are the same if their config hashes, their package versions and the content of what they name are equal. A run folder that
    exists is not touched, since the run goes on from the rows and checkpoints in it. Raises UserError if a folder cannot be written.
    """
    configs = list(configs)
    finished = {results: finished_runs(Path(results)) for results in {config.results for config in configs}}
    taken = 0
    for config in configs:
        equal = finished[config.results].get(config_hash(config), ())
        source = next((folder for folder in equal if has_content(folder, config)), None)
        if source is not None and not run_folder(config).exists():
            copy_run(source, config)
            taken += 1
    return taken


def has_content(folder: Path, config: Config) -> bool:
    """Whether a run was computed from the content that the settings name now, which the record of an older version does not tell."""
    if not named(config):
        return True
    now = content(config)
    try:
        return now.keys() == named(config).keys() and read_content(folder) == now
    except UserError:  # a damaged config.yaml; the run's own study reports it
        return False


def finished_runs(results: Path) -> dict[str, list[Path]]:
    """Config hash → folders of finished runs in `results` with the package versions of this process, in the order of their names."""
    found: dict[str, list[Path]] = {}
    here = versions()
    for path in sorted(results.glob("*/*/seed=*/summary.json")):
        try:
            summary = read_summary(path.parent)
        except UserError:  # a damaged summary; the run's own study reports it
            continue
        if summary is not None and summary["status"] in FINISHED and summary.get("versions") == here:
            found.setdefault(summary["config_hash"], []).append(path.parent)
    return found


def copy_run(source: Path, config: Config) -> None:
    """Copy the records of a finished run to the folder of `config`, the summary last. Checkpoints are not copied.

    `taken_from` in the summary is the folder of the run that was computed, relative to the results folder.
    Raises UserError if the folder cannot be written.
    """
    target = run_folder(config)
    with writing(target):
        target.mkdir(parents=True)
        write_atomically(target / "config.yaml", config_text(config))
        for name in STREAMS:
            shutil.copyfile(source / name, target / name)
        if (source / "stages.json").is_file():  # runs of older versions have none
            shutil.copyfile(source / "stages.json", target / "stages.json")
        if (source / "reward_model").is_dir():
            shutil.copytree(source / "reward_model", target / "reward_model")
        summary = read_summary(source)
        assert summary is not None  # `finished_runs` has read it
        origin = summary.get("taken_from", source.relative_to(config.results).as_posix())
        write_summary(target, {**summary, "study": config.study, "arm": config.arm, "taken_from": origin})
