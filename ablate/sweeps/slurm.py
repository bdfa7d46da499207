"""The jobs of a sweep as an array in Slurm. submitit submits them, squeue shows their states, and the output is the local launcher's.

hydra-submitit-launcher supplies the settings (`hydra.launcher.*`). Its own way to wait needs Slurm's accounting, stops at the first
job without a result, and does not read run folders. This module therefore waits itself, and takes results from the summaries.
submitit is an optional dependency.
"""

import faulthandler
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from types import FrameType
from typing import Any, Optional

import submitit
from hydra.core.utils import JobReturn
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

from ablate.config import Config
from ablate.errors import UserError
from ablate.runs.folder import run_folder
from ablate.runs.summary import FINISHED, read_summary
from ablate.settings.identity import config_hash
from ablate.sweeps.compose import Composed
from ablate.sweeps.pool import caught_signals, exit_reason, print_to
from ablate.sweeps.returns import job_return
from ablate.sweeps.table import Job, LiveTable
from ablate.system.commands import command_errors
from ablate.system.gc_pause import gc_paused

LONGEST_LOOK = 30.0  # most seconds between two calls of squeue; a tenth of the sweep's age before that
AT_SUBMISSION = ("submitit_folder", "max_num_timeout")  # settings of submitit itself; the others describe the job
# Slurm's states at the end of a job that an exit code does not tell apart; https://slurm.schedmd.com/squeue.html, "Job state codes"
ENDS = {
    "CANCELLED": "cancelled in Slurm",
    "TIMEOUT": "timed out after {timeout_min:g} min",
    "DEADLINE": "its deadline in Slurm passed",
    "OUT_OF_MEMORY": "out of memory: raise hydra.launcher.mem_gb",
    "PREEMPTED": "preempted, and not put back in the queue",
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node did not start",
}
ENDED = (*ENDS, "COMPLETED", "FAILED")
GONE = ("", 0)  # (state, exit code) of a job that Slurm no longer lists, minutes after its end


class ClusterRun:
    """One job of the array: it executes one run, with the output in `run.log`.

    SIGTERM (scancel, preemption) stops it after the current update, with a checkpoint. Slurm's warning before the time limit
    (submitit's signal, SIGUSR2) does the same and puts the job back in the queue, at most `max_num_timeout` times. Outside the
    updates, where no work would be lost, both act at once.
    """

    def __call__(self, config: Config) -> None:
        print_to(run_folder(config) / "run.log")
        faulthandler.enable()
        warning = signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"]
        put_back = signal.getsignal(warning)
        assert callable(put_back)  # submitit has set it
        warned: list[int] = []

        def stop(number: int, frame: Optional[FrameType]) -> None:
            warned.append(number)
            listening = signal.getsignal(signal.SIGTERM)
            if listening == signal.default_int_handler:
                put_back(number, frame)
            else:  # the trainer handles SIGTERM, a second one as the first
                signal.raise_signal(signal.SIGTERM)

        signal.signal(signal.SIGTERM, signal.default_int_handler)
        signal.signal(warning, stop)
        with gc_paused():
            from ablate.session import execute

        with command_errors():
            summary = execute(config)
        if warned and summary["status"] == "interrupted" and "updates" in summary:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Slurm sends it to a job that is put back
            try:
                put_back(warning, None)
            except submitit.core.utils.UncompletedJobError:
                after = f"out of time after update {summary['updates']}"
                sys.exit(f"error: {after}: the same command continues it; or raise hydra.launcher.timeout_min or max_num_timeout")

    def checkpoint(self, config: Config) -> submitit.helpers.DelayedSubmission:
        """The job that submitit puts back in the queue: the same job, because the run folder holds its progress."""
        return submitit.helpers.DelayedSubmission(self, config)


def run(settings: Mapping[str, Any], composed: Sequence[Composed]) -> list[JobReturn]:
    """Submit the jobs as one array and wait until all have ended. Returns one JobReturn per job, as the local launcher does.

    settings: `hydra.launcher.*` of submitit_slurm. Raises UserError if Slurm refuses the jobs.
    """
    jobs = [Job(config=item.config, folder=run_folder(item.config)) for item in composed]
    with caught_signals() as caught:
        numbers = submit(settings, [job.config for job in jobs])
        print(f"{len(jobs)} runs are in Slurm's queue as job {numbers[0].partition('_')[0]}", flush=True)
        with LiveTable(jobs) as overview:
            watch(dict(zip(numbers, jobs, strict=True)), settings, overview, caught)
    return [job_return(job, item) for job, item in zip(jobs, composed, strict=True)]


def submit(settings: Mapping[str, Any], configs: Sequence[Config]) -> list[str]:
    """Submit one job per configuration. Returns their numbers, `<array>_<task>`. Raises UserError if Slurm refuses the jobs."""
    threads = max(config.threads for config in configs)
    job = {name: value for name, value in settings.items() if name not in AT_SUBMISSION}
    job["cpus_per_task"] = settings["cpus_per_task"] or threads
    job["setup"] = [f"export OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads}", *(settings["setup"] or [])]
    try:
        executor = submitit.AutoExecutor(
            cluster="slurm", folder=settings["submitit_folder"], slurm_max_num_timeout=settings["max_num_timeout"]
        )
        common = {field.name for field in fields(BaseQueueConf)}  # the others are Slurm's own, whose names submitit wants with a prefix
        executor.update_parameters(**{name if name in common else f"slurm_{name}": value for name, value in job.items()})
        return [submitted.job_id for submitted in executor.map_array(ClusterRun(), configs)]
    except (RuntimeError, ValueError) as error:
        said = str(error).strip().splitlines()[-1].removeprefix("sbatch: error: ")
        raise UserError(f"Slurm did not take the sweep ({said}): correct hydra.launcher.*") from error


def watch(jobs: Mapping[str, Job], settings: Mapping[str, Any], overview: LiveTable, caught: list[int]) -> None:
    """Follow the jobs, number → job, until all have ended. How each ended is in its `state` and `reason`.

    caught: signals received so far. The first cancels the jobs, which then write a checkpoint and stop; a second kills them.
    """
    array, asked, began = next(iter(jobs)).partition("_")[0], 0, time.monotonic()
    left = dict(jobs)
    while left:
        pause(min(LONGEST_LOOK, max(1.0, (time.monotonic() - began) / 10)), overview, caught, asked)
        if len(caught) > asked:
            subprocess.run(["scancel", *(["--full", "--signal=KILL"] if asked else []), array], check=False)
            asked = len(caught)
        seen = look(array)
        for number, job in left.items() if seen is not None else ():
            before = job.state
            follow(job, *(seen or {}).get(number, GONE), settings, bool(caught))
            if job.state != before:
                overview.event(job)
        left = {number: job for number, job in left.items() if job.state in ("waiting", "running")}


def pause(seconds: float, overview: LiveTable, caught: list[int], asked: int) -> None:
    """Refresh the table for `seconds`, or until a signal is caught. asked: how many of the signals have been passed on already."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and len(caught) == asked:
        time.sleep(0.2)
        overview.refresh()


def look(array: str) -> Optional[dict[str, tuple[str, int]]]:
    """Number → (state, exit code) of the jobs that Slurm lists; None if squeue fails. An exit code of −n stands for signal n."""
    columns = "--Format=JobArrayID:40,State:40,exit_code:40"
    asked = subprocess.run(["squeue", "--noheader", "--array", "--states=all", f"--jobs={array}", columns], capture_output=True, text=True)
    if asked.returncode:
        return {} if "Invalid job id" in asked.stderr else None
    rows = [line.split() for line in asked.stdout.splitlines()]
    return {number: (state, exit_code(int(status))) for number, state, status in rows}


def exit_code(status: int) -> int:
    """The exit code of the run, from the wait status of the batch script: −n for signal n, which a shell reports as 128 + n."""
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code - 128 in list(signal.Signals) else code


def follow(job: Job, state: str, code: int, settings: Mapping[str, Any], stopping: bool) -> None:
    """Update a job from the state and exit code that Slurm gives. A requeued job becomes `waiting` again."""
    if state in ENDED or (state, code) == GONE:
        settle(job, state, code, settings, stopping)
    elif state == "RUNNING" and job.state == "waiting":
        job.state, job.started = "running", time.monotonic()
    elif state in ("PENDING", "REQUEUED"):
        job.state = "waiting"
    if job.started:
        job.seconds = time.monotonic() - job.started


def settle(job: Job, state: str, code: int, settings: Mapping[str, Any], stopping: bool) -> None:
    """Set the state and reason of a job that has ended: from its summary if that is a result, else from state, exit code and log."""
    summary = read_summary(job.folder) or {}
    if summary.get("config_hash") != config_hash(job.config):
        summary = {}  # of other settings: this run was refused, and the summary is an earlier run's
    if summary.get("status") in FINISHED:
        job.state, job.collapsed, job.reason = summary["status"], bool(summary["collapsed"]), summary["reason"] or ""
        return
    stopped = summary["reason"] if "updates" in summary else ""  # the update after which it stopped
    job.state = "interrupted" if stopping else "failed"
    if state in ENDS:
        job.reason = ", ".join(filter(None, (ENDS[state].format(**settings), stopped)))
    elif code or not stopped:
        job.reason = exit_reason(code, job.folder / "run.log")
    else:
        job.reason = stopped
