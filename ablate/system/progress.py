"""Progress of long loops: a bar on a terminal; elsewhere plain lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

LINE_EVERY = 30.0  # seconds

T = TypeVar("T")


def track(items: Iterable[T], total: int, description: str, after: float = 0.0) -> Iterator[T]:
    """Yield the items and show how many of `total` are done, on standard error; nothing is shown in the first `after` seconds.

    A terminal has a bar; elsewhere a line is printed at half of them, at the end, and where LINE_EVERY seconds went by without one.
    """
    started, terminal = time.monotonic(), sys.stderr.isatty()
    printed = started
    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task(escape(description), total=total)
    try:
        for done, item in enumerate(items, 1):
            late = time.monotonic() - started >= after
            if terminal and late:
                bar.start()
            yield item
            bar.update(task, completed=done)
            if not terminal and late and (done in (total // 2, total) or time.monotonic() - printed >= LINE_EVERY):
                print(f"{description}: {done}/{total}", file=sys.stderr, flush=True)
                printed = time.monotonic()
    finally:
        if bar.live.is_started:  # to stop a bar that never began would print an empty line
            bar.stop()
