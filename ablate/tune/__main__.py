"""Search settings with Optuna; each trial runs `ablate.session` in processes of its own.

  python -m ablate.tune sweep=tune_ppo_max
  python -m ablate.tune 'ppo.kl_coef=tag(log, interval(0.01, 1))' ppo.updates=60 n_trials=30

`python -m ablate.tune --help` describes the grammar, the options and the searches in `sweeps/`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
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
from ablate.sweeps.speed import counted
from ablate.sweeps.table import Job, number
from ablate.system.commands import announce, command_errors
from ablate.tune.report import closing_report, next_steps, settings
from ablate.tune.space import Search, load_search, read_search, search_names
from ablate.tune.storage import database_errors
from ablate.tune.study import Outcome, TrialRun, next_trial, open_study, outcome, overrides_of, record, report, study_folder

HELP = """Search settings with Optuna: the most gold without collapse, or gold against KL.

python -m ablate.tune sweep=tune_ppo_max                              a search from the folder sweeps/
python -m ablate.tune 'ppo.kl_coef=tag(log, interval(0.01, 1))'       one setting, on a logarithmic scale
python -m ablate.tune 'ppo.clip_range=interval(0.1,0.4)' ppo.critic_init=reward,sft ppo.updates=60 n_trials=30
python -m ablate.tune sweep=tune_ppo_max 'seeds=range(2)' objective=gold_kl study=frontier workers=4

What is searched, in Hydra's override grammar, for every setting of ablate.run (quote what has brackets):
  setting=interval(low,high)   numbers between low and high; whole numbers where the setting is one
  setting=range(start,stop,step)   start, start + step, … below stop, in order
  setting=a,b,c   or choice(a,b,c)   choices without an order: true,false; presets, as in ppo=vanilla,ppo_max
  setting=tag(log, …)          an interval or range on a logarithmic scale
  setting=value                every trial has this value
Options of the tuner:
  n_trials=50    finished trials of the study in total, failed ones included; a larger number continues the same study
  workers=N      runs at a time; by default jobs=, else the cores divided by threads=
  seeds=range(2) one run per seed and trial; a trial's value is the mean over its runs
  objective=gold   maximise the final gold; gold_kl: maximise gold and minimise KL to SFT, which gives a Pareto front
  storage=URL    a database, as postgresql+psycopg2://user@host/name, instead of results/<study>/optuna.journal

Trial 0 is the preset itself, where the space holds its values: the one to beat. A trial's runs are ordinary run folders,
results/<study>/trial=<n>/seed=<s>/, which the analysis reads like any other. A run stops when it collapses (collapse.stop=true).
A trial with a run that collapses or diverges is pruned, one with a run that crashes is failed, and the search continues. The same
command continues an interrupted search; started twice, both work on the same study.
Searches:"""


def main(arguments: Sequence[str], task: str, prepare: str | None, preload: Sequence[str]) -> None:
    """Tune as the command line asks. A UserError is one sentence on stderr and exit status 1.

    task, prepare: dotted names of functions that child processes call on a run's Config, to do the run and to build what runs share.
    preload: modules that these processes find imported. Each child imports its program again, so what that needs is among them.
    """
    if {"-h", "--help"} & set(arguments):
        print("\n".join([HELP, *(f"  {name:<15}{load_search(name)[0]}" for name in search_names())]))
        return
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with command_errors():
        try:
            search = read_search(arguments)
            with composing():
                sys.exit(run(search, task, prepare, preload))
        except KeyboardInterrupt:
            sys.exit(130)


def run(search: Search, task: str, prepare: str | None, preload: Sequence[str]) -> int:
    """Do the search. The exit status is 1 where no trial of the study has a result, and 130 after an interrupt.

    Raises UserError where no trial could run, or the shared stages cannot be built.
    """
    config = composed([*search.fixed, f"seed={search.seeds[0]}"])
    check_some_trial(search)
    slots = max_parallel_runs(search, config)
    trials, seeds = counted(search.n_trials, "trial"), counted(len(search.seeds), "seed")
    announce(f"{config.study}: {trials} × {seeds}, {slots} runs at a time, results in {study_folder(config)}")
    study, folder = open_study(search, config), study_folder(config)
    start_server(config, preload)
    with caught_signals() as caught:
        if prepare is not None and all(key.split(".")[0] in OUTSIDE_PIPELINE for key in search.space):
            shared = Job(config=config, folder=folder)
            build_stages([(config, [shared])], 1, prepare, caught)
            if shared.state == "failed":
                raise UserError(f"nothing was tuned: {shared.reason}")
        with database_errors(search.storage):
            Tuner(search, study, folder, max_parallel_runs(search, config), task).tune(caught)
    with database_errors(search.storage):
        print("\n".join([closing_report(study), *next_steps(study, search, folder)]), flush=True)
    if caught:
        print("the search was interrupted: the same command continues it", file=sys.stderr)
        return 130
    return 0 if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)) else 1


def check_some_trial(search: Search) -> None:
    """Refuse a space in which none of 20 random points is a valid run. Raises UserError."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for attempts_left in reversed(range(20)):
        try:
            validate(composed(overrides_of(search, study.ask(dict(search.space)))))
            return
        except UserError:
            if attempts_left == 0:
                raise


def max_parallel_runs(search: Search, config: Config) -> int:
    """Runs at a time: workers=, else jobs=, else as many as the cores hold."""
    return search.workers or config.jobs or max(1, cores() // config.threads)


@dataclass(frozen=True)
class Tuner:
    """The process that takes trials from Optuna, starts their runs, and records how they ended."""

    search: Search
    study: optuna.Study
    folder: Path  # of the study
    max_runs: int  # at a time
    task: str  # dotted name of what a run's process calls on its Config

    def tune(self, caught: list[int]) -> None:
        """Work until `n_trials` of the study are finished or in the hands of other tuners, whatever comes of a run.

        caught: signals received so far. After the first no trial is asked for, and the trials that it interrupts keep the state RUNNING.
        """
        trials: list[TrialRun] = []
        signals_passed_on = 0
        while True:
            if not caught:
                self.start_runs(trials)
            processes = [process for trial in trials for _, process in trial.running]
            if not processes:
                return
            wait([process.sentinel for process in processes], 0.5)
            signals_passed_on = pass_on(caught, signals_passed_on, processes)
            for trial in trials:
                self.poll(trial, stopping=bool(caught))
                if trial.is_over:
                    self.finish(trial, outcome(trial.jobs))
            trials = [trial for trial in trials if not trial.is_over]

    def start_runs(self, trials: list[TrialRun]) -> None:
        """Start runs until `max_runs` are running: first the seeds left of the given trials, then new trials, which are added to them."""
        while sum(len(trial.running) for trial in trials) < self.max_runs:
            waiting = ((trial, job) for trial in trials if not trial.is_decided for job in trial.jobs if job.state == "waiting")
            trial, job = next(waiting, (None, None))
            if trial is not None and job is not None:
                job.state = "running"
                trial.running.append((job, start(self.task, job.config, job.folder / "run.log")))
                continue
            trial = next_trial(self.study, self.search, self.folder)
            if trial is None:
                return
            try:
                trial.jobs = jobs_of(self.search, trial)
            except UserError as error:
                self.finish(trial, Outcome("failed", f"refused: {error}", None, None))
            else:
                trials.append(trial)

    def poll(self, trial: TrialRun, stopping: bool) -> None:
        """Note which runs of a trial have ended and how, and report new evaluations, which Optuna takes for a single objective only.

        stopping: whether the runs have been asked to stop.
        """
        for job, process in trial.running:
            if process.exitcode is not None:
                settle(job, process, stopping)
        trial.running = [(job, process) for job, process in trial.running if job.state == "running"]
        if len(self.study.directions) == 1:
            report(trial)

    def finish(self, trial: TrialRun, result: Outcome) -> None:
        """Tell a trial's outcome to Optuna and to the user."""
        number_of_trial = trial.trial.number
        record(self.study, trial, result, self.folder / f"trial={number_of_trial}")
        finished = sum(other.state.is_finished() for other in self.study.get_trials(deepcopy=False))
        reason = f" ({result.reason})" if result.reason else ""
        values = f"gold {number(result.gold)}, KL {number(result.kl, 1)}  {settings(trial.trial)}"
        print(f"[{finished}/{self.search.n_trials}] trial {number_of_trial} {result.status}{reason}: {values}", flush=True)


def jobs_of(search: Search, trial: TrialRun) -> list[Job]:
    """One run per seed. Raises UserError where the trial's settings contradict each other."""
    overrides = overrides_of(search, trial.trial)
    configs = [composed([*overrides, f"seed={seed}"]) for seed in search.seeds]
    for config in configs:
        validate(config)
    return [Job(config=config, folder=run_folder(config)) for config in configs]


if __name__ == "__main__":
    needed = ("hydra", "ablate.tune.study", "ablate.tune.report", "hydra_plugins.ablate_launcher")
    main(sys.argv[1:], task="ablate.session.execute", prepare="ablate.session.prepare", preload=(*PRELOAD, *needed))
