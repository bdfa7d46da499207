"""Starting sweeps of the tasks in `stand_in` for tests: a real launcher with real child processes, in a folder of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import ablate

HERE = Path(__file__).parent
SETTINGS = [
    "hydra.launcher.task=stand_in.task", "hydra.launcher.prepare=stand_in.prepare", "hydra.launcher.preload=[]", "tracker=none",
]  # fmt: skip


def environment(**extra: str) -> dict[str, str]:
    path = os.pathsep.join([str(Path(ablate.__file__).parents[1]), str(HERE)])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **extra}


def start_sweep(folder: Path, *overrides: str, **extra: str) -> subprocess.Popen:
    """Start the launcher, in a session of its own so that signals sent to it reach no other process."""
    command = [sys.executable, "-m", "stand_in", "-m", *SETTINGS, *overrides]
    return subprocess.Popen(
        command, cwd=folder, env=environment(**extra), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def run_sweep(folder: Path, *overrides: str, **extra: str) -> subprocess.CompletedProcess:
    process = start_sweep(folder, *overrides, **extra)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
