"""The trackers of a run: the console, and those that `tracker` names, which show what is in the run folder already. No torch here."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from ablate.config import Config
from ablate.errors import UserError
from ablate.runs.console import ConsoleTracker
from ablate.runs.summary import RunSummary, read_summary, write_summary
from ablate.runs.trackers.interface import Tracker, failures
from ablate.runs.trackers.mlflow import MlflowTracker
from ablate.runs.trackers.tensorboard import TensorboardTracker
from ablate.runs.trackers.trackio import TrackioTracker
from ablate.runs.trackers.wandb import WandbTracker
from ablate.system.files import writing
from ablate.system.locks import try_lock


class Trackers:
    """Several trackers as one; each receives everything, in order. One that fails is left out from then on, with a warning.

    stopped: each tracker that has failed, by its name, and why.
    """

    def __init__(self, trackers: Iterable[tuple[str, Tracker]] = (), folder: Path = Path()):
        """trackers: by their names. folder: of the run, for the warning."""
        self.trackers = dict(trackers)
        self.folder = folder
        self.stopped: dict[str, str] = {}

    def evaluation(self, update: int, scores: list[dict], samples: list[dict]) -> None:
        self.tell(lambda tracker: tracker.evaluation(update, scores, samples))

    def log(self, row: dict) -> None:
        self.tell(lambda tracker: tracker.log(row))

    def finish(self, summary: Mapping[str, object]) -> None:
        """End every tracker, and name those that have stopped in summary.json."""
        self.tell(lambda tracker: tracker.finish(summary))
        if self.stopped:
            with suppress(UserError, OSError):  # it has been said on standard error, and must not end a run that is done
                note_stopped(self.folder, self.stopped)

    def tell(self, report: Callable[[Tracker], None]) -> None:
        """Call `report` on every tracker that has not failed."""
        for name, tracker in list(self.trackers.items()):
            try:
                with failures(name):
                    report(tracker)
            except UserError as error:
                self.stop(name, error)

    def start(self, name: str, open_tracker: Callable[[], Tracker]) -> None:
        """Add the tracker that `open_tracker` returns, unless it cannot be started, which is a warning."""
        try:
            with failures(name):
                self.trackers[name] = open_tracker()
        except UserError as error:
            self.stop(name, error)

    def stop(self, name: str, error: UserError) -> None:
        """Go on without a tracker, and say so once on standard error."""
        self.trackers.pop(name, None)
        self.stopped[name] = str(error)
        rebuilt = "" if name == "console" else f", and python -m ablate.mirror --tracker {name} {shlex.quote(str(self.folder))} rebuilds it"
        print(f"warning: {error}; the run goes on without {name}{rebuilt}", file=sys.stderr, flush=True)


def note_stopped(folder: Path, stopped: dict[str, str]) -> None:
    """Add the trackers that have stopped to summary.json, unless another process has gone on with the run. Raises UserError, OSError."""
    with open(folder / "metrics.jsonl", "ab") as handle:
        summary = read_summary(folder) if try_lock(handle) else None
        if summary is not None:
            with writing(folder):
                write_summary(folder, RunSummary(**{**summary, "trackers_stopped": stopped}))


def open_trackers(config: Config, folder: Path) -> Trackers:
    """The console and the trackers that `tracker` names, without those that cannot be started, each of which is a warning."""
    trackers = Trackers(folder=folder)
    trackers.start("console", lambda: ConsoleTracker(config))
    for name in config.trackers:
        trackers.start(name, lambda name=name: open_tracker(name, config, folder))
    return trackers


def open_tracker(name: str, config: Config, folder: Path) -> Tracker:
    """The tracker of that name, which has got the rows of the run folder. Raises UserError, and whatever its library raises."""
    kinds = {"wandb": WandbTracker, "trackio": TrackioTracker, "tensorboard": TensorboardTracker, "mlflow": MlflowTracker}
    return kinds[name](config, folder)
