"""The entry: config → validate → stages → PPO → summary. `python -m ablate.run --help` teaches the rest.

torch and transformers are imported where a run starts, so that help, a refusal and the planning of a sweep take no seconds.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ablate.arms import arm_name
from ablate.closing import closing
from ablate.config import Config
from ablate.errors import UserError
from ablate.fork import forked
from ablate.overrides import check_overrides
from ablate.store import RunStore, is_finished, read_summary, run_folder
from ablate.sweeps import check_sweep_choice
from ablate.validation import validate

STAGE_RECORDS = ("training.jsonl", "pairs.csv", "report.json")


def prepare(config: Config):
    """Build the stages a run starts from, or find them in the cache; returns `ablate.pipeline.build.Stages`."""
    import torch

    from ablate.pipeline.build import build

    torch.set_num_threads(config.threads)
    return build(config)


def execute(config: Config) -> dict:
    """Do one run and return its summary; a run that is finished is not done again. Raises UserError."""
    validate(config)
    if is_finished(config):
        return read_summary(run_folder(config))
    from ablate.tracking import Trackers, open_trackers
    from ablate.trainer import Trainer

    stages = prepare(config)
    store, tracker = RunStore(config), Trackers([])
    try:
        store.copy_stage("reward_model", stages.reward_model, STAGE_RECORDS)
        trainer = Trainer(config, stages, store)
        tracker = open_trackers(config, run_folder(config))
        summary = trainer.run(tracker)
    except BaseException as error:
        failed = failure(config, error)
        tracker.finish(failed)
        store.finish(failed)
        raise
    summary = store.finish(summary)
    tracker.finish(summary)
    return summary


def failure(config: Config, error: BaseException) -> dict:
    """The summary of a run that an exception ended."""
    status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    place = {"study": config.study, "arm": config.arm, "seed": config.seed}
    return {"status": status, "reason": reason, "collapsed": None, "collapse_update": None} | place


@hydra.main(version_base="1.3", config_path=str(Path(__file__).parent / "conf"), config_name="config")
def task(composed: DictConfig) -> None:
    """One run from the command line; `-m` goes through the sweeper and the launcher instead."""
    settings = HydraConfig.get()
    overrides = list(settings.overrides.task)
    try:
        config = forked(OmegaConf.to_object(composed), overrides)
        if config.arm is None:
            config.arm = arm_name(overrides, settings.runtime.choices["ppo"])
        summary = execute(config)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None  # Hydra would add lines of its own to any other exception
    print(closing([run_folder(config)]))
    if summary["status"] == "interrupted":
        raise SystemExit(130)


ConfigStore.instance().store(name="schema", node=Config, provider="ablate")


def main() -> None:
    """Check the command line, then let Hydra compose it. A UserError is one sentence on stderr and exit status 1."""
    arguments = sys.argv[1:]
    try:
        check_overrides(arguments)
        check_sweep_choice(arguments, multirun=any(flag in arguments for flag in ("-m", "--multirun")))
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # our own errors are caught below; anything else deserves its traceback
        task()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
