"""trackio: its local store, without a server. No torch here."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from ablate.config import Config
from ablate.errors import UserError
from ablate.runs.alarms import ALARMS, VOTES
from ablate.runs.trackers.interface import COLUMNS, SCORES, labels, made, needing, numbers, replay, run_id, settings, study_folder, verdict


class TrackioTracker:
    """`tracker=trackio`: project = study, group = arm, run = arm and seed, in `<results>/trackio` unless TRACKIO_DIR names a folder.

    Rows go to trackio's storage directly: its own `init` would ask the hub for the name of a user who is logged in there, and its `log`
    leaves out rows that cannot be written. A run is removed and written anew from the run folder when it goes on.
    """

    def __init__(self, config: Config, folder: Path):
        """Log the rows of the run folder `folder`, in place of what the store has of the run. Raises UserError."""
        known = study_folder(config, folder)
        place = Path(os.environ.get("TRACKIO_DIR") or (known.parent if known.name == config.study else known) / "trackio")
        with needing("trackio"):
            self.storage, self.table, self.histogram = imported(made(place))
        self.project, self.run, self.id = config.study, f"{config.arm}/seed={config.seed}", run_id(config)
        self.update, self.sounded = 0, 0
        self.storage.validate_project_name(self.project)
        self.storage.delete_run(self.project, self.run, run_id=self.id)
        created = {"_Group": str(config.arm), "_Created": datetime.now(UTC).isoformat(), "_Username": None}
        self.config = {**labels(config, folder), **settings(config), **created}
        self.media: dict = {}
        replay(folder, self)

    def evaluation(self, update: int, scores: list[dict], samples: list[dict]) -> None:
        """Keep a table of responses and the histogram of proxy scores for the update's row."""
        rows = self.table(columns=list(COLUMNS), data=[[row[name] for name in COLUMNS] for row in samples])
        histogram = self.histogram([row["proxy"] for row in scores])
        self.media = {"samples": rows._to_dict(self.project, self.run, update), SCORES: histogram._to_dict()}

    def log(self, row: dict) -> None:
        """Store the numbers of a row of metrics at its update, and an alert where one more alarm has sounded."""
        before, self.sounded = self.sounded, max(self.sounded, int(row.get("alarm/sounded") or 0))
        self.update = row["update"]
        self.store({**numbers(row), **self.media}, f"{self.id}/{self.update}")
        self.media = {}
        if self.sounded > before:
            text = f"{self.sounded} of {len(ALARMS)} have sounded by update {self.update}; {VOTES} are a collapse where alarms judge."
            self.storage.bulk_alert(self.project, self.run, ["An alarm of collapse"], [text], ["warn"], [self.update], run_id=self.id)

    def finish(self, summary: Mapping[str, object]) -> None:
        """Store the verdict: its numbers at the last update, all of it in the run's configuration."""
        said = verdict(summary)
        self.config |= said
        self.store(numbers(said), f"{self.id}/verdict")

    def store(self, values: dict, key: str) -> None:
        """Write one row at the present update. key: tells it from others, so that it is there once."""
        self.storage.bulk_log(
            self.project, self.run, [values], steps=[self.update], config=self.config, log_ids=[key], run_id=self.id
        )  # fmt: skip


def imported(place: Path) -> tuple:
    """trackio's storage, table and histogram, of which the first keeps to `place`, as trackio is told when it is imported.

    Raises UserError where this process has imported it with another place, or `place` is on a network file system.
    """
    if "trackio" not in sys.modules:
        before = os.environ.get("TRACKIO_DIR")
        os.environ["TRACKIO_DIR"] = str(place)
        try:
            import trackio  # noqa: F401
        finally:
            if before is None:
                del os.environ["TRACKIO_DIR"]
            else:
                os.environ["TRACKIO_DIR"] = before
    from trackio import Histogram, Table, utils
    from trackio.sqlite_storage import SQLiteStorage

    if utils.TRACKIO_DIR.resolve() != place.resolve():
        raise UserError(f"trackio keeps to {utils.TRACKIO_DIR} in this process: give each results folder a command of its own")
    if utils.is_network_filesystem(place):
        raise UserError(f"{place} is on a network file system, where SQLite loses rows: set TRACKIO_DIR to a folder of this machine")
    return SQLiteStorage, Table, Histogram
