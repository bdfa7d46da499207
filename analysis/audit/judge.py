"""Whether an alarm of collapse fires over a run's monitors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

Rows = Sequence[Mapping[str, float]]
Rule = Callable[[Rows], tuple[str, int] | None]

FIRST_ALARM: Rule | None = None  # rows by update → (monitor, update) of the first alarm; None while no alarms are calibrated


def judge(rows: Rows, first_alarm: Rule | None = None) -> str | None:
    """One sentence where an alarm fires over the rows, each {"update": …, monitor: …} in order of updates; else None.

    first_alarm: the rule, by default `FIRST_ALARM`. Without any there is no alarm.
    """
    rule = first_alarm or FIRST_ALARM
    found = rule(rows) if rule else None
    return None if found is None else f"Alarm: {found[0]} at update {found[1]}."
