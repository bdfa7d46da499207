"""Advisory locks between processes, which the system releases when their holder dies. No torch here.

They are `flock` locks on open files. The package filelock does not fit: a run folder's lock is on the file that the run
writes, and a lock file here is removed by its last holder, which filelock's own contract forbids.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def try_lock(handle: IO) -> bool:
    """Lock an open file for this process, for as long as it stays open; False where another process has the lock."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(path: Path, waiting_for: str) -> Iterator[None]:
    """Hold a lock on the file `path` during the block, and remove the file at the end.

    While another process holds it, this one waits, after a line "waiting for <waiting_for>" on standard error.
    """
    handle = open_lock(path, wait=False)
    if handle is None:
        print(f"waiting for {waiting_for}", file=sys.stderr, flush=True)
        handle = open_lock(path)
    with release(path, handle):
        yield


@contextmanager
def try_locked(path: Path) -> Iterator[bool]:
    """As `locked`, without waiting: yields False where another process holds the lock."""
    handle = open_lock(path, wait=False)
    if handle is None:
        yield False
        return
    with release(path, handle):
        yield True


def open_lock(path: Path, wait: bool = True) -> IO | None:
    """The open and locked file `path`; None where another process has the lock and `wait` is false.

    A holder removes the file before it releases the lock, so a waiting process may get the lock of a file without a name. Such a lock
    does not count, and the process tries the file that has the name now.
    """
    while True:
        handle = open(path, "w")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.stat(path), os.fstat(handle.fileno())):
                return handle
        except BlockingIOError:
            handle.close()
            return None
        except FileNotFoundError:
            pass  # the file was removed while this process waited
        handle.close()


@contextmanager
def release(path: Path, handle: IO) -> Iterator[None]:
    """Remove the lock file at the end of the block, then release the lock."""
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        handle.close()
