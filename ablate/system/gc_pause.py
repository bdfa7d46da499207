"""Pauses of Python's cyclic garbage collector. No torch here."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the collector during the block, and exempt what exists at its end from all later collections (`gc.freeze`).

    For imports: torch and transformers create 600,000 objects that stay, and collections during their import take a fifth of its
    time. Processes forked later share the pages of exempted objects, since no collection writes to them.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
