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
TAIL_BYTES = 16_384


@dataclass(frozen=True)
class RunProgress:
    """The latest numbers in a run folder; None where there is none yet."""

    update: int = 0
    gold: float | None = None
    kl: float | None = None
    responses_per_second: float | None = None


@dataclass
class Job:
    """One run of a sweep. Its state is waiting, then running, then completed, diverged, failed or interrupted."""

    config: Config
    folder: Path
    state: str = "waiting"
    reason: str = ""
    collapsed: bool = False
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
    )


def seconds_left(jobs: Sequence[Job], elapsed: float, before: int) -> float | None:
    """The time for the remaining updates, at the rate since the sweep began; None before its first update.

    elapsed: seconds since the sweep began. before: updates that had been done by then.
    """
    done = sum(job.progress.update for job in jobs) - before
    remaining = sum(job.config.ppo.updates - job.progress.update for job in jobs if job.state in ("waiting", "running"))
    return elapsed * remaining / done if done > 0 else None


def totals(jobs: Sequence[Job], left: float | None) -> str:
    """`3 running · 5 done · 1 collapsed · 0 failed · 7 waiting · 2 min left`"""
    states = Counter(job.state for job in jobs)
    counts = {
        "running": states["running"],
        "done": states["completed"] + states["diverged"],
        "collapsed": sum(job.collapsed for job in jobs),
        "failed": states["failed"],
        "waiting": states["waiting"],
    }
    return " · ".join([*(f"{count} {name}" for name, count in counts.items()), f"{duration(left)} left"])


def duration(seconds: float | None) -> str:
    """`40 s`, `12 min` or `2.5 h`; `–` for None."""
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def table(jobs: Sequence[Job], left: float | None, height: int) -> Group:
    """The table with at most `height` rows: running jobs first, then failed ones, the newest results, and waiting ones.

    left: seconds left; see `seconds_left`.
    """
    order = {"running": 0, "failed": 1, "diverged": 2, "completed": 2, "interrupted": 3, "waiting": 4}
    shown = sorted(jobs, key=lambda job: (order[job.state], -(job.started + job.seconds)))[:height]
    grid = Table(box=None, pad_edge=False, header_style="bold")
    grid.add_column("arm", overflow="ellipsis", no_wrap=True)
    for name in ("seed", "state", "update", "gold", "KL", "responses/s"):
        grid.add_column(name, justify="left" if name == "state" else "right")
    for job in shown:
        progress = job.progress
        state = Text(job.state + (", collapsed" if job.collapsed else ""), style=STYLES.get(job.state, "dim"))
        grid.add_row(
            str(job.config.arm), str(job.config.seed), state, f"{progress.update}/{job.config.ppo.updates}",
            number(progress.gold), number(progress.kl, 1), number(progress.responses_per_second, 0),
        )  # fmt: skip
    hidden = len(jobs) - len(shown)
    return Group(grid, Text(f"… and {hidden} more" if hidden else ""), Text(totals(jobs, left), style="bold"))


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
        # Without a refresh thread, because processes are started from this one.
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None

    def __enter__(self) -> LiveTable:
        if self.live:
            self.live.start()
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
                detail = f", gold {number(job.progress.gold)}, {duration(job.seconds)}" + (", collapsed" if job.collapsed else "")
                detail += f": {job.reason}" if job.reason else ""
            print(f"[{ended}/{len(self.jobs)}] {job.label} {job.state}{detail}", flush=True)

    def refresh(self) -> None:
        """Draw the live table again, at most once per second."""
        if self.live and time.monotonic() - self.drawn >= 1:
            self.draw()

    def draw(self) -> None:
        """Read the progress of the running jobs, and show the table, or the totals alone outside a terminal."""
        for job in self.jobs:
            if job.state == "running":
                job.progress = read_progress(job.folder)
        left = seconds_left(self.jobs, time.monotonic() - self.began, self.before)
        if self.live:
            self.live.update(table(self.jobs, left, max(3, self.console.height - 5)), refresh=True)
        else:
            print(totals(self.jobs, left), flush=True)
        self.drawn = time.monotonic()
