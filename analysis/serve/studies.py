"""The studies of a results folder: how far each is, and its page, which is built when somebody asks for it."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from ablate.system.jsonl import complete_lines, readable_rows
from ablate.system.reading import fits, plain_file
from analysis.load.packed import resolve
from analysis.load.runfolder import NotARun, find_run_folders, fingerprint, read_config, read_summary
from analysis.report.render import render
from analysis.report.watch import SECONDS

TAIL_BYTES = 1 << 16  # of metrics.jsonl: some rows
QUIET_SECONDS = 60  # between two looks of an open page at a study whose runs have all ended
STATES = ("completed", "diverged", "failed", "interrupted", "unfinished")  # the last: without a summary, going on or killed


@dataclass(frozen=True)
class RunState:
    """How far a run is. status: one of `STATES`. update: the last that is done. updates: of the whole run, None where it is not known.

    changed: the time of its newest file, in seconds since 1970.
    """

    status: str
    update: int
    updates: int | None
    changed: float


@dataclass(frozen=True)
class Progress:
    """How far a study is: the states of its runs, by the name under which its page is found."""

    name: str
    runs: tuple[RunState, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Status → number of runs, in the order of `STATES`, those of no run left out."""
        return {state: number for state in STATES if (number := sum(run.status == state for run in self.runs))}

    @property
    def share(self) -> float:
        """Updates done over updates to do, of the runs that exist; 1 for a run that completed or diverged, 0 for one of unknown length."""
        done = [1.0 if run.status in ("completed", "diverged") else run.update / run.updates if run.updates else 0.0 for run in self.runs]
        return min(1.0, sum(done) / len(done))

    @property
    def changed(self) -> float:
        """The time of the newest file of any run, in seconds since 1970."""
        return max(run.changed for run in self.runs)


@dataclass(frozen=True)
class Page:
    """A page as it was built. marks: run folder → fingerprint before it was. due: the time before which it is not built again."""

    text: str
    marks: dict[str, str]
    due: float


class Studies:
    """What `python -m analysis.serve` shows of one results folder. Nothing in the folder is changed.

    Methods may be called by several threads at once.
    """

    def __init__(self, root: Path):
        """Raises UserError for a packed set that is damaged."""
        self.root = resolve(root)
        self.title = root.resolve().name
        self._states: dict[Path, tuple[str, RunState]] = {}
        self._pages: dict[str, Page] = {}
        self._building = threading.Lock()  # one page at a time: runs need the processor

    def folders(self) -> dict[str, list[Path]]:
        """Name of a study → its run folders. A name is the study's path within the results folder, or that folder's own name."""
        found: dict[str, list[Path]] = {}
        for folder in find_run_folders(self.root):
            found.setdefault(self._name(study_folder(folder, self.root)), []).append(folder)
        return found

    def _name(self, study: Path) -> str:
        return self.title if study == self.root else study.relative_to(self.root).as_posix()

    def progress(self) -> list[Progress]:
        """How far every study is, in the order of their names."""
        return [Progress(name, tuple(map(self._state, folders))) for name, folders in sorted(self.folders().items())]

    def _state(self, folder: Path) -> RunState:
        mark = fingerprint(folder)
        known = self._states.get(folder)
        if known is None or known[0] != mark:
            known = self._states[folder] = mark, run_state(folder)
        return known[1]

    def page(self, name: str) -> str | None:
        """The page of a study, built again if runs have changed since and the runs can spare the time. None if there is no such study.

        Raises UserError where the study cannot be shown.
        """
        folders = self.folders().get(name)
        if folders is None:
            return None
        marks = {str(folder): fingerprint(folder) for folder in folders}
        kept = self._pages.get(name)
        if kept is not None and (kept.marks == marks or time.monotonic() < kept.due):
            return kept.text
        if not self._building.acquire(blocking=kept is None):
            return kept and kept.text
        try:
            kept = self._pages.get(name)  # another request may have built it meanwhile
            if kept is None or kept.marks != marks:
                kept = self._pages[name] = self._build(study_folder(folders[0], self.root), folders, marks)
            return kept.text
        finally:
            self._building.release()

    def _build(self, study: Path, folders: list[Path], marks: dict[str, str]) -> Page:
        started = time.monotonic()
        going = any(self._state(folder).status == "unfinished" for folder in folders)
        text, _ = render(study, reload_seconds=2 * SECONDS if going else QUIET_SECONDS, home="/")
        ended = time.monotonic()
        return Page(text, marks, ended + max(SECONDS, 4 * (ended - started)))


def study_folder(run: Path, root: Path) -> Path:
    """The folder of the study that a run folder belongs to, results/STUDY of results/STUDY/ARM/seed=N, but none above `root`."""
    study = run.parent.parent
    return study if root == study or root in study.parents else root


def run_state(folder: Path) -> RunState:
    """How far one run is, from its summary, the end of its metrics and its settings, as far as these can be read."""
    summary = read_summary(folder / "summary.json", [])
    try:
        _, settings, _ = read_config(folder / "config.yaml")
    except NotARun:
        settings = {}
    updates = settings.get("ppo.updates")
    update = summary.get("updates")
    changed = max((path.stat().st_mtime for path in _files(folder)), default=0.0)
    return RunState(
        status=summary.get("status", "unfinished"),
        update=last_update(folder / "metrics.jsonl") if update is None else update,
        updates=updates if type(updates) is int and updates > 0 else None,
        changed=changed,
    )


def _files(folder: Path) -> list[Path]:
    return [folder / name for name in ("config.yaml", "metrics.jsonl", "summary.json") if (folder / name).is_file()]


def last_update(path: Path) -> int:
    """The update of the last whole row of a metrics.jsonl; 0 where there is none."""
    try:
        with plain_file(path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            lines = complete_lines(file.read(TAIL_BYTES))
    except (FileNotFoundError, ValueError):
        return 0
    rows = [row for row in readable_rows(lines) if isinstance(row, dict) and fits(row.get("update"), int)]
    return rows[-1]["update"] if rows else 0
