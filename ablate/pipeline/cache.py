"""A content-addressed cache of stage folders: built once, whoever asks first, and never seen half-written.

An entry is `<cache>/<stage>-<key>/`. The key covers the stage's settings, the keys of the stages it was built from, the source
code that builds it and the versions of torch and transformers. A builder holds a lock (released by the system if it dies),
writes into a folder beside the entry and renames it at the end; whoever else wants the entry waits for the lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from ablate.errors import UserError

STAMP = "stage.json"


def stage_key(stage: str, settings: dict, upstream: list[str], code: list[ModuleType]) -> str:
    """Sixteen hexadecimal digits over everything that decides a stage's content."""
    content = {
        "stage": stage,
        "settings": settings,
        "upstream": upstream,
        "code": [hashlib.sha256(inspect.getsource(module).encode()).hexdigest() for module in code],
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def folder_key(folder: Path) -> str:
    """Content hash of a folder or file the user put in a stage's place."""
    if not folder.exists():
        raise UserError(f"{folder} does not exist: correct the path of the stage")
    digest = hashlib.sha256()
    files = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        digest.update(path.name.encode())
        with open(path, "rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()[:16]


def cached(cache: Path, stage: str, key: str, settings: dict, build: Callable[[Path], None]) -> Path:
    """The entry's folder, built by `build(folder)` if it is not there. Raises UserError for a corrupt entry or a full disk."""
    entry = cache / f"{stage}-{key}"
    if not entry.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with locked(cache / f".{stage}-{key}.lock", entry.name):
            if not entry.is_dir():
                build_entry(entry, stage, settings, build)
    check_entry(entry)
    return entry


def build_entry(entry: Path, stage: str, settings: dict, build: Callable[[Path], None]) -> None:
    """Build beside the entry and rename. What an earlier builder left when it was killed is swept away first."""
    partial = entry.with_name(f".{entry.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        build(partial)
        files = {str(path.relative_to(partial)): path.stat().st_size for path in partial.rglob("*") if path.is_file()}
        (partial / STAMP).write_text(json.dumps({"stage": stage, "settings": settings, "files": files}, indent=1))
        os.replace(partial, entry)
    except OSError as error:
        raise UserError(f"cannot write the stage {entry.name} in {entry.parent} ({error.strerror}): free space or set cache=<folder>") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_entry(entry: Path) -> None:
    """An entry is whole if its stamp is readable and every file it lists has its size. Damage is named, never rebuilt silently."""
    try:
        files = json.loads((entry / STAMP).read_text())["files"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"the cache entry {entry} has no readable {STAMP}: remove the folder to build it again") from error
    for name, size in files.items():
        path = entry / name
        if not path.is_file() or path.stat().st_size != size:
            raise UserError(f"the cache entry {entry} is corrupt ({name}): remove the folder to build it again")


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """An exclusive advisory lock; says so when another process holds it."""
    with open(path, "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another run to build {what}", file=sys.stderr, flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def entries(cache: Path) -> list[Path]:
    """Whole and damaged entries, oldest first."""
    found = [path for path in cache.glob("*-*") if path.is_dir() and not path.name.startswith(".")] if cache.is_dir() else []
    return sorted(found, key=lambda path: path.stat().st_mtime)
