"""Many simulated studies with one planted truth, from run folders (`load`) or from the same draws as frames, to verdicts."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd
from chain import OFF, ON, OUTCOMES, QUESTIONS, SIDES, two_arms, write_studies
from simulate import CONFIG, SFT_GOLD, SFT_SD, Arm, evaluated_updates, override, plan, trajectories

from analysis.claims.judge import SUPPORTED, Claim, Part, decide, judge
from analysis.estimate.effects import arm_effect
from analysis.estimate.equivalence import ALPHA, identical, margin_of, shown_same
from analysis.estimate.outcomes import outcomes
from analysis.load.designs import arm_settings
from analysis.load.frames import load
from analysis.load.runfolder import flatten

EVALUATED = ("eval/gold", "eval/win", "eval/tie", "eval/kl_to_sft")
NEEDED = {"win": ("eval/win", "eval/tie"), "gold_at_kl": ("eval/kl_to_sft",)}  # metrics beside gold that an outcome takes
CLAIMS = {
    "collapsed": Claim("sim", "KL collapses less", (Part("collapsed", "lower", ON, OFF),)),
    "stable_updates": Claim("sim", "KL holds longer", (Part("stable_updates", "higher", ON, OFF),)),
    "gold": Claim("sim", "KL ends with more gold", (Part("gold", "higher", ON, OFF),)),
    "win": Claim("sim", "KL wins more", (Part("win", "higher", ON, OFF),)),
    "gold_at_kl": Claim("sim", "KL moves gold at equal KL", (Part("gold_at_kl", "higher", ON, OFF),)),
    "same": Claim("sim", "KL leaves gold at equal KL alone", (Part("gold_at_kl", "same", ON, OFF),)),
    "below": Claim("sim", "KL collapses in less than one run in four", (Part("collapsed", "below", ON, bound=0.25),)),
}


def verdicts(root: Path, treatment: Arm, control: Arm, seeds: int, studies: int, generator: np.random.Generator,
             *, shared: float = 0.5) -> dict[str, Counter]:  # fmt: skip
    """How often each claim got each verdict. Contradictions are split: 'opposite' found the other sign, 'contradicted' did not."""
    table, settings = from_folders(root, treatment, control, seeds, studies, generator, shared=shared)
    counts = {name: Counter() for name in CLAIMS}
    for _, part in table.groupby("study", sort=False):
        for name, claim in CLAIMS.items():
            (one,) = judge(claim, part, settings).parts
            expected = {"higher": 1, "lower": -1}.get(claim.parts[0].expects, 0)
            opposite = one.verdict == "contradicted" and one.effect.p < 0.05 and expected * one.effect.estimate < 0
            counts[name]["opposite" if opposite else one.verdict] += 1
    return counts


def from_folders(root: Path, treatment: Arm, control: Arm, seeds: int, studies: int, generator: np.random.Generator,
                 **options) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """(outcomes, settings of arms) of many studies, each written as run folders and loaded; `options` are `write_study`'s."""
    write_studies(root, treatment, control, seeds, studies, generator, **options)
    loaded = load(root)
    shutil.rmtree(root)
    return outcomes(loaded.runs, loaded.curves), arm_settings(loaded.runs)


def from_frames(treatment: Arm, control: Arm, seeds: int, studies: int, generator: np.random.Generator, *, config: dict = CONFIG,
                measures: Collection[str] = OUTCOMES, **options) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """The same from the same draws without the folders, of the `measures` alone; `options` are `plan`'s."""
    runs, curves = frames(two_arms(treatment, control), seeds, studies, generator, config=config, **options)
    unused = [metric for outcome, metrics in NEEDED.items() if outcome not in measures for metric in metrics]
    return outcomes(runs, curves.drop(columns=unused)), arm_settings(runs)


def frames(arms: dict[str, Arm], seeds: int, studies: int, generator: np.random.Generator, *, config: dict = CONFIG,
           **options) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """(runs, curves) as `load` makes them of the folders of `studies` studies, evaluations only."""
    configs = {name: override(config, arm.settings) for name, arm in arms.items()}
    flats = {name: flatten({key: value for key, value in one.items() if key != "numerics"}) for name, one in configs.items()}
    updates = {name: evaluated_updates(one) for name, one in configs.items()}
    rows, parts = [], []
    for study in range(studies):
        for run in plan(arms, seeds, generator, **options):
            metrics = trajectories(run.arm, updates[run.name].astype(float), run.luck, generator)
            name = f"s{study:04d}/{run.name}/{run.pipeline_seed}/{run.seed}"
            rows.append({
                **flats[run.name], "run": name, "study": f"s{study:04d}", "arm": run.name, "seed": run.seed,
                "pipeline_seed": run.pipeline_seed, "reward_model": f"pipeline_seed={run.pipeline_seed}", "status": "completed",
                "last_update": updates[run.name][-1], "sft/eval/gold": SFT_GOLD, "sft/eval/gold_sd": SFT_SD})  # fmt: skip
            parts.append(np.stack([updates[run.name], *(metrics[metric] for metric in EVALUATED)], axis=1))
    runs = pd.DataFrame(rows)
    curves = pd.DataFrame(np.concatenate(parts), columns=["update", *EVALUATED]).astype({"update": int})
    which = np.repeat(np.arange(len(runs)), [len(part) for part in parts])
    for column in ("run", "study", "arm", "reward_model"):
        codes, values = pd.factorize(runs[column])
        curves[column] = pd.Categorical.from_codes(codes[which], categories=values)
    return runs, curves.assign(seed=runs["seed"].to_numpy()[which])


def said(table: pd.DataFrame, settings: pd.DataFrame, outcome: str) -> str:
    """What the verdicts on one study say of the treatment: 'higher', 'lower', 'same', two of them, or '' for nothing."""
    return ", ".join(side for side in SIDES if judge(QUESTIONS[outcome, side], table, settings).verdict == SUPPORTED)


def said_quickly(table: pd.DataFrame, outcome: str) -> str:
    """The same by `judge`'s own tests and rule, without its sentence and without the units that would do."""
    effect = arm_effect(table, ["kl"], ["control"], outcome)
    if not effect.basis.enough(rate=outcome == "collapsed"):
        return ""
    margin, equal = margin_of(outcome, table), identical(table, ["kl"], ["control"])
    same = shown_same(outcome, table, ["kl"], ["control"], margin)
    parts = {side: QUESTIONS[outcome, side].parts[0] for side in SIDES}
    return ", ".join(side for side, part in parts.items() if decide(part, effect, effect, ALPHA, margin, same, equal) == SUPPORTED)


def studies_of(table: pd.DataFrame) -> list[pd.DataFrame]:
    return [part for _, part in table.groupby("study", sort=False)]
