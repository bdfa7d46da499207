"""wandb: a run that mirrors the run folder, offline unless the user says otherwise. No torch here."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from ablate.config import Config
from ablate.errors import UserError
from ablate.runs.alarms import ALARMS, VOTES
from ablate.runs.trackers.interface import COLUMNS, PROJECT, SCORES, labels, needing, replay, run_id, verdict

FULL_BYTES = 2**16  # on a disk with less free space wandb's service loses rows without a word
LONGEST_TAG = 64  # characters


class WandbTracker:
    """`tracker=wandb`: offline unless WANDB_MODE says otherwise; group = study, job type = arm, name = arm and seed, config = every
    setting, tags = `labels`, and `update` as the step of every metric.

    WANDB_PROJECT, WANDB_RUN_GROUP, WANDB_JOB_TYPE, WANDB_NAME and WANDB_TAGS go before these; WANDB_ENTITY and WANDB_NOTES are read by
    wandb itself. When a run goes on from a checkpoint, an earlier process has logged some of its rows already, and some of those have
    been cut off the run folder since. The offline files are therefore written again from the rows of the run folder; an online run
    keeps what it has and receives only later updates. Where wandb fails, every method ends its service before it raises.
    """

    def __init__(self, config: Config, folder: Path):
        """Start the wandb run of the run folder `folder` and log the rows that are in it. Raises UserError, and what wandb raises."""
        strip_key()
        mode = os.environ.get("WANDB_MODE") or "offline"
        self.folder = folder / "wandb"
        with wandb_ended():
            with needing("wandb"):
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
                job_type=os.environ.get("WANDB_JOB_TYPE") or str(config.arm)[:LONGEST_TAG],
                tags=None if os.environ.get("WANDB_TAGS") else tags(labels(config, folder)),
                name=os.environ.get("WANDB_NAME") or f"{config.arm}/seed={config.seed}",
                id=run_id(config),
                dir=str(folder),
                config=asdict(config),
                mode=mode,
                resume="allow" if mode == "online" else None,
                settings=wandb.Settings(
                    silent=True, console="off", disable_git=True, disable_code=True, disable_job_creation=True,
                    x_disable_stats=True, x_disable_meta=True, x_disable_machine_info=True, x_save_requirements=False,
                ),
            )  # fmt: skip
            self.run.define_metric("update")
            self.run.define_metric("*", step_metric="update")
            self.first = self.run.step  # 0, or the first step that the server does not have
        self.sounded = 0
        replay(folder, self)

    def evaluation(self, update: int, scores: list[dict], samples: list[dict]) -> None:
        """Log a table of responses and the histogram of proxy scores (Fig. 13 of the paper), which the update's row commits."""
        if update < self.first:
            return
        rows, proxies = [[row[name] for name in COLUMNS] for row in samples], [row["proxy"] for row in scores]
        with wandb_ended():
            table, histogram = self.wandb.Table(columns=list(COLUMNS), data=rows), self.wandb.Histogram(proxies)
            self.run.log({"samples": table, SCORES: histogram}, step=update)

    def log(self, row: dict) -> None:
        """Log a row of metrics at its update's step, and an alert where one more alarm has sounded; metrics that are null are left out."""
        before, self.sounded = self.sounded, max(self.sounded, int(row.get("alarm/sounded") or 0))
        if row["update"] < self.first:
            return
        known = {key: value for key, value in row.items() if value is not None}
        with wandb_ended():
            self.check_space()
            self.run.log(known, step=row["update"])
            if self.sounded > before:
                text = f"{self.sounded} of {len(ALARMS)} have sounded by update {row['update']}; {VOTES} are a collapse where alarms judge."
                self.run.alert("An alarm of collapse", text, level="WARN")

    def finish(self, summary: Mapping[str, object]) -> None:
        """Log the verdict, and end the wandb run; only a completed run has exit code 0."""
        with wandb_ended():
            self.run.summary.update(verdict(summary))
            self.run.finish(exit_code=0 if summary["status"] == "completed" else 1)
            self.check_space()

    def check_space(self) -> None:
        """Raises UserError on a disk that is full."""
        if shutil.disk_usage(self.folder).free < FULL_BYTES:
            raise UserError(f"the disk of {self.folder} is full: free space")


@contextmanager
def wandb_ended() -> Iterator[None]:
    """Where anything in the block fails, end wandb's service, which may have ended already."""
    try:
        yield
    except Exception:
        if "wandb" in sys.modules:
            with suppress(Exception):  # it fails where the service is dead, but then tries no more when this process ends
                sys.modules["wandb"].teardown(exit_code=1)
        os.environ.pop("WANDB_SERVICE", None)  # the address of the service that is gone
        raise


def tags(named: Mapping[str, str]) -> list[str]:
    """Labels as wandb's tags, which have at most 64 characters; the seed is in the run's name.

    >>> tags({"study": "kl", "seed": "3"})
    ['study=kl']
    """
    return [f"{name}={value}"[:LONGEST_TAG] for name, value in named.items() if name != "seed"]


def strip_key() -> None:
    """Remove the white space around WANDB_API_KEY in the environment, which a file or a terminal adds and an HTTP header cannot hold."""
    if "WANDB_API_KEY" in os.environ:
        os.environ["WANDB_API_KEY"] = os.environ["WANDB_API_KEY"].strip()
