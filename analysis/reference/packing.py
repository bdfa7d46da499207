"""Finished runs → a packed set, which `analysis.load.packed` reads. `RULES` says what is rounded, thinned and left out.

A packed set is one tar.xz of ordinary run folders per study. Its bytes depend on their content alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import re
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from ablate.errors import UserError
from ablate.system.files import write_atomically
from ablate.system.jsonl import to_lines
from ablate.system.reading import plain_bytes
from analysis.estimate.outcomes import ENDED, outcomes
from analysis.load.frames import load
from analysis.load.packed import SUMS, archive_of, sums, unpack_study
from analysis.load.runfolder import find_run_folders, iter_jsonl, read_summary

METRIC_DIGITS, EVALUATION_DIGITS, ROW_DIGITS, CLOCK_DIGITS = 4, 5, 4, 2  # significant
CLOCK, EVALUATION = ("time/", "responses_per_second"), "eval/"
EVERY = 50  # updates
RULES = f"""\
- `metrics.jsonl`: every update and every metric, to at least {METRIC_DIGITS} significant digits, `{EVALUATION}*` to {EVALUATION_DIGITS};
  `time/*` and `responses_per_second` to at least {CLOCK_DIGITS}.
- `scores.jsonl`, `samples.jsonl`: the first and the last evaluation, the one at which the run collapsed, and at least one per
  {EVERY} updates, to {ROW_DIGITS} digits. `tokens.jsonl`: at least the first, the last and that of the collapse.
- `summary.json`, `reward_model/`: as they were. `config.yaml`: as it was, but the folders of results and cache are the defaults.
- Not packed: checkpoints, logs, wandb files, and runs that did not end by themselves.
- Files that runs share are stored once. So are metrics that differ in nothing but wall-clock time: the later run by name then
  shows the times of the first."""
# Of text: 4 bits of the byte before as context, no alignment; and a window of 32 MiB, so that runs of one kind are seen together.
FILTER = {"id": lzma.FILTER_LZMA2, "preset": 6 | lzma.PRESET_EXTREME, "dict_size": 1 << 25, "lc": 4, "lp": 0, "pb": 0}
FILES = ("config.yaml", "summary.json", "metrics.jsonl", "scores.jsonl", "samples.jsonl", "tokens.jsonl",
         "reward_model/report.json", "reward_model/training.jsonl", "reward_model/pairs.csv")  # fmt: skip
ANSWERS = ("samples.jsonl", "tokens.jsonl")  # what models said, which may look like a path
FOLDERS = {"results": "results", "cache": "~/.cache/ppo-ablation"}
A_PATH = re.compile(r"""(?:^|[\s"'=(\[])(/(?:[\w.+~-]+/)+[\w.+~-]*)""", re.MULTILINE)


def pack(folders: Sequence[Path], out: Path) -> list[str]:
    """Write `out`/STUDY.tar.xz of the finished runs of each study below `folders`, and its line of SHA256SUMS.

    A study that the set has already is replaced. Other studies stay as they are. Nothing is written of a study until what was packed
    of it has been unpacked and compared. Returns one sentence per run that was left out.

    Raises:
        UserError: there is no finished run.
        UserError: a file names a path of this machine.
        UserError: packing would change an outcome, or a curve by more than its rounding.
    """
    runs, left_out = finished_runs(folders)
    if not runs:
        raise UserError(f"no finished run below {', '.join(map(str, folders))}")
    out.mkdir(parents=True, exist_ok=True)
    for study, members in _by_study(runs).items():
        contents = {name: content for folder in members for name, content in packed_files(folder)}
        with tempfile.TemporaryDirectory(dir=out) as place:
            write_study(Path(place), study, contents)
            check(members, Path(place), study)
            os.replace(archive_of(Path(place), study), archive_of(out, study))
            _write_sums(out, sums(out) | sums(Path(place)))
    return left_out


def _by_study(runs: Sequence[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for folder in runs:
        found.setdefault(_place(folder).partition("/")[0], []).append(folder)
    return found


def write_study(packed: Path, study: str, contents: dict[str, bytes]) -> None:
    """Write the archive of one study to a packed set. contents: study/arm/seed=n/file → content.

    Raises:
        UserError: the format does not hold a name.
    """
    try:
        data = compressed(contents)
    except ValueError as error:
        raise UserError(f"the runs cannot be packed ({error}): give studies and arms shorter names") from error
    archive_of(packed, study).write_bytes(data)
    _write_sums(packed, sums(packed) | {study: hashlib.sha256(data).hexdigest()})


def remove_study(packed: Path, study: str) -> None:
    """Take a study out of a packed set. Raises UserError if the set has no such study."""
    stated = sums(packed)
    if study not in stated:
        raise UserError(f"{packed} has no study {study}: there are {', '.join(sorted(stated))}")
    _write_sums(packed, {name: digest for name, digest in stated.items() if name != study})
    archive_of(packed, study).unlink(missing_ok=True)


def _write_sums(packed: Path, stated: dict[str, str]) -> None:
    lines = [f"{digest}  {archive_of(packed, study).name}" for study, digest in sorted(stated.items())]
    write_atomically(packed / SUMS, "\n".join([*lines, ""]))


def finished_runs(folders: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """(the run folders that completed or diverged, one sentence per other run folder)."""
    runs, left_out = [], []
    for folder in sorted({run for root in folders for run in find_run_folders(root)}):
        status = read_summary(folder / "summary.json", []).get("status", "running")
        if status in ENDED:
            runs.append(folder)
        else:
            left_out.append(f"{_place(folder)}: {status}")
    return runs, left_out


def packed_files(folder: Path) -> list[tuple[str, bytes]]:
    """(study/arm/seed=n/file, content as it is packed) of every file of one run.

    Raises:
        UserError: a file other than those of answers names a path of this machine.
    """
    collapse = read_summary(folder / "summary.json", []).get("collapse_update")
    found = []
    for name in FILES:
        path = folder / name
        if not path.is_file():
            continue
        if name == "metrics.jsonl":
            content = json_lines(iter_jsonl(path), METRIC_DIGITS)
        elif name in ("scores.jsonl", *ANSWERS):
            every = None if name == "tokens.jsonl" else EVERY
            content = json_lines(thinned(list(iter_jsonl(path)), collapse, every), ROW_DIGITS)
        else:
            try:
                content = plain_bytes(path).decode()
            except ValueError as error:
                raise UserError(f"{path} cannot be packed ({error}): mend or remove it") from error
        if name == "config.yaml":
            for setting, default in FOLDERS.items():
                content = re.sub(rf"(?m)^{setting}: .*$", f"{setting}: {default}", content)
        if name not in ANSWERS and (paths := A_PATH.findall(content)):
            raise UserError(f"{path} names a path of this machine, {paths[0]}: only runs whose settings name none can be packed")
        found.append((f"{_place(folder)}/{name}", content.encode()))
    return found


def _place(folder: Path) -> str:
    """study/arm/seed=n"""
    return "/".join(folder.resolve().parts[-3:])


def thinned(rows: list[dict], collapse: int | None, every: int | None) -> list[dict]:
    """The rows of the first evaluation, of the last, of the one at update `collapse`, and with `every` of the first in each `every`
    updates: equal updates of runs that were evaluated at equal ones."""
    updates = list(dict.fromkeys(row["update"] for row in rows))
    kept = {*updates[:1], *updates[-1:], collapse}
    if every:
        kept |= {update for before, update in pairwise(updates) if before // every < update // every}
    return [row for row in rows if row["update"] in kept]


def json_lines(rows: Iterable[dict], digits: int) -> str:
    """One JSON object per line. Floats are rounded to significant digits: `digits_of` their name."""
    rounded = ({name: _round(name, value, digits) for name, value in row.items()} for row in rows)
    return to_lines(rounded)


def _round(name: str, value: object, digits: int) -> object:
    if not isinstance(value, float):
        return value
    return float(f"{value:.{digits_of(name, digits)}g}")


def digits_of(name: str, digits: int = METRIC_DIGITS) -> int:
    """Significant digits kept of a metric: `digits`, but `CLOCK_DIGITS` of wall-clock time and `EVALUATION_DIGITS` of evaluations."""
    return CLOCK_DIGITS if name.startswith(CLOCK) else EVALUATION_DIGITS if name.startswith(EVALUATION) else digits


def compressed(contents: dict[str, bytes]) -> bytes:
    """A tar.xz of the files, with equal bytes for equal contents. Files of one name lie together. A repeated one links to the first."""
    stored: dict[tuple[str, bytes], str] = {}
    buffer = io.BytesIO()
    with (
        lzma.open(buffer, "wb", filters=[FILTER]) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name in sorted(contents, key=lambda name: (name.rpartition("/")[2], name)):
            first = stored.setdefault((name.rpartition("/")[2], _without_clock(name, contents[name])), name)
            member = tarfile.TarInfo(name)
            if first == name:
                member.size = len(contents[name])
                archive.addfile(member, io.BytesIO(contents[name]))
            else:
                member.type, member.linkname = tarfile.LNKTYPE, first
                archive.addfile(member)
    return buffer.getvalue()


def _without_clock(name: str, content: bytes) -> bytes:
    """Digest of a file without its wall-clock metrics. Files of one name and digest are stored once."""
    if name.endswith("/metrics.jsonl"):
        lines = [line for line in content.split(b"\n") if line]
        rows = [{key: value for key, value in json.loads(line).items() if not key.startswith(CLOCK)} for line in lines]
        content = json.dumps(rows).encode()
    return hashlib.sha256(content).digest()


def rounding(name: str) -> float:
    """The most that packing changes a metric by, relative to it."""
    return 0.51 * 10 ** (1 - digits_of(name))


def check(runs: Sequence[Path], packed: Path, study: str) -> None:
    """Unpack a study of the set and compare it with its runs: equal outcomes of every run, and every metric within its rounding.

    Raises:
        UserError: they differ.
    """
    with tempfile.TemporaryDirectory() as place:
        unpack_study(packed, study, Path(place) / study)
        before, after = load(runs), load(place)
    names = [name for name in before.curves.select_dtypes("number") if not name.startswith(CLOCK)]
    ours, theirs = (frame.astype({"run": str}).sort_values(["run", "update"])[names].to_numpy() for frame in (before.curves, after.curves))
    relative = np.array([rounding(name) for name in names])
    if ours.shape != theirs.shape or not np.allclose(ours, theirs, rtol=relative, atol=0, equal_nan=True):
        raise UserError("packing changed a curve by more than its rounding")
    told = [outcomes(loaded.runs, loaded.curves).set_index("run").sort_index() for loaded in (before, after)]
    kept = ["status", "event", "time", "collapsed", "stable_updates"]
    if not told[0][kept].equals(told[1][kept]):
        raise UserError("packing changed an outcome: a run is within rounding of the collapse threshold; raise EVALUATION_DIGITS")
