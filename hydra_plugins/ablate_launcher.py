"""Hydra's launcher `ablate`: it runs each job of a sweep in a process of its own, several at a time on this machine."""

from dataclasses import dataclass, field
from typing import List, Optional, Sequence

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from ablate.runs.folder import run_folder
from ablate.sweeps.compose import Composed, Composer
from ablate.sweeps.expand import at_once, pipeline_key
from ablate.sweeps.pool import PRELOAD, build_stages, caught_signals, run_jobs, start_server
from ablate.sweeps.returns import job_return
from ablate.sweeps.table import Job, LiveTable


@dataclass
class LocalLauncherConf:
    _target_: str = "hydra_plugins.ablate_launcher.LocalLauncher"
    timeout: Optional[float] = None  # seconds per run; null is no limit
    task: str = "ablate.session.execute"  # called with the config of each run
    prepare: Optional[str] = "ablate.session.prepare"  # called once per set of pipeline settings, before the runs
    preload: List[str] = field(default_factory=lambda: list(PRELOAD))  # modules that are imported once for all runs


ConfigStore.instance().store(group="hydra/launcher", name="ablate", node=LocalLauncherConf, provider="ablate")


class LocalLauncher(Launcher):
    """Runs the jobs in processes of their own: an exception, a crash or a timeout of one job ends no other."""

    def __init__(self, timeout: Optional[float], task: str, prepare: Optional[str], preload: List[str]) -> None:
        self.timeout = timeout
        self.preload = preload
        self.task = task
        self.prepare = prepare
        self.config: Optional[DictConfig] = None
        self.hydra_context: Optional[HydraContext] = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.hydra_context = hydra_context

    def start_imports(self) -> None:
        """Start the process that imports what the runs share, while the sweep is still being planned."""
        start_server(self.config, self.preload)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> List[JobReturn]:
        """Compose the jobs and `run` them, as Hydra asks of a launcher."""
        assert self.hydra_context is not None and self.config is not None
        setup_globals()
        compose = Composer(self.hydra_context, self.config)
        return self.run([compose(overrides) for overrides in job_overrides])

    def run(self, composed: Sequence[Composed]) -> List[JobReturn]:
        """Run the jobs. Returns one JobReturn per job, whose value is the summary, or raises RunFailed or RunInterrupted when read."""
        self.start_imports()
        jobs = [Job(config=item.config, folder=run_folder(item.config)) for item in composed]
        with caught_signals() as caught:
            if self.prepare is not None:
                build_stages(stages(jobs), at_once([job.config for job in jobs]), self.prepare, caught)
            with LiveTable(jobs) as overview:
                run_jobs(overview, at_once([job.config for job in jobs]), self.task, self.timeout, caught)
        return [job_return(job, item) for job, item in zip(jobs, composed, strict=True)]


def stages(jobs: Sequence[Job]) -> list:
    """(config, jobs that need its stages) per distinct set of pipeline settings."""
    groups: dict = {}
    for job in jobs:
        groups.setdefault(pipeline_key(job.config), []).append(job)
    return [(group[0].config, group) for group in groups.values()]
