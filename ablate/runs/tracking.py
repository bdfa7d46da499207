"""Trackers: the console and wandb, which show what is in the run folder already. No torch here."""

from __future__ import annotations

import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from ablate.config import Config
from ablate.errors import UserError
from ablate.runs.alarms import ALARMS, VOTES
from ablate.runs.console import ConsoleTracker
from ablate.runs.folder import read_rows
from ablate.settings.identity import config_hash

COLUMNS = ("prompt", "kind", "response", "proxy", "gold", "length")  # of the samples table, as samples.jsonl names them
PROJECT = "ppo-ablation"  # where WANDB_PROJECT names no other
FULL_BYTES = 2**16  # on a disk with less free space wandb's service loses rows without a word


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

    WANDB_PROJECT, WANDB_RUN_GROUP and WANDB_NAME go before these; WANDB_ENTITY, WANDB_TAGS, WANDB_NOTES and WANDB_JOB_TYPE are read by
    wandb itself. When a run goes on from a checkpoint, an earlier process has logged some of its rows already, and some of those have
    been cut off the run folder since. The offline files are therefore written again from the rows of the run folder; an online run
    keeps what it has and receives only later updates. Every method raises UserError where wandb fails.
    """

    def __init__(self, config: Config, folder: Path):
        """Start the wandb run of the run folder `folder` and log the rows that are in it. Raises UserError."""
        strip_key()
        mode = os.environ.get("WANDB_MODE") or "offline"
        self.folder = folder / "wandb"
        with wandb_errors():
            import wandb

            self.wandb = wandb
            if mode != "online":
                os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # telemetry would go over the network, offline mode or not
                if self.folder.exists():
                    shutil.rmtree(self.folder)
            else:
                wandb.setup(settings=wandb.Settings(mode=mode, silent=True))
                if not wandb.login(prompt=False, verify=False):  # `init` would wait for a key on a terminal
                    raise UserError("there is no wandb login: run `wandb login` or set WANDB_API_KEY")
            self.folder.mkdir(exist_ok=True)
            if not os.access(self.folder, os.W_OK):  # wandb would take the folder for temporary files
                raise UserError(f"{self.folder} cannot be written: make it writable")
            self.check_space()
            self.run = wandb.init(
                project=os.environ.get("WANDB_PROJECT") or PROJECT,
                group=os.environ.get("WANDB_RUN_GROUP") or config.study,
                name=os.environ.get("WANDB_NAME") or f"{config.arm}/seed={config.seed}",
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
        self.sounded = 0
        replay(folder, self)

    def evaluation(self, update: int, scores: list[dict], samples: list[dict]) -> None:
        """Log a table of responses and the histogram of proxy scores (Fig. 13 of the paper), which the update's row commits."""
        if update < self.first:
            return
        rows, proxies = [[row[name] for name in COLUMNS] for row in samples], [row["proxy"] for row in scores]
        with wandb_errors():
            table, histogram = self.wandb.Table(columns=list(COLUMNS), data=rows), self.wandb.Histogram(proxies)
            self.run.log({"samples": table, "eval/proxy_scores": histogram}, step=update)

    def log(self, row: dict) -> None:
        """Log a row of metrics at its update's step, and an alert where one more alarm has sounded; metrics that are null are left out."""
        before, self.sounded = self.sounded, max(self.sounded, int(row.get("alarm/sounded") or 0))
        if row["update"] < self.first:
            return
        known = {key: value for key, value in row.items() if value is not None}
        with wandb_errors():
            self.check_space()
            self.run.log(known, step=row["update"])
            if self.sounded > before:
                text = f"{self.sounded} of {len(ALARMS)} have sounded by update {row['update']}; {VOTES} are a collapse where alarms judge."
                self.run.alert("An alarm of collapse", text, level="WARN")

    def finish(self, summary: Mapping[str, object]) -> None:
        """Log status, reason and collapse, and end the wandb run; only a completed run has exit code 0."""
        said = {key: summary[key] for key in ("status", "reason", "collapsed", "collapse_update", "collapse_by") if key in summary}
        with wandb_errors():
            self.run.summary.update(said)
            self.run.finish(exit_code=0 if summary["status"] == "completed" else 1)
            self.check_space()

    def check_space(self) -> None:
        """Raises UserError on a disk that is full."""
        if shutil.disk_usage(self.folder).free < FULL_BYTES:
            raise UserError(f"the disk of {self.folder} is full: free space")


@contextmanager
def wandb_errors() -> Iterator[None]:
    """Turn whatever wandb raises in the block into a UserError, and end its service, which may have ended already. Raises UserError."""
    try:
        yield
    except Exception as error:  # wandb passes on what its service, the network and the disk raise, without a common type
        if "wandb" in sys.modules:
            with suppress(Exception):  # it fails where the service is dead, but then tries no more when this process ends
                sys.modules["wandb"].teardown(exit_code=1)
        os.environ.pop("WANDB_SERVICE", None)  # the address of the service that is gone
        if isinstance(error, UserError):
            raise
        said = (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(".:")
        raise UserError(f"wandb failed ({said})") from error


def strip_key() -> None:
    """Remove the white space around WANDB_API_KEY in the environment, which a file or a terminal adds and an HTTP header cannot hold."""
    if "WANDB_API_KEY" in os.environ:
        os.environ["WANDB_API_KEY"] = os.environ["WANDB_API_KEY"].strip()


class Trackers:
    """Several trackers as one; each receives everything, in order. One that fails is left out from then on, with a warning."""

    def __init__(self, trackers: list[Tracker]):
        self.trackers = trackers

    def evaluation(self, update: int, scores: list[dict], samples: list[dict]) -> None:
        self.tell(lambda tracker: tracker.evaluation(update, scores, samples))

    def log(self, row: dict) -> None:
        self.tell(lambda tracker: tracker.log(row))

    def finish(self, summary: Mapping[str, object]) -> None:
        self.tell(lambda tracker: tracker.finish(summary))

    def tell(self, report: Callable[[Tracker], None]) -> None:
        """Call `report` on every tracker that has not failed."""
        for tracker in list(self.trackers):
            try:
                report(tracker)
            except UserError as error:
                self.trackers.remove(tracker)
                warn(error)


def open_trackers(config: Config, folder: Path) -> Trackers:
    """The console, and wandb if `tracker=wandb`, unless it cannot be started, which is a warning."""
    trackers: list[Tracker] = [ConsoleTracker(config)]
    if config.tracker == "wandb":
        try:
            trackers.append(WandbTracker(config, folder))
        except UserError as error:
            warn(error)
    return Trackers(trackers)


def warn(error: UserError) -> None:
    """Say on standard error that a run goes on without wandb."""
    remedy = "the run goes on without wandb, and python -m ablate.mirror rebuilds the mirror from its folder"
    print(f"warning: {error}; {remedy}", file=sys.stderr, flush=True)


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
