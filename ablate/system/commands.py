"""How a command ends when the user must correct something. No torch here."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from ablate.errors import UserError

TRACEBACK = "ABLATE_TRACEBACK"  # environment variable


@contextmanager
def command_errors() -> Iterator[None]:
    """End the process with `error: <sentence>` on stderr and status 1 where the body raises UserError; other exceptions pass.

    With ABLATE_TRACEBACK=1 in the environment the traceback comes first, with the exceptions that caused the error. Raises SystemExit.
    """
    try:
        yield
    except UserError as error:
        if os.environ.get(TRACEBACK) == "1":
            traceback.print_exception(error)
        sys.exit(f"error: {error}")
