"""Packed sets: run folders in one archive, unpacked where they are asked for.

A packed set is a folder with `runs.tar.xz` and `SHA256SUMS`, written by `analysis.reference`. `load("results/reference")` reads it as
it is: each archive is unpacked once, into the user's cache. `results/reference/STUDY` names one study of the set.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from ablate.errors import UserError
from ablate.system.commands import announce
from ablate.system.files import atomic_folder, is_path
from ablate.system.locks import locked
from ablate.system.reading import plain_bytes

ARCHIVE, SUMS = "runs.tar.xz", "SHA256SUMS"
MOST_BYTES, MOST_MEMBERS, LONGEST_NAME = 1 << 34, 1_000_000, 1000  # of an archive that is unpacked
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


def begin_reading(roots: Sequence[str | Path]) -> None:
    """Say that the runs below these folders are being read. No frame is imported yet, so that the line comes at once.

    Raises:
        UserError: a root is neither a folder nor in a packed set.
    """
    for root in map(Path, roots):
        if not root.is_dir() and not (root.parent / ARCHIVE).is_file():
            raise UserError(f"{root} is not a folder: name a study or results folder")
    announce(f"reading the runs below {', '.join(map(str, roots))}")


def are_packed(folders: Sequence[str]) -> list[bool]:
    """Whether each run folder of `load` lies in the user's cache of packed sets."""
    cache = f"{_cache()}{os.sep}"
    return [folder.startswith(cache) for folder in folders]


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
    with open(packed / ARCHIVE, "rb") as archive:
        found = hashlib.file_digest(archive, "sha256").hexdigest()
    try:
        stated = plain_bytes(packed / SUMS).split()[:1]
    except (FileNotFoundError, ValueError):
        stated = []
    if [found.encode()] != stated:
        raise UserError(f"{packed / ARCHIVE} is damaged: its checksum is not the one in {SUMS}; fetch it again")
    return found


def unpack(packed: Path, to: Path) -> None:
    """Write the run folders of a packed set to `to`/<study>/<arm>/seed=<n>/.

    A packed set holds plain files, folders and hard links to plain files before them, named by parts that are plain names. Any other
    member is refused before anything is written, and nothing that the archive says of links, owners or modes is followed: contents
    are written to paths made here. A file that runs share is written once per run, so that a change to one run changes no other.

    Raises:
        UserError: one of the set's studies is in `to` already.
        UserError: the archive is damaged, unsafe or larger than `MOST_BYTES` or `MOST_MEMBERS`.
    """
    checksum(packed)
    try:
        with tarfile.open(packed / ARCHIVE) as archive:
            files = _plain_files(archive, packed / ARCHIVE)
            for study in sorted({name.parts[0] for name in files}):
                if (to / study).exists():
                    raise UserError(f"{to / study} exists: name another folder with --to, or move that one away")
            sharing: dict[tarfile.TarInfo, list[PurePosixPath]] = {}
            for name, member in files.items():
                sharing.setdefault(member, []).append(name)
            for member, names in sharing.items():  # once each and in the archive's order: to go back in it is to unpack it again
                _write_all([to / name for name in names], archive.extractfile(member) or io.BytesIO())
    except (tarfile.TarError, lzma.LZMAError, EOFError, ValueError, OverflowError) as error:  # the last two for odd numbers in headers
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{packed / ARCHIVE} is damaged and cannot be unpacked ({reason}): fetch it again") from error


def _write_all(paths: Sequence[Path], content: IO[bytes]) -> None:
    """Write the same content to new files: to the first from the archive, to the others from the first."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as file:
            if path == paths[0]:
                shutil.copyfileobj(content, file)
            else:
                with open(paths[0], "rb") as written:
                    shutil.copyfileobj(written, file)


def _plain_files(archive: tarfile.TarFile, where: Path) -> dict[PurePosixPath, tarfile.TarInfo]:
    """Name → the member that holds its content, a hard link's being that of the file it names. Raises UserError for anything else."""
    found: dict[PurePosixPath, tarfile.TarInfo] = {}
    size = 0
    for count, member in enumerate(archive, 1):
        name = PurePosixPath(member.name)
        linked = found.get(PurePosixPath(member.linkname)) if member.islnk() else None
        if member.isdir() and _is_plain(name):
            continue
        if not (member.isreg() or linked) or not _is_plain(name) or name in found:
            raise UserError(f"{where} is unsafe and was not unpacked: {member.name[:80]!r} is no plain file of a run")
        found[name] = linked or member
        size += found[name].size
        if size > MOST_BYTES or count > MOST_MEMBERS:
            raise UserError(f"{where} is unsafe and was not unpacked: it holds more than {MOST_BYTES >> 30} GiB or {MOST_MEMBERS:,} files")
    inside = next((name for name in found for folder in name.parents if folder in found), None)
    if inside is not None:
        raise UserError(f"{where} is unsafe and was not unpacked: {str(inside)[:80]!r} lies in what is a file")
    return found


def _is_plain(name: PurePosixPath) -> bool:
    """Whether a member's name is relative, and each of its parts is the name of a file or folder."""
    text = str(name)
    return bool(name.parts) and not name.is_absolute() and ".." not in name.parts and is_path(text) and len(text) < LONGEST_NAME
