"""TensorBoard: event files in the run folder. No torch here."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from ablate.config import Config
from ablate.runs.trackers.interface import COLUMNS, SCORES, labels, needing, numbers, replay, settings, verdict


class TensorboardTracker:
    """`tracker=tensorboard`: `tensorboard/` in the run folder, so that `tensorboard --logdir results/<study>` shows arms and seeds.

    Scalars by the names of metrics.jsonl at step = update, samples and verdict as text, proxy scores as histograms, and every setting
    in HParams, where an arm is a trial and a seed a session of it. The files are written anew from the run folder when a run goes on.
    """

    def __init__(self, config: Config, folder: Path):
        """Start an event file and write the rows of the run folder `folder` to it. Raises UserError, and OSError."""
        with needing("tensorboard"):
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.plugins.histogram.summary_v2 import histogram_pb
            from tensorboard.plugins.hparams.summary_v2 import hparams_pb
            from tensorboard.plugins.text.summary_v2 import text_pb
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        self.event, self.summary, self.histogram, self.text = Event, Summary, histogram_pb, text_pb
        if (folder / "tensorboard").exists():
            shutil.rmtree(folder / "tensorboard")
        self.writer = EventFileWriter(str(folder / "tensorboard"))
        self.update = 0
        named = labels(config, folder)
        self.add(hparams_pb(settings(config) | named, trial_id=named["arm"]), 0)
        self.add(text_pb("labels", table(("label", "value"), [[name, value] for name, value in named.items()])), 0)
        replay(folder, self)

    def evaluation(self, update: int, scores: list[dict], samples: list[dict]) -> None:
        """Write a table of responses and the histogram of proxy scores."""
        self.add(self.text("samples", table(COLUMNS, [[row[name] for name in COLUMNS] for row in samples])), update)
        self.add(self.histogram(SCORES, [row["proxy"] for row in scores]), update)

    def log(self, row: dict) -> None:
        """Write the numbers of a row of metrics at its update, and what came before them, to the disk. Raises OSError."""
        self.update = row["update"]
        self.scalars(numbers(row))
        self.writer.flush()

    def finish(self, summary: Mapping[str, object]) -> None:
        """Write the verdict at the last update, and close the file."""
        said = verdict(summary)
        self.scalars(numbers(said))
        self.add(self.text("verdict", table(("key", "value"), [[name, json.dumps(value)] for name, value in said.items()])), self.update)
        self.writer.close()

    def scalars(self, values: Mapping[str, float]) -> None:
        """Write numbers at the present update."""
        self.add(self.summary(value=[self.summary.Value(tag=name, simple_value=value) for name, value in values.items()]), self.update)

    def add(self, summary, update: int) -> None:
        """Write one summary."""
        self.writer.add_event(self.event(wall_time=time.time(), step=update, summary=summary))


def table(columns: tuple[str, ...], rows: list[list]) -> str:
    """A table in Markdown, as TensorBoard shows text."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines)
