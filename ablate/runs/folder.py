"""Reading run folders. No torch here."""

from __future__ import annotations

import os
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ablate.config import Config
from ablate.errors import UserError
from ablate.runs.content import changed, content, named
from ablate.runs.summary import FINISHED, read_summary
from ablate.settings.fields import flat
from ablate.settings.identity import config_hash
from ablate.system.jsonl import complete_lines, decoded
from ablate.system.reading import MOST_ROW_BYTES, fits, plain_bytes, read_yaml

GROUPS = tuple(field.name for field in fields(Config) if is_dataclass(getattr(Config(), field.name)))  # of settings
LONGEST_UPDATE = 19  # digits
STREAMS = ("metrics.jsonl", "scores.jsonl", "samples.jsonl", "tokens.jsonl")


def run_folder(config: Config) -> Path:
    """The folder of a run: results/<study>/<arm>/seed=<n>."""
    return Path(config.results) / config.study / str(config.arm) / f"seed={config.seed}"


def is_finished(config: Config) -> bool:
    """Whether a run of exactly these settings has its result already. Raises UserError for an unreadable summary.

    Also where that run, finished or begun, was computed from other content of the files and models that the settings name.
    """
    folder = run_folder(config)
    summary = read_summary(folder)
    finished = summary is not None and summary["status"] in FINISHED and summary.get("config_hash") == config_hash(config)
    if finished or checkpoints(folder):
        check_content(config)
    return finished


def check_content(config: Config) -> None:
    """Raises UserError where the run folder of these settings keeps another digest of what they name than it has now."""
    folder = run_folder(config)
    known = read_content(folder) if named(config) else {}
    if known and (read_config(folder) or {}).get("hash") == config_hash(config):
        difference = changed(config, known, content(config))
        if difference:
            raise UserError(
                f"{folder} was computed with other content behind {difference}: set study=<name> or arm=<name> for a new run, "
                "restore that content, or remove the folder"
            )


def without_digest(config: Config) -> list[str]:
    """Settings that name a file or model of which the run folder keeps no digest, as older versions kept none."""
    folder = run_folder(config)
    names = list(named(config))
    known = read_content(folder) if names and (folder / "config.yaml").is_file() else dict.fromkeys(names)
    return [name for name in names if name not in known]


def checkpoint_folder(folder: Path, update: int) -> Path:
    """Where the run folder `folder` keeps its checkpoint of `update`."""
    return folder / "checkpoints" / str(update)


def checkpoints(folder: Path) -> list[int]:
    """The updates of which a run folder holds a checkpoint, the newest last. Links and files of such names are none."""
    found = [path for path in (folder / "checkpoints").glob("*") if path.is_dir() and not path.is_symlink()]
    return sorted(int(path.name) for path in found if is_update(path.name))


def is_update(name: str) -> bool:
    """Whether a folder's name is that of a checkpoint: an update as Python writes it."""
    return name.isascii() and name.isdecimal() and (name == "0" or name[0] != "0") and len(name) < LONGEST_UPDATE


def read_rows(path: Path) -> list[dict]:
    """The rows of a JSONL file that a run writes: its complete lines. A file that does not exist has no rows.

    Raises UserError for a file that is not readable, and for a line that is no row.
    """
    rows = []
    try:
        for number, line in enumerate(complete_lines(plain_bytes(path, MOST_ROW_BYTES)), 1):
            rows.append(decoded_row(line, number))
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise UserError(f"{path} is not readable ({error}): remove the run folder to start again") from error
    return rows


def decoded_row(line: bytes, number: int) -> dict:
    """A row of a JSONL file, an object. Raises ValueError, with the number of the line."""
    try:
        row = decoded(line)
    except ValueError as error:
        raise ValueError(f"line {number} is not JSON") from error
    if not isinstance(row, dict):
        raise ValueError(f"line {number} is no object")
    return row


def read_config(folder: Path) -> dict | None:
    """The settings, `identity` and `hash` in config.yaml of a run folder; null where there is none.

    Raises UserError if the file is not readable.
    """
    known = _read_yaml(folder)
    if known is not None:
        known.pop("numerics", None)
        known.pop("content", None)
    return known


def read_numerics(folder: Path) -> list[dict]:
    """The records in config.yaml of what computed the run so far (`ablate.runs.numerics`), in order; runs of older versions have none.

    Raises UserError if the file is not readable.
    """
    return (_read_yaml(folder) or {}).get("numerics", [])


def read_content(folder: Path) -> dict[str, str]:
    """The digests in config.yaml of what the run's settings name (`ablate.runs.content`); runs of older versions have none.

    Raises UserError if the file is not readable.
    """
    known = (_read_yaml(folder) or {}).get("content")
    return known if isinstance(known, dict) else {}


def _read_yaml(folder: Path) -> dict | None:
    """All of config.yaml; null where there is none. Raises UserError if it is not readable."""
    path = folder / "config.yaml"
    try:
        tree = read_yaml(path)
        check_config(tree)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path} is not readable ({error}): remove the run folder to start again") from error
    return tree


def check_config(tree: object) -> None:
    """Raises ValueError for what is no config.yaml: a mapping with `hash`, `identity` and the groups of settings."""
    if not isinstance(tree, dict) or not {"hash", "identity"} <= tree.keys():
        raise ValueError("it lacks hash and identity")
    for name, kind in (("hash", str), ("identity", dict[str, Any]), ("numerics", list[dict[str, Any]])):
        if name in tree and not fits(tree[name], kind):
            raise ValueError(f"its {name} is of another type")
    if any(not {"code", "packages"} <= record.keys() for record in tree.get("numerics", [])):
        raise ValueError("its numerics lack code and packages")
    for name in GROUPS:
        if not isinstance(tree.get(name, {}), dict):
            raise ValueError(f"its {name} is no mapping")


def run_folders(root: Path) -> list[Path]:
    """The run folders under `root`, which may be one itself. Raises UserError if there is none."""
    found = sorted(path.parent for path in root.rglob("metrics.jsonl") if os.path.isfile(path.parent / "config.yaml"))
    if not found:
        raise UserError(f"{root} holds no run folder: name results/<study> or a folder in it")
    return found


def config_of(folder: Path) -> Config:
    """The settings of a run, from its config.yaml. Raises UserError."""
    tree = read_config(folder)
    if tree is None:
        raise UserError(f"{folder} has no config.yaml: name a run folder")
    return OmegaConf.to_object(typed(tree, folder))


def typed(tree: dict, folder: Path) -> DictConfig:
    """What `read_config` returns as OmegaConf's typed tree of the settings; a setting that an older version lacked has its default.

    Raises UserError for a setting that is unknown or of another type, and for an interpolation, since a run's settings are resolved.
    """
    settings = {name: value for name, value in tree.items() if name not in ("identity", "hash")}
    try:
        lacking = next((name for name in ("study", "arm", "seed", "model", "data", "ppo") if name not in settings), None)
        if lacking is not None:
            raise ValueError(f"it lacks {lacking}")
        if any(isinstance(value, str) and "${" in value for _, value in flat(settings)):
            raise ValueError("it holds an interpolation")
        merged = OmegaConf.merge(OmegaConf.structured(Config), settings)
        OmegaConf.to_object(merged)
    except (OmegaConfBaseException, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder / 'config.yaml'} holds no settings of this version ({reason}): name another run folder") from error
    return merged
