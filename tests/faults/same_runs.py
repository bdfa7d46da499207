"""Whether two sweeps are equal, run by run and bit for bit, apart from times and the checkout's commit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from fire import Place

STREAMS = ("metrics.jsonl", "scores.jsonl", "samples.jsonl", "tokens.jsonl")
APART = ("time/", "responses_per_second", "wall_seconds", "git_commit")  # somebody may commit between two sweeps
LOGS = ("run.log", "config.yaml")  # what a job printed, and where it was kept


def timeless(row: dict) -> dict:
    return {key: value for key, value in row.items() if not key.startswith(APART)}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(folder: Path) -> dict:
    """relative path → content, of every file of a run folder: numbers as they are, all others, weights too, as a digest."""
    found: dict = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if name in LOGS:
            found[name] = "there"
        elif name in STREAMS:
            found[name] = [timeless(json.loads(line)) for line in path.read_text().splitlines()]
        elif name == "summary.json":
            found[name] = timeless(json.loads(path.read_text()))
        elif name == "stages.json":  # entries of the cache, which each sweep has where it likes
            found[name] = {stage: entry and Path(entry).name for stage, entry in json.loads(path.read_text()).items()}
        elif path.name == "state.json":
            found[name] = state(json.loads(path.read_text()))
        else:
            found[name] = digest(path)
    return found


def state(checkpoint: dict) -> dict:
    """state.json without times; metrics.jsonl holds times too, so its length in bytes is of no account."""
    times = ("wall_seconds", "update_seconds")
    progress = {key: value for key, value in checkpoint["progress"].items() if key not in times}
    offsets = {key: value for key, value in checkpoint["offsets"].items() if key != "metrics.jsonl"}
    return {**checkpoint, "progress": progress, "offsets": offsets}


def cache_contents(cache: Path) -> dict[str, str]:
    """Every file of the cache, half-written folders too, which should not be there any more; a killed builder may leave its lock."""
    files = [path for path in sorted(cache.rglob("*")) if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(cache)): digest(path) for path in files}


def differences(one: Place, other: Place) -> list[str]:
    """`<arm>/<seed>: <file>` for each file that differs or that only one of two sweeps has; [] where they are equal."""
    pairs = [(str(folder.relative_to(one.results)), folder) for folder in one.run_folders()]
    others = {str(folder.relative_to(other.results)): folder for folder in other.run_folders()}
    found = [f"{name}: only in one" for name in {name for name, _ in pairs} ^ others.keys()]
    for name, folder in pairs:
        if name in others:
            found += [f"{name}: {file}" for file in unequal(contents(folder), contents(others[name]))]
    return found + [f"cache: {file}" for file in unequal(cache_contents(one.cache), cache_contents(other.cache))]


def unequal(one: dict, other: dict) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
