"""Outcomes → counts and win rates with intervals, overall and per kind of prompt; as text, and as the file that the analysis reads.

These statistics are not in `analysis`, because their unit is a prompt of one run; there the unit is a run.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from ablate.runs.metrics import win_rate
from ablate.system.files import write_atomically
from ablate.system.tables import text_table

FORMAT = 1
OUTCOMES = ("win", "tie", "lose")
UNREADABLE = "unreadable"
ALL_KINDS = "all"
CONFIDENCE = 0.95
BOOTSTRAP_SAMPLES = 10_000
HEADER = ("prompts", "n", *OUTCOMES, UNREADABLE, "win rate, ties half [95 %]", "of decided [95 %]")


def table(kinds: Sequence[str], outcomes: Sequence[str], generator: np.random.Generator) -> list[dict]:
    """One row over all prompts, then one per kind of prompt where there are several.

    kinds, outcomes: one entry per prompt; an outcome is win, tie, lose or unreadable.
    generator: draws the bootstrap samples.

    win_rate = (wins + ties / 2) / readable, with the 95 % percentile bootstrap over prompts. Each prompt is a pair of answers, so this
    bootstrap is paired. decided_rate = wins / (wins + losses), with the exact 95 % interval of Clopper & Pearson (1934), which also
    holds where a side won every prompt. A rate without any prompt to count is None, and so are its limits.
    """
    names = [ALL_KINDS, *sorted(set(kinds))] if len(set(kinds)) > 1 else [ALL_KINDS]
    pairs = list(zip(kinds, outcomes, strict=True))
    return [row(name, [outcome for kind, outcome in pairs if name in (ALL_KINDS, kind)], generator) for name in names]


def row(kind: str, outcomes: Sequence[str], generator: np.random.Generator) -> dict:
    """Counts and rates of one kind of prompt; see `table`."""
    counts = Counter(outcomes)
    win, tie, lose = (counts[outcome] for outcome in OUTCOMES)
    readable, decided = win + tie + lose, win + lose
    found = {"kind": kind, "prompts": len(outcomes), "win": win, "tie": tie, "lose": lose, UNREADABLE: counts[UNREADABLE]}
    rate = dict.fromkeys(("win_rate", "low", "high"))
    if readable:
        draws = generator.multinomial(readable, np.array([win, tie, lose]) / readable, size=BOOTSTRAP_SAMPLES)
        low, high = np.quantile(win_rate(draws[:, 0], draws[:, 1]) / readable, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        rate = {"win_rate": win_rate(win, tie) / readable, "low": float(low), "high": float(high)}
    exact = dict.fromkeys(("decided_rate", "decided_low", "decided_high"))
    if decided:
        interval = stats.binomtest(win, decided).proportion_ci(CONFIDENCE, method="exact")
        exact = {"decided_rate": win / decided, "decided_low": float(interval.low), "decided_high": float(interval.high)}
    return found | rate | exact


def as_text(rows: Sequence[dict]) -> str:
    """The rows of `table` as text for a terminal."""
    cells = []
    for record in rows:
        counts = [str(record[name]) for name in ("prompts", *OUTCOMES, UNREADABLE)]
        overall = interval(record["win_rate"], record["low"], record["high"])
        decided = interval(record["decided_rate"], record["decided_low"], record["decided_high"])
        cells.append([record["kind"], *counts, overall, decided])
    return text_table(HEADER, cells)


def interval(estimate: float | None, low: float | None, high: float | None) -> str:
    """`0.550 [0.450, 0.650]`, or a dash where there is no estimate."""
    return "–" if estimate is None else f"{estimate:.3f} [{low:.3f}, {high:.3f}]"


def file_name(first: str, second: str, judge: str) -> str:
    """`policy-vs-sft.gold.json`; characters that a file name should not hold become `_`."""
    first, second, judge = (re.sub(r"[^\w=.-]+", "_", part) for part in (first, second, judge))
    return f"{first}-vs-{second}.{judge}.json"


def write(path: Path, record: dict) -> None:
    """Write the judgement as one JSON file, atomically; its folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"format": FORMAT, **record}, indent=1, ensure_ascii=False) + "\n")
