"""One run of the committed set, made again from nothing by the code at hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ablate.runs.numerics import code_fingerprint, numerics
from ablate.sweeps.study import load_study
from analysis.load.frames import load
from analysis.load.packed import REFERENCE, is_set
from analysis.reference.packing import CLOCK, rounding

STUDY, ARM = "policy_constraints", "kl"
FIRST, NEAR = 5, 1e-3  # updates, and a relative difference: on another processor sums differ in their last bits, and PPO spreads that


def repeated(packed: pd.Series, folder: Path) -> tuple[pd.Series, pd.DataFrame]:
    """The run again, by the overrides of its study's file: its row and its curves."""
    study = load_study(STUDY)
    seeds = [f"seed={packed['seed']}", f"pipeline_seed={packed['pipeline_seed']:g}"]
    own = [f"study={STUDY}", f"arm={ARM}", f"results={folder}", "tracker=none"]
    command = [sys.executable, "-m", "ablate.run", *study.base, *study.arms[ARM], *seeds, *own]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0, done.stderr[-2000:]
    again = load(folder)
    return again.runs.iloc[0], again.curves


def moved_on(packed: pd.Series) -> str:
    """One sentence where the numbers cannot be those of the packed run; '' where they should be."""
    now, packages = code_fingerprint(), numerics(1)["packages"]
    others = [name for name, version in packages.items() if packed.get(f"numerics/{name}") != version]
    if packed.get("numerics/code") != now:
        made = packed.get("numerics/code") or "code older than fingerprints"
        return f"The code has moved on from {made} to {now} since {packed['run']} was packed: only the verdict was compared."
    return f"{packed['run']} was made with other versions of {', '.join(others)}: only the verdict was compared." if others else ""


@pytest.mark.slow
@pytest.mark.skipif(not is_set(REFERENCE), reason="results/reference is not in this checkout")
def test_a_packed_run_comes_out_again_or_as_its_arm_does(tmp_path, capsys):
    """Of the same code and packages: every metric, on the same processor at every update within the rounding of packing, on another at
    the first updates within `NEAR`. Of other code: the verdict, if all packed runs of the arm agree on it."""
    kept = load(REFERENCE / STUDY)
    arm = kept.runs[kept.runs["arm"] == ARM].sort_values("seed")
    packed = arm.iloc[0]
    again, curves = repeated(packed, tmp_path)
    assert again["status"] == packed["status"]
    if sentence := moved_on(packed):
        with capsys.disabled():
            print(f"\n{sentence}")
        if arm["collapsed"].nunique() == 1:
            assert again["collapsed"] == packed["collapsed"]
        return
    same = processor_of(packed) == processor_of(again)
    compare(kept.curves[kept.curves["run"] == packed["run"]], curves, same)
    assert again["collapsed"] == packed["collapsed"] or not same


def compare(packed: pd.DataFrame, again: pd.DataFrame, same: bool) -> None:
    """Fails where the curves of a run made again are not those that were packed. same: whether on the same kind of processor."""
    names = [name for name in packed.select_dtypes("number") if not name.startswith(CLOCK) and packed[name].notna().any()]
    ours, theirs = (frame.sort_values("update")[names].to_numpy(dtype=float) for frame in (packed, again))
    assert ours.shape == theirs.shape
    if same:
        relative = np.array([rounding(name) for name in names])
        assert np.allclose(theirs, ours, rtol=relative, atol=0, equal_nan=True)
    else:
        np.testing.assert_allclose(theirs[: FIRST + 1], ours[: FIRST + 1], rtol=NEAR, atol=NEAR)


def processor_of(run: pd.Series) -> str | None:
    """The processor that summary.json names."""
    return json.loads((Path(run["folder"]) / "summary.json").read_text()).get("numerics", {}).get("processor")


def test_a_sentence_says_that_the_code_has_moved_on():
    here = {f"numerics/{name}": version for name, version in numerics(1)["packages"].items()}
    run = pd.Series({"run": "s/a/seed=0", "numerics/code": code_fingerprint(), **here})
    assert moved_on(run) == ""
    assert moved_on(run.drop("numerics/code")).startswith("The code has moved on from code older than fingerprints to ")
    other = pd.Series({**run, "numerics/torch": "0"})
    assert moved_on(other) == "s/a/seed=0 was made with other versions of torch: only the verdict was compared."


def test_a_run_made_again_is_compared_at_every_update_or_on_another_processor_at_the_first():
    packed = pd.DataFrame({"update": range(10), "eval/gold": [1.2346] * 10, "time/update_s": 1.0})
    again = packed.assign(**{"eval/gold": 1.23456, "time/update_s": 2.0})
    compare(packed, again, same=True)
    later = again.assign(**{"eval/gold": [1.23456] * 9 + [1.3]})
    compare(packed, later, same=False)
    with pytest.raises(AssertionError):
        compare(packed, later, same=True)
    with pytest.raises(AssertionError):
        compare(packed, again.assign(**{"eval/gold": 1.24}), same=False)
