"""A sweep that was killed, starved and damaged at random ends as if nothing had happened."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("faults.py")
KINDS = ("job", "launcher", "stage builder", "from inside")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_sweep_under_fire_ends_with_the_bits_of_one_left_alone(seed, tmp_path):
    results = tmp_path / "faults"
    command = [sys.executable, str(SCRIPT), "--seed", str(seed), "--results", str(results)]
    done = subprocess.run(command, text=True, capture_output=True, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((results / "report.json").read_text())
    assert report["equal"] and not report["unexplained"]
    assert not report["phases_missed"] and not report["orders_open"]
    assert {kind for kind in KINDS for name in report["kills_by_kind_and_phase"] if name.startswith(f"{kind},")} == set(KINDS)
    assert report["exit_codes"][0][-1] == 0
    assert report["events"]["full disk named"] >= 1 and report["events"]["removed as told"] >= 3
