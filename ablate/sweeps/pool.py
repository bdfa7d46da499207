"""Processes of a sweep: started from one forkserver, watched, stopped together, never able to end one another.

The forkserver has imported torch and transformers already, so a job begins at once; it holds no threads and no models.
"""

import faulthandler
import importlib
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Optional, Sequence

from ablate.errors import UserError
from ablate.runs.summary import read_summary
from ablate.sweeps.table import Job, LiveTable

GRACE_SECONDS = 30.0  # between asking a job that ran out of time to stop, and ending it
FULL_BYTES = 2**16
WANDB = ("wandb", "wandb.apis.public", "pandas")  # the latter two wandb imports with its first run and its first table
CONTEXT = multiprocessing.get_context("forkserver")


def start_server(config: Any, preload: Sequence[str]) -> None:
    """Start the forkserver; it imports `preload`, and what a tracker needs, while the sweep is being composed.

    OpenMP reads its thread count only at import.
    """
    wanted = {name: str(config.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    CONTEXT.set_forkserver_preload([*(WANDB if config.tracker == "wandb" else ()), *preload])
    forkserver.ensure_running()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def work(task: str, config: Any, log: Optional[Path]) -> None:
    """What a child process does: call `task` (a dotted name) on `config`, everything it prints going to `log`."""
    os.setsid()  # the terminal's Ctrl-C reaches the launcher alone, which asks the jobs to stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_launcher, daemon=True).start()
    if log is not None:
        print_to(log)
    faulthandler.enable()
    try:
        resolve(task)(config)
    except UserError as error:
        sys.exit(f"error: {error}")


def print_to(log: Path) -> None:
    """From here on all that this process prints is appended to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)


def _die_with_launcher() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()  # a pipe closes when the launcher is gone, however it went
    os.killpg(0, signal.SIGKILL)


def resolve(task: str) -> Callable[[Any], Any]:
    """The function that a dotted name refers to."""
    module, _, name = task.rpartition(".")
    return getattr(importlib.import_module(module), name)


def start(task: str, config: Any, log: Optional[Path]) -> Any:
    """Start a process that calls `task` on `config`; see `work`."""
    process = CONTEXT.Process(target=work, args=(task, config, log))
    process.start()
    return process


def end(process: Any, how: signal.Signals) -> None:
    """Send a signal; SIGKILL goes to the whole group too, so that nothing a job started outlives it, even a job that has ended."""
    if process.exitcode is None:
        with suppress(ProcessLookupError):  # it may have gone already
            os.kill(process.pid, how)
    if how == signal.SIGKILL:
        with suppress(ProcessLookupError):  # it may have no group of its own yet, or have left nothing in it
            os.killpg(process.pid, how)


@contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in the list given, and put the old handlers back at the end."""
    caught: list[int] = []
    before = {number: signal.signal(number, lambda n, _: caught.append(n)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def build_stages(stages: Sequence[tuple[Any, Sequence[Job]]], slots: int, task: str, caught: list[int]) -> None:
    """Run `task` on one config for each set of pipeline settings; where it fails, its jobs become `failed`.

    The first runs alone and shows its progress here, for the others often share stages with it; they run `slots` at a time and
    print to `stages.log` in the study's folder.
    """
    waiting = list(stages)
    running: list[tuple[Any, Sequence[Job], Optional[Path]]] = []
    asked = ended = 0
    while running or (waiting and not caught):
        while waiting and len(running) < (slots if ended else 1) and not caught:
            config, jobs = waiting.pop(0)
            log = jobs[0].folder.parents[1] / "stages.log" if ended else None
            running.append((start(task, config, log), jobs, log))
        wait([process.sentinel for process, _, _ in running], 0.5)
        asked = pass_on(caught, asked, [process for process, _, _ in running])
        for process, jobs, log in running:
            if process.exitcode is not None:
                ended += 1
                if len(stages) > 1:
                    print(f"shared stages: {ended}/{len(stages)}", flush=True)
            if process.exitcode and not caught:
                for job in jobs:
                    job.state, job.reason = "failed", f"its shared stages were not built: {exit_reason(process.exitcode, log)}"
        running = [entry for entry in running if entry[0].exitcode is None]


def pass_on(caught: list[int], asked: int, processes: Sequence[Any]) -> int:
    """Pass a signal caught since the last look to the processes: the first asks them to stop, a second ends them now."""
    if len(caught) > asked:
        for process in processes:
            end(process, signal.SIGTERM if len(caught) == 1 else signal.SIGKILL)
    return len(caught)


def run_jobs(jobs: Sequence[Job], slots: int, task: str, timeout: Optional[float], overview: LiveTable, caught: list[int]) -> None:
    """Run the waiting jobs, `slots` at a time, until all have ended; their states say how.

    timeout: seconds a job may take; then it is asked to stop, and ended GRACE_SECONDS later.
    caught: signals received so far. The first asks all jobs to stop and starts no more, the second ends them now.
    """
    waiting = [job for job in jobs if job.state == "waiting"]
    running: list[tuple[Job, Any]] = []
    asked = 0
    while running or (waiting and not caught):
        while waiting and len(running) < slots and not caught:
            job = waiting.pop(0)
            job.started = time.monotonic()
            running.append((job, start(task, job.config, job.folder / "run.log")))
            job.state = "running"
            overview.event(job)
        wait([process.sentinel for _, process in running], 0.5)
        asked = pass_on(caught, asked, [process for _, process in running])
        for job, process in running:
            job.seconds = time.monotonic() - job.started
            if process.exitcode is not None:
                settle(job, process, bool(caught))
                overview.event(job)
            elif timeout is not None and job.seconds > timeout:
                job.reason = f"timed out after {timeout:g} s"
                end(process, signal.SIGTERM if job.seconds < timeout + GRACE_SECONDS else signal.SIGKILL)
        running = [(job, process) for job, process in running if job.state == "running"]
        overview.refresh()
    for job in waiting:
        job.state, job.reason = "interrupted", "not started"


def settle(job: Job, process: Any, stopping: bool) -> None:
    """Read from the exit code, then from the summary, how a job ended."""
    if process.exitcode:
        end(process, signal.SIGKILL)  # what it left behind
    summary = read_summary(job.folder) if process.exitcode == 0 else None
    if summary is not None:
        job.state, job.collapsed = summary["status"], bool(summary["collapsed"])
        job.reason = job.reason or summary["reason"] or ""
    else:
        job.state = "interrupted" if stopping else "failed"
        job.reason = job.reason or exit_reason(process.exitcode, job.folder / "run.log")
    if job.state == "interrupted" and not stopping:
        job.state = "failed"  # nobody asked: it ran out of time, or something outside ended it


def exit_reason(code: int, log: Optional[Path]) -> str:
    """Why a process ended with this exit code, negative for a signal; after code 1 the last line of its log."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
    if code == 0:
        return "it wrote no summary.json"
    if log is not None and disk_is_full(log):  # what it said is then lost, and the log ends with what was said before
        return f"exit code {code}, and the disk is full: free space or set results=<folder>"
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log is not None and log.exists() else []
    said = [line.strip() for line in lines if line.strip()]
    return said[-1] if code == 1 and said else f"exit code {code}"


def disk_is_full(path: Path) -> bool:
    """Whether no more than a few lines can be written where `path` is, or would be."""
    return shutil.disk_usage(next(folder for folder in path.parents if folder.exists())).free < FULL_BYTES


PRELOAD = ("ablate.sweeps.preload",)
