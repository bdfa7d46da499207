"""Run folders that travel in one file: where a packed set is asked for, its run folders are given.

A packed set is a folder with `runs.tar.xz` and `SHA256SUMS`; `analysis.reference` writes it. Reading one needs nothing but
the standard library, and no step by hand: `load("results/reference")` finds the run folders in the user's cache, where they
are put once for each archive. `results/reference/STUDY` names one study of the set.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

from ablate.errors import UserError

ARCHIVE, SUMS = "runs.tar.xz", "SHA256SUMS"
REFERENCE = Path(__file__).resolve().parents[2] / "results" / "reference"  # the set that is committed; a wheel has none


def resolve(root: Path) -> Path:
    """`root` itself, or, where it is a packed set or a study of one, the folder in the user's cache that holds its runs.

    Raises:
        UserError: the archive is damaged or unsafe.
    """
    if (root / ARCHIVE).is_file():
        return _in_cache(root)
    if not root.exists() and (root.parent / ARCHIVE).is_file():
        return _in_cache(root.parent) / root.name
    return root


def _in_cache(packed: Path) -> Path:
    """Unpack into `$XDG_CACHE_HOME/ppo-ablation-packed/<checksum>`, whole or not at all, unless it is there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ppo-ablation-packed"
    place = cache / checksum(packed)[:16]
    if not place.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=cache, prefix=".partial-"))
        try:
            unpack(packed, partial)
            if not place.is_dir():
                partial.rename(place)
        except OSError:
            if not place.is_dir():  # else another process was faster, and its copy is as good
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return place


def checksum(packed: Path) -> str:
    """SHA-256 of the archive, held to the one beside it.

    Raises:
        UserError: they differ.
    """
    found = hashlib.sha256((packed / ARCHIVE).read_bytes()).hexdigest()
    stated = (packed / SUMS).read_text().split()[0] if (packed / SUMS).is_file() else None
    if found != stated:
        raise UserError(f"{packed / ARCHIVE} is damaged: its checksum is not the one in {SUMS}; fetch it again")
    return found


def unpack(packed: Path, to: Path) -> None:
    """Write the run folders of a packed set to `to`/<study>/<arm>/seed=<n>/.

    Members leave `to` under no name (tarfile's data filter). Files that runs share are hard links in the archive and copies
    here: a run folder owns its files.

    Raises:
        UserError: one of the set's studies is in `to` already.
        UserError: the archive is damaged or unsafe.
    """
    checksum(packed)
    with tarfile.open(packed / ARCHIVE) as archive:
        members = archive.getmembers()
        for study in sorted({member.name.lstrip("/").partition("/")[0] for member in members}):
            if (to / study).exists():
                raise UserError(f"{to / study} exists: name another folder with --to, or move that one away")
        try:
            archive.extractall(to, filter="data")
        except tarfile.FilterError as error:
            raise UserError(f"{packed / ARCHIVE} is unsafe and was not unpacked: {error}") from None
    for member in members:
        if member.islnk():
            own = (to / member.name).read_bytes()
            (to / member.name).unlink()
            (to / member.name).write_bytes(own)
