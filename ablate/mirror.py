"""Rebuild the wandb runs of a study from its run folders.

    python -m ablate.mirror results/kl_coef                     # offline files, for `wandb sync`
    WANDB_MODE=online python -m ablate.mirror results/kl_coef   # upload them directly

It serves for runs with `tracker=none`, and for offline files that a killed process left incomplete.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ablate.runs.folder import config_of, run_folders
from ablate.runs.summary import read_summary
from ablate.runs.tracking import WandbTracker
from ablate.system.commands import announce, command_errors
from ablate.system.locks import try_lock

UNFINISHED = {"status": "unfinished", "reason": "the run has no summary yet", "collapsed": None, "collapse_update": None}


def mirror(folder: Path) -> bool:
    """Rebuild the wandb run of one run folder. Returns False, without doing so, while the run is active.

    Raises UserError for a damaged run folder.
    """
    with open(folder / "metrics.jsonl", "ab") as handle:
        if not try_lock(handle):
            return False
        tracker = WandbTracker(config_of(folder), folder)
        tracker.finish(read_summary(folder) or UNFINISHED)
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m ablate.mirror", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, help="results/<study>, or any folder with run folders in it")
    with command_errors():
        for root in parser.parse_args(arguments).folders:
            for folder in run_folders(root):
                announce(f"mirroring {folder}")
                print(f"{folder}: {'mirrored' if mirror(folder) else 'passed over, the run is going on'}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
