"""How long the runs of a sweep take: from the runs that are there, or else from a stated speed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from statistics import median

from ablate.config import Config, PPOConfig
from ablate.errors import UserError
from ablate.runs.folder import read_config
from ablate.runs.summary import read_summary
from ablate.sweeps.expand import at_once, by_setting
from ablate.sweeps.table import duration

SAMPLE = 200  # runs
STATED_SPEED = 350.0  # responses per second of a run on the world with one thread, two at a time (docs/explanation/speed.md)


def responses(overrides: Sequence[str]) -> int:
    """The number of responses that a job samples in training: updates × batch size.

    overrides: `setting=value`. A setting that they do not name counts with PPOConfig's default, which every preset but
    moss_script has.
    """
    settings = by_setting(overrides)
    updates, batch = (
        int(settings[key].partition("=")[2]) if key in settings else default
        for key, default in (("ppo.updates", PPOConfig.updates), ("ppo.batch_size", PPOConfig.batch_size))
    )
    return updates * batch


def measured_speed(results: Path) -> float | None:
    """The median speed of completed runs on the world under `results`, in responses per second; None without such runs.

    The speed of a run is its training responses over its wall time, evaluation included. Of many runs SAMPLE are read, in no order.
    """
    speeds = map(run_speed, islice(results.glob("*/*/seed=*/summary.json"), SAMPLE))
    known = [speed for speed in speeds if speed is not None]
    return median(known) if known else None


def run_speed(path: Path) -> float | None:
    """The speed of the run with this summary.json; None for one that is not complete, not on the world, or damaged."""
    try:
        summary, known = read_summary(path.parent), read_config(path.parent)
    except UserError:  # an estimate of time stops nothing; who reads the run's result is told
        return None
    if summary is None or known is None or summary.get("status") != "completed" or known.get("data", {}).get("source") != "world":
        return None
    updates, seconds, batch = summary.get("updates"), summary.get("wall_seconds"), known.get("ppo", {}).get("batch_size")
    if updates is None or not seconds or not isinstance(batch, int):
        return None
    return updates * batch / seconds


def plan(configs: Sequence[Config], missing: Sequence[Config]) -> str:
    """`kl_coef: 3 arms × 2 seeds = 6 runs, 2 at a time, about 4 min after the shared stages, results in results/kl_coef`

    configs: every run of the sweep. missing: those that are yet to be done, which the time is of.
    """
    studies = list(dict.fromkeys(config.study for config in configs))
    arms, seeds = {(config.study, config.arm) for config in configs}, {config.seed for config in configs}
    square = len(configs) == len(arms) * len(seeds)
    factors = f"{counted(len(arms), 'arm')} × {counted(len(seeds), 'seed')} = " if square else ""
    runs = f"{factors}{counted(len(configs), 'run')}"
    where = ", ".join(str(Path(configs[0].results) / study) for study in studies)
    if not missing:
        return f"{', '.join(studies)}: {runs}, all of them done, results in {where}"
    slots = min(at_once(missing), len(missing))
    parts = [runs, f"{len(missing)} to do" if len(missing) < len(configs) else "", f"{slots} at a time"]
    if all(config.data.source == "world" and config.model.path is None for config in missing):
        measured = measured_speed(Path(configs[0].results))
        amount = sum(config.ppo.updates * config.ppo.batch_size for config in missing) / (measured or STATED_SPEED) / slots
        parts.append(f"about {duration(amount)} after the shared stages{'' if measured else ' (a guess, no run is measured yet)'}")
    return f"{', '.join(studies)}: {', '.join([*filter(None, parts), f'results in {where}'])}"


def counted(number: int, name: str) -> str:
    """`1 run`, `2 runs`"""
    return f"{number} {name}{'' if number == 1 else 's'}"
