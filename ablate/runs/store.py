"""The writer of a run folder, which is the record of a run; wandb only mirrors it. No torch here.

results/<study>/<arm>/seed=<n>/
  config.yaml      every setting, resolved, the hash of those that decide the numbers, digests of what they name, and what computes these
  metrics.jsonl    a flat object per update, written before the next update starts
  scores.jsonl     at each evaluation, a row per held-out prompt
  samples.jsonl    at each evaluation, some responses as text
  tokens.jsonl     at each evaluation, fewer of them token by token
  stages.json      the folders of the stages that the run starts from
  reward_model/    training.jsonl and pairs.csv of the reward model used
  checkpoints/<update>/
  summary.json     written last
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import yaml

from ablate.config import Config
from ablate.errors import UserError
from ablate.runs.content import content, named
from ablate.runs.folder import STREAMS, checkpoint_folder, checkpoints, read_config, read_numerics, run_folder
from ablate.runs.numerics import UNKNOWN, continued, numerics
from ablate.runs.summary import Outcome, RunSummary, write_summary
from ablate.runs.versions import git_commit, versions
from ablate.settings.identity import config_hash, first_difference, identity
from ablate.system.files import atomic_file, open_to_append, remove, write_atomically, writing
from ablate.system.jsonl import finite, to_lines
from ablate.system.locks import try_lock

STAGES = ("reward_model", "preferences")  # folders for the records of stages


def config_text(config: Config, made_by: Sequence[dict] = ()) -> str:
    """What config.yaml holds: every setting, the run's identity and its hash, digests of what the settings name outside this package
    (`ablate.runs.content`), and the records of `ablate.runs.numerics`.
    """
    tree = {**asdict(config), "identity": identity(config), "hash": config_hash(config)}
    if named(config):
        tree["content"] = content(config)
    if made_by:
        tree["numerics"] = list(made_by)
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


class RunStore:
    """The one writer of a run folder. It keeps the JSONL files open, and with them a lock on the folder, until `close`."""

    def __init__(self, config: Config):
        """Make the folder, write config.yaml and remove the summary of an earlier attempt.

        Raises UserError for a folder of other settings, one that another process writes, and one that cannot be written.
        """
        self.folder = run_folder(config)
        self.hash = config_hash(config)
        known = read_config(self.folder)
        if known is not None and known["hash"] != self.hash:
            difference = first_difference(known["identity"], identity(config))
            raise UserError(f"{self.folder} belongs to other settings ({difference}): set study=<name> or remove it")
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            refuse_links(self.folder)
            self.handles = {name: open_to_append(self.folder / name) for name in STREAMS}
            if not try_lock(self.handles["metrics.jsonl"]):
                self.close()
                raise UserError(f"{self.folder} is being written by another process: wait for it, or set study=<name>")
            for abandoned in self.folder.glob(".*.partial"):  # by a process that was killed while it wrote a file
                remove(abandoned)
            earlier = (read_numerics(self.folder) or [UNKNOWN]) if self.checkpoints() else []
            self.numerics = continued(earlier, numerics(config.threads))
            write_atomically(self.folder / "config.yaml", config_text(config, self.numerics))
            remove(self.folder / "summary.json")

    def append(self, stream: str, rows: Iterable[dict]) -> None:
        """Append rows to a JSONL file, in one write where the system takes it, so that a kill can tear only the last line.

        Raises UserError where the disk is full.
        """
        data = to_lines(finite(row) for row in rows).encode()
        with writing(self.folder):
            while data:  # a disk that is nearly full takes a part first
                data = data[self.handles[stream].write(data) :]

    def offsets(self) -> dict[str, int]:
        """The size of each JSONL file in bytes, which a checkpoint keeps."""
        return {name: os.fstat(handle.fileno()).st_size for name, handle in self.handles.items()}

    def truncate_to(self, offsets: dict[str, int]) -> None:
        """Cut off what was written after a checkpoint. Raises UserError for a file that is shorter than it was then.

        A file that `offsets` lacks is emptied: the checkpoint is of a version that did not write it.
        """
        for name, handle in self.handles.items():
            offset = offsets.get(name, 0)
            if os.fstat(handle.fileno()).st_size < offset:
                raise UserError(f"{self.folder / name} is shorter than at the last checkpoint: remove the run folder to start again")
            if offset and os.pread(handle.fileno(), 1, offset - 1) != b"\n":
                raise UserError(f"{self.folder / name} has no row that ends at the last checkpoint: remove the run folder to start again")
            os.ftruncate(handle.fileno(), offset)

    def checkpoint_folder(self, update: int) -> Path:
        """Where the checkpoint of an update is kept."""
        return checkpoint_folder(self.folder, update)

    def checkpoints(self) -> list[int]:
        """The updates that have a checkpoint, the newest last."""
        return checkpoints(self.folder)

    def prune(self, keep: int) -> None:
        """Remove all checkpoints but the newest `keep`; 0 keeps all of them. Raises UserError."""
        with writing(self.folder):
            for update in self.checkpoints()[:-keep] if keep else []:
                shutil.rmtree(self.checkpoint_folder(update))

    def copy_stage(self, name: str, source: Path, files: Sequence[str]) -> None:
        """Copy small records of a stage into the run folder, to `name`; files that the stage lacks are left out. Raises UserError."""
        target = self.folder / name
        with writing(target):
            target.mkdir(exist_ok=True)
            for file in files:
                if (source / file).is_file():
                    with atomic_file(target / file) as partial:
                        shutil.copyfile(source / file, partial)

    def name_stages(self, folders: dict[str, Path | tuple[Path, ...] | None]) -> None:
        """Write stages.json: the folder, or the folders of an ensemble, of each stage that the run starts from. Raises UserError."""
        named = {name: folder for name, folder in folders.items() if folder != ()}
        with writing(self.folder):
            text = json.dumps(
                {
                    name: [str(each.resolve()) for each in folder] if isinstance(folder, tuple) else folder and str(folder.resolve())
                    for name, folder in named.items()
                },
                indent=1,
            )
            write_atomically(self.folder / "stages.json", text)

    def finish(self, outcome: Outcome) -> RunSummary:
        """Write summary.json, the last file of a run, and close the folder. Raises UserError if it cannot be written."""
        *earlier, now = self.numerics
        made_by = {**now, "earlier": earlier} if earlier else now
        summary = RunSummary(**outcome, versions=versions(), git_commit=git_commit(), config_hash=self.hash, numerics=made_by)
        with writing(self.folder):
            write_summary(self.folder, summary)
        self.close()
        return summary

    def close(self) -> None:
        """Close the files, which gives up the lock on the folder."""
        for handle in self.handles.values():
            handle.close()


def refuse_links(folder: Path) -> None:
    """Refuse a run folder in which a link stands where the run writes or prunes, since that would reach out of it. Raises UserError."""
    kept = folder / "checkpoints"
    written = [folder / name for name in (*STREAMS, *STAGES, "judgements", "run.log")]
    for path in (*written, kept, *(kept.iterdir() if kept.is_dir() and not kept.is_symlink() else ())):
        if path.is_symlink():
            raise UserError(f"{path} is a link, which a run does not write through: move what it leads to into its place, or remove it")
        if path.exists() and path.is_dir() != (path.name not in STREAMS) and path.parent == folder and path.name != "run.log":
            raise UserError(f"{path} is of another kind than a run makes: remove it")


class ReadOnlyRunStore:
    """The run folder in a process that does not write it, because the main process of the same run does (`ablate.system.distributed`).

    It has the methods of RunStore that a trainer calls; those that would write do nothing.
    """

    def __init__(self, config: Config):
        self.folder = run_folder(config)
        self.hash = config_hash(config)

    def append(self, stream: str, rows: Iterable[dict]) -> None:
        """Do nothing: the main process writes the rows."""

    def offsets(self) -> dict[str, int]:
        """An empty dict, since no file is open here."""
        return {}

    def truncate_to(self, offsets: dict[str, int]) -> None:
        """Do nothing: no file is open here."""

    def checkpoint_folder(self, update: int) -> Path:
        """Where the checkpoint of an update is kept."""
        return checkpoint_folder(self.folder, update)

    def prune(self, keep: int) -> None:
        """Do nothing: the main process removes checkpoints."""

    def name_stages(self, folders: dict[str, Path | tuple[Path, ...] | None]) -> None:
        """Do nothing: the main process writes the file."""

    def copy_stage(self, name: str, source: Path, files: Sequence[str]) -> None:
        """Do nothing: the main process copies the records."""

    def finish(self, outcome: Outcome) -> Outcome:
        """Return the outcome; the main process writes it."""
        return outcome
