"""The tuner: Optuna asks, `ablate.session` answers in a process of its own. `python -m ablate.tune --help` teaches the rest."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path

import optuna
from optuna.trial import TrialState

from ablate.config import Config
from ablate.errors import UserError
from ablate.runs.compose import composed, composing
from ablate.runs.folder import run_folder
from ablate.settings.validation import validate
from ablate.sweeps.expand import OUTSIDE_PIPELINE, cores
from ablate.sweeps.pool import PRELOAD, build_stages, caught_signals, pass_on, settle, start, start_server
from ablate.sweeps.table import Job, number
from ablate.tune.report import closing_report, settings
from ablate.tune.space import Search, load_search, read_search, search_names
from ablate.tune.study import Outcome, TrialRun, next_attempt, open_study, outcome, overrides_of, record, report, study_folder

HELP = """Search settings with Optuna: the most gold without collapse, or gold against KL.

python -m ablate.tune sweep=tune_ppo_max                              a search that is written down in sweeps/
python -m ablate.tune 'ppo.kl_coef=tag(log, interval(0.01, 1))'       one setting, on a logarithmic scale
python -m ablate.tune 'ppo.clip_range=interval(0.1,0.4)' ppo.critic_init=reward,sft ppo.updates=60 n_trials=30
python -m ablate.tune sweep=tune_ppo_max 'seeds=range(2)' objective=gold_kl study=frontier workers=4

What is searched, in Hydra's override grammar, for every setting of ablate.run (quote what has brackets):
  setting=interval(low,high)   numbers in between; whole ones where the setting is a whole number
  setting=range(start,stop,step)   these numbers, in order, stop left out
  setting=a,b,c   or choice(a,b,c)   choices without an order: true,false; presets, as in ppo=vanilla,ppo_max
  setting=tag(log, …)          an interval or range on a logarithmic scale
  setting=value                every trial has this value
Options of the tuner:
  n_trials=50    finished trials of the study in total, whatever came of them: with more, the same study goes on
  workers=N      runs at a time; by default jobs=, else the cores divided by threads=
  seeds=range(2) runs of a trial, which is judged by their mean
  objective=gold   final gold; gold_kl: gold up and KL to SFT down, the end is a front of compromises
  storage=URL    a database, as postgresql+psycopg2://user@host/name, instead of results/<study>/optuna.journal

A trial is an ordinary run in results/<study>/trial=<n>/seed=<s>/, to be read by analysis as any other. A run that collapses
stops there (collapse.stop=true), and its trial is pruned, as one that diverges; a run that crashes is a failed trial, and the
search goes on. The same command goes on with what was interrupted, and started twice, both work on one study.
Searches:"""


def main(arguments: Sequence[str], task: str, prepare: str | None, preload: Sequence[str]) -> None:
    """Tune as the command line asks. A UserError is one sentence on stderr and exit status 1.

    task, prepare: dotted names, called in processes of their own on a run's Config to do it and to build what runs share.
    preload: modules that these processes find imported. Each imports again the program it comes from: what that needs is among them.
    """
    if {"-h", "--help"} & set(arguments):
        print("\n".join([HELP, *(f"  {name:<15}{load_search(name)[0]}" for name in search_names())]))
        return
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        search = read_search(arguments)
        with composing():
            sys.exit(run(search, task, prepare, preload))
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def run(search: Search, task: str, prepare: str | None, preload: Sequence[str]) -> int:
    """The exit status: 1 where no trial of the study has a result, 130 after an interrupt."""
    config = composed([*search.fixed, f"seed={search.seeds[0]}"])
    check_some_trial(search)
    study, folder = open_study(search, config), study_folder(config)
    start_server(config, preload)
    with caught_signals() as caught:
        if prepare is not None and all(key.split(".")[0] in OUTSIDE_PIPELINE for key in search.space):
            shared = Job(config=config, folder=folder)
            build_stages([(config, [shared])], 1, prepare, caught)
            if shared.state == "failed":
                raise UserError(f"nothing was tuned: {shared.reason}")
        tune(search, study, folder, max_parallel_runs(search, config), task, caught)
    print(closing_report(study), flush=True)
    if caught:
        print("the search was interrupted: the same command continues it", file=sys.stderr)
        return 130
    return 0 if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)) else 1


def check_some_trial(search: Search) -> None:
    """Refuse a space of which no point is a valid run, by the first of 20 random ones that is."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for left in reversed(range(20)):
        try:
            validate(composed(overrides_of(search, study.ask(dict(search.space)))))
            return
        except UserError:
            if left == 0:
                raise


def max_parallel_runs(search: Search, config: Config) -> int:
    """Runs at a time."""
    return search.workers or config.jobs or max(1, cores() // config.threads)


def tune(search: Search, study: optuna.Study, folder: Path, at_a_time: int, task: str, caught: list[int]) -> None:
    """Ask, run and tell until `n_trials` are finished or somebody else's. Whatever a run does, the loop goes on.

    caught: signals received so far, passed on to the runs; the first ends the asking, and what it interrupts stays untold.
    """
    attempts: list[TrialRun] = []
    asked = 0
    while True:
        if not caught:
            fill(attempts, search, study, folder, at_a_time, task)
        running = [process for attempt in attempts for _, process in attempt.running]
        if not running:
            return
        wait([process.sentinel for process in running], 0.5)
        asked = pass_on(caught, asked, running)
        for attempt in attempts:
            follow(attempt, study, stopping=bool(caught))
            if attempt.is_over:
                conclude(attempt, outcome(attempt.jobs), study, folder, search.n_trials)
        attempts = [attempt for attempt in attempts if not attempt.is_over]


def fill(attempts: list[TrialRun], search: Search, study: optuna.Study, folder: Path, at_a_time: int, task: str) -> None:
    """Start runs until `at_a_time` are running: the seeds of trials already begun first, then new trials."""
    while sum(len(attempt.running) for attempt in attempts) < at_a_time:
        begun = ((attempt, job) for attempt in attempts if not attempt.is_decided for job in attempt.jobs if job.state == "waiting")
        attempt, job = next(begun, (None, None))
        if attempt is not None and job is not None:
            job.state = "running"
            attempt.running.append((job, start(task, job.config, job.folder / "run.log")))
            continue
        attempt = next_attempt(study, search, folder)
        if attempt is None:
            return
        try:
            attempt.jobs = jobs_of(search, attempt)
        except UserError as error:
            conclude(attempt, Outcome("failed", f"refused: {error}", None, None), study, folder, search.n_trials)
        else:
            attempts.append(attempt)


def jobs_of(search: Search, attempt: TrialRun) -> list[Job]:
    """A run a seed. UserError where the trial's settings contradict each other."""
    overrides = overrides_of(search, attempt.trial)
    configs = [composed([*overrides, f"seed={seed}"]) for seed in search.seeds]
    for config in configs:
        validate(config)
    return [Job(config=config, folder=run_folder(config)) for config in configs]


def follow(attempt: TrialRun, study: optuna.Study, stopping: bool) -> None:
    """See which runs have ended and how, and pass new evaluations on; Optuna takes those for a single objective only."""
    for job, process in attempt.running:
        if process.exitcode is not None:
            settle(job, process, stopping)
    attempt.running = [(job, process) for job, process in attempt.running if job.state == "running"]
    if len(study.directions) == 1:
        report(attempt)


def conclude(attempt: TrialRun, found: Outcome, study: optuna.Study, folder: Path, n_trials: int) -> None:
    """Tell a trial's outcome to Optuna and to the user."""
    record(study, attempt, found, folder / f"trial={attempt.trial.number}")
    finished = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
    reason = f" ({found.reason})" if found.reason else ""
    figures = f"gold {number(found.gold)}, KL {number(found.kl, 1)}"
    print(f"[{finished}/{n_trials}] trial {attempt.trial.number} {found.status}{reason}: {figures}  {settings(attempt.trial)}", flush=True)


if __name__ == "__main__":
    needed = ("hydra", "ablate.tune.study", "ablate.tune.report", "hydra_plugins.ablate_launcher")
    main(sys.argv[1:], task="ablate.session.execute", prepare="ablate.session.prepare", preload=(*PRELOAD, *needed))
