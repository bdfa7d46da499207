"""When Python looks for garbage. No torch here."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_paused() -> Iterator[None]:
    """No cyclic garbage is looked for meanwhile, and what exists at the end never again (`gc.freeze`).

    For imports: those of torch and transformers make 600,000 objects that stay, and looking through them time and again, as they
    grow more, is a fifth of the time they take. Processes forked later share the pages of what is never looked at.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
