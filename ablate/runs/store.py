"""The run folder, the truth about a run. No torch here; wandb only mirrors what is written.

results/<study>/<arm>/seed=<n>/
  config.yaml      every setting, resolved, and the hash of those that decide the numbers
  metrics.jsonl    a flat object an update, on disk before the next update starts
  scores.jsonl     at each evaluation, a row a held-out prompt
  samples.jsonl    at each evaluation, some answers as text
  stages.json      the folders of the stages that the run starts from
  reward_model/    training.jsonl and pairs.csv of the reward model used
  checkpoints/<update>/
  summary.json     last, atomically
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO

import yaml

from ablate.config import Config
from ablate.errors import UserError
from ablate.settings.validation import config_hash, identity

STREAMS = ("metrics.jsonl", "scores.jsonl", "samples.jsonl")
PACKAGES = ("ppo-ablation", "torch", "transformers", "accelerate", "hydra-core", "numpy")
FINISHED = ("completed", "diverged")


def run_folder(config: Config) -> Path:
    return Path(config.results) / config.study / str(config.arm) / f"seed={config.seed}"


def config_text(config: Config) -> str:
    """What config.yaml holds: every setting, the run's identity and the identity's hash."""
    tree = {**asdict(config), "identity": identity(config), "hash": config_hash(config)}
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def read_summary(folder: Path) -> dict | None:
    """summary.json, or null while a run has none. Raises UserError if it is not readable."""
    path = folder / "summary.json"
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not readable: remove it, and the run continues from its last checkpoint") from error


def is_finished(config: Config) -> bool:
    """Whether this run, by its hash, has its result already."""
    folder = run_folder(config)
    summary = read_summary(folder)
    return summary is not None and summary["status"] in FINISHED and summary["config_hash"] == config_hash(config)


def finite(value: object) -> object:
    """JSON has no NaN: a float that is not finite becomes null, within dicts too."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """A folder that cannot be written, and a full disk, are the user's to mend."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {folder} ({error.strerror}): free space or set results=<folder>") from error


def write_atomically(path: Path, text: str) -> None:
    """All of the file or nothing, on disk before the name appears."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "w") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


class RunStore:
    """Appends to one run folder. It has a lifetime because it holds the streams open."""

    def __init__(self, config: Config):
        """Make the folder and write config.yaml; a folder of other settings is refused. A stale summary is removed."""
        self.folder = run_folder(config)
        self.hash = config_hash(config)
        known = read_config(self.folder)
        if known is not None and known["hash"] != self.hash:
            difference = first_difference(known["identity"], identity(config))
            raise UserError(f"{self.folder} belongs to other settings ({difference}): set study=<name> or remove it")
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.handles = {name: open(self.folder / name, "ab", buffering=0) for name in STREAMS}
            if not hold(self.handles["metrics.jsonl"]):
                self.close()
                raise UserError(f"{self.folder} is being written by another process: wait for it, or set study=<name>")
            write_atomically(self.folder / "config.yaml", config_text(config))
            (self.folder / "summary.json").unlink(missing_ok=True)

    def append(self, stream: str, rows: Iterable[dict]) -> None:
        """Write rows in one call each stream; a kill can tear only the last line."""
        text = "".join(json.dumps({key: finite(value) for key, value in row.items()}, ensure_ascii=False) + "\n" for row in rows)
        data = text.encode()
        with writing(self.folder):
            while data:  # a disk that is nearly full takes a part first
                data = data[self.handles[stream].write(data) :]

    def offsets(self) -> dict[str, int]:
        """Bytes of each stream so far; a checkpoint remembers them."""
        return {name: os.fstat(handle.fileno()).st_size for name, handle in self.handles.items()}

    def cut(self, offsets: dict[str, int]) -> None:
        """Forget what was written after a checkpoint."""
        for name, handle in self.handles.items():
            if os.fstat(handle.fileno()).st_size < offsets[name]:
                raise UserError(f"{self.folder / name} is shorter than at the last checkpoint: remove the run folder to start again")
            os.ftruncate(handle.fileno(), offsets[name])

    def checkpoint_folder(self, update: int) -> Path:
        return checkpoint_folder(self.folder, update)

    def checkpoints(self) -> list[int]:
        """Updates that have a checkpoint, oldest first."""
        return sorted(int(path.name) for path in (self.folder / "checkpoints").glob("*") if path.name.isdigit())

    def prune(self, keep: int) -> None:
        """Remove all but the newest `keep` checkpoints; 0 keeps all."""
        for update in self.checkpoints()[:-keep] if keep else []:
            shutil.rmtree(self.checkpoint_folder(update))

    def copy_stage(self, name: str, source: Path, files: Sequence[str]) -> None:
        """Keep small records of a stage beside the run that used it; files the stage does not have are passed over."""
        target = self.folder / name
        with writing(target):
            target.mkdir(exist_ok=True)
            for file in files:
                if (source / file).is_file():
                    shutil.copyfile(source / file, target / file)

    def name_stages(self, folders: dict[str, Path | None]) -> None:
        """Write stages.json: where each stage that the run starts from lies."""
        with writing(self.folder):
            text = json.dumps({name: folder and str(folder.resolve()) for name, folder in folders.items()}, indent=1)
            write_atomically(self.folder / "stages.json", text)

    def finish(self, summary: dict) -> dict:
        """Write summary.json, the last file of a run."""
        full = {**summary, "versions": versions(), "git_commit": git_commit(), "config_hash": self.hash}
        with writing(self.folder):
            write_atomically(self.folder / "summary.json", json.dumps(finite(full), indent=1, ensure_ascii=False))
        self.close()
        return full

    def close(self) -> None:
        for handle in self.handles.values():
            handle.close()


class Onlooker:
    """The run folder in a process that does not write it, since another process of the same run does (`ablate.system.distributed`).

    It keeps RunStore's promises to the trainer by doing nothing.
    """

    def __init__(self, config: Config):
        self.folder = run_folder(config)
        self.hash = config_hash(config)

    def append(self, stream: str, rows: Iterable[dict]) -> None:
        """The rows are written elsewhere."""

    def offsets(self) -> dict[str, int]:
        """No stream is open here."""
        return {}

    def cut(self, offsets: dict[str, int]) -> None:
        """No stream is open here."""

    def checkpoint_folder(self, update: int) -> Path:
        return checkpoint_folder(self.folder, update)

    def prune(self, keep: int) -> None:
        """Checkpoints are removed elsewhere."""

    def name_stages(self, folders: dict[str, Path | None]) -> None:
        """The file is written elsewhere."""

    def copy_stage(self, name: str, source: Path, files: Sequence[str]) -> None:
        """The records are copied elsewhere."""

    def finish(self, summary: dict) -> dict:
        """The summary is written elsewhere."""
        return summary


def checkpoint_folder(folder: Path, update: int) -> Path:
    return folder / "checkpoints" / str(update)


def hold(handle: IO) -> bool:
    """Take a run folder for this process, by a lock on its open metrics.jsonl; false if another process has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read_rows(path: Path) -> list[dict]:
    """The whole lines of a JSONL file; what a kill tore off the last one is left out. No file is no rows."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []  # in bytes: the tear may be inside a character
    return [json.loads(line) for line in lines]


def read_config(folder: Path) -> dict | None:
    """config.yaml of a run folder, or null where there is none. Raises UserError if it is not readable."""
    path = folder / "config.yaml"
    if not path.is_file():
        return None
    try:
        known = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError):
        known = None
    if not isinstance(known, dict) or not {"hash", "identity"} <= known.keys():
        raise UserError(f"{path} is not readable: remove the run folder to start again")
    return known


def first_difference(old: dict, new: dict, prefix: str = "") -> str:
    """One setting in which two identities differ, for a message."""
    for key in [*old, *(key for key in new if key not in old)]:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found = first_difference(before, after, f"{prefix}{key}.")
            if found:
                return found
        elif before != after:
            return f"{prefix}{key} is {before} there and {after} here"
    return ""


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_commit() -> str | None:
    """The commit of the checkout this package runs from; null for an installed package."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return None
    done = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or None
