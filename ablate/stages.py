"""The cache of stages: list it, remove entries from it, or build one stage without a run.

python -m ablate.stages                                        # list the entries
python -m ablate.stages prune --older-than 30                  # remove those that no run has used for 30 days
python -m ablate.stages build reward_model gold pipeline_seed=1 # put a second reward model into the folder gold
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from ablate.config import Config
from ablate.errors import UserError
from ablate.pipeline.cache import check_entry, entries, leftovers, read_stamp, remove
from ablate.runs.compose import composed, composing
from ablate.settings.fields import flat, spelled
from ablate.settings.overrides import check_overrides, quoted
from ablate.settings.validation import validate
from ablate.sweeps.expand import by_setting, expand, pipeline_key
from ablate.sweeps.study import load_study
from ablate.sweeps.table import duration
from ablate.system.commands import announce, command_errors
from ablate.system.files import atomic_folder

# stage → the field of `ablate.pipeline.build.Stages` that holds its folder
STAGES = {"pretrain": "pretrained", "sft": "sft", "preferences": "preferences", "reward_model": "reward_model"}
DAY = 86_400.0  # seconds
HEADER = ("stage", "key", "size", "last used", "settings that differ from the defaults")


def differing(settings: dict, defaults: dict) -> Iterator[str]:
    """`setting=value` for each setting of a stage that is not at its default, as the command line has it."""
    standard = dict(flat(defaults))
    return (f"{name}={spelled(value)}" for name, value in flat(settings) if value != standard.get(name))


def row(entry: Path, now: float) -> tuple[str, ...]:
    """One line of the listing. Size is that of the files' content."""
    stage, _, key = entry.name.rpartition("-")
    size = sum(path.stat().st_size for path in entry.rglob("*") if path.is_file())
    try:
        check_entry(entry)
        defaults = asdict(Config()) | {"device": "cpu"}  # an entry knows the device it was built on, never `auto`
        settings = " ".join(differing(read_stamp(entry)["settings"], defaults)) or "–"
    except UserError:
        settings = "damaged: prune removes it"
    return stage, key, f"{size / 1e6:.1f} MB", f"{duration(max(now - entry.stat().st_mtime, 0))} ago", settings


def listing(cache: Path) -> str:
    """Every entry of the cache, the least recently used first, and their sum."""
    found = entries(cache)
    if not found:
        return f"no stages in {cache}"
    rows = [HEADER, *(row(entry, time.time()) for entry in found)]
    widths = [max(len(line[i]) for line in rows) for i in range(len(HEADER) - 1)]
    lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]) for line in rows]
    return "\n".join([*lines, f"{len(found)} stages in {cache}"])


def unusable(entry: Path) -> bool:
    """Whether an entry is damaged."""
    try:
        check_entry(entry)
    except UserError:
        return True
    return False


def prune(cache: Path, older_than: float | None, everything: bool) -> tuple[list[str], list[str]]:
    """Remove damaged entries and what killed builders left; also entries not used for `older_than` days, or all of them.

    Returns the names that were removed, and those that were kept because another process is building them.
    """
    now = time.time()
    chosen = set(leftovers(cache))
    for entry in entries(cache):
        unused = older_than is not None and now - entry.stat().st_mtime > older_than * DAY
        if everything or unused or unusable(entry):
            chosen.add(entry)
    outcome = {entry.name: remove(entry) for entry in sorted(chosen)}
    return [name for name, done in outcome.items() if done], [name for name, done in outcome.items() if not done]


def build_stage(stage: str, overrides: Sequence[str], to: Path, cache: Path) -> str:
    """Copy the stage of these settings to the folder `to`, after it has been built if the cache lacks it. Raises UserError.

    cache: the folder of the cache, unless the overrides name another. Returns a sentence that says what was done.
    """
    config = settings(overrides)
    if not any(override.startswith("cache=") for override in overrides):
        config.cache = str(cache)
    validate(config)
    announce(f"building the {stage}, or finding it in {config.cache}, for {to}")
    from ablate.session import prepare

    source: Path | None = getattr(prepare(config), STAGES[stage])
    if source is None:
        raise UserError(f"these settings build no {stage}, since a later stage is given: leave sft.path and reward_model.path out")
    if to.exists():
        if content(to) == content(source):
            return f"{to} holds this {stage} already"
        raise UserError(f"{to} exists and holds something else: remove it, or name another folder")
    try:
        with atomic_folder(to) as partial:
            shutil.copytree(source, partial, dirs_exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {to} ({error.strerror}): free space or name another folder") from error
    return f"wrote {to}"


def settings(overrides: Sequence[str]) -> Config:
    """The Config whose stages are meant; `sweep=` stands for the settings of a study whose arms share their stages. Raises UserError.

    `gold.path` is set to null, since no stage reads the gold model.
    """
    overrides = [quoted(override) for override in overrides]
    check_overrides(overrides)
    chosen = by_setting([*overrides, "gold.path=null"])
    name = chosen.pop("sweep", "sweep=null").partition("=")[2]
    study = None if name == "null" else load_study(name)
    with composing():
        configs = [composed(job) for job in expand(study, {key: [value] for key, value in chosen.items()}, preset="ppo_max")]
    if len({pipeline_key(config) for config in configs}) > 1:
        raise UserError(f"the arms of sweep={name} do not share their stages: leave sweep= out and name the settings of one arm")
    return configs[0]


def content(folder: Path) -> dict[str, bytes]:
    """The name of each file in a folder → its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m ablate.stages", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, default=Path(Config.cache), help="folder of the stages (default: %(default)s)")
    commands = parser.add_subparsers(dest="command")
    removal = commands.add_parser("prune", help="remove damaged entries and what killed builders left, and more if asked")
    which = removal.add_mutually_exclusive_group()
    which.add_argument("--older-than", type=float, metavar="DAYS", help="also entries that no run has used for so long")
    which.add_argument("--all", action="store_true", help="every entry")
    building = commands.add_parser("build", help="build one stage without a run, for instance a second reward model to be gold")
    building.add_argument("stage", choices=STAGES)
    building.add_argument("to", type=Path, metavar="FOLDER", help="where a copy of the stage is put")
    building.add_argument("overrides", nargs="*", metavar="setting=value", help="as for ablate.run; sweep=STUDY takes a study's settings")
    asked = parser.parse_args(arguments)
    if asked.command == "build":
        with command_errors():
            print(build_stage(asked.stage, asked.overrides, asked.to, asked.cache))
        return
    cache = asked.cache.expanduser()
    if asked.command is None:
        print(listing(cache))
        return
    removed, busy = prune(cache, asked.older_than, asked.all)
    lines = [*(f"removed {name}" for name in removed), *(f"kept {name}: it is being built" for name in busy)]
    print("\n".join(lines) or "nothing to remove")


if __name__ == "__main__":
    main(sys.argv[1:])
