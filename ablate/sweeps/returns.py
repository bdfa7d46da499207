"""What a job of a sweep returns to Hydra: its summary, or an error with the reason why there is none."""

import os

from hydra.core.utils import JobReturn, JobStatus

from ablate.errors import UserError
from ablate.runs.summary import read_summary
from ablate.sweeps.compose import Composed
from ablate.sweeps.table import NOT_STARTED, Job


class RunFailed(Exception):
    """A run of a sweep ended without a result; the message gives the reason and the path of its log."""


class RunInterrupted(RunFailed):
    """A run was stopped on request."""


class RunNotStarted(RunInterrupted):
    """A run did not start because of a request to stop."""


def job_return(job: Job, item: Composed) -> JobReturn:
    """Hydra's record of a job that has ended. Reading its `return_value` gives the summary, or raises RunFailed or RunInterrupted.

    It is without the composed trees `cfg` and `hydra_cfg`, 0.2 MB per run: config.yaml of the run folder holds the settings.
    """
    result = JobReturn(overrides=list(item.overrides), working_dir=os.getcwd(), task_name="ablate")
    if job.state in ("completed", "diverged"):
        try:
            result.status, result.return_value = JobStatus.COMPLETED, read_summary(job.folder)
        except UserError as error:
            result.status, result.return_value = JobStatus.FAILED, RunFailed(f"{job.label}: {error}")
    else:
        stopped = RunNotStarted if job.reason == NOT_STARTED else RunInterrupted
        kind = stopped if job.state == "interrupted" else RunFailed
        log = job.folder / "run.log"
        where = f" (log: {log})" if log.exists() else ""
        result.status, result.return_value = JobStatus.FAILED, kind(f"{job.label}: {job.reason}{where}")
    return result
