"""Packed sets: run folders in one archive, unpacked where they are asked for.

A packed set is a folder with `runs.tar.xz` and `SHA256SUMS`, written by `analysis.reference`. `load("results/reference")` reads it as
it is: each archive is unpacked once, into the user's cache. `results/reference/STUDY` names one study of the set.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path

from ablate.errors import UserError
from ablate.system.files import atomic_folder
from ablate.system.locks import locked

ARCHIVE, SUMS = "runs.tar.xz", "SHA256SUMS"
REFERENCE = Path(__file__).resolve().parents[2] / "results" / "reference"  # the set that is committed; a wheel has none


def resolve(root: Path) -> Path:
    """The folder to read for `root`: that in the user's cache if `root` is a packed set or a study of one, else `root` itself.

    Raises:
        UserError: the archive is damaged or unsafe.
    """
    if (root / ARCHIVE).is_file():
        return _in_cache(root)
    if not root.exists() and (root.parent / ARCHIVE).is_file():
        return _in_cache(root.parent) / root.name
    return root


def is_packed(folder: str | Path) -> bool:
    """Whether a run folder of `load` lies in the user's cache of packed sets."""
    return _cache() in Path(folder).parents


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ppo-ablation-packed"


def _in_cache(packed: Path) -> Path:
    """The folder `$XDG_CACHE_HOME/ppo-ablation-packed/<checksum>`. If it does not exist, the set is unpacked to it, whole or not at all."""
    cache = _cache()
    place = cache / checksum(packed)[:16]
    if not place.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with locked(cache / f".{place.name}.lock", f"another process to unpack {packed / ARCHIVE}"):
            if not place.is_dir():
                with atomic_folder(place) as partial:
                    unpack(packed, partial)
    return place


def checksum(packed: Path) -> str:
    """SHA-256 of the archive, compared with the one in SHA256SUMS.

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

    No member can be written outside `to` (tarfile's data filter). Files that runs share are hard links in the archive and copies
    in `to`, so that a change to one run changes no other.

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
