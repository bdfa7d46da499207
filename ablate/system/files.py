"""Files and folders that are written completely or not at all. No torch here."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ablate.errors import UserError

NAME_BYTES, PATH_BYTES = 255, 4095  # the longest name and path of Linux's file systems
UNPRINTED = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories of control characters, surrogates and line separators


def is_folder_name(name: object) -> bool:
    """Whether `name` is the name of one folder: text of 1 to 255 bytes without separators or control characters, not `.` or `..`."""
    return isinstance(name, str) and is_path(name) and name not in (".", "..") and "/" not in name and "\\" not in name


def is_path(path: str) -> bool:
    """Whether `path` can name a file: 1 to 4,095 bytes, at most 255 in each part, without control characters."""
    if not path or any(unicodedata.category(character) in UNPRINTED for character in path):
        return False
    return len(path.encode()) <= PATH_BYTES and all(len(part.encode()) <= NAME_BYTES for part in path.split("/"))


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn an OSError within the block into a UserError that names `folder`. Raises UserError, for instance on a full disk."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {folder} ({error.strerror}): free space or set results=<folder>") from error


def write_atomically(path: Path, text: str) -> None:
    """Write a text file in UTF-8, as `atomic_file` does. Raises OSError."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` for the block to write to. The file is then flushed to disk and renamed to `path`.

    A reader of `path` sees the old content or the new, never a part. The name holds the process's number, so that two processes
    which write one file do not disturb each other: the later one wins. Raises OSError.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)  # a link of this name would lead the block elsewhere
    try:
        yield partial
        flush(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `path` for the block to fill. Its files are then flushed to disk and it is renamed to `path`.

    What a killed process left of an earlier attempt is removed first, so only one process at a time may write a folder.
    replace: whether a folder that `path` names already is removed, just before the renaming. Raises OSError.
    """
    partial = partial_path(path)
    remove(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
        for file in sorted(partial.rglob("*")):
            if file.is_file():
                flush(file)
        if replace:
            remove(path)
        os.replace(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def remove(path: Path) -> None:
    """Remove a folder with what is in it, a file, or a link but not what it leads to. Nothing there is no error. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def open_to_append(path: Path) -> BinaryIO:
    """Open a plain file to append to and to read, made if there is none; unbuffered. A link is not followed, and a pipe never waited for.

    Raises OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    file = open(descriptor, "a+b", buffering=0)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "no plain file")
    return file


def partial_path(path: Path) -> Path:
    """Where `atomic_folder` keeps a folder while it is being filled."""
    return path.with_name(f".{path.name}.partial")


def flush(path: Path) -> None:
    """Wait until the content of a file is on disk."""
    with open(path, "rb") as handle:
        os.fsync(handle.fileno())
