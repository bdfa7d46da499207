"""Reading run folders. No torch here."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf

from ablate.config import Config
from ablate.errors import UserError
from ablate.runs.content import changed, content, named
from ablate.runs.summary import FINISHED, read_summary
from ablate.settings.identity import config_hash
from ablate.system.jsonl import complete_lines

STREAMS = ("metrics.jsonl", "scores.jsonl", "samples.jsonl")


def run_folder(config: Config) -> Path:
    """The folder of a run: results/<study>/<arm>/seed=<n>."""
    return Path(config.results) / config.study / str(config.arm) / f"seed={config.seed}"


def is_finished(config: Config) -> bool:
    """Whether a run of exactly these settings has its result already. Raises UserError for an unreadable summary.

    Also where that run, finished or begun, was computed from other content of the files and models that the settings name.
    """
    folder = run_folder(config)
    summary = read_summary(folder)
    finished = summary is not None and summary["status"] in FINISHED and summary["config_hash"] == config_hash(config)
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
    """The updates of which a run folder holds a checkpoint, the newest last."""
    return sorted(int(path.name) for path in (folder / "checkpoints").glob("*") if path.name.isdigit())


def read_rows(path: Path) -> list[dict]:
    """The rows of a JSONL file that a run writes: its complete lines. A file that does not exist has no rows."""
    return [json.loads(line) for line in complete_lines(path.read_bytes())] if path.is_file() else []


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
    if not path.is_file():
        return None
    try:
        tree = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError):
        tree = None
    if not isinstance(tree, dict) or not {"hash", "identity"} <= tree.keys():
        raise UserError(f"{path} is not readable: remove the run folder to start again")
    return tree


def run_folders(root: Path) -> list[Path]:
    """The run folders under `root`, which may be one itself. Raises UserError if there is none."""
    found = sorted(path.parent for path in root.rglob("metrics.jsonl") if (path.parent / "config.yaml").is_file())
    if not found:
        raise UserError(f"{root} holds no run folder: name results/<study> or a folder in it")
    return found


def config_of(folder: Path) -> Config:
    """The settings of a run, from its config.yaml. Raises UserError."""
    tree = read_config(folder)
    if tree is None:
        raise UserError(f"{folder} has no config.yaml: name a run folder")
    return OmegaConf.to_object(typed(tree))


def typed(tree: dict) -> DictConfig:
    """What `read_config` returns as OmegaConf's typed tree of the settings; a setting that an older version lacked has its default."""
    settings = {name: value for name, value in tree.items() if name not in ("identity", "hash")}
    return OmegaConf.merge(OmegaConf.structured(Config), settings)
