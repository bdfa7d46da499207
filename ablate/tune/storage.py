"""Where Optuna keeps a study: a journal in the study's folder, or a database, whose password no message shows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from ablate.errors import UserError

INSTALL = "pip install 'ppo-ablation[tune]'"
DAMAGE = (ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError, RecursionError, OSError)  # as Optuna meets it
BLOCK = 2**16  # bytes


def journal_path(folder: Path) -> Path:
    """The journal of the study whose folder is given."""
    return folder / "optuna.journal"


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """The database at `url`, or a journal in the study's folder, which is made where there is none. Raises UserError."""
    if url is not None:
        try:
            return RDBStorage(url)
        except ImportError as error:
            raise UserError(f"{shown(url)} cannot be used ({first_line(error)}): {INSTALL}, or leave storage out") from error
        except (ArgumentError, ValueError):  # they may quote any part of the URL, the password among them
            raise UserError(f"{shown(url)} cannot be used: write it as postgresql+psycopg2://user@host/name, or leave it out") from None
    path = journal_path(folder).resolve()  # absolute, because Optuna's lock is a symbolic link to it
    if path.exists() and not path.is_file():
        raise UserError(f"{journal_path(folder)} is not a file: remove it, or set study=<name>")
    try:
        return JournalStorage(JournalFileBackend(str(path), JournalLock(str(path))))
    except DAMAGE as error:
        raise UserError(f"{journal_path(folder)} is not readable ({first_line(error)}): remove it, or set study=<name>") from error


class JournalLock(JournalFileSymlinkLock):
    """Optuna's lock on its journal, held for each write. A line that a killed process has left torn is cut off before the next."""

    def acquire(self) -> bool:
        """Wait for the lock, then mend the journal. Returns True."""
        acquired = super().acquire()
        cut_torn_line(Path(self._lock_target_file))
        return acquired


def cut_torn_line(path: Path) -> None:
    """Cut off what follows the last line end of a file, which must exist."""
    with path.open("rb+") as file:
        end = size = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - BLOCK)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            file.truncate(end)


@contextmanager
def database_errors(url: str | None) -> Iterator[None]:
    """Turn what a database that is in use raises into a UserError. Raises UserError.

    Where its URL holds a secret the cause is left out, since a traceback would show its text.
    """
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        said, hidden = first_line(error), secrets(url or "")
        for secret in hidden:
            said = said.replace(secret, "***")
        raise UserError(f"{shown(url or '')} cannot be used ({said}): correct it or leave it out") from (None if hidden else error)


def shown(url: str) -> str:
    """`storage=` and the URL, of which only the scheme where there are credentials or a query, which may hold a password."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "storage="  # no URL, so any part of it may be secret
    return f"storage={scheme}://{'***' if '@' in rest or '?' in rest else rest}"


def secrets(url: str) -> list[str]:
    """What no message may show of a database's URL: password and query, as written and decoded, the longest first."""
    rest = url.partition("://")[2]
    credentials, _, place = rest.rpartition("@")
    written = [credentials.partition(":")[2], *(part.partition("=")[2] for part in place.partition("?")[2].split("&"))]
    return sorted({text for part in written for text in (part, unquote(part)) if text}, key=len, reverse=True)


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
