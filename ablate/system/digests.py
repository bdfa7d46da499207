"""Digests of files and folders by their content. A process reads an unchanged file once. No torch here."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path

PIECE = 1 << 22  # bytes read at a time
QUIET = 2.0  # seconds of reading after which a line says what is read
SETTLED = 2.0  # seconds after a change in which another one may leave the time of change as it is


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal. A file whose size and times are as they were is not read again. Raises OSError."""
    stat = os.stat(path)
    signature = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    recent = abs(time.time() - max(stat.st_mtime, stat.st_ctime)) < SETTLED
    return read_digest(path) if recent else known_digest(str(path), signature)


@cache
def known_digest(path: str, signature: tuple[int, ...]) -> str:
    """`read_digest`, once in a process for each path and signature of its file."""
    return read_digest(Path(path))


def read_digest(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal; a line on standard error where that takes longer than QUIET. Raises OSError."""
    digest, started, told = hashlib.sha256(), time.monotonic(), False
    with open(path, "rb") as handle:
        while piece := handle.read(PIECE):
            digest.update(piece)
            if not told and time.monotonic() - started > QUIET:
                told = True
                print(f"reading {path} ({path.stat().st_size / 1e9:.1f} GB) for its digest", file=sys.stderr, flush=True)
    return digest.hexdigest()


def digest_of(folder: Path, files: Iterable[Path]) -> str:
    """Sixteen hexadecimal digits over files of a folder: their names from there and their content. Raises OSError."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + file_digest(path).encode())
    return digest.hexdigest()[:16]
