"""A request to stop, which a run honours at the end of its update. No torch here."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set. Only the main thread can listen.

    A second SIGINT acts as it always does. SIGTERM again is the same request, since Slurm sends it twice within milliseconds to a job
    that it preempts; for who cannot wait there is SIGKILL.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number, frame):
        stop.set()
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
