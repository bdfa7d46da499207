"""Files written whole or not at all. No torch here."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ablate.errors import UserError


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """A folder that cannot be written, and a full disk, are the user's to mend."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {folder} ({error.strerror}): free space or set results=<folder>") from error


def write_atomically(path: Path, text: str) -> None:
    """All of the file or nothing, on disk before the name appears."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "w") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def try_lock(handle: IO) -> bool:
    """Take a run folder for this process, by a lock on its open metrics.jsonl; false if another process has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
