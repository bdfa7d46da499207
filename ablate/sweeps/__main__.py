"""List the studies, each with its figure, its question, its number of runs, and the time that these take.

    python -m ablate.sweeps                   # at the speed of the runs in results/
    python -m ablate.sweeps /data/results     # at the speed of the runs in another folder
    python -m ablate.sweeps export kl_coef --format wandb --seeds 8 > kl_coef.yaml   # a study for `wandb sweep` and its agents

The time is measured as soon as one run on the world is complete; before that it follows from a stated speed, and the last line says so.

`python -m ablate.run -m sweep=<study>` runs a study. A file of sweeps/ whose name begins with `tune_` is a search, which
`python -m ablate.tune` runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ablate.config import Config
from ablate.errors import UserError
from ablate.sweeps.expand import cores, expand
from ablate.sweeps.speed import STATED_SPEED, measured_speed, responses
from ablate.sweeps.study import load_study, study_names
from ablate.sweeps.table import duration
from ablate.system.commands import command_errors


def listing(results: Path, at_a_time: int) -> str:
    """Every study with its figure, its question, its number of runs per seed, and the time per seed after its stages are built.

    The last lines are the sum over the studies, and without a measured run the speed that is assumed. A run that two studies share is
    computed once, so all studies together take less.
    at_a_time: how many runs are active at once. A study file that cannot be read has the reason in its line.
    """
    measured = measured_speed(results)
    speed = measured or STATED_SPEED
    lines, runs, seconds = [], 0, 0.0
    for name in study_names():
        try:
            study = load_study(name)
        except UserError as error:
            lines.append(f"{name}  ({error})")
            continue
        jobs = expand(study, {}, preset="ppo_max")
        on_world = not any(setting.startswith(("data", "model")) for setting in study.base)
        time = "its own model and data"
        if on_world:
            estimate = sum(responses(job) for job in jobs) / speed / min(at_a_time, len(jobs))
            runs, seconds = runs + len(jobs), seconds + estimate
            time = f"about {duration(estimate)} per seed"
        figure = f"Fig. {study.figure}" if study.figure[:1].isdigit() else study.figure
        lines += [f"{name}  ({f'{figure}; ' if figure else ''}{len(jobs)} runs per seed, {time})", f"    {study.question}"]
    lines.append(f"all on the world: {runs} runs, about {duration(seconds)} per seed, {duration(8 * seconds)} for 8 seeds")
    if measured is None:
        lines.append(
            f"no run in {results} is complete, so these times assume {speed:.0f} responses per second and run, {at_a_time} at a time; "
            "after the first run they are measured"
        )
    return "\n".join(lines)


def checked_folder(results: Path) -> Path:
    """`results`, where it is a folder, or the default one, which a fresh clone lacks. Raises UserError for any other path."""
    if results.is_dir() or results == Path(Config.results):
        return results
    if str(results) in study_names():
        raise UserError(f"{results} is a study, not a folder of runs: `python -m ablate.run -m sweep={results}` runs it")
    raise UserError(f"{results} is no folder: give the folder whose runs are to give the speed, or nothing for {Config.results}")


def export(arguments: Sequence[str]) -> None:
    """The command `export`: a study in another tool's format, on standard output. A UserError is one sentence and exit status 1."""
    parser = argparse.ArgumentParser(
        prog="python -m ablate.sweeps export",
        description="Write a study as a file for another tool.\n\n"
        "    python -m ablate.sweeps export kl_coef --format wandb > kl_coef.yaml\n"
        "    python -m ablate.sweeps export hh --format wandb --seeds 3 data.path=/data/hh.jsonl > hh.yaml\n\n"
        "`wandb sweep kl_coef.yaml` makes the sweep, and each `wandb agent ID` does its runs one by one, online.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", help="a study of sweeps/")
    parser.add_argument("overrides", nargs="*", metavar="SETTING=VALUE", help="settings for all arms, as on the command line of a sweep")
    parser.add_argument("--format", choices=("wandb",), default="wandb", help="whose (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds per arm, from 0 (default: %(default)s)")
    options = parser.parse_intermixed_args(arguments)  # settings may follow --seeds
    with command_errors():
        from ablate.sweeps.export import wandb_sweep

        print(wandb_sweep(options.study, options.overrides, options.seeds), end="")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. A UserError is one sentence on stderr and exit status 1."""
    given = sys.argv[1:] if arguments is None else arguments
    if given and given[0] == "export":
        export(given[1:])
        return
    parser = argparse.ArgumentParser(
        prog="python -m ablate.sweeps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "results", nargs="?", type=Path, default=Path(Config.results), help="the folder whose runs give the speed (default: %(default)s)"
    )
    with command_errors():
        print(listing(checked_folder(parser.parse_args(given).results), at_a_time=cores()))


if __name__ == "__main__":
    main()
