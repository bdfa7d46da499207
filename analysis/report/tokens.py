"""The answers of the page that are shown token by token, within a bound on their number and length."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.load.frames import load_rows
from analysis.report.curves import short
from analysis.report.texts import draws, evenly_spaced, shown

MEASURES = ("value", "advantage", "reward", "kl")
MAX_UPDATES = 6  # evenly spaced evaluations, the first and the last among them
MAX_TOKENS = 60_000  # over all answers: 2 MB of the page; the last seeds are left out, then the ends of answers
MIN_LENGTH = 16  # tokens that are kept of an answer however many answers there are
FULL = 98  # per cent of the numbers of a measure that are within the range of its colours


def load_tokens(runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of tokens.jsonl of as many seeds, in order, as `token_data` keeps and one more: of thousands of runs most are not shown."""
    labels, parts, tokens = draws(runs).to_numpy(), [], 0
    for label in np.sort(np.unique(labels)):
        part = load_rows(runs[labels == label], "tokens")
        if len(part) and "tokens" in part:
            kept = part["update"].isin(evenly_spaced(np.unique(part["update"]), MAX_UPDATES))
            parts, tokens = [*parts, part], tokens + sum(len(row) for row in part["tokens"][kept] if isinstance(row, list))
        if tokens > MAX_TOKENS:
            break
    return pd.concat(parts, ignore_index=True) if parts else load_rows(runs[:0], "tokens")


def token_data(runs: pd.DataFrame, rows: pd.DataFrame) -> dict[str, Any] | None:
    """Rows of tokens.jsonl as {prompts, updates, seeds, strings, answers, scale, longest, of}. None if there are none.

    seeds: the labels of `draws`. strings: the distinct tokens.
    answers: `answers[run][prompt][update]` is {length, tokens, value, advantage, reward, kl}, or None. length: of the whole answer in
        tokens; tokens: indices into strings; the others are lists of as many numbers, or None. Runs have the order of `runs`. That of a
        seed which is left out is None.
    scale: measure → the size of a number that has its full colour, None where no answer has the measure.
    longest: the tokens that are kept of an answer. of: the numbers of updates and seeds before the limits.
    """
    rows = rows[[_whole(row) for row in rows.to_dict("records")]] if "tokens" in rows else rows.iloc[:0]
    if rows.empty:
        return None
    rows = rows.drop_duplicates(["run", "prompt", "update"], keep="last")
    number = rows["update"].nunique()
    rows, updates, seeds = shown(rows, runs, MAX_UPDATES, rows["tokens"].map(len).to_numpy(), MAX_TOKENS)
    longest = _longest(rows["tokens"].map(len).to_numpy())
    prompts = list(dict.fromkeys(rows["prompt"]))
    strings: dict[str, int] = {}
    row_of = {run: index for index, run in enumerate(runs["run"])}
    answers: list[Any] = [None] * len(runs)
    for row in rows.to_dict("records"):
        index = row_of[str(row["run"])]
        if answers[index] is None:
            answers[index] = [[None] * len(updates) for _ in prompts]
        tokens = [strings.setdefault(token, len(strings)) for token in row["tokens"][:longest]]
        measures = {name: short(_numbers(row[name][:longest]), 3) if _known(row, name) else None for name in MEASURES}
        place = answers[index][prompts.index(row["prompt"])]
        length = len(row["tokens"]) if pd.isna(row["length"]) else int(row["length"])
        place[int(np.searchsorted(updates, row["update"]))] = {"length": length, "tokens": tokens, **measures}
    return {
        "prompts": prompts, "updates": updates.tolist(), "seeds": seeds.tolist(), "strings": list(strings), "answers": answers,
        "scale": {name: _scale(answers, name) for name in MEASURES}, "longest": longest,
        "of": {"updates": number, "seeds": draws(runs).nunique()},
    }  # fmt: skip


def _known(row: dict[str, Any], name: str) -> bool:
    return isinstance(row.get(name), list)


def _whole(row: dict[str, Any]) -> bool:
    """Whether every list of a row has one entry per token."""
    return all(not _known(row, name) or len(row[name]) == len(row["tokens"]) for name in MEASURES)


def _numbers(values: list[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _longest(lengths: np.ndarray) -> int:
    """The most tokens per answer with which all answers together have at most `MAX_TOKENS`, but no fewer than `MIN_LENGTH`."""
    low, high = MIN_LENGTH, max(int(lengths.max()), MIN_LENGTH)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(lengths, middle).sum() <= MAX_TOKENS else (low, middle - 1)
    return low


def _scale(answers: list[Any], name: str) -> float | None:
    cells = [cell for run in answers if run for prompt in run for cell in prompt if cell and cell[name]]
    found = [value for cell in cells for value in cell[name] if value is not None]
    if not found:
        return None
    return float(short([float(np.percentile(np.abs(found), FULL)) or 1.0], 2)[0])
