"""Rebuild the wandb runs of a study from its run folders: `python -m ablate.mirror results/<study>`.

For runs made with `tracker=none`, and for offline files that a killed process left without their end. Upload them with
`wandb sync`, or set WANDB_MODE=online.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from ablate.config import Config
from ablate.errors import UserError
from ablate.runs.store import hold, read_config, read_summary
from ablate.runs.tracking import WandbTracker

UNFINISHED = {"status": "unfinished", "reason": "the run has no summary yet", "collapsed": None, "collapse_update": None}


def run_folders(root: Path) -> list[Path]:
    """Run folders under `root`, itself included. Raises UserError if there is none."""
    found = sorted(path.parent for path in root.rglob("metrics.jsonl") if (path.parent / "config.yaml").is_file())
    if not found:
        raise UserError(f"{root} holds no run folder: name results/<study> or a folder in it")
    return found


def config_of(folder: Path) -> Config:
    """The settings in a run folder's config.yaml. Raises UserError."""
    known = read_config(folder)
    if known is None:
        raise UserError(f"{folder} has no config.yaml: name a run folder")
    del known["identity"], known["hash"]
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), known))


def mirror(folder: Path) -> bool:
    """Make the wandb run of one run folder anew; false, and nothing done, while the run is going on."""
    with open(folder / "metrics.jsonl", "ab") as handle:
        if not hold(handle):
            return False
        tracker = WandbTracker(config_of(folder), folder)
        tracker.finish(read_summary(folder) or UNFINISHED)
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m ablate.mirror", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="results/<study>, or any folder with run folders in it")
    try:
        for root in parser.parse_args(arguments).folders:
            for folder in run_folders(root):
                print(f"{folder}: {'mirrored' if mirror(folder) else 'passed over, the run is going on'}", flush=True)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
