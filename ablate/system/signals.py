"""A request to stop, on which a run ends after its current update. No torch here."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Yield an event that SIGINT and SIGTERM set. Outside the main thread, which alone receives signals, nothing sets it.

    A second SIGINT raises KeyboardInterrupt as usual. A second SIGTERM is the same request again, since Slurm sends it twice within
    milliseconds to a job that it preempts.
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
