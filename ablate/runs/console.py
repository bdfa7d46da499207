"""What a run prints: a progress bar on a terminal, one plain line per evaluation elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from ablate.config import Config
from ablate.runs.alarms import ALARMS


def rounded(value: float, digits: int) -> float:
    """A value rounded, and never −0."""
    return round(value, digits) + 0.0


def name_of(config: Config) -> str:
    """Study, arm and seed of a run, with blanks between the parts of the arm, so that a narrow terminal breaks the line there."""
    return f"{config.study}: {str(config.arm).replace(',', ', ')} seed={config.seed}"


class RunProgress(Progress):
    """The name of a run, its bar and its latest figures, a line each, so that a long name or a narrow terminal leaves the bar whole."""

    def get_renderables(self) -> Iterable[RenderableType]:
        for task in self.tasks:
            yield Text(task.description, style="bold", overflow="fold")
            yield self.make_tasks_table([task])
            yield Text(task.fields["figures"])


def run_progress(console: Console) -> RunProgress:
    """The display of one run; its task has the field `figures`."""
    times = [TimeElapsedColumn(), TextColumn("so far"), TimeRemainingColumn(), TextColumn("left")]
    return RunProgress(BarColumn(), MofNCompleteColumn(), *times, console=console)


class ConsoleTracker:
    """A tracker that prints the figures of the last evaluation."""

    def __init__(self, config: Config):
        self.bar = None
        self.figures = ""
        self.sounded = 0
        if sys.stderr.isatty():
            self.bar = run_progress(Console(stderr=True))
            self.task = self.bar.add_task(name_of(config), total=config.ppo.updates, figures="")
            self.bar.start()

    def log(self, row: dict) -> None:
        """Show a row of metrics.jsonl, and at once where one more alarm has sounded in it."""
        sounded, before = int(row.get("alarm/sounded", 0)), self.sounded
        self.sounded = max(sounded, before)
        if "eval/proxy" in row:
            gold = f"gold {rounded(row['eval/gold'], 2):+.2f}  " if "eval/gold" in row else ""
            self.figures = (
                f"{gold}proxy {rounded(row['eval/proxy'], 2):+.2f}  KL {rounded(row['eval/kl_to_sft'], 1):.1f}  "
                f"length {row['eval/length']:.0f}  perplexity {row['eval/perplexity']:.2f}"
            )
        alarms = f"  alarms {self.sounded}/{len(ALARMS)}" if self.sounded else ""
        if self.bar:
            self.bar.update(self.task, completed=row["update"], figures=self.figures + alarms)
        elif "eval/proxy" in row:
            print(f"update {row['update']}: {self.figures}{alarms}", flush=True)
        elif sounded > before:
            print(f"update {row['update']}:{alarms}", flush=True)

    def evaluation(self, update: int, scores: list[dict], samples: list[dict]) -> None:
        """Show nothing: the figures of an evaluation are in its row of metrics."""

    def finish(self, summary: Mapping[str, object]) -> None:
        """Remove the progress bar."""
        if self.bar:
            self.bar.stop()
