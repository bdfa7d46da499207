"""Rebuild a page while its run folders change."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from ablate.system.files import write_atomically
from analysis.load.runfolder import find_run_folders, fingerprint

SECONDS = 5


def write_page(path: Path, text: str) -> None:
    """Replace the page at once, so that a browser never reads a part of it."""
    write_atomically(path, text)


def marks(root: Path) -> dict[str, str]:
    """Run folder → sizes and times of its files, for every run folder below `root`. {} if there is no such folder."""
    return {str(folder): fingerprint(folder) for folder in find_run_folders(root)} if root.is_dir() else {}


def watch(root: Path, rebuild: Callable[[], None], known: dict[str, str], seconds: float = SECONDS) -> None:
    """Call `rebuild` whenever a run folder below `root` has changed, until KeyboardInterrupt.

    known: the `marks` from before the present page was built, so that a change since then is not missed. The folders are looked at every
    `seconds`. After a rebuild the pause is at least four times as long as it took, because the runs need the processor.
    """
    pause = seconds
    while True:
        time.sleep(pause)
        found = marks(root)
        if found == known:
            continue
        started = time.monotonic()
        rebuild()
        known, pause = found, max(seconds, 4 * (time.monotonic() - started))
