"""Tasks for the tests of the launcher: runs that compute nothing, and end in each way a run can end, as their seed selects."""

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore

import ablate
from ablate.config import Config
from ablate.errors import UserError
from ablate.runs.folder import run_folder
from ablate.settings.identity import config_hash

RAISES, EXITS, KILLED, SEGFAULTS, REFUSED, DIVERGES, COLLAPSES = 1, 2, 3, 4, 5, 6, 7


def task(config: Config) -> None:
    """Record the start, then end as the seed selects, or write a summary. With HEALED in the environment no run fails."""
    folder = run_folder(config)
    with (folder / "starts.txt").open("a") as file:
        file.write(f"{os.getpid()}\n")
    print("hello from", config.arm)
    if "HEALED" not in os.environ:
        end_badly(config.seed)
    began = time.time()
    time.sleep(0.3)
    (folder / "times.json").write_text(json.dumps([began, time.time()]))
    finish(config, "diverged" if config.seed == DIVERGES else "completed", "")


def at_once(config: Config) -> None:
    """Write a summary and end."""
    finish(config, "completed", "")


def end_badly(seed: int) -> None:
    if seed == RAISES:
        raise ValueError("a bad batch")
    if seed == EXITS:
        os._exit(3)
    if seed == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == SEGFAULTS:
        ctypes.string_at(0)
    if seed == REFUSED:
        raise UserError("the folder is not yours: set results=<folder>")


def finish(config: Config, status: str, reason: str) -> None:
    collapsed = config.seed == COLLAPSES
    summary = {
        "status": status, "reason": reason, "collapsed": collapsed, "collapse_update": 35 if collapsed else None,
        "config_hash": config_hash(config), "arm": config.arm, "seed": config.seed, "responses_per_second": 100.0,
        "final": {"eval/gold": float(config.seed)},
    }  # fmt: skip
    (run_folder(config) / "summary.json").write_text(json.dumps(summary))


def patient(config: Config) -> None:
    """Go on for a moment after SIGTERM, as a run that finishes its update, then write the summary of an interrupted run."""
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    (run_folder(config) / "pid").write_text(str(os.getpid()))
    while not asked:
        time.sleep(0.02)
    time.sleep(0.2)
    finish(config, "interrupted", "stopped by a signal after update 3")


def stubborn(config: Config) -> None:
    """Ignore SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (run_folder(config) / "pid").write_text(str(os.getpid()))
    time.sleep(120)


def prepare(config: Config) -> None:
    if config.preferences.pairs == 13:
        raise UserError("13 pairs are too few: raise preferences.pairs")
    with Path("stages.txt").open("a") as file:
        file.write(f"{config.data.language} {config.pipeline_seed}\n")


@hydra.main(version_base="1.3", config_path=str(Path(ablate.__file__).parent / "conf"), config_name="config")
def main(_: object) -> None:
    sys.exit("only sweeps")


if __name__ == "__main__":
    ConfigStore.instance().store(name="schema", node=Config, provider="ablate")
    main()
