"""Verdicts → counts, win rates and their intervals, overall and by kind of prompt; as text, and as the file that the analysis reads.

The statistics are here and not in `analysis`, which reads run folders and must stay free of this package's models: a prompt is the unit
here, a run is there.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from ablate.system.files import write_atomically

FORMAT = 1
OUTCOMES = ("win", "tie", "lose")
UNREADABLE = "unreadable"
EVERY = "all"
LEVEL = 0.95
REPETITIONS = 10_000
HEADER = ("prompts", "n", *OUTCOMES, UNREADABLE, "win rate, ties half [95 %]", "of decided [95 %]")


def table(kinds: Sequence[str], outcomes: Sequence[str], generator: np.random.Generator) -> list[dict]:
    """A row over all prompts, then one a kind where there are several: counts, win rate with interval, wins among the decided.

    win_rate = (wins + ties / 2) / readable, its interval the percentile bootstrap over prompts (each prompt is a pair of answers, so it
    is paired). decided_rate = wins / (wins + losses), its interval Clopper & Pearson's (1934), which also holds where all were won.
    """
    several = sorted(set(kinds)) if len(set(kinds)) > 1 else []
    return [row(kind, [o for k, o in zip(kinds, outcomes, strict=True) if kind in (EVERY, k)], generator) for kind in (EVERY, *several)]


def row(kind: str, outcomes: Sequence[str], generator: np.random.Generator) -> dict:
    counts = Counter(outcomes)
    win, tie, lose = (counts[outcome] for outcome in OUTCOMES)
    readable, decided = win + tie + lose, win + lose
    found = {"kind": kind, "prompts": len(outcomes), "win": win, "tie": tie, "lose": lose, UNREADABLE: counts[UNREADABLE]}
    rate = dict.fromkeys(("win_rate", "low", "high"))
    if readable:
        draws = generator.multinomial(readable, np.array([win, tie, lose]) / readable, size=REPETITIONS)
        low, high = np.quantile((draws[:, 0] + draws[:, 1] / 2) / readable, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        rate = {"win_rate": (win + tie / 2) / readable, "low": float(low), "high": float(high)}
    exact = dict.fromkeys(("decided_rate", "decided_low", "decided_high"))
    if decided:
        interval = stats.binomtest(win, decided).proportion_ci(LEVEL, method="exact")
        exact = {"decided_rate": win / decided, "decided_low": float(interval.low), "decided_high": float(interval.high)}
    return found | rate | exact


def as_text(rows: Sequence[dict]) -> str:
    """The table for a terminal."""
    cells = [HEADER]
    for found in rows:
        counts = [str(found[name]) for name in ("prompts", *OUTCOMES, UNREADABLE)]
        intervals = [interval(found["win_rate"], found["low"], found["high"])]
        intervals.append(interval(found["decided_rate"], found["decided_low"], found["decided_high"]))
        cells.append((found["kind"], *counts, *intervals))
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEADER))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells)


def interval(estimate: float | None, low: float | None, high: float | None) -> str:
    return "–" if estimate is None else f"{estimate:.3f} [{low:.3f}, {high:.3f}]"


def file_name(first: str, second: str, judge: str) -> str:
    """`policy-vs-sft.gold.json`, with nothing in it that a file system minds."""
    first, second, judge = (re.sub(r"[^\w=.-]+", "_", part) for part in (first, second, judge))
    return f"{first}-vs-{second}.{judge}.json"


def write(path: Path, record: dict) -> None:
    """The judgement as one JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"format": FORMAT, **record}, indent=1, ensure_ascii=False) + "\n")
