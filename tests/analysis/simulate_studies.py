"""Tables of docs/explanation/statistics.md: wrong verdicts, wrong equivalence and power on simulated studies with a planted truth.

    OMP_NUM_THREADS=1 python tests/analysis/simulate_studies.py verdicts|margin|power|frontier|lengths|folders [--studies 400]
                                                                   [--only NAME] [--design 4 5]

All but `folders` build outcomes from frames; test_analysis_simulated.py proves that run folders give the same verdicts. `folders`
takes a few of the cells through folders, `load` and `study_verdicts`. With PYTHONPATH at an earlier checkout it judges the same
folders by that one's `analysis`. Entries are percent of studies in which the treatment was called higher / lower / the same.
"""

from __future__ import annotations

import argparse
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from chain import OUTCOMES, SIDES, said_of_folders, two_arms
from simulate import CONFIG, Arm, override

DESIGNS = ((1, 5), (1, 8), (1, 16), (5, 1), (6, 1), (8, 1), (16, 1), (4, 4), (8, 2), (5, 4), (4, 5))  # reward models × seeds
FEWER = ((1, 8), (1, 16), (8, 1), (16, 1), (20, 1), (8, 2), (5, 4))
Only = tuple[str, tuple[int, int] | None]  # part of the name of what is planted, and one design
FRONTIER = (4.0, 1.5)  # Gao's α and β: the peak is at √KL 5.3


@dataclass(frozen=True)
class Truth:
    """What is planted, and in which outcomes saying what would be wrong."""

    treatment: Arm
    control: Arm
    wrong: dict[str, tuple[str, ...]]  # outcome → sides
    several: bool = False  # only of several reward models


def nothing(*measures: str) -> dict[str, tuple[str, ...]]:
    return dict.fromkeys(measures, ("higher", "lower"))


ENDS = ("gold", "win")
HIGH = Arm(lift=6.0)  # so high that no effect of these sizes makes a collapse
NULLS = {
    "nothing, no run collapses": Truth(Arm(), Arm(), nothing(*OUTCOMES)),
    "nothing, half of the runs collapse": Truth(Arm(collapse_probability=0.5), Arm(collapse_probability=0.5), nothing(*OUTCOMES)),
    "gold by reward model, mean 0, SD 0.5": Truth(replace(HIGH, effect_sd=1.0), HIGH, nothing("gold", "gold_at_kl"), True),
    "gold by reward model, mean 0, SD 1": Truth(replace(HIGH, effect_sd=2.0), HIGH, nothing("gold", "gold_at_kl"), True),
    "gold by reward model, +1 SD with half, −1 SD with half": Truth(
        replace(HIGH, kinds=(2.0, -2.0)), HIGH, nothing("gold", "gold_at_kl"), True),
    "prevents collapse with half, causes it with half": Truth(
        Arm(swing=(0.0, 1.0)), Arm(collapse_probability=0.5), nothing(*OUTCOMES), True),
    "collapses in one run of ten, else nothing": Truth(
        Arm(collapse_probability=0.1), Arm(),
        {"collapsed": ("lower",), "stable_updates": ("higher",), "gold": ("higher",), "win": ("higher",), "gold_at_kl": ("higher",)}),
    "collapses in one run of ten, else wins 1 gold": Truth(
        Arm(collapse_probability=0.1, lift=2.0), Arm(), {"collapsed": ("lower",), "stable_updates": ("higher",), "gold": (), "win": ()}),
}  # fmt: skip
MARGINS = {
    "gold at the margin, 0.5 SD": Truth(Arm(lift=2.003), Arm(), dict.fromkeys(("gold", "gold_at_kl"), ("lower", "same"))),
    "gold at the margin, varying by 0.5 SD": Truth(
        replace(HIGH, lift=7.003, effect_sd=1.0), HIGH, dict.fromkeys(("gold", "gold_at_kl"), ("lower", "same")), True),
    "collapse rates 0.25 and 0": Truth(
        Arm(collapse_probability=0.25), Arm(), {"collapsed": ("lower", "same"), "gold": ("higher", "same")}),
    "collapse rates 0.6 and 0.35": Truth(
        Arm(collapse_probability=0.6), Arm(collapse_probability=0.35), {"collapsed": ("lower", "same"), "gold": ("higher", "same")}),
}  # fmt: skip
BETTER = {"collapsed": ("higher",), "stable_updates": ("lower",), "gold": ("lower",), "win": ("lower",)}
EFFECTS = {
    "collapse rate 0.9 → 0.02": Truth(Arm(collapse_probability=0.02), Arm(collapse_probability=0.9), BETTER),
    "collapse rate 0.9 → 0.3": Truth(Arm(collapse_probability=0.3), Arm(collapse_probability=0.9), BETTER),
    "gold +1 SD of its differences between seeds": Truth(
        replace(HIGH, lift=8.0, lift_sd=2.0), replace(HIGH, lift_sd=2.0), dict.fromkeys(("gold",), ("lower",))),
    "gold +1 SD, varying by 1 SD over reward models": Truth(
        replace(HIGH, lift=8.0, effect_sd=2.0), HIGH, dict.fromkeys(("gold", "gold_at_kl"), ("lower",)), True),
    "onset of collapse 30 → 50": Truth(
        Arm(collapse_probability=1.0, onset=50.0), Arm(collapse_probability=1.0), {"stable_updates": ("lower",)}),
    "gold +0.2 SD, below the margin": Truth(Arm(lift=1.4), Arm(), dict.fromkeys(("gold", "gold_at_kl"), ("lower",))),
}  # fmt: skip

SLOW, FAST = Arm(frontier=FRONTIER, reach=1.8, pace=0.5), Arm(frontier=FRONTIER, reach=4.5, pace=1.7)  # √KL at update 5: 0.3 and 2.3
SHIFTED = replace(SLOW, frontier=(FRONTIER[0] + 1.5, FRONTIER[1]))
EVALUATIONS = {"every update": {"evaluation.every": 1}, "every 2": {"evaluation.every": 2}, "every 3": {"evaluation.every": 3},
               "every 5": {"evaluation.every": 5},
               "every 5, dense until 12": {"evaluation.every": 5, "evaluation.dense_until": 12}}  # fmt: skip
FRONTIER_DESIGNS = ((1, 5), (1, 8), (8, 1), (5, 4))


def large(every: int) -> Arm:
    """Equal to `small` per response: twice the batch, half of the updates."""
    return Arm(collapse_probability=1.0, pace=2.0, settings={"ppo.batch_size": 128, "ppo.updates": 40, "evaluation.every": every})


def small(every: int) -> Arm:
    return Arm(collapse_probability=1.0, settings={"ppo.batch_size": 64, "ppo.updates": 80, "evaluation.every": every})


LENGTHS = {
    "batch twice as large, evaluated at the same responses": Truth(large(2), small(4), nothing("stable_updates")),
    "batch twice as large, evaluated at the same updates": Truth(large(4), small(4), nothing("stable_updates")),
}


def shares(design: tuple[int, int]) -> dict[str, float]:
    """Shares of luck: of one reward model its own is a constant; of several a quarter is the reward model's."""
    return dict(reward_models=design[0], of_model=0.0 if design[0] == 1 else 0.25, shared=0.5 if design[0] == 1 else 0.25)


def generator_of(*names: object) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(names).encode()))


def share(said: list[str], side: str) -> float:
    return float(np.mean([side in one.split(", ") for one in said]))


def run_quickly(truth: Truth, design: tuple[int, int], studies: int, name: str) -> dict[str, list[str]]:
    from planted import from_frames, said_quickly, studies_of

    table, _ = from_frames(truth.treatment, truth.control, design[1], studies, generator_of(name, design), measures=truth.wrong,
                           **shares(design))  # fmt: skip
    parts = studies_of(table)
    return {outcome: [said_quickly(part, outcome) for part in parts] for outcome in truth.wrong}


def through_frontier(
    treatment: Arm, control: Arm, design: tuple[int, int], studies: int, settings: dict, name: str
) -> dict[str, list[str]]:
    """Gold at matched KL, and `frontier_test`."""
    from chain import FRONTIER as NAMES
    from planted import frames, said_quickly

    from analysis.estimate.equivalence import margin_of
    from analysis.estimate.outcomes import outcomes
    from analysis.estimate.overoptimisation import frontier_test

    runs, curves = frames(two_arms(treatment, control), design[1], studies, generator_of(name, design), config=override(CONFIG, settings),
                          **shares(design))  # fmt: skip
    table, found = outcomes(runs, curves), {"gold_at_kl": [], "frontier": []}
    curves = {study: part for study, part in curves.groupby("study")}
    for study, part in table.groupby("study"):
        found["gold_at_kl"].append(said_quickly(part, "gold_at_kl"))
        found["frontier"].append(NAMES[frontier_test(curves[study], "kl", "control", margin_of("gold_at_kl", part)).verdict])
    return found


def row(what: str, outcome: str, cells: list[dict[str, list[str]] | None]) -> str:
    """'| what | outcome | higher / lower / same in % | … |'."""
    entries = ["–" if cell is None else " / ".join(f"{100 * share(cell[outcome], side):.1f}" for side in SIDES) for cell in cells]
    return f"| {what} | {outcome} | " + " | ".join(entries) + " |"


def head(designs: tuple[tuple[int, int], ...]) -> str:
    return "| planted | outcome | " + " | ".join(f"{m} × {s}" for m, s in designs) + " |\n" + "|---|---|" + "---|" * len(designs)


def grid(truths: dict[str, Truth], studies: int, only: Only, designs: tuple[tuple[int, int], ...] = DESIGNS) -> None:
    truths = {name: truth for name, truth in truths.items() if only[0] in name}
    designs = tuple(design for design in designs if only[1] in (None, design))
    print(head(designs), flush=True)
    worst = (0.0, "")
    for name, truth in truths.items():
        cells = [None if truth.several and design[0] == 1 else run_quickly(truth, design, studies, name) for design in designs]
        for outcome, wrong in truth.wrong.items():
            print(row(name, outcome, cells), flush=True)
            for design, cell in zip(designs, cells, strict=True):
                if cell is not None:
                    sides = [side for side in wrong if side != "same"]
                    said = max(
                        [
                            sum(share(cell[outcome], side) for side in sides),
                            *(share(cell[outcome], "same") for side in wrong if side == "same"),
                        ]
                    )
                    worst = max(worst, (said, f"{name}, {outcome}, {design[0]} × {design[1]}"))
    error = 100 * np.sqrt(0.05 * 0.95 / studies)
    print(
        f"\n{studies} studies a cell, standard error {error:.1f} at 5 %. Most often wrong: {100 * worst[0]:.1f} % ({worst[1]}).", flush=True
    )


def frontiers(studies: int, only: Only) -> None:
    print(head(FRONTIER_DESIGNS), flush=True)
    for what, treatment in ((what, arm) for what, arm in (("one frontier", SLOW), ("frontier higher", SHIFTED)) if only[0] in what):
        for name, settings in EVALUATIONS.items():
            cells = [through_frontier(treatment, FAST, design, studies, settings, what + name) for design in FRONTIER_DESIGNS]
            for outcome in ("gold_at_kl", "frontier"):
                print(row(f"{what}, evaluated {name}", outcome, cells), flush=True)


FOLDERS: dict[str, tuple[Arm, Arm, dict, tuple[tuple[int, int], ...], tuple[str, ...]]] = {
    "nothing, half of the runs collapse": (*2 * (Arm(collapse_probability=0.5),), {}, ((1, 5), (8, 1)), OUTCOMES),
    "gold by reward model, mean 0, SD 0.5": (replace(HIGH, effect_sd=1.0), HIGH, {}, ((4, 5), (3, 8)), ("gold", "gold_at_kl")),
    "gold by reward model, mean 0, SD 1": (replace(HIGH, effect_sd=2.0), HIGH, {}, ((4, 5), (3, 8)), ("gold", "gold_at_kl")),
    "prevents collapse with half, causes it with half": (
        Arm(swing=(0.0, 1.0)), Arm(collapse_probability=0.5), {}, ((4, 5), (3, 8)), ("collapsed", "stable_updates", "gold")),
    "collapses in one run of ten, else nothing": (
        Arm(collapse_probability=0.1), Arm(), {}, ((1, 5), (1, 8), (8, 1)), ("collapsed", "stable_updates", "gold", "win")),
    "collapses in one run of ten, else wins 1 gold": (
        Arm(collapse_probability=0.1, lift=2.0), Arm(), {}, ((1, 5), (1, 8), (8, 1)), ("gold", "win")),
    "one frontier, evaluated every 5": (SLOW, FAST, EVALUATIONS["every 5"], ((1, 5), (8, 1)), ("gold_at_kl", "frontier")),
    "one frontier, evaluated every update": (SLOW, FAST, EVALUATIONS["every update"], ((1, 5), (8, 1)), ("gold_at_kl", "frontier")),
}  # fmt: skip


def folders(studies: int, only: Only) -> None:
    print("| planted | outcome | reward models × seeds | higher / lower / same |\n|---|---|---|---|", flush=True)
    for name, (treatment, control, settings, designs, measures) in ((name, cell) for name, cell in FOLDERS.items() if only[0] in name):
        for design in designs:
            with tempfile.TemporaryDirectory() as folder:
                said = said_of_folders(Path(folder) / "runs", treatment, control, design[1], studies, generator_of(name, design),
                                       config=override(CONFIG, settings), **shares(design))  # fmt: skip
            for outcome in measures:
                print(row(name, outcome, [said]).replace(f"| {outcome} |", f"| {outcome} | {design[0]} × {design[1]} |"), flush=True)


TABLES: dict[str, Callable[[int, Only], None]] = {
    "verdicts": lambda studies, only: grid(NULLS, studies, only),
    "margin": lambda studies, only: grid(MARGINS, studies, only, FEWER),
    "power": lambda studies, only: grid(EFFECTS, studies, only, ((1, 5), *FEWER, (4, 5))),
    "frontier": frontiers,
    "lengths": lambda studies, only: grid(LENGTHS, studies, only, ((1, 5), (1, 8), (1, 16), (8, 1), (16, 1))),
    "folders": folders,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES, nargs="+")
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--only", default="", help="part of the name of what is planted")
    parser.add_argument("--design", type=int, nargs=2, metavar=("REWARD_MODELS", "SEEDS"))
    arguments = parser.parse_args()
    for table in arguments.table:
        TABLES[table](arguments.studies, (arguments.only, arguments.design and tuple(arguments.design)))
