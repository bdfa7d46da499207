"""What a run prints: a progress bar on a terminal, one plain line per evaluation elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ablate.config import Config


class ConsoleTracker:
    """A tracker that prints the figures of the last evaluation."""

    def __init__(self, config: Config):
        self.bar = None
        self.figures = ""
        if sys.stderr.isatty():
            columns = [
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"),
            ]
            self.bar = Progress(*columns, console=Console(stderr=True))
            self.task = self.bar.add_task(f"{config.arm} seed={config.seed}", total=config.ppo.updates, figures="")
            self.bar.start()

    def log(self, row: dict) -> None:
        """Show a row of metrics.jsonl."""
        if "eval/proxy" in row:
            gold = f"gold {row['eval/gold']:+.2f}  " if "eval/gold" in row else ""
            self.figures = (
                f"{gold}proxy {row['eval/proxy']:+.2f}  KL {row['eval/kl_to_sft']:.1f}  "
                f"length {row['eval/length']:.0f}  perplexity {row['eval/perplexity']:.2f}"
            )
        if self.bar:
            self.bar.update(self.task, completed=row["update"], figures=self.figures)
        elif "eval/proxy" in row:
            print(f"update {row['update']}: {self.figures}", flush=True)

    def evaluation(self, update: int, scores: list[dict], samples: list[dict]) -> None:
        """Show nothing: the figures of an evaluation are in its row of metrics."""

    def finish(self, summary: Mapping[str, object]) -> None:
        """Remove the progress bar."""
        if self.bar:
            self.bar.stop()
