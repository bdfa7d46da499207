"""Studies: what `sweeps/*.yaml` says, and the jobs it expands to. `python -m ablate.sweeps` lists them.

A file named `tune_…` is no study but a search for `python -m ablate.tune`, and is read by `ablate.tune.space`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from ablate.config import PPOConfig
from ablate.runs.folder import read_config, read_summary
from ablate.sweeps.expand import by_setting, cores, expand
from ablate.sweeps.study import load_study, study_names
from ablate.sweeps.table import duration


def responses(overrides: Sequence[str]) -> int:
    """Responses that a job samples; the presets share the updates and batch size that PPOConfig has by default."""
    settings = by_setting(overrides)
    updates, batch = (
        int(settings[key].partition("=")[2]) if key in settings else default
        for key, default in (("ppo.updates", PPOConfig.updates), ("ppo.batch_size", PPOConfig.batch_size))
    )
    return updates * batch


def measured_speed(results: Path) -> float | None:
    """Median responses per second of the completed runs on the world under `results`, evaluation included; None where there is none."""
    speeds = []
    for path in results.glob("*/*/seed=*/summary.json"):
        summary, known = read_summary(path.parent), read_config(path.parent)
        if summary is None or known is None or summary["status"] != "completed" or known["data"]["source"] != "world":
            continue
        speeds.append(summary["updates"] * known["ppo"]["batch_size"] / summary["wall_seconds"])
    return median(speeds) if speeds else None


def listing(results: Path, at_a_time: int) -> str:
    """Every study with its figure, question, number of runs a seed, and the time of one seed of them once the stages are built.

    Last their sum. A run that two studies share is done once, so all together take less.
    """
    speed = measured_speed(results)
    lines, runs, seconds = [], 0, 0.0
    for name in study_names():
        study = load_study(name)
        jobs = expand(study, {}, preset="ppo_max")
        on_world = not any(setting.startswith(("data", "model")) for setting in study.base)
        time = "time not measured yet" if on_world else "its own model and data"
        if speed and on_world:
            estimate = sum(responses(job) for job in jobs) / speed / min(at_a_time, len(jobs))
            runs, seconds = runs + len(jobs), seconds + estimate
            time = f"about {duration(estimate)} a seed"
        figure = f"Fig. {study.figure}" if study.figure[0].isdigit() else study.figure
        lines += [f"{name}  ({figure}; {len(jobs)} runs a seed, {time})", f"    {study.question}"]
    if speed:
        lines.append(f"all on the world: {runs} runs, about {duration(seconds)} a seed, {duration(8 * seconds)} for 8 seeds")
    return "\n".join(lines)


if __name__ == "__main__":
    print(listing(Path(sys.argv[1] if len(sys.argv) > 1 else "results"), at_a_time=cores()))
