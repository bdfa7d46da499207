"""A log's rows → rows of our monitors by update, and what was not used on the way."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from ablate.errors import UserError
from analysis.audit.names import LENGTH, Column, Trainer, as_logged
from analysis.audit.read import Log

MOST_NAMED = 12  # columns that an error lists
MOST_UPDATES = 1 << 53  # beyond which floats are no longer all whole numbers


@dataclass(frozen=True)
class Run:
    """One run as monitors.

    name: of its log. trainer: its title. rows: one per update, in order, each {"update": …, monitor: …}; a metric without a monitor of
    ours has its own name. columns: monitor → the column it comes from. missing: columns whose monitor the log has not. notes: whole
    sentences about what was not used.
    """

    name: str
    trainer: str
    rows: list[dict[str, float]]
    columns: dict[str, Column]
    missing: list[Column]
    notes: list[str] = field(default_factory=list)

    def judged(self) -> list[dict[str, float]]:
        """The rows with those monitors alone that alarms may read."""
        names = {"update", *(name for name, column in self.columns.items() if column.ours and column.judged)}
        return [{name: value for name, value in row.items() if name in names} for row in self.rows]


def translate(log: Log, trainers: Sequence[Trainer]) -> Run:
    """The log as monitors, by the names of that trainer of which it holds the most. Raises UserError where it holds none."""
    logged = dict.fromkeys(name for row in log.rows for name in row)
    found = [(trainer, *_columns(trainer, logged)) for trainer in trainers]
    trainer, matched, notes = max(found, key=lambda one: len(one[1]))
    if not matched:
        titles = " or ".join(trainer.title for trainer in trainers)
        looked = dict.fromkeys(column.theirs for trainer in trainers for column in trainer.columns)
        raise UserError(
            f"{log.name}: no metric of {titles} is in it. Looked for {_some(list(looked))}; it has {_some(list(logged))}. "
            "Name its trainer with --from, or give a CSV file with our own names"
        )
    by_update, counted = _by_update(log.rows, trainer)
    rows, columns, infinite = [], {}, dict[str, set[int]]()
    for update, theirs in by_update.items():
        row, length = {"update": float(update)}, theirs.get(matched.get(LENGTH, (None, ""))[1], math.nan)
        for monitor, (column, name) in matched.items():
            value = theirs.get(name)
            if value is None:
                continue
            value *= length if column.per_token else 1
            if math.isfinite(value):
                row[monitor] = value
                columns[monitor] = column
            elif not math.isfinite(theirs[name]):
                infinite.setdefault(name, set()).add(update)
        rows += [row] if len(row) > 1 else []
    ordered = {monitor: columns[monitor] for monitor in matched if monitor in columns}
    if not ordered:
        raise UserError(f"{log.name}: no value of {_some([name for _, name in matched.values()])} is a finite number")
    notes += [f"{name} is not finite at {len(at)} of the updates, first at {min(at)}: left out there." for name, at in infinite.items()]
    missing = [column for column in trainer.columns if (column.ours or column.theirs) not in ordered]
    return Run(log.name, trainer.title, rows, ordered, missing, [*log.notes, *counted, *notes])


def _columns(trainer: Trainer, logged: Sequence[str] | dict[str, None]) -> tuple[dict[str, tuple[Column, str]], list[str]]:
    """Monitor → (column, name in the log) of what a log holds, and notes. Where several agents log a name, none of them is taken."""
    found: dict[str, tuple[Column, str]] = {}
    notes = []
    for column in trainer.columns:
        monitor = column.ours or column.theirs
        if monitor in found:
            continue
        pattern = re.compile(f"(?:{re.escape(trainer.prefix)})?" + re.escape(column.theirs).replace(r"\*", "[^/]+"))
        names = [name for name in logged if pattern.fullmatch(name)]
        if len(names) == 1 or (names and "*" not in column.theirs):
            found[monitor] = (column, names[0])
        elif names:
            notes.append(f"{column.theirs} stands for {len(names)} agents here, and none of them is read: {_some(names)}.")
    return found, notes


def _by_update(rows: Sequence[dict[str, float]], trainer: Trainer) -> tuple[dict[int, dict[str, float]], list[str]]:
    """Update → everything logged at it, in order of updates, and notes. What is logged twice at one update counts as logged last.

    Without a column of steps the rows are numbered. A row whose step is no whole number is left out.
    """
    candidates = [f"{prefix}{step}" for step in trainer.steps for prefix in (trainer.prefix, "")]
    name = next((candidate for candidate in candidates if any(candidate in row for row in rows)), None)
    if name is None:
        return {place: row for place, row in enumerate(rows, 1)}, [f"No column {' or '.join(trainer.steps)}: rows are numbered from 1."]
    found: dict[int, dict[str, float]] = {}
    without, before, back = 0, -math.inf, None
    for row in rows:
        step = row.get(name)
        if step is None or not abs(step) < MOST_UPDATES or step != int(step):
            without += 1
            continue
        if step < before and back is None:
            back = f"{name} goes back from {before:g} to {step:g}, as in a resumed run: what was logged last at an update counts."
        before = step
        found.setdefault(int(step), {}).update(row)
    notes = [f"{without} rows without a whole number as {name} are left out."] if without else []
    return dict(sorted(found.items())), [*notes, *([back] if back else [])]


def _some(names: Sequence[str]) -> str:
    """Up to twelve names, and how many more."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def absent(run: Run) -> list[str]:
    """What the log has not: each monitor with the names that it could come from."""
    names: dict[str, list[str]] = {}
    for column in run.missing:
        names.setdefault(column.ours or column.theirs, []).append(as_logged(column))
    return [monitor if theirs == [monitor] else f"{monitor} ({' or '.join(theirs)})" for monitor, theirs in names.items()]
