"""Files of logs → rows. A row is what a trainer logged at once: its names and numbers, which may be NaN or infinite."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablate.errors import UserError
from ablate.system.jsonl import decoded
from ablate.system.reading import plain_bytes

MOST_BYTES = 1 << 28  # of one log
EVENTS = "events.out.tfevents"  # how TensorBoard's files begin
STATE = "trainer_state.json"  # of transformers' Trainer, in a checkpoint's folder
WHAT = "a CSV or JSON history, JSON lines, trainer_state.json, a .wandb file, or TensorBoard's event files"
TEXTS = {"NaN": math.nan, "nan": math.nan, "Infinity": math.inf, "-Infinity": -math.inf, "inf": math.inf, "-inf": -math.inf}


@dataclass(frozen=True)
class Log:
    """name: of the file, and of the run in it. rows: as logged, in the file's order. notes: whole sentences about what was not used."""

    name: str
    rows: list[dict[str, float]]
    notes: list[str] = field(default_factory=list)


def read_logs(path: Path) -> list[Log]:
    """The runs in a file or folder: one, or those of a chart exported from wandb. Raises UserError."""
    path = path / STATE if (path / STATE).is_file() else path
    kind = kind_of(path)
    if kind == "wandb":
        return [Log(str(path), wandb_rows(path))]
    if kind == "tensorboard":
        return [Log(str(path), tensorboard_rows(path))]
    try:
        text = plain_bytes(path, MOST_BYTES).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: name {WHAT}") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text ({error}): name {WHAT}") from error
    if not text.strip():
        raise UserError(f"{path} is empty: nothing has been logged there yet")
    logs = {"csv": csv_logs, "json": json_logs, "lines": line_logs}[kind](path, text)
    if not any(log.rows for log in logs):
        raise UserError(f"{path} holds no row with a number: name {WHAT}")
    return logs


def kind_of(path: Path) -> str:
    """'wandb', 'tensorboard', 'csv', 'json' or 'lines', by a file's name or by what a folder holds. Raises UserError."""
    if path.is_dir():
        if any(path.glob("*.wandb")):
            return "wandb"
        if any(path.glob(f"{EVENTS}*")):
            return "tensorboard"
        raise UserError(f"{path} holds no {STATE}, no .wandb file and no event file of TensorBoard: name {WHAT}")
    if path.name.startswith(EVENTS):
        return "tensorboard"
    kinds = {".wandb": "wandb", ".csv": "csv", ".json": "json", ".jsonl": "lines", ".ndjson": "lines"}
    if path.suffix not in kinds:
        raise UserError(f"{path} has no suffix that says what it is (.csv, .json, .jsonl, .wandb): name {WHAT}")
    return kinds[path.suffix]


def number(value: object) -> float | None:
    """A logged value as a float, which may be NaN or infinite; None for what is no number.

    >>> number("NaN"), number("1.5"), number(True), number("text"), number(10**400)
    (nan, 1.5, None, None, inf)
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str):
        value = value.strip()
        if value in TEXTS:
            return TEXTS[value]
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        return None


def numbers(row: Mapping[str, object]) -> dict[str, float]:
    """The numbers of a row, without text, lists and pictures. The row of verl's file logger holds its metrics under "data"."""
    inner = row.get("data")
    flat = {**inner, **{name: value for name, value in row.items() if name != "data"}} if isinstance(inner, Mapping) else row
    found = {name: number(value) for name, value in flat.items()}
    return {name: value for name, value in found.items() if value is not None}


def csv_logs(path: Path, text: str) -> list[Log]:
    """The runs of a CSV file. In a chart exported from wandb the columns are "RUN - METRIC", which gives a log for each run.

    Its columns of least and greatest values are not used. Raises UserError.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise UserError(f"{path} is not CSV ({error}): export it again") from error
    header = [name for name in (rows[0] if rows else {}) if isinstance(name, str)]
    pairs = {name: name.rsplit(" - ", 1) for name in header if " - " in name and not name.endswith(("__MIN", "__MAX"))}
    if not pairs:
        return [Log(str(path), _kept(rows))]
    axis = [name for name in header if " - " not in name]
    logs = []
    for run in dict.fromkeys(run for run, _ in pairs.values()):
        mine = {name: metric for name, (owner, metric) in pairs.items() if owner == run}
        own = [{**{name: row[name] for name in axis}, **{metric: row[name] for name, metric in mine.items() if row[name]}} for row in rows]
        logs.append(Log(f"{path}: {run}", _kept([row for row in own if len(row) > len(axis)])))
    return logs


def json_logs(path: Path, text: str) -> list[Log]:
    """A JSON history: a list of rows, such a list under "log_history" as in trainer_state.json, or columns as pandas writes them.

    A file of JSON lines with this suffix is read as such. Raises UserError.
    """
    try:
        value = decoded(text)
    except ValueError as error:
        if "\n" in text.strip():
            return line_logs(path, text)
        raise UserError(f"{path} is not JSON ({error}): it may have been cut off; copy it again") from error
    if isinstance(value, dict) and isinstance(value.get("log_history"), list):
        value = value["log_history"]
    elif isinstance(value, dict) and value and all(isinstance(column, dict) for column in value.values()):
        value = _rows_of_columns(value)
    elif isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise UserError(f'{path} is not a history, which is a list of rows, or an object with such a list under "log_history"')
    return [Log(str(path), _kept(value))]


def _rows_of_columns(columns: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """pandas' {column: {index: value}} as rows, in the order of the indices."""
    rows: dict[str, dict[str, Any]] = {}
    for name, column in columns.items():
        for index, value in column.items():
            rows.setdefault(index, {})[name] = value
    return list(rows.values())


def line_logs(path: Path, text: str) -> list[Log]:
    """JSON lines. A line that a kill tore is left out, with a note. Raises UserError where no line is a row."""
    rows, torn = [], []
    for place, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = decoded(line)
        except ValueError:
            torn.append(place)
            continue
        if isinstance(row, dict):
            rows.append(row)
        else:
            torn.append(place)
    if not rows:
        raise UserError(f"{path} has no line that is a row of JSON: name {WHAT}")
    return [Log(str(path), _kept(rows), [f"Left out as no row of JSON: {_lines(torn)}."] if torn else [])]


def wandb_rows(path: Path) -> list[dict[str, float]]:
    """The history of an offline run. Raises UserError where wandb is not installed or cannot read the file, or it has no history."""
    if not path.exists():
        raise UserError(f"{path} does not exist: name {WHAT}")
    from analysis.load.foreign import inspect_wandb

    records = [json.loads(line) for line in inspect_wandb(path)]
    rows = _kept([record["history"]["item"] for record in records if record["type"] == "history"])
    if not rows:
        raise UserError(f"{path} holds no history: nothing has been logged there yet")
    return rows


def tensorboard_rows(path: Path) -> list[dict[str, float]]:
    """The scalars of an event file or of a folder of them, a row per step. Raises UserError where there are none or no tensorboard."""
    if not path.exists():
        raise UserError(f"{path} does not exist: name {WHAT}")
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError as error:
        raise UserError(f"{path}: reading TensorBoard's event files needs tensorboard: pip install tensorboard") from error
    events = EventAccumulator(str(path), size_guidance={"scalars": 0})
    events.Reload()
    rows: dict[int, dict[str, float]] = {}
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            rows.setdefault(event.step, {"step": event.step})[name] = event.value
    if not rows:
        raise UserError(f"{path} holds no scalar of TensorBoard: nothing has been logged there yet")
    return [rows[step] for step in sorted(rows)]


def _kept(rows: Iterable[Mapping[str, object]]) -> list[dict[str, float]]:
    """The numbers of every row that has any."""
    return [found for found in map(numbers, rows) if found]


def _lines(places: list[int], most: int = 5) -> str:
    """Up to five numbers of lines, and how many more.

    >>> _lines([3]), _lines([3, 8])
    ('line 3', 'lines 3, 8')
    """
    more = f" and {len(places) - most} more" if len(places) > most else ""
    return f"line{'s' * (len(places) > 1)} {', '.join(map(str, places[:most]))}{more}"
