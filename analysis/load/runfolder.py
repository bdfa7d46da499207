"""One run folder → one plain record, without pandas and without statistics.

Every reader accepts the files of a killed, running or foreign run, and lists in `notes` what it did not use.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Iterator

import numpy as np
import yaml

from ablate.settings.fields import flat
from ablate.system.files import is_folder_name
from ablate.system.jsonl import readable_rows

RUN_FILES = ("config.yaml", "metrics.jsonl", "summary.json")
_SUMMARY_FIELDS = ("status", "reason", "collapsed", "collapse_update", "updates", "wall_seconds", "responses_per_second",
                   "git_commit", "config_hash")  # fmt: skip


_NOT_SETTINGS = ("study", "arm", "config_hash", "identity", "content", "numerics")  # written into config.yaml beside the settings


class NotARun(Exception):
    """The folder cannot be used as a run. The message is the reason."""


@dataclass
class Record:
    """A run folder as plain values.

    row: column of `runs` → value. names: the metrics of metrics.jsonl. values: (updates, metrics), NaN where absent.
    notes: one sentence per part of the folder that was not used.
    """

    row: dict[str, Any]
    names: list[str]
    values: np.ndarray
    notes: list[str] = field(default_factory=list)


def find_run_folders(root: Path) -> list[Path]:
    """`root` and the folders below it that hold a config.yaml or metrics.jsonl, sorted. Folders inside a run are not searched."""
    found, stack = [], [str(root)]
    while stack:
        folder = stack.pop()
        entries = list(os.scandir(folder))
        if any(entry.name in ("config.yaml", "metrics.jsonl") for entry in entries):
            found.append(Path(folder))
        else:
            stack.extend(entry.path for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    return sorted(found)


def fingerprint(folder: Path) -> str:
    """Sizes and modification times of the run's files. It changes whenever the run continues or is repeated."""
    parts = []
    for name in RUN_FILES:
        try:
            stat = os.stat(folder / name)
        except FileNotFoundError:
            parts.append("-")
        else:
            parts.append(f"{stat.st_size}:{stat.st_mtime_ns}")
    return " ".join(parts)


def read_run(folder: Path) -> Record:
    """Read one run folder.

    Raises:
        NotARun: there is no readable config.yaml or metrics.jsonl, or the latter has no whole row.
    """
    notes: list[str] = []
    config = read_config(folder / "config.yaml")
    names, values = read_metrics(folder / "metrics.jsonl", notes)
    summary = read_summary(folder / "summary.json", notes)
    run = config.get("seed", summary.get("seed"))
    if not isinstance(run, int):
        raise NotARun("config.yaml names no integer seed: written by another tool or version")
    names_of_folders = {
        "study": config.get("study") or summary.get("study") or folder.parent.parent.name,
        "arm": config.get("arm") or summary.get("arm") or folder.parent.name,
    }
    for name, value in names_of_folders.items():  # tables are written to a folder of the study's name
        if not is_folder_name(value):
            raise NotARun(f"its {name} {str(value)[:60]!r} is not the name of one folder")
    row = {
        **names_of_folders,
        **{name: summary.get(name) for name in _SUMMARY_FIELDS},
        "version": (summary.get("versions") or {}).get("ppo-ablation"),
        **made_by(config, summary),
        "last_update": int(values[-1, names.index("update")]),
        **{f"final/{name}": value for name, value in (summary.get("final") or {}).items()},
        **{f"sft/{name}": value for name, value in (summary.get("sft") or {}).items()},
        "rm/held_out_accuracy": read_summary(folder / "reward_model" / "report.json", notes).get("held_out_accuracy"),
        **flatten({name: value for name, value in config.items() if name not in _NOT_SETTINGS}),
    }
    row["status"] = row["status"] or "running"
    row["sft/eval/gold"], row["sft/eval/gold_sd"] = _sft_gold(folder, row, names, values)
    return Record(row, names, values, notes)


def made_by(config: dict[str, Any], summary: dict[str, Any]) -> dict[str, Any]:
    """The record of the code that computed the run (`ablate.runs.numerics`), as columns.

    numerics/code: the fingerprint of the code, None in run folders without one. numerics/earlier: how many earlier records a
    resumed run has. numerics/<package>: its version.
    """
    records = config.get("numerics") or [{}]  # an unfinished run has no summary
    record: dict[str, Any] = summary.get("numerics") or {**records[-1], "earlier": records[:-1]}
    packages = {f"numerics/{name}": version for name, version in record.get("packages", {}).items()}
    return {"numerics/code": record.get("code"), "numerics/earlier": len(record.get("earlier", [])), **packages}


def _sft_gold(folder: Path, row: dict, names: list[str], values: np.ndarray) -> tuple[float, float]:
    """Mean and SD of SFT's gold: those of the summary, or for an unfinished run those of the row and the scores of update 0."""
    mean, deviation = row.get("sft/eval/gold"), row.get("sft/eval/gold_sd")
    if mean is None and "eval/gold" in names and values[0, names.index("update")] == 0:
        mean = values[0, names.index("eval/gold")]
    if deviation is None and mean is not None and (folder / "scores.jsonl").exists():
        first = [row["gold"] for row in iter_jsonl(folder / "scores.jsonl", stop_after_update=0) if row.get("gold") is not None]
        deviation = float(np.std(first, ddof=1)) if len(first) > 1 else None
    return (math.nan if mean is None else float(mean), math.nan if deviation is None else float(deviation))


def read_config(path: Path) -> dict[str, Any]:
    """The resolved configuration. Each distinct text of a top-level block is parsed once, because runs of a sweep share most blocks.

    Raises:
        NotARun: there is no file, or it is no readable mapping.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise NotARun("no config.yaml") from None
    blocks: list[list[str]] = []
    for line in text.split("\n"):
        if line[:1] not in ("", " ", "-", "#") or not blocks:
            blocks.append([])
        blocks[-1].append(line)
    config: dict[str, Any] = {}
    try:
        for block in blocks:
            config.update(_parse_block("\n".join(block)) or {})
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise NotARun(f"config.yaml is not a readable mapping: {str(error).splitlines()[0]}") from None
    return config


@lru_cache(maxsize=4096)
def _parse_block(text: str) -> Any:
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def read_summary(path: Path, notes: list[str]) -> dict[str, Any]:
    """The object in `path`, a summary.json or another JSON file. {} if there is none. An unreadable one is noted and gives {} too."""
    try:
        summary = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError:
        notes.append(f"{path.name}: not JSON, ignored")
        return {}
    if not isinstance(summary, dict):
        notes.append(f"{path.name}: not an object, ignored")
        return {}
    return summary


def read_metrics(path: Path, notes: list[str]) -> tuple[list[str], np.ndarray]:
    """metrics.jsonl as (names, values): numeric metrics only, one row per update. Of rows with equal updates the last is kept.

    Raises:
        NotARun: there is no file, or no whole row in it.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise NotARun("no metrics.jsonl") from None
    rows = [row for row in _parse_lines(data, path.name, notes) if isinstance(row, dict) and isinstance(row.get("update"), int)]
    if not rows:
        raise NotARun("metrics.jsonl holds no whole row yet")
    shapes: dict[tuple, list[int]] = {}
    for index, row in enumerate(rows):
        shapes.setdefault(tuple(row), []).append(index)
    names = list(dict.fromkeys(name for shape in shapes for name in shape))
    try:
        values = _gather(rows, shapes, names)
    except (TypeError, ValueError):
        numeric = [name for name in names if all(isinstance(row.get(name), (int, float, type(None))) for row in rows)]
        notes.append(f"metrics.jsonl: not numbers, ignored: {', '.join(sorted(set(names) - set(numeric)))}")
        names, values = numeric, np.array([[row.get(name) for name in numeric] for row in rows], dtype=float)
    values[~np.isfinite(values)] = np.nan
    updates = values[:, names.index("update")]
    if (np.diff(updates) <= 0).any():
        last = {update: index for index, update in enumerate(updates)}
        notes.append(f"metrics.jsonl: {len(updates) - len(last)} repeated updates, the last of each kept")
        values = values[[last[update] for update in sorted(last)]]
    return names, values


def _gather(rows: list[dict], shapes: dict[tuple, list[int]], names: list[str]) -> np.ndarray:
    """Rows → (rows, names), NaN where a row lacks a name. `shapes`: names of a row → indices of the rows with these names.

    The rows of a run have two or three shapes. Converting each shape as one array is fast.
    """
    position = {name: index for index, name in enumerate(names)}
    values = np.full((len(rows), len(names)), np.nan)
    for shape, indices in shapes.items():
        block = np.array([list(rows[index].values()) for index in indices], dtype=float)
        values[np.ix_(indices, [position[name] for name in shape])] = block
    return values


def _parse_lines(data: bytes, name: str, notes: list[str]) -> list[Any]:
    """JSON lines, parsed at once if all are whole, else line by line. Torn lines are left out and noted, as no other reader does."""
    lines = [line for line in data.split(b"\n") if line.strip()]
    try:
        return json.loads(b"[" + b",".join(lines) + b"]")
    except ValueError:
        pass
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            where = "torn last line" if number == len(lines) else f"unreadable line {number}"
            notes.append(f"{name}: {where} left out")
    return rows


def iter_jsonl(path: Path, stop_after_update: int | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a JSON lines file in order, without torn lines. It stops at the first row whose update exceeds `stop_after_update`."""
    with open(path, "rb") as lines:
        for row in readable_rows(lines):
            if stop_after_update is not None and row.get("update", 0) > stop_after_update:
                return
            yield row


def flatten(config: dict[str, Any]) -> dict[str, Any]:
    """Nested config → dotted names, as in Hydra's overrides. A list is one value, written as text."""
    return {name: str(value) if isinstance(value, list) else value for name, value in flat(config)}
