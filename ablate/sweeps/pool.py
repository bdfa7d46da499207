"""The processes of a sweep: how they are started, watched and stopped.

One forkserver starts all of them. It has imported torch and transformers already, so a process is ready at once; it runs no threads
and loads no models. A process that fails ends no other.
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

from ablate.runs.summary import read_summary
from ablate.sweeps.table import NOT_STARTED, Job, LiveTable
from ablate.system.commands import command_errors

GRACE_SECONDS = 30.0  # between SIGTERM and SIGKILL for a job past its time limit
FULL_BYTES = 2**16  # a disk with less free space counts as full
WANDB = ("wandb", "wandb.apis.public", "pandas")  # wandb imports the second with its first run, the third with its first table
CONTEXT = multiprocessing.get_context("forkserver")


def start_server(config: Any, preload: Sequence[str]) -> None:
    """Start the forkserver. While the sweep is composed it imports the modules `preload`, and those of wandb if that is a tracker.

    It starts with the thread counts in its environment, because OpenMP reads them only at import.
    """
    wanted = {name: str(config.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    CONTEXT.set_forkserver_preload([*(WANDB if "wandb" in str(config.tracker) else ()), *preload])
    forkserver.ensure_running()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def work(task: str, config: Any, log: Optional[Path]) -> None:
    """The main function of a child process: call `task` (a dotted name) on `config`. All output is appended to `log`, if one is given.

    A UserError ends the process with status 1 and its sentence as the last line of output.
    """
    os.setsid()  # a Ctrl-C in the terminal then reaches only the launcher, which asks the jobs to stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_launcher, daemon=True).start()
    if log is not None:
        print_to(log)
    faulthandler.enable()
    with command_errors():
        resolve(task)(config)


def print_to(log: Path) -> None:
    """Append all later output of this process to the file `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)


def _end_with_launcher() -> None:
    """Wait for the end of the launcher, then kill this process and its children."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()  # returns as soon as the launcher has ended, for whatever reason
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
    """Send the signal `how` to a process that is running. SIGKILL also goes to its group, even after its end, to end its children."""
    if process.exitcode is None:
        with suppress(ProcessLookupError):  # it may have ended meanwhile
            os.kill(process.pid, how)
    if how == signal.SIGKILL:
        with suppress(ProcessLookupError):  # it may have no group of its own yet, or the group may be empty
            os.killpg(process.pid, how)


@contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Yield a list to which each SIGINT and SIGTERM is appended during the block. The old handlers are restored at its end."""
    caught: list[int] = []
    before = {number: signal.signal(number, lambda n, _: caught.append(n)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def build_stages(stages: Sequence[tuple[Any, Sequence[Job]]], slots: int, task: str, caught: list[int]) -> None:
    """Build the shared stages: run `task` on one config per set of pipeline settings. Where it fails, its jobs become `failed`.

    stages: (config, jobs that need its stages) per set. The first is built alone, with its output on the terminal, because the
    others often share stages with it. The others are built `slots` at a time, with their output in `stages.log` in the study's folder.
    caught: signals received so far; see `run_jobs`.
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
    """Send the processes SIGTERM after the first signal caught, and SIGKILL after a second. Returns the number of signals caught.

    asked: how many of the signals have been passed on already.
    """
    if len(caught) > asked:
        for process in processes:
            end(process, signal.SIGTERM if len(caught) == 1 else signal.SIGKILL)
    return len(caught)


def run_jobs(overview: LiveTable, slots: int, task: str, timeout: Optional[float], caught: list[int]) -> None:
    """Run the waiting jobs of the table, `slots` at a time, until all have ended. How each ended is in its `state` and `reason`.

    timeout: seconds per job. A job past it receives SIGTERM, and SIGKILL GRACE_SECONDS later.
    caught: signals received so far. After the first no job starts and all receive SIGTERM; after a second they receive SIGKILL.
    """
    waiting = [job for job in overview.jobs if job.state == "waiting"]
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
        job.state, job.reason = "interrupted", NOT_STARTED


def settle(job: Job, process: Any, stopping: bool) -> None:
    """Set the state and reason of a job whose process has ended, from its exit code and its summary.

    stopping: whether the sweep was asked to stop.
    """
    if process.exitcode:
        end(process, signal.SIGKILL)  # children that it left
    summary = read_summary(job.folder) if process.exitcode == 0 else None
    if summary is not None:
        job.state, job.collapsed, job.collapse_update = summary["status"], bool(summary["collapsed"]), summary.get("collapse_update")
        job.reason = job.reason or summary["reason"] or ""
    else:
        job.state = "interrupted" if stopping else "failed"
        job.reason = job.reason or exit_reason(process.exitcode, job.folder / "run.log")
    if job.state == "interrupted" and not stopping:
        job.state = "failed"  # without a request: it passed its time limit, or received a signal from elsewhere


def exit_reason(code: int, log: Optional[Path]) -> str:
    """Why a process ended: the name of signal n for exit code −n, the last line of its log for code 1, else the code itself."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
    if code == 0:
        return "it wrote no summary.json"
    if log is not None and disk_is_full(log):  # the log then lacks its last words, the error among them
        return f"exit code {code}, and the disk is full: free space or set results=<folder>"
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log is not None and log.exists() else []
    said = [line.strip() for line in lines if line.strip()]
    return said[-1] if code == 1 and said else f"exit code {code}"


def disk_is_full(path: Path) -> bool:
    """Whether fewer than FULL_BYTES bytes are free on the disk of `path`, which need not exist yet."""
    return shutil.disk_usage(next(folder for folder in path.parents if folder.exists())).free < FULL_BYTES


PRELOAD = ("ablate.sweeps.preload",)
