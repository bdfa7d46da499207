"""How a command ends when the user must correct something, or when nobody reads its output. No torch here."""

from __future__ import annotations

import os
import select
import signal
import sys
import traceback
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

from ablate.errors import UserError
from ablate.system.files import UNPRINTED

TURNS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
TRACEBACK = "ABLATE_TRACEBACK"  # environment variable


@contextmanager
def command_errors() -> Iterator[None]:
    """End the process with `error: <sentence>` on stderr and status 1 where the body raises UserError; other exceptions pass.

    With ABLATE_TRACEBACK=1 in the environment the traceback comes first, with the exceptions that caused the error. If standard output
    is a pipe whose reader has ended, as in `… | head`, the process ends silently with status 128 + SIGPIPE. Raises SystemExit.
    """
    try:
        with closed_pipe():
            yield
    except UserError as error:
        show_cause(error)
        sys.exit(f"error: {without_controls(str(error))}")


def show_cause(error: BaseException) -> None:
    """With ABLATE_TRACEBACK=1 in the environment, print the traceback of an error and of what caused it, before its sentence is."""
    if os.environ.get(TRACEBACK) == "1":
        traceback.print_exception(error)


def announce(sentence: str) -> None:
    """Say on standard error, at once, what a command is about to do: before imports and work that take seconds."""
    print(without_controls(sentence), file=sys.stderr, flush=True)


def without_controls(text: str) -> str:
    """A text whose control characters but line ends are escaped, so that what a message quotes cannot act on the terminal.

    So are the characters that turn the direction of writing, which show a text in another order than it has.
    """
    return "".join(repr(c)[1:-1] if c != "\n" and (unicodedata.category(c) in UNPRINTED or c in TURNS) else c for c in text)


@contextmanager
def closed_pipe() -> Iterator[None]:
    """Raise SystemExit in place of the BrokenPipeError of standard output. A BrokenPipeError of anything else passes."""
    try:
        try:
            yield
        except SystemExit as ended:
            if not ended.code:  # after a help text
                sys.stdout.flush()
            raise
        sys.stdout.flush()
    except BrokenPipeError:
        if not reader_has_ended():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the text that Python writes at its end
        sys.exit(128 + signal.SIGPIPE)


def reader_has_ended() -> bool:
    """Whether standard output is a pipe that no process reads any more."""
    output = select.poll()
    output.register(sys.stdout, 0)
    return any(event & select.POLLERR for _, event in output.poll(0))
