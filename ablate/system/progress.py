"""Progress of long loops: a bar on a terminal; elsewhere one plain line at half of the items and one at the end."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import track as rich_track

T = TypeVar("T")


def track(items: Iterable[T], total: int, description: str) -> Iterator[T]:
    """Yield the items and show how many of `total` are done, on standard error."""
    if sys.stderr.isatty():
        yield from rich_track(items, description=escape(description), total=total, console=Console(stderr=True), transient=True)
        return
    for done, item in enumerate(items, 1):
        yield item
        if done in (total // 2, total):
            print(f"{description}: {done}/{total}", file=sys.stderr, flush=True)
