"""Many simulated studies with one planted truth, through the whole chain: folders → load → outcomes → verdicts."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
from simulate import Arm, write_study

from analysis.claims.judge import Claim, Part, judge
from analysis.estimate.outcomes import outcomes
from analysis.load.designs import arm_settings
from analysis.load.frames import load

ON, OFF = {"ppo.kl_penalty": True}, {"ppo.kl_penalty": False}
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
    for study in range(studies):
        arms = {"control": control, "kl": Arm(**{**vars(treatment), "settings": ON})}
        write_study(root, arms, seeds, generator, shared=shared, study=f"s{study}", every_update=False)
    loaded = load(root)
    shutil.rmtree(root)
    table = outcomes(loaded.runs, loaded.curves)
    settings = arm_settings(loaded.runs)
    counts = {name: Counter() for name in CLAIMS}
    for _, part in table.groupby("study", sort=False):
        for name, claim in CLAIMS.items():
            (one,) = judge(claim, part, settings).parts
            expected = {"higher": 1, "lower": -1}.get(claim.parts[0].expects, 0)
            opposite = one.verdict == "contradicted" and one.effect.p < 0.05 and expected * one.effect.estimate < 0
            counts[name]["opposite" if opposite else one.verdict] += 1
    return counts
