"""Run folders → tidy frames.

`Loaded` names their columns. Whatever is not used is listed in `left_out`, with the reason.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from ablate.errors import UserError
from ablate.system.progress import track
from ablate.system.reading import plain_bytes
from analysis.load import cache as parquet
from analysis.load.designs import merge_arms
from analysis.load.packed import resolve
from analysis.load.runfolder import COLUMNS, NotARun, Record, find_run_folders, fingerprint, iter_jsonl, read_run

IDENTITY = ("run", "study", "arm", "reward_model", "seed")
PAIR_COLUMNS = ("score_difference", "gold_difference", "chosen_length", "rejected_length")


@dataclass(frozen=True)
class Loaded:
    """What `load` returns.

    runs: one row per run, with run ('study/folder_arm/seed=n'), folder, study, arm, folder_arm, reward_model, seed, status, reason,
        collapsed, collapse_update, updates, wall_seconds, responses_per_second, git_commit, config_hash, version, last_update,
        numerics/…, rm/held_out_accuracy, sft/eval/gold, sft/eval/gold_sd, the other metrics of SFT and of the end (sft/…, final/…),
        and every setting under its dotted name (ppo.kl_coef).
    curves: one row per run and update, with run, study, arm, reward_model, seed, update, and one column per metric of metrics.jsonl.
        NaN: not measured.
    left_out: one row per folder, or part of one, that was not used: folder, what ('run' or 'part'), reason.
    """

    runs: pd.DataFrame
    curves: pd.DataFrame
    left_out: pd.DataFrame


def load(roots: str | Path | Sequence[str | Path], *, cache: bool = False) -> Loaded:
    """Read every run folder below `roots`, finished or not. `Loaded` names the columns.

    Args:
        roots: one or several folders. Each is a study, a results folder, a run, or a packed set such as results/reference or a study in it.
        cache: keep what was read in `<root>/.analysis/` as Parquet, and read only what has changed since. This needs pyarrow.

    Raises:
        UserError: a root is not a folder, or a packed set in it is damaged.
        UserError: `cache` is asked for and pyarrow is not installed.
    """
    records: dict[str, Record] = {}
    left_out: list[dict[str, str]] = []
    for root in [roots] if isinstance(roots, (str, Path)) else roots:
        folder = resolve(Path(root))
        if not folder.is_dir():
            raise UserError(f"{root} is not a folder: name a study or results folder")
        _read_root(folder, cache, records, left_out)
    _leave_out_twins(records, left_out)
    left_out += [dict(folder=folder, what="part", reason=note) for folder, record in records.items() for note in record.notes]
    runs, curves, twins = _frames(records)
    left_out += [
        dict(folder=folder, what="run", reason=f"same settings, reward model and seed as {first}") for folder, first in twins.items()
    ]
    return Loaded(runs, curves, pd.DataFrame(left_out, columns=["folder", "what", "reason"]))


def _read_root(root: Path, cache: bool, records: dict[str, Record], left_out: list[dict[str, str]]) -> None:
    """Add the runs below `root` to `records`, those that have not changed from the cache. Folders that are no runs go to `left_out`."""
    cached = parquet.read(root) if cache else {}
    fresh, here = 0, {}
    paths = find_run_folders(root)
    for path in track(paths, len(paths), "runs read", after=2):
        mark = fingerprint(path) if cache else ""
        known = cached.get(str(path.relative_to(root)))
        if known is not None and known[0] == mark:
            here[path] = known
            continue
        try:
            here[path] = (mark, read_run(path))
            fresh += 1
        except NotARun as reason:
            left_out.append(dict(folder=str(path), what="run", reason=str(reason)))
    if cache and (fresh or len(here) != len(cached)):
        parquet.write(root, {str(path.relative_to(root)): known for path, known in here.items()})
    records.update({str(path): record for path, (_, record) in here.items()})


def _leave_out_twins(records: dict[str, Record], left_out: list[dict[str, str]]) -> None:
    """Keep only the first of several folders with one study, arm and seed, because seeds are the unit of every comparison."""
    first: dict[tuple, str] = {}
    for folder in list(records):
        key = tuple(records[folder].row[name] for name in ("study", "arm", "seed"))
        if key in first:
            del records[folder]
            left_out.append(dict(folder=folder, what="run", reason=f"same study, arm and seed as {first[key]}"))
        first.setdefault(key, folder)


def _frames(records: dict[str, Record]) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, str]]:
    """(runs, curves, twins): `twins` maps folders of runs that repeat another arm's run to that run (`merge_arms`).

    Metrics are gathered in one array, a row per metric, so that a frame of thousands of runs is one copy.
    """
    runs = pd.DataFrame([{"folder": folder, **record.row} for folder, record in records.items()])
    if runs.empty:
        return pd.DataFrame(columns=[*IDENTITY, "folder", "folder_arm", "status"]), pd.DataFrame(columns=[*IDENTITY, "update"]), {}
    runs.insert(0, "run", [f"{study}/{arm}/seed={seed}" for study, arm, seed in zip(runs["study"], runs["arm"], runs["seed"], strict=True)])
    folder_of = dict(zip(runs["run"], runs["folder"], strict=True))
    runs, repeated = merge_arms(runs)
    kept = [records[folder] for folder in runs["folder"]]
    names = list(dict.fromkeys(name for record in kept for name in record.names))
    lengths = [len(record.values) for record in kept]
    columns = np.full((len(names), sum(lengths)), np.nan)
    position, start = {name: index for index, name in enumerate(names)}, 0
    for record, length in zip(kept, lengths, strict=True):
        columns[[position[name] for name in record.names], start : start + length] = record.values.T
        start += length
    curves = pd.DataFrame(columns.T, columns=names, copy=False)
    which = np.repeat(np.arange(len(runs)), lengths)
    for index, name in enumerate(IDENTITY[:-1]):
        codes, values = pd.factorize(runs[name])
        curves.insert(index, name, pd.Categorical.from_codes(codes[which], categories=values))
    curves.insert(len(IDENTITY) - 1, "seed", runs["seed"].to_numpy()[which])
    curves["update"] = curves["update"].astype(int)
    return runs, curves, {folder_of[run]: first for run, first in repeated.items()}


def _who(run) -> dict[str, object]:
    return {name: getattr(run, name) for name in IDENTITY}


def load_rows(runs: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of `name`.jsonl ('scores', 'samples' or 'tokens') of the given runs.

    They are far larger than the curves, so `load` leaves them out.

    'scores': one row per run, evaluation and held-out prompt: update, prompt, kind, proxy, gold, length, ended, and `IDENTITY`.
    'samples': one row per run, evaluation and sampled answer: update, prompt, kind, response, proxy, gold, length, and `IDENTITY`.
    'tokens': one row per run, evaluation and answer: update, prompt, length, lists tokens, value, advantage, reward, kl, and `IDENTITY`.
    Runs without the file add nothing. If no run has it, the frame has the columns of `IDENTITY` and no rows.
    """
    parts = []
    for run in runs.itertuples():
        rows = list(iter_jsonl(Path(run.folder) / f"{name}.jsonl"))
        if rows:
            part = pd.DataFrame(rows)
            lacking = dict.fromkeys(set(COLUMNS[f"{name}.jsonl"]) - set(part.columns))
            parts.append(part.assign(**lacking, **_who(run)))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(IDENTITY))


def load_reward_models(runs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(training, pairs) of the reward models kept inside the given runs, for figures 2 and 3.

    training: one row per run and training step: step, loss, accuracy, held_out_accuracy (NaN where not measured), and
        `IDENTITY`.
    pairs: one row per run and held-out pair: score_difference and gold_difference (chosen − rejected), chosen_length, rejected_length
        (tokens), and `IDENTITY`.
    A file of another form adds nothing. If no run has the file, the frame has the columns of `IDENTITY` and no rows.
    """
    training, pairs = [], []
    for run in runs.itertuples():
        who = _who(run)
        folder = Path(run.folder) / "reward_model"
        rows, table = list(iter_jsonl(folder / "training.jsonl")), _read_pairs(folder / "pairs.csv")
        if rows:
            training.append(pd.DataFrame(rows).assign(**who))
        if table is not None:
            pairs.append(table.assign(**who))
    empty = pd.DataFrame(columns=list(IDENTITY))
    return (pd.concat(training, ignore_index=True) if training else empty, pd.concat(pairs, ignore_index=True) if pairs else empty)


def _read_pairs(path: Path) -> pd.DataFrame | None:
    """pairs.csv of a reward model; None where there is none, or none with the numbers that it must hold."""
    try:
        table = pd.read_csv(io.BytesIO(plain_bytes(path)))
    except (FileNotFoundError, ValueError):
        return None
    known = [name for name in PAIR_COLUMNS if name in table]
    return table if known and all(is_numeric_dtype(table[name]) for name in known) else None
