"""What the alarms of collapse say of a run's monitors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from ablate.runs.alarms import ALARMS, PATIENCE, VOTES, watched

Rows = Sequence[Mapping[str, float]]
Rule = Callable[[Rows], dict[str, int]]  # rows → alarm → the update in which it sounded


def sounded(rows: Rows) -> dict[str, int]:
    """The alarms of `ablate.runs.alarms` that sounded, and when; the first row stands for SFT."""
    return watched(rows).sounded


def judge(rows: Rows, rule: Rule = sounded) -> str | None:
    """A sentence on the alarms that sounded over the rows, each {"update": …, monitor: …} in order of updates; None without any."""
    alarms = sorted(rule(rows).items(), key=lambda pair: pair[1])
    if not alarms:
        return None
    said = ", ".join(f"{name} at update {update}" for name, update in alarms)
    verdict = "which is a collapse" if len(alarms) >= VOTES else f"of which {VOTES} are a collapse"
    return f"Alarms: {said}; {len(alarms)} of {len(ALARMS)}, {verdict}."


def blind(rows: Rows) -> str | None:
    """Why no alarm, or fewer than a verdict takes, can sound over these rows; None where enough can."""
    if len(rows) <= PATIENCE:
        return f"Too short for an alarm, which takes {PATIENCE} updates after the first."
    able = [alarm.name for alarm in ALARMS if not all(math.isnan(alarm.statistic(row, rows[0])) for row in rows)]
    if len(able) < VOTES:
        which = f"{able[0]} alone" if able else "none"
        return f"Of the {len(ALARMS)} alarms this log has the monitors of {which}: a verdict takes {VOTES}."
    return None
