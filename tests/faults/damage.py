"""What happens to files: a disk that fills up, and truncation while nothing runs; and what a user does who is told of it."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
from pathlib import Path

from fire import Place

DISK_BYTES = 48 * 2**20
CHECKPOINT_FILES = ("state.json", "optimizer.safetensors", "policy/model.safetensors", "critic/model.safetensors")
ADVICE = {  # what a message tells the user to remove, as the n-th parent of the path it names
    r"the checkpoint (\S+) is corrupt \(.*\): remove it": 0,
    r"(\S+/summary\.json) is not readable \(.*?\): remove it": 0,
    r"(\S+/metrics\.jsonl) is shorter than at the last checkpoint: remove the run folder": 1,
    r"the cache entry (\S+) (?:is corrupt \(.*\)|has no readable stage\.json): remove the folder": 0,
}


class Disk:
    """A tmpfs where one can be mounted; else an ordinary folder, and a limit on file sizes stands for the full disk."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "faults", str(folder)]
        self.mounted = shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0
        self.ballast = folder / "ballast"

    @property
    def file_limit(self) -> int | None:
        return None if self.mounted else 20_000  # bytes: less than a checkpoint's largest file, more than any log

    def fill(self) -> None:
        """Take every free byte."""
        with self.ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass

    def free(self) -> None:
        self.ballast.unlink(missing_ok=True)

    def unmount(self) -> None:
        if self.mounted:
            subprocess.run(["umount", str(self.folder)], check=True)


def cut(path: Path, size: int) -> None:
    os.truncate(path, size)


def status(folder: Path) -> str | None:
    """What summary.json says; null where there is none, or none that can be read."""
    try:
        return json.loads((folder / "summary.json").read_text())["status"]
    except (FileNotFoundError, ValueError):
        return None


def unfinished(place: Place) -> list[Path]:
    """Folders of runs that are to go on from a checkpoint."""
    return [folder for folder in place.run_folders() if checkpoints(folder) and status(folder) != "completed"]


def checkpoints(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted((path for path in (folder / "checkpoints").glob("*") if path.name.isdigit()), key=lambda path: int(path.name))


def tear_metrics(place: Place, draw: random.Random) -> tuple[str, Path | None] | None:
    """Cut into the last line of an unfinished run's metrics.jsonl: (what, what may have to be removed)."""
    candidates = unfinished(place)
    if not candidates:
        return None
    folder = draw.choice(candidates)
    path = folder / "metrics.jsonl"
    last = len(path.read_bytes().splitlines(keepends=True)[-1])
    size = path.stat().st_size - draw.randrange(1, last)
    cut(path, size)
    known = json.loads((checkpoints(folder)[-1] / "state.json").read_text())["offsets"]["metrics.jsonl"]
    return "last line of metrics.jsonl torn", folder if size < known else None


def truncate_checkpoint(place: Place, draw: random.Random) -> tuple[str, Path | None] | None:
    """Halve a file of an unfinished run's newest checkpoint; the run should ask for the checkpoint to be removed."""
    candidates = unfinished(place)
    if not candidates:
        return None
    newest = checkpoints(draw.choice(candidates))[-1]
    name = draw.choice(CHECKPOINT_FILES)
    cut(newest / name, (newest / name).stat().st_size // 2)
    return f"{name} of a checkpoint halved", newest


def truncate_summary(place: Place, draw: random.Random) -> tuple[str, Path | None] | None:
    """Halve the summary of a finished run."""
    candidates = [folder / "summary.json" for folder in place.run_folders() if status(folder) == "completed"]
    if not candidates:
        return None
    path = draw.choice(candidates)
    cut(path, path.stat().st_size // 2)
    return "summary.json halved", path


def truncate_stage(place: Place, draw: random.Random) -> tuple[str, Path | None] | None:
    """Halve a file of a cache entry."""
    entry = draw.choice(sorted(path for path in place.cache.iterdir() if not path.name.startswith(".")))
    path = draw.choice(sorted(path for path in entry.rglob("*") if path.is_file() and path.stat().st_size > 1))
    cut(path, path.stat().st_size // 2)
    return f"{path.name} of the cache entry {entry.name.split('-')[0]} halved", entry


def advised(said: str) -> list[Path]:
    """Files and folders that messages tell the user to remove, each once."""
    found = [Path(name).parents[up - 1] if up else Path(name) for pattern, up in ADVICE.items() for name in re.findall(pattern, said)]
    return sorted(set(found))


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
