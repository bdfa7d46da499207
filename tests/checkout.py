"""A checkout of another commit, for the scripts that compare this working tree with it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def checkout_of(revision: str) -> Iterator[Path]:
    """The folder of a git worktree at a commit, removed afterwards. Exits with a sentence where git knows no such commit."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve() / "checkout"
        git = ["git", "-C", str(ROOT), "worktree"]
        done = subprocess.run([*git, "add", "--detach", str(place), revision], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"error: no checkout of {revision}: {done.stderr.strip().splitlines()[-1]}")
        try:
            yield place
        finally:
            subprocess.run([*git, "remove", "--force", str(place)], check=True, capture_output=True)
