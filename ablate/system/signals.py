"""A request to stop: before the first update it ends the process, later a run ends after its current update. No torch here."""

from __future__ import annotations

import signal
import sys
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


class Interrupted(SystemExit):
    """A signal has ended what could not be ended later. The exit status is 128 + its number, as shells count: 130 or 143."""


def interrupt(number: int, frame: object) -> None:
    """The handler within `ending_on_signals`, once: Slurm sends SIGTERM twice, and the second must not disturb the cleaning up.

    Raises Interrupted.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    raise Interrupted(128 + number)


@contextmanager
def ending_on_signals(work: str) -> Iterator[None]:
    """Raise Interrupted in the block on SIGINT and SIGTERM, which cleans up on its way out, and say so in a sentence at the end.

    work: the subject of that sentence. Within another such block, outside the main thread, and for a signal that the process ignores,
    nothing changes. Raises Interrupted.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is interrupt:
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    except Interrupted:
        print(f"{work} was interrupted: the same command goes on from what is done", file=sys.stderr, flush=True)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
