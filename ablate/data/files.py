"""Files and hub data sets → examples. Every row is parsed or counted as malformed, and too many malformed rows are refused."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from ablate.config import DataConfig
from ablate.data.dialogues import PARSERS, Example, Malformed
from ablate.errors import UserError
from ablate.system.digests import file_digest
from ablate.system.jsonl import decoded, numbered_lines

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
# Files and folders of a clone that hold no rows: what `datasets` writes beside its files, and HH-RLHF's transcripts without a preference.
NOT_ROWS = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "red-team-attempts")
SHOWN = 3  # malformed rows that a message shows
LONGEST_LINE = 1 << 24  # bytes; a longer line is a malformed row, and is not kept
LARGEST_ARRAY = 1 << 30  # bytes of a file that is one JSON array, which is read whole
LARGEST_RATIO = 200  # of a .gz file's content to its size: text has 3 to 20, zeros 1,000
LONGEST_DIALOGUE = 1_000_000  # characters of all turns and answers of one row
PIECE = 1 << 20  # bytes read at a time
HOPELESS = 100_000  # malformed rows after which no more are read, if they are more than half of the rows so far
LINE = re.compile(rb"\S[^\n]*")
ARRAY = re.compile(rb"\s*\[(\s*[\[{]|\s*\n)")  # an array of rows; a row of MOSS-RLHF is an array of texts


@dataclass(frozen=True)
class Table:
    """What was read: the examples, the number of rows, (place, reason) per malformed row, and what of a folder was left out."""

    examples: list[Example]
    rows: int
    malformed: list[tuple[str, str]]
    left_out: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{self.rows:,} rows, {len(self.malformed)} malformed"
        shown = "; ".join(f"{place}: {reason}" for place, reason in self.malformed[:SHOWN])
        more = ", …" if len(self.malformed) > SHOWN else ""
        left_out = f"; left out, since they hold no rows: {', '.join(self.left_out)}" if self.left_out else ""
        return text + (f" ({shown}{more})" if shown else "") + left_out


def read_table(data: DataConfig) -> Table:
    """Every row of data.path. Raises UserError where more than the share data.max_malformed of them is malformed, or none is left."""
    parse, examples, malformed, rows = PARSERS[data.source], [], [], 0
    for place, kind, read in hub_rows(data) if data.source == "hub" else file_rows(Path(str(data.path))):
        rows += 1
        try:
            examples.append(bounded(parse(read(), kind)))
        except (Malformed, RecursionError) as error:
            malformed.append((place, str(error) if isinstance(error, Malformed) else "nested too deeply"))
            if len(malformed) >= HOPELESS and len(malformed) > max(data.max_malformed, 0.5) * rows:
                break
    table = Table(examples, rows, malformed, [] if data.source == "hub" else without_rows(Path(str(data.path))))
    if len(malformed) > data.max_malformed * rows:
        raise UserError(
            f"data.path={data.path}: {table}, more than data.max_malformed={data.max_malformed:g} of them: "
            f"mend the file, or is it of another format than data.source={data.source}?"
        )
    if not examples:
        raise UserError(f"data.path={data.path} holds no rows: name another file or folder")
    return table


Row = tuple[str, str, Callable[[], object]]  # place, kind, and how to decode the row (raises Malformed)


def bounded(example: Example) -> Example:
    """The example. Raises Malformed where its texts are longer than LONGEST_DIALOGUE together."""
    size = sum(len(text) for _, text in example.prompt.messages) + len(example.chosen or "") + len(example.rejected or "")
    if size > LONGEST_DIALOGUE:
        raise Malformed(f"{size:,} characters, more than the {LONGEST_DIALOGUE:,} of the longest dialogue that is read")
    return example


def file_rows(path: Path) -> Iterator[Row]:
    """Rows of a file, or of every file of a folder in the order of their names.

    Raises UserError for a file that cannot be read, and for two files of equal content, as a backup beside its file is.
    """
    seen: dict[bytes, Path] = {}
    for file in data_files(path):
        kind, digest = kind_of(f"{file.parent.name}/{file.name}"), hashlib.sha256()
        for place, read in parquet_rows(file, digest) if file.suffix == ".parquet" else json_rows(file, digest):
            yield f"{file.name}, {place}", kind, read
        if (other := seen.setdefault(digest.digest(), file)) != file:
            raise UserError(f"{other} and {file} hold the same rows: remove one of them, or name one with data.path")


def json_rows(file: Path, digest) -> Iterator[tuple[str, Callable[[], object]]]:
    """(place, how to decode it) per row of JSON lines, or of one JSON array of rows, whatever the file's name says. Feeds the digest.

    Lines are read one at a time. Raises UserError.
    """
    with reading(file), gzip.open(file, "rb") if file.suffix == ".gz" else open(file, "rb") as stream:
        start = stream.peek(1 << 12).removeprefix(b"\xef\xbb\xbf")
        if ARRAY.match(start) or (file.name.removesuffix(".gz").endswith(".json") and start.strip()):
            yield from array_rows(file, stream, digest)
            return
        for number, line in lines_of(file, stream, digest):
            text = "" if len(line) > LONGEST_LINE else line.decode("utf-8-sig")
            yield f"line {number}", (lambda text=text: row_of(text)) if text else too_long_line


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn what a file that cannot be read raises within the block into a UserError that names it."""
    try:
        yield
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"cannot read {shown(file)} ({reason}): name another with data.path") from error


def shown(file: Path, most: int = 300) -> str:
    """The path, or the end of one too long for a message."""
    return str(file) if len(str(file)) <= most else f"…{str(file)[-most:]}"


def lines_of(file: Path, stream, digest) -> Iterator[tuple[int, bytes]]:
    """(number, line) of every line that is not blank, without blanks around it; of one beyond LONGEST_LINE its beginning, one byte more.

    The file is read by pieces, and blanks are passed over at once, however many they are. Feeds the digest. Raises UserError.
    """
    left, number, rest = most_bytes(file), 1, b""
    while piece := stream.read(PIECE):
        left -= len(piece)
        if left < 0:
            raise swollen(file)
        digest.update(piece)
        data = rest + piece
        whole = data.rfind(b"\n") + 1
        at = 0
        for line in LINE.finditer(data, 0, whole):
            number, at = number + data.count(b"\n", at, line.start()), line.start()
            yield number, line[0].rstrip()
        number, rest = number + data.count(b"\n", at, whole), data[whole:][: LONGEST_LINE + 1]
    if rest.strip():
        yield number, rest.strip()


def most_bytes(file: Path) -> int:
    """How many bytes the content of a file may have: its size, or LARGEST_RATIO times that where it is compressed."""
    return file.stat().st_size * (LARGEST_RATIO if file.suffix == ".gz" else 1) + LONGEST_LINE


def swollen(file: Path) -> UserError:
    """The error for a .gz file of too many bytes."""
    return UserError(f"{file} unpacks to more than {LARGEST_RATIO} times its size, which no text does: unpack it, or name another file")


def row_of(line: str) -> object:
    """The value of a line of JSON. Raises Malformed."""
    try:
        return decoded(line)
    except ValueError as error:
        raise Malformed("not JSON" if isinstance(error, json.JSONDecodeError) else str(error)) from error


def too_long_line() -> object:
    """Raises Malformed, for a line whose beginning alone was kept."""
    raise Malformed(f"a line of more than {LONGEST_LINE >> 20} MiB")


def array_rows(file: Path, stream, digest) -> Iterator[tuple[str, Callable[[], object]]]:
    """The rows of a JSON array; of lines where a file named .json holds them. Raises UserError."""
    most = min(LARGEST_ARRAY, most_bytes(file))
    data = stream.read(most + 1)
    if len(data) > most:
        if most < LARGEST_ARRAY:
            raise swollen(file)
        raise UserError(f"{file} is one JSON array of more than {most >> 20} MiB: write it as JSON lines")
    digest.update(data)
    text = data.decode("utf-8-sig")
    try:
        array = json.loads(text)
    except (ValueError, RecursionError) as error:
        lines = list(numbered_lines(text))
        if len(lines) > 1 and is_json(lines[0][1]):
            yield from ((f"line {number}", lambda line=line: row_of(line)) for number, line in lines)
            return
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{file} is not JSON ({reason}): mend it, or name JSON lines .jsonl") from error
    if not isinstance(array, list):
        raise UserError(f"{file} is not a JSON array of rows: mend it, or name JSON lines .jsonl")
    yield from ((f"row {i}", lambda row=row: whole_text(row)) for i, row in enumerate(array, 1))


def is_json(line: str) -> bool:
    """Whether a line is JSON by itself."""
    try:
        decoded(line)
    except ValueError:
        return False
    return True


def whole_text(row: object) -> object:
    """The row. Raises Malformed where it holds half of a surrogate pair, which is no text."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Malformed("half of a surrogate pair, which is no text") from error
    return row


def parquet_rows(file: Path, digest) -> Iterator[tuple[str, Callable[[], object]]]:
    """The rows of a Parquet file, a thousand at a time. Raises UserError where the package pyarrow is missing or cannot read it."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UserError(
            f"{file} needs the package pyarrow, which the extra `parquet` installs: pip install -e '.[parquet]', or name JSON lines"
        ) from error
    number = 0
    with reading(file), open(file, "rb") as handle:
        digest.update(hashlib.file_digest(handle, "sha256").digest())
        try:
            for batch in ParquetFile(handle).iter_batches(batch_size=1000):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", lambda row=row: row
        except ArrowException as error:
            raise OSError(next(iter(str(error).splitlines()), type(error).__name__)) from error


def data_files(path: Path) -> list[Path]:
    """The file, or the data files of the folder, without hidden ones and those of NOT_ROWS. Raises UserError where there are none."""
    with reading(path):
        if not path.exists():
            raise UserError(f"data.path={path} does not exist: correct the path")
        files = [path] if path.is_file() else [file for file in found_in(path) if not no_rows(file.relative_to(path))]
    if not files or not files[0].name.endswith(SUFFIXES):
        raise UserError(f"data.path={path} is no data file and holds none ({', '.join(SUFFIXES)}): name another")
    return files


def found_in(folder: Path) -> list[Path]:
    """Files of a folder that are named as data files are, in order; what is hidden, as .git and .ipynb_checkpoints, is not looked at."""
    files = [file for file in folder.rglob("*") if file.name.endswith(SUFFIXES) and file.is_file()]
    return sorted(file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts))


def no_rows(name: Path) -> bool:
    """Whether a file of a folder, named from there, is one of NOT_ROWS or lies in one."""
    return any(part in NOT_ROWS for part in name.parts)


def without_rows(path: Path) -> list[str]:
    """What of a folder is left out by its name."""
    names = [] if path.is_file() else [file.relative_to(path) for file in found_in(path)]
    return [str(name) for name in names if no_rows(name)]


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
    """Sixteen hexadecimal digits over the content of human data: the bytes of files, or the rows of a hub data set. Raises UserError."""
    if data.source == "hub":
        return hub_key(str(data.path), data.split)
    digest = hashlib.sha256()
    for file in data_files(Path(str(data.path))):
        with reading(file):
            digest.update(kind_of(f"{file.parent.name}/{file.name}").encode() + bytes.fromhex(file_digest(file)))
    return digest.hexdigest()[:16]


@cache
def hub_key(path: str, split: str) -> str:
    """`content_key` of a hub data set, which is read for it once in a process."""
    digest = hashlib.sha256()
    for _, _, read in hub_rows(DataConfig(source="hub", path=path, split=split)):
        digest.update(json.dumps(read(), sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]
