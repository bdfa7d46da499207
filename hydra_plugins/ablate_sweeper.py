"""Hydra's sweeper `ablate`, for plain choices and for the studies of `sweeps/`. All jobs are planned before the first one starts."""

import sys
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from ablate.errors import UserError
from ablate.runs.folder import is_finished, run_folder
from ablate.settings.identity import inert
from ablate.settings.overrides import spelled_values
from ablate.sweeps.compose import Composed, Composer
from ablate.sweeps.expand import distinct, expand, refuse_invalid
from ablate.sweeps.returns import RunInterrupted, RunNotStarted
from ablate.sweeps.reuse import take_over
from ablate.sweeps.speed import plan
from ablate.sweeps.study import load_study, register
from ablate.sweeps.summary import sweep_summary
from ablate.system.commands import announce, command_errors
from hydra_plugins.ablate_launcher import LocalLauncher

SLURM = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"


@dataclass
class AblateSweeperConf:
    _target_: str = "hydra_plugins.ablate_sweeper.AblateSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="ablate", node=AblateSweeperConf, provider="ablate")
register()


class AblateSweeper(Sweeper):
    """Expands choices and studies to jobs, checks them all, launches those without a result, and prints a summary."""

    def __init__(self) -> None:
        self.config: Optional[DictConfig] = None
        self.hydra_context: Optional[HydraContext] = None
        self.launcher: Optional[Launcher] = None
        self.importing = False

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.hydra_context = hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: List[str]) -> Any:
        """Run the sweep. Raises SystemExit with status 1 if a run failed or none could start, and 130 if runs were interrupted."""
        with command_errors():
            planned = self.plan(arguments)
            missing = [job for job in planned if not is_done(job)]
            announce(plan([job.config for job in planned], [job.config for job in missing]))
            if len(missing) < len(planned):
                print(f"{len(planned) - len(missing)} of {len(planned)} runs are done already, and are not run again")
            taken = take_over(job.config for job in missing)
            if taken:
                print(f"{taken} of {len(planned)} runs are taken over: another study has them, of the same settings, versions and code")
                missing = [job for job in missing if not is_done(job)]
            returns = self.launch(missing) if missing else []
        print(sweep_summary([run_folder(job.config) for job in planned]), flush=True)
        report(returns)
        return [returns]

    def launch(self, jobs: List[Composed]) -> Any:
        """Run the jobs by the chosen launcher. This package's own and Slurm receive them composed, others of Hydra as overrides.

        Raises UserError if Slurm refuses them.
        """
        assert self.launcher is not None and self.config is not None
        if isinstance(self.launcher, LocalLauncher):
            return self.launcher.run(jobs)
        if self.config.hydra.launcher._target_ == SLURM:
            from ablate.sweeps.slurm import run

            return run(self.launcher.params, jobs)
        return self.launcher.launch([list(job.overrides) for job in jobs], initial_job_idx=0)

    def plan(self, arguments: List[str]) -> List[Composed]:
        """The jobs that the command line asks for, without duplicates. Raises UserError if a study or a setting is invalid."""
        assert self.hydra_context is not None and self.config is not None
        choices = self.choices(arguments)
        names = [text.partition("=")[2] for text in choices.pop("sweep", ["sweep=null"])]
        preset = self.config.hydra.runtime.choices["ppo"]
        studies = [None if name == "null" else load_study(name) for name in names]
        expanded = [overrides for study in studies for overrides in expand(study, choices, preset)]
        compose = Composer(self.hydra_context, self.config)
        composed = [self.composed(compose, overrides) for overrides in expanded]
        configs = [job.config for job in composed]
        refuse_invalid(configs)
        for name in choices:
            sentences = {inert(config, [name]).get(name) for config in configs}
            if None not in sentences:
                print(f"{sorted(map(str, sentences))[0]}, so it changes no arm here")
        kept, notes = distinct(configs)
        for note in notes:
            print(note)
        return [composed[index] for index in kept]

    def composed(self, compose: Composer, overrides: Sequence[str]) -> Composed:
        """One job. The first without a result starts the imports that the runs share; a sweep that is done needs none of them."""
        job = compose(overrides)
        if not self.importing and isinstance(self.launcher, LocalLauncher) and not is_done(job):
            self.launcher.start_imports()
            self.importing = True
        return job

    def choices(self, arguments: List[str]) -> Dict[str, List[str]]:
        """Setting → `setting=value` per value, in the order of the command line. Of several mentions of a setting the last counts.

        Raises UserError for a sweep that is not a list of values, such as an interval.
        """
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        found: Dict[str, List[str]] = {}
        for override in parser.parse_overrides(arguments):
            key = override.get_key_element()
            if not override.is_sweep_override():
                found[key] = [override.input_line]
            elif override.is_discrete_sweep():
                found[key] = [f"{key}={value}" for value in spelled_values(override)]
            else:
                raise UserError(f"{override.input_line} is not a list of values: write {key}=a,b or {key}=range(n)")
        return found


def is_done(job: Composed) -> bool:
    """Whether the run folder holds a result of exactly these settings. A damaged summary is none; the run then reports it."""
    try:
        return is_finished(job.config)
    except UserError:
        return False


def report(returns: Any) -> None:
    """List the runs without a result on standard error. Raises SystemExit with status 130 if any was interrupted, else 1 if any failed."""
    without = [result._return_value for result in returns if result.status != JobStatus.COMPLETED]
    failed = [str(error) for error in without if not isinstance(error, RunInterrupted)]
    if failed:
        print(f"{len(failed)} of {len(returns)} runs failed:", *failed, sep="\n  ", file=sys.stderr)
    if len(failed) < len(without):
        unstarted = sum(isinstance(error, RunNotStarted) for error in without)
        others = f" and {unstarted} not started" if unstarted else ""
        print(f"{len(without) - len(failed) - unstarted} runs were interrupted{others}: the same command continues them", file=sys.stderr)
        raise SystemExit(130)
    if failed:
        raise SystemExit(1)
