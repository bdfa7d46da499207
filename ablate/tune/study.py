"""The Optuna study behind a search: where it is stored, which tuner works on which trial, and how the outcome of a trial is decided.

Several tuners may work on one study. A tuner holds a lock on the folder of each trial it works on, which the operating system releases
when the tuner ends, however it ends. A trial that is RUNNING while its lock is free was therefore left behind, and the next tuner
continues it from the checkpoints of its runs.
"""

from __future__ import annotations

import fcntl
import math
import platform
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import IO, Any
from zlib import crc32

import optuna
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution, distribution_to_json
from optuna.trial import FrozenTrial, Trial, TrialState

from ablate.config import Config
from ablate.errors import UserError
from ablate.runs.folder import read_rows
from ablate.runs.summary import read_summary
from ablate.settings.fields import flat
from ablate.settings.identity import OUTSIDE_IDENTITY, first_difference
from ablate.sweeps.table import Job
from ablate.system.files import writing
from ablate.system.locks import try_lock
from ablate.tune.space import OBJECTIVES, Search
from ablate.tune.storage import database_errors, open_storage

DEFINITION = "asked"  # user attribute of a study: what all its tuners must agree on
METRICS = ("gold", "KL")  # names of the objectives
HOST = "host"  # user attribute of a trial: the name of the machine whose tuner created it


def open_study(search: Search, config: Config) -> optuna.Study:
    """Create the study, or open it. A new one begins with the preset as trial 0 where the space holds it: the value to beat.

    Raises UserError where the storage cannot be used, or where the study has other settings.
    """
    folder = study_folder(config)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with study_lock(folder), database_errors(search.storage):
        study = optuna.create_study(
            storage=open_storage(search.storage, folder), study_name=config.study, load_if_exists=True,
            directions=OBJECTIVES[search.objective],
        )  # fmt: skip
        current, before = definition(search, config), study.user_attrs.get(DEFINITION)
        if before is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names(list(METRICS[: len(study.directions)]))
            if preset := preset_point(search, config):
                study.enqueue_trial(preset, skip_if_exists=True)
            study.set_user_attr(DEFINITION, current)
        elif before != current:
            raise UserError(
                f"study={config.study} was begun otherwise ({first_difference(before, current)}): set study=<name> for a new one"
            )
    return study


def preset_point(search: Search, config: Config) -> dict[str, Any] | None:
    """The values that the searched settings have where nothing is searched; None where the space lacks one, or searches presets."""
    known, point = dict(flat(asdict(config))), {}
    for key, distribution in search.space.items():
        if key not in known or (value := value_in(distribution, known[key])) is None:
            return None
        point[key] = value
    return point


def value_in(distribution: BaseDistribution, value: Any) -> Any:
    """The value as the distribution has it, a choice by its text; None where it has no such value."""
    if isinstance(distribution, CategoricalDistribution):
        return next((choice for choice in distribution.choices if yaml.safe_load(str(choice)) == value), None)
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    if value is None or not distribution.low <= value <= distribution.high:
        return None
    steps = 0.0 if distribution.step is None else (value - distribution.low) / distribution.step
    return value if math.isclose(steps, round(steps), abs_tol=1e-9) else None


def study_folder(config: Config) -> Path:
    """results/<study>, where the trials' folders lie."""
    return Path(config.results) / config.study


def definition(search: Search, config: Config) -> dict:
    """What must stay the same throughout a study: objective, seeds, space, and every fixed setting that a run's numbers depend on."""
    settings = {key: value for key, value in asdict(config).items() if key not in (*OUTSIDE_IDENTITY, "seed")}
    space = {key: distribution_to_json(search.space[key]) for key in sorted(search.space)}
    return {"objective": search.objective, "seeds": list(search.seeds), "space": space, "settings": settings}


@contextmanager
def study_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a study, so that one tuner at a time counts its trials and creates the next. Waits until it is free."""
    with (folder / "tune.lock").open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@dataclass
class TrialRun:
    """A trial that this process works on."""

    trial: Trial
    lock: IO  # open for as long as the process works on the trial
    reported: set[int] = field(default_factory=set)  # updates whose gold Optuna has
    jobs: list[Job] = field(default_factory=list)
    running: list[tuple[Job, Any]] = field(default_factory=list)

    @property
    def is_decided(self) -> bool:
        """Whether one seed has failed, diverged or collapsed, which decides the outcome of the trial."""
        return any(job.collapsed or job.state in ("failed", "diverged") for job in self.jobs)

    @property
    def is_over(self) -> bool:
        """Whether no run is left to wait for: none is running, and the rest are done or no longer matter."""
        return not self.running and (self.is_decided or all(job.state == "completed" for job in self.jobs))


def next_trial(study: optuna.Study, search: Search, folder: Path) -> TrialRun | None:
    """A trial that was left behind, else a new one; None where `n_trials` are finished or being worked on. Raises UserError.

    The sampler's seed depends on the number of trials so far, so that one tuner with one worker asks for the same trials whether or not
    it was interrupted.
    """
    with study_lock(folder):
        trials = study.get_trials(deepcopy=False)
        for left in trials:
            if left.state == TrialState.RUNNING and left.user_attrs.get(HOST) == platform.node():
                lock = lock_trial(folder, left.number)
                if lock is not None and study.get_trials(deepcopy=False)[left.number].state == TrialState.RUNNING:
                    return TrialRun(Trial(study, left._trial_id), lock, set(left.intermediate_values))
        if sum(is_counted(trial) for trial in trials) >= search.n_trials:
            return None
        study.sampler = optuna.samplers.TPESampler(seed=crc32(f"{study.study_name} {len(trials)}".encode()))
        trial = study.ask(dict(search.space))
        trial.set_user_attr(HOST, platform.node())
        lock = lock_trial(folder, trial.number)
        assert lock is not None
        return TrialRun(trial, lock)


def is_counted(trial: FrozenTrial) -> bool:
    """Whether a trial is finished, whatever its outcome, or being worked on. A tuner killed within `ask` leaves one that is neither."""
    return trial.state.is_finished() or (trial.state == TrialState.RUNNING and HOST in trial.user_attrs)


def lock_trial(folder: Path, number: int) -> IO | None:
    """The open lock of a trial, or None where another tuner holds it. Raises UserError where its folder cannot be written."""
    path = folder / f"trial={number}" / "tuner.lock"
    with writing(path.parent):
        path.parent.mkdir(exist_ok=True)
        handle = path.open("ab")
    if try_lock(handle):
        return handle
    handle.close()
    return None


def overrides_of(search: Search, trial: Trial | FrozenTrial) -> list[str]:
    """The settings of a trial as overrides, without the seed."""
    return [*search.fixed, *(f"{key}={value}" for key, value in trial.params.items()), f"arm='trial={trial.number}'"]


def report(run: TrialRun) -> None:
    """Report to Optuna the mean gold of each evaluation that all seeds have reached and that is not reported yet."""
    curves = []
    for job in run.jobs:
        rows = read_rows(job.folder / "metrics.jsonl")
        curves.append({row["update"]: row["eval/gold"] for row in rows if row.get("eval/gold") is not None})
    shared = set.intersection(*(set(curve) for curve in curves))
    for update in sorted(shared - run.reported):
        run.trial.report(fmean(curve[update] for curve in curves), update)
    run.reported |= shared


@dataclass(frozen=True)
class Outcome:
    """How a trial ended; `gold` and `kl` are means over the seeds that have a result, None where none has."""

    status: str  # held, collapsed, diverged or failed
    reason: str
    gold: float | None  # final gold
    kl: float | None  # final KL to SFT, nats per response


def outcome(jobs: Sequence[Job]) -> Outcome:
    """The outcome of a trial from its runs: failed, else diverged, else collapsed where at least one seed is, else held.

    The last values of runs that collapsed or diverged count in the means all the same.
    """
    finals = {job.folder: (read_summary(job.folder) or {}).get("final") or {} for job in jobs if job.state in ("completed", "diverged")}
    gold = [final["eval/gold"] for final in finals.values() if final.get("eval/gold") is not None]
    kl = [final["eval/kl_to_sft"] for final in finals.values() if final.get("eval/kl_to_sft") is not None]
    status, reason = "held", ""
    for word, matches in (("collapsed", lambda job: job.collapsed), ("diverged", lambda job: job.state == "diverged"),
                      ("failed", lambda job: job.state == "failed")):  # fmt: skip
        deciding = [job for job in jobs if matches(job)]
        if deciding:
            status, reason = word, "; ".join(f"seed={job.config.seed}: {job.reason}".removesuffix(": ") for job in deciding)
    if status == "held" and (len(gold) < len(jobs) or len(kl) < len(jobs)):
        status, reason = "failed", "a run has no gold reward, which the objective needs"
    return Outcome(status, reason, fmean(gold) if gold else None, fmean(kl) if kl else None)


def record(study: optuna.Study, run: TrialRun, result: Outcome, folder: Path) -> None:
    """Record a trial in the study, and release its lock: values where it held, PRUNED where it collapsed or diverged, FAIL otherwise."""
    attributes = {"outcome": result.status, "reason": result.reason, "gold": result.gold, "kl": result.kl, "folder": str(folder)}
    for name, value in attributes.items():
        run.trial.set_user_attr(name, value)
    if result.status == "held":
        study.tell(run.trial, [result.gold, result.kl][: len(study.directions)])
    else:
        study.tell(run.trial, state=TrialState.FAIL if result.status == "failed" else TrialState.PRUNED)
    run.lock.close()
