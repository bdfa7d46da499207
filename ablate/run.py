"""Train with PPO, one run or with -m a sweep, under the settings of the command line.

    python -m ablate.run ppo=vanilla seed=3               # one run
    python -m ablate.run -m sweep=kl_coef 'seed=range(8)' # every arm of a study with eight seeds

The session and torch are imported only when a run starts, so that the help, an invalid setting and the plan of a sweep take no such time.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ablate.config import Config
from ablate.errors import UserError
from ablate.runs.folder import is_finished, run_folder, without_digest
from ablate.runs.fork import forked
from ablate.settings.arms import arm_name, changing
from ablate.settings.groups import CONF
from ablate.settings.help import run_help
from ablate.settings.identity import inert
from ablate.settings.overrides import check_overrides, composition_errors, flags, is_multirun, quoted
from ablate.settings.validation import validate
from ablate.sweeps.expand import by_setting
from ablate.sweeps.study import check_sweep_choice
from ablate.sweeps.summary import sweep_summary
from ablate.system.commands import announce, command_errors
from ablate.system.gc_pause import gc_paused

MULTIRUN = ("-m", "--multirun")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def task(composed: DictConfig) -> None:
    """Execute one run. With `-m`, Hydra calls the sweeper and the launcher instead.

    Raises SystemExit with a sentence on a UserError, and with status 130 if the run was interrupted.
    """
    with command_errors():  # Hydra adds lines of its own to any exception but SystemExit
        with composition_errors():
            settings = HydraConfig.get()
            overrides = list(settings.overrides.task)  # ${…} in them are resolved here
            config = forked(OmegaConf.to_object(composed), overrides)
        if config.arm is None:
            config.arm = arm_name(changing(overrides), settings.runtime.choices["ppo"])
        validate(config)
        refuse_inert(config, overrides)
        announced = first_line(config)
        if announced is None:
            print(sweep_summary([run_folder(config)]))
            return
        announce(announced)
        with gc_paused():
            from ablate.session import execute
            from ablate.system.distributed import is_main

        summary = execute(config)
    if is_main():
        print(sweep_summary([run_folder(config)]))
    if summary["status"] == "interrupted":
        raise SystemExit(130)


def first_line(config: Config) -> str | None:
    """What the run will do, for the first line; None where it is done and nothing but its table is left to show. Raises UserError.

    Of several processes the main one decides, after they have met, and a record that lacks a digest needs a word of warning.
    """
    folder = run_folder(config)
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if alone and is_finished(config) and not without_digest(config):
        return None
    return f"{config.study}: {config.arm} seed={config.seed}, {config.ppo.updates} updates, results in {folder}"


def refuse_inert(config: Config, overrides: Sequence[str]) -> None:
    """Raises UserError for an override of a setting that does nothing, since a toggle that it needs is off."""
    for name, sentence in inert(config, by_setting(overrides)).items():
        raise UserError(f"{sentence}: set that too, or leave {name} out")


ConfigStore.instance().store(name="schema", node=Config, provider="ablate")


def main() -> None:
    """Run the command line, in a single process or in one of several that a launcher has started."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        command_line()
        return
    with gc_paused():
        from ablate.system.processes import joined

    with joined():
        if any(flag in sys.argv for flag in MULTIRUN):
            sys.exit("error: a sweep (-m) starts processes of its own: run it without accelerate launch, or launch each run by itself")
        command_line()


def command_line() -> None:
    """Check the command line, then let Hydra compose it. A UserError becomes one sentence on standard error and exit status 1."""
    arguments = [quoted(argument) for argument in sys.argv[1:] if argument != "sweep=null"]  # the default, which Hydra refuses as a choice
    arguments = sys.argv[1:] = sorted(arguments, key=lambda argument: argument not in MULTIRUN)  # argparse wants flags first or last
    with command_errors():
        try:
            if flags(arguments).help:
                print(run_help(min(shutil.get_terminal_size().columns, 140)))
                return
            multirun = is_multirun(arguments)
            check_sweep_choice(arguments, multirun)
            check_overrides(arguments, multirun)
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # of an exception other than UserError the traceback is shown
            with composition_errors():
                task()
        except KeyboardInterrupt:
            sys.exit(130)


if __name__ == "__main__":
    main()
