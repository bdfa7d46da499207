"""A sweep of real runs on tiny models, through the command that users type."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from sweep_bench import environment


@pytest.fixture
def sweep(tiny_overrides, tmp_path):
    overrides = [override for override in tiny_overrides if not override.startswith("arm=")]

    def run(*more: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "ablate.run", "-m", *overrides, *more]
        return subprocess.run(command, cwd=tmp_path, env=environment(), text=True, capture_output=True, timeout=300)

    return run


def test_arms_run_in_parallel_and_are_summed_up_and_are_not_run_again(sweep, tmp_path):
    command = ("sweep=policy_constraints", "ppo.importance_sampling=behaviour", "jobs=2")
    first = sweep(*command)
    assert first.returncode == 0 and "Warning" not in first.stderr, first.stderr
    folders = sorted((tmp_path / "results" / "policy_constraints").glob("*/seed=0"))
    assert [folder.parent.name.split(",")[0] for folder in folders] == ["entropy_bonus", "kl", "vanilla"]
    summaries = {folder: (folder / "summary.json").read_bytes() for folder in folders}
    assert all(json.loads(text)["status"] == "completed" for text in summaries.values())
    assert "3 done" in first.stdout and "0 failed" in first.stdout
    again = sweep(*command)
    assert again.returncode == 0 and "3 of 3 runs are done already" in again.stdout
    assert {folder: (folder / "summary.json").read_bytes() for folder in folders} == summaries


def test_a_study_takes_over_the_runs_it_shares_with_another(sweep, tmp_path):
    first = sweep("sweep=policy_constraints", "ppo.importance_sampling=behaviour", "jobs=2")
    assert first.returncode == 0, first.stderr
    second = sweep("sweep=vanilla", "ppo.importance_sampling=behaviour")
    assert second.returncode == 0 and "1 of 1 runs are taken over" in second.stdout, second.stdout + second.stderr
    assert "too short" in second.stdout  # a handful of evaluations cannot be a collapse
    (source,), (target,) = (list((tmp_path / "results").glob(f"{study}/vanilla*/seed=0")) for study in ("policy_constraints", "vanilla"))
    for name in ("metrics.jsonl", "scores.jsonl", "samples.jsonl", "tokens.jsonl"):
        assert (target / name).read_bytes() == (source / name).read_bytes()
