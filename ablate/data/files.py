"""Files and hub data sets → examples. Every row is parsed or counted as malformed, and too many malformed rows are refused."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ablate.config import DataConfig
from ablate.data.dialogues import PARSERS, Example, Malformed
from ablate.errors import UserError
from ablate.system.jsonl import numbered_lines

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz")
SHOWN = 3  # malformed rows that a message shows


@dataclass(frozen=True)
class Table:
    """What was read: the examples, the number of rows, and (place, reason) per malformed row."""

    examples: list[Example]
    rows: int
    malformed: list[tuple[str, str]]

    def __str__(self) -> str:
        text = f"{self.rows:,} rows, {len(self.malformed)} malformed"
        shown = "; ".join(f"{place}: {reason}" for place, reason in self.malformed[:SHOWN])
        more = ", …" if len(self.malformed) > SHOWN else ""
        return text + (f" ({shown}{more})" if shown else "")


def read_table(data: DataConfig) -> Table:
    """Every row of data.path. Raises UserError where more than the share data.max_malformed of them is malformed, or none is left."""
    parse, examples, malformed, rows = PARSERS[data.source], [], [], 0
    for place, kind, read in hub_rows(data) if data.source == "hub" else file_rows(Path(str(data.path))):
        rows += 1
        try:
            examples.append(parse(read(), kind))
        except Malformed as error:
            malformed.append((place, str(error)))
    table = Table(examples, rows, malformed)
    if len(malformed) > data.max_malformed * rows:
        raise UserError(
            f"data.path={data.path}: {table}, more than data.max_malformed={data.max_malformed:g} of them: "
            f"mend the file, or is it of another format than data.source={data.source}?"
        )
    if not examples:
        raise UserError(f"data.path={data.path} holds no rows: name another file or folder")
    return table


Row = tuple[str, str, Callable[[], object]]  # place, kind, and how to decode the row (raises Malformed)


def file_rows(path: Path) -> Iterator[Row]:
    """Rows of a file, or of every file of a folder in the order of their names. Raises UserError for a file that cannot be read."""
    for file in data_files(path):
        kind = kind_of(f"{file.parent.name}/{file.name}")
        try:
            text = gzip.decompress(file.read_bytes()).decode() if file.suffix == ".gz" else file.read_text()
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {file} ({error}): name another with data.path") from error
        if file.name.removesuffix(".gz").endswith(".json"):
            try:
                array = json.loads(text)
            except ValueError as error:
                raise UserError(f"{file} is not JSON ({error}): mend it, or name JSON lines .jsonl") from error
            if not isinstance(array, list):
                raise UserError(f"{file} is not a JSON array of rows: mend it, or name JSON lines .jsonl")
            yield from ((f"{file.name}, row {i}", kind, lambda row=row: row) for i, row in enumerate(array, 1))
        else:
            yield from ((f"{file.name}, line {i}", kind, lambda line=line: decoded(line)) for i, line in numbered_lines(text))


def data_files(path: Path) -> list[Path]:
    """The file, or the data files of the folder. Raises UserError where there are none."""
    if not path.exists():
        raise UserError(f"data.path={path} does not exist: correct the path")
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(SUFFIXES))
    if not files or not files[0].name.endswith(SUFFIXES):
        raise UserError(f"data.path={path} is no data file and holds none ({', '.join(SUFFIXES)}): name another")
    return files


def decoded(line: str) -> object:
    """The value of a line of JSON. Raises Malformed."""
    try:
        return json.loads(line)
    except ValueError as error:
        raise Malformed("not JSON") from error


def kind_of(name: str) -> str:
    """`harmful`, `helpful` or `any`, by the names in HH-RLHF: harmless-base and red-team-attempts hold requests that should be declined."""
    if "harmless" in name or "red-team" in name:
        return "harmful"
    return "helpful" if "helpful" in name else "any"


def hub_rows(data: DataConfig) -> Iterator[Row]:
    """Rows of a data set that the package `datasets` loads, from its cache or the hub. No code of the data set is run.

    Raises UserError where the package is missing or the data set cannot be loaded.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError("data.source=hub needs the package datasets, which the extra `hub` installs: pip install -e '.[hub]'") from error
    datasets.disable_progress_bars()
    try:
        rows = datasets.load_dataset(data.path, split=data.split)
    except Exception as error:  # datasets, the hub's client and the network each raise their own kinds
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"data.path={data.path}, split {data.split}, cannot be loaded ({reason}): correct data.path or data.split"
        ) from error
    kind = kind_of(str(data.path))
    yield from ((f"row {i}", kind, lambda row=row: row) for i, row in enumerate(rows, 1))


def content_key(data: DataConfig) -> str:
    """Sixteen hexadecimal digits over the content of human data: the bytes of files, or the rows of a hub data set."""
    digest = hashlib.sha256()
    if data.source == "hub":
        for _, _, read in hub_rows(data):
            digest.update(json.dumps(read(), sort_keys=True, default=str).encode())
    else:
        for file in data_files(Path(str(data.path))):
            with open(file, "rb") as handle:
                digest.update(kind_of(f"{file.parent.name}/{file.name}").encode() + hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()[:16]
