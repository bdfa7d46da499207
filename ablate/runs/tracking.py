"""Mirrors of the run folder. JSONL is the truth; a tracker only repeats it. No torch here."""

from __future__ import annotations

import os
import shutil
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from ablate.config import Config
from ablate.runs.console import ConsoleTracker
from ablate.runs.folder import read_rows
from ablate.settings.identity import config_hash

COLUMNS = ("prompt", "kind", "response", "proxy", "gold", "length")  # of the samples table, as samples.jsonl names them


class Tracker(Protocol):
    """What a mirror is told, each thing once it is in the run folder."""

    def evaluation(self, update: int, scores: list[dict], samples: list[dict]) -> None:
        """The rows of scores.jsonl and samples.jsonl of one evaluation; the update's row of metrics follows."""

    def log(self, row: dict) -> None:
        """A row of metrics.jsonl."""

    def finish(self, summary: dict) -> None:
        """summary.json, or what a run that ended without one is known to be."""


class WandbTracker:
    """`tracker=wandb`: offline unless WANDB_MODE says otherwise; group = study, name = arm and seed, config = every setting.

    A run that goes on from a checkpoint has rows that an earlier process mirrored, some of them cut since. An offline mirror is
    therefore made anew, from the run folder's rows; an online one already has them, and takes only later updates.
    """

    def __init__(self, config: Config, folder: Path):
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
        """A table of answers and the histogram of proxy scores (Fig. 13), committed with the update's row."""
        if update < self.first:
            return
        table = self.wandb.Table(columns=list(COLUMNS), data=[[row[name] for name in COLUMNS] for row in samples])
        histogram = self.wandb.Histogram([row["proxy"] for row in scores])
        self.run.log({"samples": table, "eval/proxy_scores": histogram}, step=update)

    def log(self, row: dict) -> None:
        if row["update"] >= self.first:
            self.run.log({key: value for key, value in row.items() if value is not None}, step=row["update"])

    def finish(self, summary: dict) -> None:
        """Final values and the exit state: only a completed run exits 0."""
        self.run.summary.update({key: summary[key] for key in ("status", "reason", "collapsed", "collapse_update")})
        self.run.finish(exit_code=0 if summary["status"] == "completed" else 1)


class Trackers:
    """Several mirrors told the same, in order."""

    def __init__(self, trackers: list[Tracker]):
        self.trackers = trackers

    def evaluation(self, update: int, scores: list[dict], samples: list[dict]) -> None:
        for tracker in self.trackers:
            tracker.evaluation(update, scores, samples)

    def log(self, row: dict) -> None:
        for tracker in self.trackers:
            tracker.log(row)

    def finish(self, summary: dict) -> None:
        for tracker in self.trackers:
            tracker.finish(summary)


def open_trackers(config: Config, folder: Path) -> Trackers:
    """The console always, wandb if `tracker=wandb`; wandb is told first what the run folder already holds."""
    mirrors: list[Tracker] = [ConsoleTracker(config)]
    if config.tracker == "wandb":
        mirrors.append(WandbTracker(config, folder))
    return Trackers(mirrors)


def replay(folder: Path, tracker: Tracker) -> None:
    """Tell a tracker what a run folder holds, in the order in which the run told it."""
    scores, samples = (by_update(read_rows(folder / name)) for name in ("scores.jsonl", "samples.jsonl"))
    for row in read_rows(folder / "metrics.jsonl"):
        if row["update"] in scores:
            tracker.evaluation(row["update"], scores[row["update"]], samples.get(row["update"], []))
        tracker.log(row)


def by_update(rows: list[dict]) -> dict[int, list[dict]]:
    groups: dict[int, list[dict]] = {}
    for row in rows:
        groups.setdefault(row["update"], []).append(row)
    return groups
