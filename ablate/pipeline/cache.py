"""A content-addressed cache of stage folders. Each is built once, by the first run that needs it, and is never seen half-written.

An entry is `<cache>/<stage>-<key>/`. The key covers the stage's settings, the keys of the stages it was built from, the source
code that it runs through (`ablate.system.closure`) and the versions of torch and transformers. A builder holds a lock (released
by the system if it dies), writes into a folder beside the entry and renames it at the end; another run that needs the entry waits
for the lock. The modification time of an entry is when a run last asked for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from safetensors import SafetensorError

from ablate.errors import UserError
from ablate.system.closure import ROOT, source_digests
from ablate.system.digests import digest_of, read_digest
from ablate.system.files import atomic_folder, partial_path
from ablate.system.locks import locked, try_locked

STAMP = "stage.json"


def stage_key(stage: str, settings: dict, upstream: Sequence[str], root: Path = ROOT) -> str:
    """Sixteen hexadecimal digits over everything that decides a stage's content.

    stage: its name, which is the name of its module in `ablate.pipeline`. upstream: keys of the stages it is built from.
    root: the folder that holds the package.
    """
    content = {
        "format": 3,
        "stage": stage,
        "settings": settings,
        "upstream": list(upstream),
        "code": source_digests(f"ablate.pipeline.{stage}", root),
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def folder_key(folder: Path) -> str:
    """Sixteen hexadecimal digits over the content of a folder or file that stands in a stage's place, file names included.

    Raises UserError where it does not exist.
    """
    if not folder.exists():
        raise UserError(f"{folder} does not exist: correct the path of the stage")
    files = [folder] if folder.is_file() else [path for path in folder.rglob("*") if path.is_file()]
    return digest_of(folder, files)


def cached(cache: Path, stage: str, key: str, settings: dict, build: Callable[[Path], None]) -> Path:
    """The entry's folder, built by `build(folder)` if it is not there. Raises UserError for a corrupt entry or a full disk."""
    entry = cache / f"{stage}-{key}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if not entry.is_dir():
            with locked(lock_path(entry), f"another run to build {entry.name}"):
                if not entry.is_dir():
                    build_entry(entry, stage, settings, build)
        check_entry(entry)
        os.utime(entry)
    except OSError as error:
        raise cannot_write(entry, error) from error
    return entry


def cannot_write(entry: Path, reason: object) -> UserError:
    """The error for an entry that cannot be written."""
    return UserError(f"cannot write the stage {entry.name} in {entry.parent} ({reason}): free space or set cache=<folder>")


def lock_path(entry: Path) -> Path:
    """The lock file that a process holds while it builds or removes an entry. It stays behind only where that process was killed."""
    return entry.with_name(f".{entry.name}.lock")


def build_entry(entry: Path, stage: str, settings: dict, build: Callable[[Path], None]) -> None:
    """Build an entry in a folder beside it, which is then renamed. Raises UserError where the disk is full, and OSError."""
    try:
        with atomic_folder(entry) as partial:
            build(partial)
            files = {str(path.relative_to(partial)): read_digest(path) for path in sorted(partial.rglob("*")) if path.is_file()}
            (partial / STAMP).write_text(json.dumps({"stage": stage, "settings": settings, "files": files}, indent=1))
    except SafetensorError as error:  # safetensors reports a full disk with an error of its own
        raise cannot_write(entry, error) from error


def read_stamp(entry: Path) -> dict:
    """The stamp of an entry: stage, settings, and files, which is file → SHA-256. Raises UserError where it is not readable."""
    try:
        stamp = json.loads((entry / STAMP).read_text())
        if not ({"stage", "settings"} <= stamp.keys() and isinstance(stamp["files"], dict)):
            raise ValueError("an entry is missing")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"the cache entry {entry} has no readable {STAMP}: remove the folder to build it again") from error
    return stamp


def check_entry(entry: Path) -> None:
    """Raises UserError where a file that the stamp lists is missing or has other content. Nothing is rebuilt silently."""
    for name, digest in read_stamp(entry)["files"].items():
        path = entry / name
        if not path.is_file() or read_digest(path) != digest:
            raise UserError(f"the cache entry {entry} is corrupt ({name}): remove the folder to build it again")


def entries(cache: Path) -> list[Path]:
    """All entries, damaged ones included, the least recently used first."""
    found = [path for path in cache.glob("*-*") if path.is_dir() and not path.name.startswith(".")] if cache.is_dir() else []
    return sorted(found, key=lambda path: path.stat().st_mtime)


def leftovers(cache: Path) -> list[Path]:
    """The entries, which may not exist, of which a killed process left a half-written folder or a lock file."""
    found = {*cache.glob(".*.partial"), *cache.glob(".*.lock")}
    return sorted({cache / path.stem.removeprefix(".") for path in found})


def remove(entry: Path) -> bool:
    """Remove an entry and what is left of building it. Returns false, and does nothing, while another process builds it.

    The folder is renamed first, so that a run finds a complete entry or none.
    """
    with try_locked(lock_path(entry)) as is_ours:
        if is_ours:
            partial = partial_path(entry)
            shutil.rmtree(partial, ignore_errors=True)
            with suppress(FileNotFoundError):
                os.replace(entry, partial)
            shutil.rmtree(partial, ignore_errors=True)
    return is_ours
