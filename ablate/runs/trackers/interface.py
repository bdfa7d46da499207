"""What a run reports to a tracker, and what the trackers have in common. No torch here."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from ablate.config import Config
from ablate.errors import UserError
from ablate.runs.folder import read_rows
from ablate.runs.summary import read_summary
from ablate.runs.versions import git_commit
from ablate.settings.arms import nearest_preset
from ablate.settings.fields import flat, spelled
from ablate.settings.identity import config_hash
from ablate.system.secrets import masked

PROJECT = "ppo-ablation"  # where the tracker's own variable names no other
COLUMNS = ("prompt", "kind", "response", "proxy", "gold", "length")  # of the samples table, as samples.jsonl names them
SCORES = "eval/proxy_scores"  # the histogram of the proxy scores of an evaluation
SECRETS = ("WANDB_API_KEY", "HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


class Tracker(Protocol):
    """What a run reports to a tracker, after it has written the same to the run folder."""

    def evaluation(self, update: int, scores: list[dict], samples: list[dict]) -> None:
        """Take the rows of scores.jsonl and samples.jsonl of one evaluation; the row of metrics of that update follows."""

    def log(self, row: dict) -> None:
        """Take a row of metrics.jsonl."""

    def finish(self, summary: Mapping[str, object]) -> None:
        """Take summary.json, or what is known of a run that ended without one."""


def replay(folder: Path, tracker: Tracker) -> None:
    """Report the rows of a run folder to a tracker, in the order in which the run reported them."""
    scores, samples = (by_update(read_rows(folder / name)) for name in ("scores.jsonl", "samples.jsonl"))
    for row in read_rows(folder / "metrics.jsonl"):
        if row["update"] in scores:
            tracker.evaluation(row["update"], scores[row["update"]], samples.get(row["update"], []))
        tracker.log(row)


def by_update(rows: list[dict]) -> dict[int, list[dict]]:
    """Update → its rows."""
    groups: dict[int, list[dict]] = {}
    for row in rows:
        groups.setdefault(row["update"], []).append(row)
    return groups


def run_id(config: Config) -> str:
    """What tells a run from every other in a tracker: the hash of its settings, and eight digits over study and arm."""
    return f"{config_hash(config)}-{zlib.crc32(f'{config.study}/{config.arm}'.encode()):08x}"


def labels(config: Config, folder: Path) -> dict[str, str]:
    """What runs are found by: study, arm, seed, preset (the nearest), data and, where it is known, commit (12 digits).

    The commit of a run that has ended is the one in its summary.
    """
    commit = (read_summary(folder) or {}).get("git_commit") or git_commit()
    found = {"study": config.study, "arm": str(config.arm), "seed": str(config.seed)}
    return found | {"preset": nearest_preset(config), "data": config.data.source} | ({"commit": commit[:12]} if commit else {})


def settings(config: Config) -> dict[str, Any]:
    """Every setting by its dotted name. A list and null are texts."""
    return {name: value if isinstance(value, (bool, int, float)) else spelled(value) for name, value in flat(asdict(config))}


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The entries of a row that are finite numbers; true is 1."""
    return {name: float(value) for name, value in row.items() if isinstance(value, (bool, int, float)) and math.isfinite(value)}


def verdict(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a summary says of how a run ended: status, reason, collapse, and gold_gain and proxy_gain, which are final − SFT.

    A key that the summary lacks is left out.
    """
    found = {key: summary[key] for key in ("status", "reason", "collapsed", "collapse_update", "collapse_by") if key in summary}
    final, sft = summary.get("final") or {}, summary.get("sft") or {}
    for name in ("gold", "proxy"):
        end, start = final.get(f"eval/{name}"), sft.get(f"eval/{name}")
        if end is not None and start is not None:
            found[f"{name}_gain"] = end - start
    return found


def study_folder(config: Config, folder: Path) -> Path:
    """The folder of the study that a run folder lies in; the run folder itself where it has been moved out of its study."""
    found = folder.resolve().parents[1]
    return found if found.name == config.study else folder.resolve()


def made(folder: Path) -> Path:
    """The folder, which is made where there is none. Raises UserError where it or something in it is a link, since that leads elsewhere."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (folder, *folder.iterdir()):
        if path.is_symlink():
            raise UserError(f"{path} is a link, which a tracker does not write through: move what it leads to into its place, or remove it")
    return folder


@contextmanager
def needing(name: str) -> Iterator[None]:
    """Turn a library that is not installed into a UserError that names its extra. Raises UserError."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"tracker={name} needs the extra `{name}`: pip install 'ppo-ablation[{name}]'") from error


@contextmanager
def failures(name: str) -> Iterator[None]:
    """Turn whatever a tracker raises into a UserError of one sentence without secrets, so that it can end no run. Raises UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # libraries pass on what a network, a database and a disk raise, without a common type
        said = (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(".:")
        raise UserError(f"{name} failed ({without_secrets(said)})") from error


def without_secrets(text: str) -> str:
    """The text with every secret of the trackers' environment variables replaced by …."""
    for secret in (*map(os.environ.get, SECRETS), urlsplit(os.environ.get("MLFLOW_TRACKING_URI", "")).password):
        text = masked(text, secret)
    return text
