"""How the tests start a tuner, and read what it recorded."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

import ablate

HERE = Path(__file__).parent


def start_tuner(folder: Path, *arguments: str, module: str = "tune_planted", **extra: str) -> subprocess.Popen:
    """The tuner, in a session of its own so that signals sent to it reach nobody else."""
    path = os.pathsep.join([str(Path(ablate.__file__).parents[1]), str(HERE), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **extra}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def run_tuner(folder: Path, *arguments: str, module: str = "tune_planted", **extra: str) -> subprocess.CompletedProcess:
    process = start_tuner(folder, *arguments, module=module, **extra)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def recorded(folder: Path, study: str = "tune") -> list[FrozenTrial]:
    storage = JournalStorage(JournalFileBackend(str(folder / "results" / study / "optuna.journal")))
    return optuna.load_study(study_name=study, storage=storage).trials


def starts(folder: Path, trial: int, seed: int = 0, study: str = "tune") -> int:
    """How often a run of a trial was started."""
    path = folder / "results" / study / f"trial={trial}" / f"seed={seed}" / "starts.txt"
    return len(path.read_text().split()) if path.exists() else 0


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.05)
