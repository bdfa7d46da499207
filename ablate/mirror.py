"""Rebuild what trackers show of runs from their run folders: wandb, or those that --tracker names.

    python -m ablate.mirror results/kl_coef                                         # wandb's offline files, for `wandb sync`
    WANDB_MODE=online python -m ablate.mirror results/kl_coef                       # upload them directly
    python -m ablate.mirror results/kl_coef --tracker tensorboard --tracker mlflow  # others

It serves for runs with `tracker=none`, and for what a tracker that failed or a killed process left incomplete.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from ablate.config import Config
from ablate.runs.folder import config_of, run_folders
from ablate.runs.summary import read_summary
from ablate.runs.trackers.interface import failures
from ablate.runs.tracking import open_tracker
from ablate.system.commands import announce, command_errors
from ablate.system.locks import try_lock

UNFINISHED = {"status": "unfinished", "reason": "the run has no summary yet", "collapsed": None, "collapse_update": None}
TRACKERS = [name for field in fields(Config) if field.name == "tracker" for name in field.metadata["choices"] if name != "none"]


def mirror(folder: Path, trackers: Sequence[str] = ("wandb",)) -> bool:
    """Rebuild one run folder's run in each of the trackers. Returns False, without doing so, while the run is active.

    Raises UserError for a damaged run folder, and for a tracker that fails.
    """
    with open(folder / "metrics.jsonl", "ab") as handle:
        if not try_lock(handle):
            return False
        for name in trackers:
            with failures(name):
                tracker = open_tracker(name, config_of(folder), folder)
                tracker.finish(read_summary(folder) or UNFINISHED)
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m ablate.mirror", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, help="results/<study>, or any folder with run folders in it")
    parser.add_argument("--tracker", action="append", choices=TRACKERS, help="rebuild in this one, once or several times (default: wandb)")
    options = parser.parse_args(arguments)
    with command_errors():
        for root in options.folders:
            for folder in run_folders(root):
                announce(f"mirroring {folder}")
                done = mirror(folder, options.tracker or ["wandb"])
                print(f"{folder}: {'mirrored' if done else 'passed over, the run is going on'}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
