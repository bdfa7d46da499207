"""The Optuna study behind a tune: where it is stored, which trials are left, who works on which, and how a trial is judged.

Several tuners may work on one study. A tuner holds a lock on the folder of each trial it works on, and the system lets go of
it when the tuner ends, however that happens; so a trial that is RUNNING and whose lock is free was left behind, and the next
tuner goes on with it from its runs' checkpoints.
"""

from __future__ import annotations

import fcntl
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import IO, Any
from zlib import crc32

import optuna
from optuna.distributions import distribution_to_json
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from ablate.config import Config
from ablate.errors import UserError
from ablate.runs.folder import read_rows, read_summary
from ablate.settings.identity import OUTSIDE_IDENTITY, first_difference
from ablate.sweeps.table import Job
from ablate.system.files import writing
from ablate.system.locks import try_lock
from ablate.tune.space import OBJECTIVES, Search

ASKED = "asked"  # user attribute of a study: what every tuner of it must agree on
HOST = "host"  # user attribute of a trial: the machine that asked for it


def open_study(search: Search, config: Config) -> optuna.Study:
    """Create the study, or go on with it. UserError where it cannot be reached or was asked for other settings."""
    folder = study_folder(config)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with turn(folder):
        try:
            study = optuna.create_study(
                storage=open_storage(search.storage, folder), study_name=config.study, load_if_exists=True,
                directions=OBJECTIVES[search.objective],
            )  # fmt: skip
        except (ImportError, SQLAlchemyError) as error:
            raise UserError(f"storage={search.storage} cannot be used ({first_line(error)}): correct it or leave it out") from error
        except ValueError as error:
            where = search.storage or folder / "optuna.journal"
            raise UserError(f"{where} is not readable ({first_line(error)}): remove a torn last line, or set study=<name>") from error
        asked, before = definition(search, config), study.user_attrs.get(ASKED)
        if before is None:
            study.set_user_attr(ASKED, asked)
        elif before != asked:
            raise UserError(f"study={config.study} was begun otherwise ({first_difference(before, asked)}): set study=<name> for a new one")
    return study


def study_folder(config: Config) -> Path:
    return Path(config.results) / config.study


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """A journal in the study's folder, or a database. The path is absolute, for Optuna's lock is a symbolic link to it."""
    if url is None:
        return JournalStorage(JournalFileBackend(str((folder / "optuna.journal").resolve())))
    return RDBStorage(url)


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def definition(search: Search, config: Config) -> dict:
    """What must not change while a study goes on: objective, seeds, space, and every fixed setting that decides numbers."""
    settings = {key: value for key, value in asdict(config).items() if key not in (*OUTSIDE_IDENTITY, "seed")}
    space = {key: distribution_to_json(search.space[key]) for key in sorted(search.space)}
    return {"objective": search.objective, "seeds": list(search.seeds), "space": space, "settings": settings}


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """One tuner at a time counts the trials of a study and asks for the next."""
    with (folder / "tune.lock").open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@dataclass
class TrialRun:
    """A trial that this process works on: `lock` is open for as long, `reported` are the updates whose gold Optuna knows."""

    trial: Trial
    lock: IO
    reported: set[int] = field(default_factory=set)
    jobs: list[Job] = field(default_factory=list)
    running: list[tuple[Job, Any]] = field(default_factory=list)

    @property
    def is_decided(self) -> bool:
        """One seed is enough to say that a trial did not hold."""
        return any(job.collapsed or job.state in ("failed", "diverged") for job in self.jobs)

    @property
    def is_over(self) -> bool:
        return not self.running and (self.is_decided or all(job.state == "completed" for job in self.jobs))


def next_attempt(study: optuna.Study, search: Search, folder: Path) -> TrialRun | None:
    """A trial left behind, else a new one; None where `n_trials` are finished or being worked on.

    The sampler's seed comes from the number of trials so far: one tuner with one worker asks the same, interrupted or not.
    """
    with turn(folder):
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
    """Finished, whatever the outcome, or in somebody's hands; a tuner killed within `ask` leaves one that is neither."""
    return trial.state.is_finished() or (trial.state == TrialState.RUNNING and HOST in trial.user_attrs)


def lock_trial(folder: Path, number: int) -> IO | None:
    """The open lock of a trial, or None where another tuner has it."""
    path = folder / f"trial={number}" / "tuner.lock"
    with writing(path.parent):
        path.parent.mkdir(exist_ok=True)
        handle = path.open("ab")
    if try_lock(handle):
        return handle
    handle.close()
    return None


def overrides_of(search: Search, trial: Trial | FrozenTrial) -> list[str]:
    """The trial as overrides; its runs differ in the seed alone."""
    return [*search.fixed, *(f"{key}={value}" for key, value in trial.params.items()), f"arm='trial={trial.number}'"]


def report(attempt: TrialRun) -> None:
    """Tell Optuna the gold of every evaluation that all seeds have reached and that it does not know yet, averaged over them."""
    curves = []
    for job in attempt.jobs:
        rows = read_rows(job.folder / "metrics.jsonl")
        curves.append({row["update"]: row["eval/gold"] for row in rows if row.get("eval/gold") is not None})
    shared = set.intersection(*(set(curve) for curve in curves))
    for update in sorted(shared - attempt.reported):
        attempt.trial.report(fmean(curve[update] for curve in curves), update)
    attempt.reported |= shared


@dataclass(frozen=True)
class Outcome:
    """`said`: held, collapsed, diverged or failed. Means over the seeds that have a result; None where none has."""

    status: str
    reason: str
    gold: float | None
    kl: float | None


def outcome(jobs: Sequence[Job]) -> Outcome:
    """One failed, diverged or collapsed seed, in this order, decides for its trial; such a run's last values are kept all the same."""
    finals = {job.folder: (read_summary(job.folder) or {}).get("final") or {} for job in jobs if job.state in ("completed", "diverged")}
    gold = [final["eval/gold"] for final in finals.values() if final.get("eval/gold") is not None]
    kl = [final["eval/kl_to_sft"] for final in finals.values() if final.get("eval/kl_to_sft") is not None]
    said, reason = "held", ""
    for word, has in (("collapsed", lambda job: job.collapsed), ("diverged", lambda job: job.state == "diverged"),
                      ("failed", lambda job: job.state == "failed")):  # fmt: skip
        guilty = [job for job in jobs if has(job)]
        if guilty:
            said, reason = word, "; ".join(f"seed={job.config.seed}: {job.reason}".removesuffix(": ") for job in guilty)
    if said == "held" and (len(gold) < len(jobs) or len(kl) < len(jobs)):
        said, reason = "failed", "a run has no gold reward, which the objective needs"
    return Outcome(said, reason, fmean(gold) if gold else None, fmean(kl) if kl else None)


def record(study: optuna.Study, attempt: TrialRun, found: Outcome, folder: Path) -> None:
    """Record a trial: values where it held, PRUNED where it collapsed or diverged, FAIL otherwise; then let go of it."""
    said = {"outcome": found.status, "reason": found.reason, "gold": found.gold, "kl": found.kl, "folder": str(folder)}
    for name, value in said.items():
        attempt.trial.set_user_attr(name, value)
    if found.status == "held":
        study.tell(attempt.trial, [found.gold, found.kl][: len(study.directions)])
    else:
        study.tell(attempt.trial, state=TrialState.FAIL if found.status == "failed" else TrialState.PRUNED)
    attempt.lock.close()
