"""Packed sets: finished runs study by study, in one archive each, unpacked where they are asked for.

A packed set is a folder with `STUDY.tar.xz` of every study and `SHA256SUMS`, written by `analysis.reference`. `load("results/reference")`
reads it as it is: each archive is unpacked once, into the user's cache. `results/reference/STUDY` names one study of the set.
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
from ablate.system.files import atomic_folder, is_folder_name, is_path
from ablate.system.locks import locked
from ablate.system.reading import plain_bytes

SUFFIX, SUMS = ".tar.xz", "SHA256SUMS"
MOST_BYTES, MOST_MEMBERS, LONGEST_NAME = 1 << 34, 1_000_000, 1000  # of an archive that is unpacked
REFERENCE = Path(__file__).resolve().parents[2] / "results" / "reference"  # the set that is committed; a wheel has none


def resolve(root: Path) -> Path:
    """The folder to read for `root`: that in the user's cache if `root` is a packed set or a study of one, else `root` itself.

    Raises:
        UserError: an archive is missing, damaged or unsafe.
    """
    if is_set(root):
        return _in_cache(root, studies(root))
    if _is_packed_study(root):
        return _in_cache(root.parent, [root.name]) / root.name
    return root


def is_set(root: Path) -> bool:
    """Whether a folder is a packed set."""
    return (root / SUMS).is_file()


def _is_packed_study(root: Path) -> bool:
    """Whether `SET/STUDY` stands for `SET/STUDY.tar.xz`: there is no folder of that name."""
    return not root.exists() and is_set(root.parent) and archive_of(root.parent, root.name).is_file()


def archive_of(packed: Path, study: str) -> Path:
    """Where a packed set has one of its studies."""
    return packed / f"{study}{SUFFIX}"


def studies(packed: Path) -> list[str]:
    """The studies of a packed set, sorted: those of its archives, and those that SHA256SUMS names. Raises UserError if it is damaged."""
    found = [path.name.removesuffix(SUFFIX) for path in packed.glob(f"*{SUFFIX}")]
    return sorted({*found, *sums(packed)})


def sums(packed: Path) -> dict[str, str]:
    """Study → the SHA-256 of its archive, as SHA256SUMS states it; {} if there is no such file.

    Raises:
        UserError: a line of it is not the checksum of an archive.
    """
    stated = {}
    try:
        lines = plain_bytes(packed / SUMS).decode("ascii").splitlines()
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{packed / SUMS} is damaged: it holds no checksums; fetch it again") from error
    for line in lines:
        digest, _, name = line.partition("  ")
        study = name.removesuffix(SUFFIX)
        if study == name or not is_folder_name(study) or not study.isprintable():
            raise UserError(f"{packed / SUMS} is damaged: {line[:80]!r} is not the checksum of an archive; fetch it again")
        stated[study] = digest
    return stated


def begin_reading(roots: Sequence[str | Path]) -> None:
    """Say that the runs below these folders are being read. No frame is imported yet, so that the line comes at once.

    Raises:
        UserError: a root is neither a folder nor in a packed set.
    """
    for root in map(Path, roots):
        if not root.is_dir() and not _is_packed_study(root):
            raise UserError(f"{root} is not a folder: name a study or results folder")
    announce(f"reading the runs below {', '.join(map(str, roots))}")


def are_packed(folders: Sequence[str]) -> list[bool]:
    """Whether each run folder of `load` lies in the user's cache of packed sets."""
    cache = f"{_cache()}{os.sep}"
    return [folder.startswith(cache) for folder in folders]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ppo-ablation-packed"


def _in_cache(packed: Path, chosen: Sequence[str]) -> Path:
    """The set's folder in the cache, which holds the chosen studies as `STUDY/ARM/seed=N/` and may hold others of the same set.

    It is named by the checksums of all archives. A study that is not there yet is unpacked to it, whole or not at all.
    """
    for study in chosen:
        checksum(packed, study)
    place = _cache() / hashlib.sha256((packed / SUMS).read_bytes()).hexdigest()[:16]
    for study in chosen:
        if not (place / study).is_dir():
            place.mkdir(parents=True, exist_ok=True)
            with locked(place / f".{study}.lock", f"another process to unpack {archive_of(packed, study)}"):
                if not (place / study).is_dir():
                    unpack_study(packed, study, place / study)
    return place


def checksum(packed: Path, study: str) -> str:
    """SHA-256 of a study's archive, compared with the one in SHA256SUMS.

    Raises:
        UserError: they differ, or there is no such archive.
    """
    path = archive_of(packed, study)
    try:
        with open(path, "rb") as archive:
            found = hashlib.file_digest(archive, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: {SUMS} names it; fetch it again") from error
    if found != sums(packed).get(study):
        raise UserError(f"{path} is damaged: its checksum is not the one in {SUMS}; fetch it again")
    return found


def unpack(packed: Path, to: Path) -> None:
    """Write the run folders of every study of a packed set to `to`/<study>/<arm>/seed=<n>/.

    Raises:
        UserError: `packed` is no packed set, or one of its studies is in `to` already.
        UserError: an archive is missing, damaged, unsafe or larger than `MOST_BYTES` or `MOST_MEMBERS`.
    """
    if not is_set(packed):
        raise UserError(f"{packed} is no packed set: it has no {SUMS}")
    for study in studies(packed):
        if (to / study).exists():
            raise UserError(f"{to / study} exists: name another folder with --to, or move that one away")
    for study in studies(packed):
        unpack_study(packed, study, to / study)


def unpack_study(packed: Path, study: str, to: Path) -> None:
    """Write the run folders of one study of a packed set to `to`/<arm>/seed=<n>/, all of them or none.

    An archive holds plain files, folders and hard links to plain files before them, below a folder of the study's name and named by
    parts that are plain names. Any other member is refused before anything is written, and nothing that the archive says of links,
    owners or modes is followed: contents are written to paths made here. A file that runs share is written once per run, so that a
    change to one run changes no other.

    Raises:
        UserError: the archive is missing, damaged, unsafe or larger than `MOST_BYTES` or `MOST_MEMBERS`.
    """
    checksum(packed, study)
    path = archive_of(packed, study)
    try:
        with tarfile.open(path) as archive:
            files = _plain_files(archive, path, study)
            sharing: dict[tarfile.TarInfo, list[PurePosixPath]] = {}
            for name, member in files.items():
                sharing.setdefault(member, []).append(name)
            to.parent.mkdir(parents=True, exist_ok=True)
            with atomic_folder(to) as partial:
                for member, names in sharing.items():  # once each and in the archive's order: to go back in it is to unpack it again
                    places = [partial.joinpath(*name.parts[1:]) for name in names]
                    _write_all(places, archive.extractfile(member) or io.BytesIO())
    except (tarfile.TarError, lzma.LZMAError, EOFError, ValueError, OverflowError) as error:  # the last two for odd numbers in headers
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is damaged and cannot be unpacked ({reason}): fetch it again") from error


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


def _plain_files(archive: tarfile.TarFile, where: Path, study: str) -> dict[PurePosixPath, tarfile.TarInfo]:
    """Name → the member that holds its content, a hard link's being that of the file it names. Raises UserError for anything else."""
    found: dict[PurePosixPath, tarfile.TarInfo] = {}
    size = 0
    for count, member in enumerate(archive, 1):
        name = PurePosixPath(member.name)
        linked = found.get(PurePosixPath(member.linkname)) if member.islnk() else None
        if member.isdir() and _is_plain(name):
            continue
        if not (member.isreg() or linked) or not _is_plain(name) or name in found or name.parts[0] != study or len(name.parts) == 1:
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
