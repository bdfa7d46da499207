"""The task of `scale.py sweep`: a run as always, which leaves in its folder when its parts began and what time they took."""

import json
import os
import time
from pathlib import Path

from ablate.config import Config
from ablate.runs.folder import run_folder
from ablate.runs.summary import Outcome
from ablate.runs.tracking import Tracker
from ablate.session import execute
from ablate.trainer import Trainer

TIMES = "times.json"


def forked() -> float:
    """When this process was forked: seconds since the machine started, in hundredths."""
    return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")


def waited() -> float:
    """How long the first thread of this process has been ready to run and waited for a core, in seconds (the scheduler's `run_delay`)."""
    return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9


def moment() -> tuple[float, float, float]:
    """(seconds since the machine started, seconds waited for a core, CPU seconds of this process)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME), waited(), time.process_time()


def task(config: Config) -> None:
    """Execute the run. times.json gets `moments`: fork, first line, begin and end of PPO, summary written."""
    moments, work = [(forked(), 0.0, 0.0), moment()], Trainer.run

    def run(trainer: Trainer, tracker: Tracker) -> Outcome:
        moments.append(moment())
        outcome = work(trainer, tracker)
        moments.append(moment())
        return outcome

    Trainer.run = run
    execute(config)
    moments.append(moment())
    (run_folder(config) / TIMES).write_text(json.dumps({"moments": moments}))
