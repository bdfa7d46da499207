"""One run folder → one plain record, without pandas and without statistics.

Every reader accepts the files of a killed, running or foreign run, and lists in `notes` what it did not use.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field, is_dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Iterator, NamedTuple, Union, get_args, get_origin, get_type_hints

import numpy as np

from ablate.config import Config
from ablate.runs.summary import check_types
from ablate.settings.fields import cut, flat
from ablate.system.files import is_folder_name
from ablate.system.jsonl import decoded, readable_rows
from ablate.system.reading import LARGEST, MOST_ROW_BYTES, check_plain, check_values, fits, parse_yaml, plain_bytes, read_object

RUN_FILES = ("config.yaml", "metrics.jsonl", "summary.json")
_SUMMARY_FIELDS = ("status", "reason", "collapsed", "collapse_update", "updates", "wall_seconds", "responses_per_second",
                   "git_commit", "config_hash")  # fmt: skip


# Columns that are made here, and metrics or settings of whose names would take their place.
_OWN = ("run", "folder", "folder_arm", "reward_model", "study", "arm", "seed")
_NOT_SETTINGS = ("study", "arm", "config_hash", "identity", "content", "numerics")  # written into config.yaml beside the settings


_NEXT_BLOCK = re.compile(r"\n(?=[^ \-#\n])")  # before a line that continues no block of YAML


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
    """`root` and the folders below it that hold a config.yaml or metrics.jsonl, sorted. Folders inside a run are not searched.

    A folder that may not be searched is among them, so that reading it gives the reason. One that links lead to again is searched once.
    """
    found, stack, seen = [], [str(root)], set()
    while stack:
        folder = stack.pop()
        try:
            state = os.stat(folder)
            if (state.st_dev, state.st_ino) in seen:
                continue
            seen.add((state.st_dev, state.st_ino))
            entries = list(os.scandir(folder))
            below = [entry.path for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
        except FileNotFoundError:  # removed meanwhile
            continue
        except OSError:
            found.append(Path(folder))
            continue
        if any(entry.name in ("config.yaml", "metrics.jsonl") for entry in entries):
            found.append(Path(folder))
        else:
            stack.extend(sorted(below, reverse=True))
    return sorted(found, key=lambda folder: folder.parts)


def fingerprint(folder: Path) -> str:
    """Sizes and modification times of the run's files. It changes whenever the run continues or is repeated."""
    parts = []
    for name in RUN_FILES:
        try:
            stat = os.stat(folder / name)
        except OSError:
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
    config, settings, mistyped = read_config(folder / "config.yaml")
    names, values = read_metrics(folder / "metrics.jsonl", notes)
    summary = read_summary(folder / "summary.json", notes)
    seed = config.get("seed", summary.get("seed"))
    if not isinstance(seed, int) or isinstance(seed, bool) or not -LARGEST <= seed < LARGEST:
        raise NotARun("config.yaml names no integer seed: written by another tool or version")
    report = read_summary(folder / "reward_model" / "report.json", notes)
    if not fits(report.get("held_out_accuracy"), float | None):
        notes.append("report.json: its held_out_accuracy is no number, ignored")
        report = {}
    if mistyped:
        raise NotARun(mistyped)
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
        "seed": seed,
        "version": (summary.get("versions") or {}).get("ppo-ablation"),
        **made_by(config, summary),
        "last_update": int(values[-1, names.index("update")]),
        **{f"final/{name}": value for name, value in (summary.get("final") or {}).items()},
        **{f"sft/{name}": value for name, value in (summary.get("sft") or {}).items()},
        "rm/held_out_accuracy": report.get("held_out_accuracy"),
    }
    row |= {name: value for name, value in settings.items() if name not in row and name not in _OWN}
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
    return {**packages, "numerics/code": record.get("code"), "numerics/earlier": len(record.get("earlier", []))}


def _check_numerics(record: object) -> None:
    """Raises ValueError for what is no record of `ablate.runs.numerics`."""
    if not fits(record, dict[str, Any]) or any(
        not fits(record.get(name, default), kind)
        for name, kind, default in (("packages", dict[str, str | None], {}), ("code", str | None, None), ("earlier", list[dict], []))
    ):
        raise ValueError("its numerics are no record of what computed it")


@cache
def _setting_types() -> dict[str, Any]:
    """Every setting's type by its dotted name; a group of settings has a type that nothing but a mapping fits, which is no leaf."""
    found: dict[str, Any] = {}

    def add(kind: type, prefix: str) -> None:
        for name, hint in get_type_hints(kind).items():
            found[prefix + name] = str | None if get_origin(hint) in (list, Union) and list in _parts(hint) else hint
            if is_dataclass(hint):
                add(hint, f"{prefix}{name}.")

    add(Config, "")
    return found


def _parts(hint: Any) -> set:
    return {get_origin(hint), *(get_origin(part) for part in get_args(hint))}


def _sft_gold(folder: Path, row: dict, names: list[str], values: np.ndarray) -> tuple[float, float]:
    """Mean and SD of SFT's gold: those of the summary, or for an unfinished run those of the row and the scores of update 0."""
    mean, deviation = row.get("sft/eval/gold"), row.get("sft/eval/gold_sd")
    if mean is None and "eval/gold" in names and values[0, names.index("update")] == 0:
        mean = values[0, names.index("eval/gold")]
    if deviation is None and mean is not None:
        first = [row["gold"] for row in iter_jsonl(folder / "scores.jsonl", stop_after_update=0) if row.get("gold") is not None]
        deviation = float(np.std(first, ddof=1)) if len(first) > 1 else None
    return (math.nan if mean is None else float(mean), math.nan if deviation is None else float(deviation))


def read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """(the resolved configuration, its settings by dotted name, a sentence on one of another type, or "").

    Each distinct text of a top-level block is read once, because runs of a sweep share most blocks. `identity`, which repeats the
    settings, is not read.

    Raises:
        NotARun: there is no file, or it is no readable mapping.
    """
    try:
        text = plain_bytes(path).decode()
        read: dict[str, _Entry] = {}
        for block in _NEXT_BLOCK.split(text):
            if not block.startswith("identity:\n"):
                read.update(_read_block(block))
        config = {name: entry.value for name, entry in read.items()}
        for record in [*config.get("numerics", [])]:
            _check_numerics(record)
    except FileNotFoundError as error:
        raise NotARun("no config.yaml") from error
    except (TypeError, ValueError) as error:  # of `items`, for a block that is no mapping
        raise NotARun(f"config.yaml is not a readable mapping: {str(error).splitlines()[0]}") from error
    settings = {name: value for entry in read.values() for name, value in entry.settings.items()}
    return config, settings, next((entry.mistyped for entry in read.values() if entry.mistyped), "")


class _Entry(NamedTuple):
    """The value of a top-level key of config.yaml, its settings by dotted name, and a sentence on one of another type, or ""."""

    value: Any
    settings: dict[str, Any]
    mistyped: str


@lru_cache(maxsize=4096)
def _read_block(text: str) -> dict[str, _Entry]:
    """The entries of a block. Raises ValueError for what is not readable, and TypeError for what is no mapping."""
    tree = dict(parse_yaml(text) or {})
    check_values(tree)
    entries = {}
    for key, value in tree.items():
        settings = {} if key in _NOT_SETTINGS else flatten({key: value})
        wrong = (name for name, value in settings.items() if not fits(value, _setting_types().get(name, Any)))
        sentences = (f"its {name} is {cut(str(settings[name]))}, which is of another type than this setting" for name in wrong)
        entries[key] = _Entry(value, settings, next(sentences, ""))
    return entries


def read_summary(path: Path, notes: list[str]) -> dict[str, Any]:
    """The object in `path`, a summary.json or another JSON file. {} if there is none. An unreadable one is noted and gives {} too."""
    try:
        summary = read_object(path)
        if path.name == "summary.json":
            check_types(summary)
            _check_numerics(summary.get("numerics", {}))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        notes.append(f"{path.name}: {error}, ignored")
        return {}
    return summary


def read_metrics(path: Path, notes: list[str]) -> tuple[list[str], np.ndarray]:
    """metrics.jsonl as (names, values): numeric metrics only, one row per update. Of rows with equal updates the last is kept.

    Raises:
        NotARun: there is no file, or no whole row in it.
    """
    try:
        data = plain_bytes(path, MOST_ROW_BYTES)
    except FileNotFoundError as error:
        raise NotARun("no metrics.jsonl") from error
    except ValueError as error:
        raise NotARun(f"metrics.jsonl: {error}") from error
    parsed = _parse_lines(data, path.name, notes)
    rows = [row for row in parsed if type(row) is dict and type(row.get("update")) is int and 0 <= row["update"] < LARGEST]
    if not rows:
        raise NotARun("metrics.jsonl holds no whole row yet")
    if len(rows) < len(parsed):
        notes.append(f"metrics.jsonl: {len(parsed) - len(rows)} rows without an update left out")
    shapes: dict[tuple, list[int]] = {}
    for index, row in enumerate(rows):
        shapes.setdefault(tuple(row), []).append(index)
    names = list(dict.fromkeys(name for shape in shapes for name in shape))
    try:
        if not set(names).isdisjoint(_OWN):
            raise ValueError
        values = _gather(rows, shapes, names)
    except (TypeError, ValueError, OverflowError):
        numeric = [name for name in names if name not in _OWN and all(_is_number(row.get(name)) for row in rows)]
        notes.append(f"metrics.jsonl: not numbers, ignored: {cut(', '.join(sorted(set(names) - set(numeric))))}")
        names, values = numeric, np.array([[row.get(name) for name in numeric] for row in rows], dtype=float)
    values[~np.isfinite(values)] = np.nan
    updates = values[:, names.index("update")]
    if (np.diff(updates) <= 0).any():
        last = {update: index for index, update in enumerate(updates)}
        notes.append(f"metrics.jsonl: {len(updates) - len(last)} repeated updates, the last of each kept")
        values = values[[last[update] for update in sorted(last)]]
    return names, values


def _is_number(value: object) -> bool:
    return value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < LARGEST)


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
    data = data.removesuffix(b"\n")
    try:
        return decoded(b"[" + data.replace(b"\n", b",") + b"]")
    except ValueError:
        pass
    rows, lines = [], [line for line in data.split(b"\n") if line.strip()]
    for number, line in enumerate(lines, 1):
        try:
            rows.append(decoded(line))
        except ValueError:
            where = "torn last line" if number == len(lines) else f"unreadable line {number}"
            notes.append(f"{name}: {where} left out")
    return rows


# What a row of these files holds; without what may not be null it is no row, nor with another type.
COLUMNS: dict[str, dict[str, Any]] = {
    "scores.jsonl": {"update": int, "prompt": int, "kind": str | None, "proxy": float | None, "gold": float | None, "length": float | None},
    "samples.jsonl": {"update": int, "prompt": str, "kind": str | None, "response": str, "proxy": float | None, "gold": float | None,
                      "length": float | None},
    "tokens.jsonl": {"update": int, "prompt": str, "length": int | None, "tokens": list[str], "value": list[float | None] | None,
                     "advantage": list[float | None] | None, "reward": list[float | None] | None, "kl": list[float | None] | None},
    "training.jsonl": {"step": int, "loss": float | None, "accuracy": float | None, "held_out_accuracy": float | None},
}  # fmt: skip


def iter_jsonl(path: Path, stop_after_update: int | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a JSON lines file in order, without torn lines and rows of another form. A file that is no plain file has none.

    It stops at the first row whose update exceeds `stop_after_update`.
    """
    columns = COLUMNS.get(path.name, {"update": int})
    needed = {name for name, kind in columns.items() if not fits(None, kind)}
    try:
        check_plain(os.stat(path), MOST_ROW_BYTES)
        lines = open(path, "rb")
    except (OSError, ValueError):
        return
    with lines:
        for row in readable_rows(lines):
            if not isinstance(row, dict) or not needed <= row.keys():
                continue
            if any(name in row and not fits(row[name], kind) for name, kind in columns.items()):
                continue
            if stop_after_update is not None and row["update"] > stop_after_update:
                return
            yield row


def flatten(config: dict[str, Any]) -> dict[str, Any]:
    """Nested config → dotted names, as in Hydra's overrides. A list is one value, written as text."""
    return {name: str(value) if isinstance(value, list) else value for name, value in flat(config)}
