"""Jobs that end badly: one is killed while a process that it started goes on, as wandb's does; one is refused."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ablate.errors import UserError


@dataclass(frozen=True)
class Note:
    """Takes the place of a job's configuration: `path` is where the job leaves a pid."""

    path: Path
    arm: str = "orphan"
    seed: int = 0


def leave(note: Note) -> None:
    """Start a process that would outlive this one, note its pid, and be killed."""
    child = subprocess.Popen(["sleep", "60"])
    note.path.write_text(str(child.pid))
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(note: Note) -> None:
    raise UserError(f"cannot write {note.path} (No space left on device): free space or set results=<folder>")
