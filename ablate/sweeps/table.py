"""What a sweep shows while it runs: a live table on a terminal, one line per event elsewhere."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ablate.config import Config
from ablate.system.jsonl import complete_lines, readable_rows
from ablate.system.reading import fits

STYLES = {"running": "cyan", "completed": "green", "diverged": "yellow", "failed": "red", "interrupted": "magenta"}
ENDED = ("completed", "diverged", "failed", "interrupted")
NOT_STARTED = "not started"  # the reason of a run that a request to stop came before
SHORTEST_ARM = 16  # characters
TAIL_BYTES = 16_384


@dataclass(frozen=True)
class RunProgress:
    """The latest numbers in a run folder; None where there is none yet."""

    update: int = 0
    gold: float | None = None
    kl: float | None = None
    responses_per_second: float | None = None
    alarms: int = 0  # that have sounded


@dataclass
class Job:
    """One run of a sweep. Its state is waiting, then running, then completed, diverged, failed or interrupted."""

    config: Config
    folder: Path
    state: str = "waiting"
    reason: str = ""
    collapsed: bool = False
    collapse_update: int | None = None
    started: float = 0.0
    seconds: float = 0.0
    progress: RunProgress = field(default_factory=RunProgress)

    @property
    def label(self) -> str:
        return f"{self.config.arm} seed={self.config.seed}"


def last_rows(path: Path) -> list[dict]:
    """The complete rows in the last TAIL_BYTES bytes of a JSONL file; [] without the file."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        start = max(0, path.stat().st_size - TAIL_BYTES)
        file.seek(start)
        lines = complete_lines(file.read())
    rows = readable_rows(lines[1 if start else 0 :])  # the first may lack its beginning
    return [row for row in rows if isinstance(row, dict)]


def read_progress(folder: Path) -> RunProgress:
    """The last known value of each number in `metrics.jsonl`."""
    rows = last_rows(folder / "metrics.jsonl")
    latest = {key: value for row in rows for key, value in row.items() if fits(value, float) and math.isfinite(value)}
    return RunProgress(
        update=int(latest.get("update", 0)),
        gold=latest.get("eval/gold"),
        kl=latest.get("monitor/kl_to_sft"),
        responses_per_second=latest.get("responses_per_second"),
        alarms=int(latest.get("alarm/sounded", 0)),
    )


def seconds_left(jobs: Sequence[Job], elapsed: float, before: int) -> float | None:
    """The time for the remaining updates, at the rate since the sweep began; None before its first update.

    elapsed: seconds since the sweep began. before: updates that had been done by then.
    """
    done = sum(job.progress.update for job in jobs) - before
    remaining = sum(job.config.ppo.updates - job.progress.update for job in jobs if job.state in ("waiting", "running"))
    return elapsed * remaining / done if done > 0 else None


def totals(jobs: Sequence[Job], left: float | None, elapsed: float) -> str:
    """`3 running · 5 done · 1 collapsed · 0 failed · 7 waiting · 40 s so far · 2 min left`"""
    states = Counter(job.state for job in jobs)
    counts = {
        "running": states["running"],
        "done": states["completed"] + states["diverged"],
        "collapsed": sum(job.collapsed for job in jobs),
        "failed": states["failed"],
        "waiting": states["waiting"],
    }
    return " · ".join([*(f"{count} {name}" for name, count in counts.items()), f"{duration(elapsed)} so far", f"{duration(left)} left"])


def duration(seconds: float | None) -> str:
    """`40 s`, `12 min` or `2.5 h`; `–` for None."""
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def number(value: float | None, digits: int = 2) -> str:
    """A value with so many decimal places, never as −0; `–` for None."""
    return "–" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"


def without_shared_parts(arms: Sequence[str]) -> list[str]:
    """The names of arms without the parts that all of them share; one arm alone keeps its name.

    >>> without_shared_parts(["kl_penalty=true,updates=9", "kl_penalty=false,updates=9"])
    ['kl_penalty=true', 'kl_penalty=false']
    """
    parts = [arm.split(",") for arm in arms]
    shared = set(shared_parts(arms))
    if all(set(own) == shared for own in parts):
        return list(arms)
    return [",".join(part for part in own if part not in shared) or own[0] for own in parts]


def shared_parts(arms: Sequence[str]) -> list[str]:
    """The parts that the names of all arms share, in their order."""
    parts = [arm.split(",") for arm in arms]
    return [part for part in parts[0] if all(part in own for own in parts)]


def cut_middle(text: str, width: int) -> str:
    """A text of at most `width` characters, with both of its ends: arms often differ in the last part of their names."""
    if len(text) <= width:
        return text
    end = (width - 1) // 2
    return f"{text[: width - 1 - end]}…{text[-end:]}"


def heading(jobs: Sequence[Job]) -> str:
    """The study, and what the names of its arms share: `kl_coef, all with updates=20`."""
    arms = [str(job.config.arm) for job in jobs]
    shared = ", ".join(shared_parts(arms)) if len(set(arms)) > 1 else ""
    return ", ".join(dict.fromkeys(job.config.study for job in jobs)) + (f", all with {shared}" if shared else "")


def state_of(job: Job) -> str:
    """The state of a job; of a running one instead how many alarms have sounded, where any has, and of one that collapsed where it did."""
    if job.state == "running" and job.progress.alarms:
        return f"{job.progress.alarms} alarm{'s' * (job.progress.alarms > 1)}"
    if not job.collapsed:
        return job.state
    return "collapsed" if job.collapse_update is None else f"collapsed at {job.collapse_update}"


def table(jobs: Sequence[Job], left: float | None, height: int, elapsed: float = 0.0, width: int = 120) -> Group:
    """The table with at most `height` rows: running jobs first, then failed ones, the newest results, and waiting ones.

    Widths follow from all jobs, so that they stay while rows come and go; only the name of an arm is cut where the terminal is narrow.
    left: seconds left; see `seconds_left`. elapsed: seconds since the sweep began. width: columns of the terminal.
    """
    names = dict(zip((id(job) for job in jobs), without_shared_parts([str(job.config.arm) for job in jobs]), strict=True))
    order = {"running": 0, "failed": 1, "diverged": 2, "completed": 2, "interrupted": 3, "waiting": 4}
    shown = sorted(jobs, key=lambda job: (order[job.state], -(job.started + job.seconds)))[:height]
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    longest = max(job.config.ppo.updates for job in jobs)
    widths = {"seed": 4, "state": len(f"collapsed at {longest}"), "update": 2 * len(str(longest)) + 1, "gold": 6, "KL": 5, "resp/s": 6,
              "time": 6}  # fmt: skip
    widths = {name: max(len(name), columns) for name, columns in widths.items()}
    room = max(SHORTEST_ARM, width - sum(widths.values()) - 2 * len(widths))
    grid.add_column("arm", no_wrap=True, min_width=min(room, max(map(len, names.values()))))
    for name, columns in widths.items():
        grid.add_column(name, justify="left" if name == "state" else "right", min_width=columns, no_wrap=True)
    for job in shown:
        progress = job.progress
        state = Text(
            state_of(job),
            style="yellow" if job.collapsed or (job.state == "running" and job.progress.alarms) else STYLES.get(job.state, "dim"),
        )
        grid.add_row(
            cut_middle(names[id(job)], room), str(job.config.seed), state, f"{progress.update}/{job.config.ppo.updates}",
            number(progress.gold), number(progress.kl, 1), number(progress.responses_per_second, 0),
            duration(job.seconds or None),
        )  # fmt: skip
    hidden = len(jobs) - len(shown)
    foot = Text(totals(jobs, left, elapsed), style="bold")
    return Group(Text(heading(jobs), style="bold"), grid, Text(f"… and {hidden} more" if hidden else ""), foot)


class LiveTable:
    """Shows the jobs of one sweep during a `with` block: as a live table on a terminal, else as one line per event."""

    def __init__(self, jobs: Sequence[Job], console: Console | None = None):
        self.jobs = jobs
        self.console = console or Console()
        self.began = time.monotonic()
        self.drawn = 0.0
        for job in jobs:
            job.progress = read_progress(job.folder)
        self.before = sum(job.progress.update for job in jobs)
        self.names = without_shared_parts([str(job.config.arm) for job in jobs])
        # Without a refresh thread, because processes are started from this one.
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None

    def __enter__(self) -> LiveTable:
        if self.live:
            self.live.start()
        else:
            print(heading(self.jobs), flush=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.draw()
        if self.live:
            self.live.stop()

    def event(self, job: Job) -> None:
        """Show that a job has started or ended."""
        job.progress = read_progress(job.folder)
        if self.live is None:
            ended = sum(other.state in ENDED for other in self.jobs)
            detail = ""
            if job.state in ENDED:
                detail = f", gold {number(job.progress.gold)}, {duration(job.seconds)}" + (f", {state_of(job)}" if job.collapsed else "")
                detail += f": {job.reason}" if job.reason else ""
            print(f"[{ended}/{len(self.jobs)}] {self.label(job)} {job.state}{detail}", flush=True)

    def label(self, job: Job) -> str:
        """A job by what sets its arm apart from the others."""
        return f"{self.names[next(i for i, other in enumerate(self.jobs) if other is job)]} seed={job.config.seed}"

    def refresh(self) -> None:
        """Draw the live table again, at most once per second."""
        if self.live and time.monotonic() - self.drawn >= 1:
            self.draw()

    def draw(self) -> None:
        """Read the progress of the running jobs, and show the table, or the totals alone outside a terminal."""
        for job in self.jobs:
            if job.state == "running":
                job.progress = read_progress(job.folder)
        elapsed = time.monotonic() - self.began
        left = seconds_left(self.jobs, elapsed, self.before)
        if self.live:
            self.live.update(table(self.jobs, left, max(3, self.console.height - 6), elapsed, self.console.width), refresh=True)
        else:
            print(totals(self.jobs, left, elapsed), flush=True)
        self.drawn = time.monotonic()
