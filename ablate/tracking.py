"""Mirrors of the run folder. JSONL is the truth; a tracker only repeats it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from ablate.config import Config
from ablate.console import ConsoleTracker
from ablate.evaluate import Evaluation, HeldOut
from ablate.store import run_folder
from ablate.validation import config_hash, identity

SAMPLES = 8  # answers in the table of one evaluation


class Tracker(Protocol):
    """What the trainer tells a mirror."""

    def log(self, row: dict) -> None: ...

    def evaluation(self, update: int, held_out: HeldOut, evaluation: Evaluation) -> None: ...

    def finish(self, summary: dict) -> None: ...


class WandbTracker:
    """`tracker=wandb`: offline unless WANDB_MODE says otherwise; group = study, name = arm and seed, config = every setting."""

    def __init__(self, config: Config):
        import wandb

        self.wandb = wandb
        folder: Path = run_folder(config)
        self.run = wandb.init(
            project="ppo-ablation",
            group=config.study,
            name=f"{config.arm}/seed={config.seed}",
            id=f"{config_hash(config)}-{config.seed}",
            dir=str(folder),
            config=identity(config) | {"study": config.study, "arm": config.arm},
            mode=os.environ.get("WANDB_MODE", "offline"),
            resume="allow" if os.environ.get("WANDB_MODE") == "online" else None,
            settings=wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True),
        )

    def log(self, row: dict) -> None:
        self.run.log({key: value for key, value in row.items() if value is not None}, step=row["update"])

    def evaluation(self, update: int, held_out: HeldOut, evaluation: Evaluation) -> None:
        """A table of answers and the histogram of proxy scores (Fig. 13), committed with the update's row."""
        columns = ["prompt", "response", "proxy", "gold", "length"]
        answers = zip(held_out.prompts, evaluation.responses, evaluation.proxy, evaluation.gold, evaluation.lengths, strict=True)
        rows = [[prompt.text, *answer] for prompt, *answer in list(answers)[:SAMPLES]]
        histogram = self.wandb.Histogram(evaluation.proxy)
        self.run.log({"samples": self.wandb.Table(columns=columns, data=rows), "eval/proxy_scores": histogram}, step=update)

    def finish(self, summary: dict) -> None:
        """Final values and the exit state: only a completed run exits 0."""
        self.run.summary.update({key: summary[key] for key in ("status", "reason", "collapsed", "collapse_update")})
        self.run.finish(exit_code=0 if summary["status"] == "completed" else 1)


class Trackers:
    """Several mirrors told the same, in order."""

    def __init__(self, trackers: list[Tracker]):
        self.trackers = trackers

    def log(self, row: dict) -> None:
        for tracker in self.trackers:
            tracker.log(row)

    def evaluation(self, update: int, held_out: HeldOut, evaluation: Evaluation) -> None:
        for tracker in self.trackers:
            tracker.evaluation(update, held_out, evaluation)

    def finish(self, summary: dict) -> None:
        for tracker in self.trackers:
            tracker.finish(summary)


def open_trackers(config: Config) -> Trackers:
    """The console always, wandb if `tracker=wandb`."""
    mirrors: list[Tracker] = [ConsoleTracker(config)]
    return Trackers(mirrors + [WandbTracker(config)] if config.tracker == "wandb" else mirrors)
