"""An optional Parquet cache of run folders: `<root>/.analysis/{runs,curves}.parquet`. It may be deleted at any time."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd

from ablate.errors import UserError
from ablate.system.files import atomic_file
from ablate.system.reading import MOST_ROW_BYTES, plain_bytes
from analysis.load.runfolder import Record

COLUMNS = ("folder", "fingerprint", "record", "rows", "version")
VERSION = 4  # raise when Record or its reading changes


def read(root: Path) -> dict[str, tuple[str, Record]]:
    """Folder relative to `root` → (fingerprint, record) of every cached run. {} if there is no cache, or one of another version.

    Raises:
        UserError: pyarrow is not installed.
    """
    _require_pyarrow()
    runs_path, curves_path = _paths(root)
    if not (runs_path.exists() and curves_path.exists()):
        return {}
    try:
        runs, curves = (pd.read_parquet(io.BytesIO(plain_bytes(path, MOST_ROW_BYTES))) for path in (runs_path, curves_path))
    except (FileNotFoundError, OSError, ValueError):  # pyarrow's, for what is no Parquet
        return {}
    if not set(COLUMNS) <= set(runs.columns) or not ((runs["version"] == VERSION).all() and len(curves) == runs["rows"].sum()):
        return {}
    names, values = list(curves.columns), curves.to_numpy()
    stops = np.cumsum(runs["rows"].to_numpy())
    known = {}
    for folder, mark, text, rows, stop in zip(runs["folder"], runs["fingerprint"], runs["record"], runs["rows"], stops, strict=True):
        row, notes = json.loads(text)
        known[folder] = (mark, Record(row, names, values[stop - rows : stop], notes))
    return known


def write(root: Path, known: dict[str, tuple[str, Record]]) -> None:
    """Replace the cache of `root`. Each file is renamed into place whole, the curves first.

    Raises:
        UserError: pyarrow is not installed.
    """
    _require_pyarrow()
    runs_path, curves_path = _paths(root)
    if runs_path.parent.is_symlink():
        raise UserError(f"{runs_path.parent} is a link, which the cache does not write through: remove it, or load without a cache")
    runs_path.parent.mkdir(exist_ok=True)
    names = list(dict.fromkeys(name for _, record in known.values() for name in record.names))
    position = {name: index for index, name in enumerate(names)}
    values = np.full((sum(len(record.values) for _, record in known.values()), len(names)), np.nan, order="F")
    rows, start = [], 0
    for folder, (mark, record) in known.items():
        stop = start + len(record.values)
        values[start:stop, [position[name] for name in record.names]] = record.values
        rows.append((folder, mark, json.dumps([record.row, record.notes]), len(record.values), VERSION))
        start = stop
    _replace(pd.DataFrame(values, columns=names, copy=False), curves_path)
    _replace(pd.DataFrame(rows, columns=list(COLUMNS)), runs_path)


def _paths(root: Path) -> tuple[Path, Path]:
    return root / ".analysis" / "runs.parquet", root / ".analysis" / "curves.parquet"


def _replace(frame: pd.DataFrame, path: Path) -> None:
    with atomic_file(path) as partial:
        frame.to_parquet(partial, index=False, compression=None)


def _require_pyarrow() -> None:
    """Raises UserError if pyarrow is not installed."""
    try:
        import pyarrow  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError("the Parquet cache needs pyarrow: pip install pyarrow, or load without a cache") from error
