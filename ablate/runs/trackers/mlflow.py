"""MLflow: a store in the study's folder, or the server that MLFLOW_TRACKING_URI names. No torch here."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ablate.config import Config
from ablate.runs.trackers.interface import COLUMNS, PROJECT, labels, made, needing, numbers, replay, run_id, settings, study_folder, verdict
from ablate.system.locks import open_lock, release

# No usage data leaves the machine, no line says that a store is made, and a server that does not answer holds a run up for a minute
# before it goes on without.
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}  # fmt: skip
MOST_METRICS = 1000  # of one request
MOST_PARAMS = 100  # of one request
LONGEST_PARAM = 6000  # characters
STATUS = {"completed": "FINISHED", "interrupted": "KILLED", "unfinished": "KILLED"}  # any other status is FAILED


class MlflowTracker:
    """`tracker=mlflow`: a parent run per study, and a child run per run, named by arm and seed, with every setting as a parameter.

    The store is SQLite in `<results>/<study>/mlflow` unless MLFLOW_TRACKING_URI names another, the experiment `ppo-ablation` unless
    MLFLOW_EXPERIMENT_NAME does. Samples are an artifact per evaluation. When a run goes on, its earlier child is deleted and another
    one written from the run folder, since MLflow would keep both values of an update that is logged again.
    """

    def __init__(self, config: Config, folder: Path):
        """Log the rows of the run folder `folder` to a new child run. Raises UserError, and what MLflow raises."""
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        with quiet():
            with needing("mlflow"):
                from mlflow.entities import Metric, Param
                from mlflow.tracking import MlflowClient
            self.metric = Metric
            store = made(study_folder(config, folder) / "mlflow")
            remote = os.environ.get("MLFLOW_TRACKING_URI")
            named, lock = labels(config, folder), store / ".lock"
            with release(lock, open_lock(lock)):  # runs that start at once make one store, one experiment and one parent
                self.client = MlflowClient(tracking_uri=remote or f"sqlite:///{store / 'mlflow.db'}")
                experiment = self.experiment(None if remote else (store / "artifacts").as_uri())
                parent = self.parent(experiment, config.study)
            for earlier in self.client.search_runs([experiment], f"tags.`ablate.run` = '{run_id(config)}'"):
                self.client.delete_run(earlier.info.run_id)
            tags = {f"ablate.{name}": value for name, value in named.items()}
            tags |= {"ablate.run": run_id(config), "mlflow.parentRunId": parent}
            self.id = self.client.create_run(experiment, tags=tags, run_name=f"{config.arm}/seed={config.seed}").info.run_id
            params = [Param(name, str(value)[:LONGEST_PARAM]) for name, value in settings(config).items()]
            for start in range(0, len(params), MOST_PARAMS):
                self.client.log_batch(self.id, params=params[start : start + MOST_PARAMS])
            self.update, self.waiting, self.replaying = 0, [], True
            replay(folder, self)
            self.replaying = False
            self.send()

    def experiment(self, artifacts: str | None) -> str:
        """The id of the experiment, which is made where there is none. artifacts: the address of its artifacts; null is the server's."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        found = self.client.get_experiment_by_name(name)
        return self.client.create_experiment(name, artifact_location=artifacts) if found is None else found.experiment_id

    def parent(self, experiment: str, study: str) -> str:
        """The id of the study's run, which is made where there is none, and is finished from the start: it only holds the children."""
        quoted = study.replace("'", "\\'")
        found = self.client.search_runs([experiment], f"tags.`ablate.parent` = '{quoted}'")
        if found:
            return found[0].info.run_id
        made = self.client.create_run(experiment, tags={"ablate.parent": study, "ablate.study": study}, run_name=study).info.run_id
        self.client.set_terminated(made)
        return made

    def evaluation(self, update: int, scores: list[dict], samples: list[dict]) -> None:
        """Keep a table of responses as an artifact."""
        content = {"columns": list(COLUMNS), "data": [[row[name] for name in COLUMNS] for row in samples]}
        with quiet():
            self.client.log_text(self.id, json.dumps(content, ensure_ascii=False), f"samples/update_{update:06d}.json")

    def log(self, row: dict) -> None:
        """Log the numbers of a row of metrics at its update; those of a run folder several rows at a time."""
        self.update = row["update"]
        with quiet():
            self.add(numbers(row))
            if not self.replaying:
                self.send()

    def finish(self, summary: Mapping[str, object]) -> None:
        """Log the verdict, its numbers as metrics too, and end the run."""
        said = verdict(summary)
        with quiet():
            self.add(numbers(said))
            self.send()
            for name, value in said.items():
                self.client.set_tag(self.id, f"ablate.{name}", value if isinstance(value, str) else json.dumps(value))
            self.client.set_terminated(self.id, STATUS.get(str(said.get("status")), "FAILED"))

    def add(self, values: Mapping[str, float]) -> None:
        """Keep numbers of the present update for `send`, after those that are too many for one request with them."""
        if len(self.waiting) + len(values) > MOST_METRICS:
            self.send()
        now = int(1000 * time.time())
        self.waiting += [self.metric(name, value, now, self.update) for name, value in values.items()]

    def send(self) -> None:
        """Log what waits."""
        self.client.log_batch(self.id, metrics=self.waiting)
        self.waiting = []


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the deprecations of MLflow's dependencies off the terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
