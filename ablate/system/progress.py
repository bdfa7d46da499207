"""Progress of long loops: a bar on a terminal; elsewhere one plain line at half of the items and one at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

T = TypeVar("T")


def track(items: Iterable[T], total: int, description: str, after: float = 0.0) -> Iterator[T]:
    """Yield the items and show how many of `total` are done, on standard error; nothing is shown in the first `after` seconds."""
    started, terminal = time.monotonic(), sys.stderr.isatty()
    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task(escape(description), total=total)
    try:
        for done, item in enumerate(items, 1):
            late = time.monotonic() - started >= after
            if terminal and late:
                bar.start()
            yield item
            bar.update(task, completed=done)
            if not terminal and late and done in (total // 2, total):
                print(f"{description}: {done}/{total}", file=sys.stderr, flush=True)
    finally:
        if bar.live.is_started:  # to stop a bar that never began would print an empty line
            bar.stop()
