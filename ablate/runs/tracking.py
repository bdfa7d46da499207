"""Trackers: the console and wandb, which show what is in the run folder already. No torch here."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from ablate.config import Config
from ablate.runs.console import ConsoleTracker
from ablate.runs.folder import read_rows
from ablate.settings.identity import config_hash

COLUMNS = ("prompt", "kind", "response", "proxy", "gold", "length")  # of the samples table, as samples.jsonl names them


class Tracker(Protocol):
    """What a run reports to a tracker, after it has written the same to the run folder."""

    def evaluation(self, update: int, scores: list[dict], samples: list[dict]) -> None:
        """Take the rows of scores.jsonl and samples.jsonl of one evaluation; the row of metrics of that update follows."""

    def log(self, row: dict) -> None:
        """Take a row of metrics.jsonl."""

    def finish(self, summary: Mapping[str, object]) -> None:
        """Take summary.json, or what is known of a run that ended without one."""


class WandbTracker:
    """`tracker=wandb`: offline unless WANDB_MODE says otherwise; group = study, name = arm and seed, config = every setting.

    When a run goes on from a checkpoint, an earlier process has logged some of its rows already, and some of those have been cut off
    the run folder since. The offline files are therefore written again from the rows of the run folder; an online run keeps what it
    has and receives only later updates.
    """

    def __init__(self, config: Config, folder: Path):
        """Start the wandb run of the run folder `folder` and log the rows that are in it."""
        import wandb

        self.wandb = wandb
        mode = os.environ.get("WANDB_MODE", "offline")
        if mode != "online":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # telemetry would go over the network, offline mode or not
            shutil.rmtree(folder / "wandb", ignore_errors=True)
        self.run = wandb.init(
            project="ppo-ablation",
            group=config.study,
            name=f"{config.arm}/seed={config.seed}",
            id=f"{config_hash(config)}-{zlib.crc32(f'{config.study}/{config.arm}'.encode()):08x}",
            dir=str(folder),
            config=asdict(config),
            mode=mode,
            resume="allow" if mode == "online" else None,
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, disable_code=True, disable_job_creation=True,
                x_disable_stats=True, x_disable_meta=True, x_disable_machine_info=True, x_save_requirements=False,
            ),
        )  # fmt: skip
        self.first = self.run.step  # 0, or the first step that the server does not have
        replay(folder, self)

    def evaluation(self, update: int, scores: list[dict], samples: list[dict]) -> None:
        """Log a table of responses and the histogram of proxy scores (Fig. 13 of the paper), which the update's row commits."""
        if update < self.first:
            return
        table = self.wandb.Table(columns=list(COLUMNS), data=[[row[name] for name in COLUMNS] for row in samples])
        histogram = self.wandb.Histogram([row["proxy"] for row in scores])
        self.run.log({"samples": table, "eval/proxy_scores": histogram}, step=update)

    def log(self, row: dict) -> None:
        """Log a row of metrics at its update's step; metrics that are null are left out."""
        if row["update"] >= self.first:
            self.run.log({key: value for key, value in row.items() if value is not None}, step=row["update"])

    def finish(self, summary: Mapping[str, object]) -> None:
        """Log status, reason and collapse, and end the wandb run; only a completed run has exit code 0."""
        self.run.summary.update({key: summary[key] for key in ("status", "reason", "collapsed", "collapse_update")})
        self.run.finish(exit_code=0 if summary["status"] == "completed" else 1)


class Trackers:
    """Several trackers as one; each receives everything, in order."""

    def __init__(self, trackers: list[Tracker]):
        self.trackers = trackers

    def evaluation(self, update: int, scores: list[dict], samples: list[dict]) -> None:
        for tracker in self.trackers:
            tracker.evaluation(update, scores, samples)

    def log(self, row: dict) -> None:
        for tracker in self.trackers:
            tracker.log(row)

    def finish(self, summary: Mapping[str, object]) -> None:
        for tracker in self.trackers:
            tracker.finish(summary)


def open_trackers(config: Config, folder: Path) -> Trackers:
    """The console, and wandb if `tracker=wandb`."""
    trackers: list[Tracker] = [ConsoleTracker(config)]
    if config.tracker == "wandb":
        trackers.append(WandbTracker(config, folder))
    return Trackers(trackers)


def replay(folder: Path, tracker: Tracker) -> None:
    """Report the rows of a run folder to a tracker, in the order in which the run reported them."""
    scores, samples = (by_update(read_rows(folder / name)) for name in ("scores.jsonl", "samples.jsonl"))
    for row in read_rows(folder / "metrics.jsonl"):
        if row["update"] in scores:
            tracker.evaluation(row["update"], scores[row["update"]], samples.get(row["update"], []))
        tracker.log(row)


def by_update(rows: list[dict]) -> dict[int, list[dict]]:
    """Update → its rows."""
    groups: dict[int, list[dict]] = {}
    for row in rows:
        groups.setdefault(row["update"], []).append(row)
    return groups
