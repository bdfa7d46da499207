"""Reuse finished runs of the same settings from other studies. Many studies have an arm of vanilla PPO, which is then computed once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from ablate.config import Config
from ablate.errors import UserError
from ablate.runs.content import content, named
from ablate.runs.folder import STREAMS, read_content, run_folder
from ablate.runs.numerics import UNKNOWN, code_fingerprint
from ablate.runs.store import config_text
from ablate.runs.summary import FINISHED, read_summary, write_summary
from ablate.runs.versions import versions
from ablate.settings.identity import config_hash
from ablate.system.files import write_atomically, writing
from ablate.system.reading import check_plain


def take_over(configs: Iterable[Config]) -> int:
    """Copy the result of each run that another study in its results folder has finished. Returns their number.

    Two runs are the same if their config hashes, their package versions, the code that computed them (`ablate.runs.numerics`) and the
    content of what they name are equal. A run folder that exists is not touched, since the run goes on from the rows and checkpoints
    in it. Raises UserError if a folder cannot be written.
    """
    configs = list(configs)
    finished = {}
    for results in sorted({config.results for config in configs}):
        finished[results], left_out = finished_runs(Path(results))
        for reason in left_out:
            print(f"not taken over: {reason}")
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


def finished_runs(results: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """Config hash → folders of finished runs in `results` with the package versions and code of this process, in the order of their names.

    The second value has a sentence per damaged run, which is none of them.
    """
    found: dict[str, list[Path]] = {}
    left_out: list[str] = []
    here = versions()
    for path in sorted(results.glob("*/*/seed=*/summary.json")):
        try:
            summary = read_summary(path.parent)
            if summary is None or summary["status"] not in FINISHED or summary.get("versions") != here or "config_hash" not in summary:
                continue
            if summary.get("numerics", UNKNOWN).get("code") != code_fingerprint():
                continue
            for name in STREAMS:
                check_plain(os.stat(path.parent / name))
        except UserError as error:
            left_out.append(str(error))
        except (OSError, ValueError) as error:
            left_out.append(f"{path.parent} ({error})")
        else:
            found.setdefault(summary["config_hash"], []).append(path.parent)
    return found, left_out


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
        records = [source / "stages.json", *(source / "reward_model").glob("*")]  # runs of older versions lack the first
        for path in records:
            if path.is_file():
                (target / path.relative_to(source)).parent.mkdir(exist_ok=True)
                shutil.copyfile(path, target / path.relative_to(source))
        summary = read_summary(source)
        assert summary is not None  # `finished_runs` has read it
        origin = summary.get("taken_from", source.relative_to(config.results).as_posix())
        write_summary(target, {**summary, "study": config.study, "arm": config.arm, "taken_from": origin})
