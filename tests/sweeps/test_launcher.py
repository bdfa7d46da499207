"""The launcher with real processes: however one run ends, the others end as they would have alone."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from stand_in import COLLAPSES, DIVERGES, EXITS, KILLED, RAISES, REFUSED, SEGFAULTS
from sweep_bench import alive, run_sweep, start_sweep, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

BAD = (RAISES, EXITS, KILLED, SEGFAULTS, REFUSED)
GOOD = (0, DIVERGES, COLLAPSES, 8)
EVERY_SEED = f"seed={','.join(str(seed) for seed in (*BAD, *GOOD))}"


def folder_of(root: Path, seed: int, arm: str = "vanilla") -> Path:
    return root / "results" / "default" / arm / f"seed={seed}"


def starts(root: Path, seed: int) -> int:
    return len((folder_of(root, seed) / "starts.txt").read_text().split())


@pytest.fixture(scope="module")
def wrecked(tmp_path_factory):
    """(folder, what the launcher printed) of a sweep in which five of nine runs end badly."""
    root = tmp_path_factory.mktemp("wrecked")
    return root, run_sweep(root, "ppo=vanilla", EVERY_SEED, "jobs=3")


def test_crashes_of_every_kind_end_no_other_run(wrecked):
    root, _ = wrecked
    for seed in GOOD:
        assert json.loads((folder_of(root, seed) / "summary.json").read_text())["seed"] == seed
    for seed in BAD:
        assert starts(root, seed) == 1 and not (folder_of(root, seed) / "summary.json").exists()


def test_the_exit_status_is_1_and_every_failure_is_listed_with_its_reason_and_log(wrecked):
    _, result = wrecked
    assert result.returncode == 1
    reasons = {
        RAISES: "ValueError: a bad batch",
        EXITS: "exit code 3",
        KILLED: "ended by SIGKILL, perhaps for want of memory",
        SEGFAULTS: "ended by SIGSEGV",
        REFUSED: "error: the folder is not yours: set results=<folder>",
    }
    assert result.stderr.splitlines()[-6:] == [
        "5 of 9 runs failed:",
        *(f"  vanilla seed={s}: {reasons[s]} (log: results/default/vanilla/seed={s}/run.log)" for s in BAD),
    ]


def test_a_run_that_diverged_or_collapsed_is_a_result(wrecked):
    _, result = wrecked
    assert "4 done · 1 collapsed · 5 failed · 0 waiting" in result.stdout
    rows = {line.split()[1]: line for line in result.stdout.splitlines() if line.startswith("vanilla ")}
    assert "at update 35" in rows[str(COLLAPSES)] and "diverged" in rows[str(DIVERGES)] and "no result" in rows[str(RAISES)]


def test_a_runs_own_log_holds_what_it_printed_and_how_it_died(wrecked):
    root, _ = wrecked
    log = (folder_of(root, RAISES) / "run.log").read_text()
    assert "hello from vanilla" in log and 'raise ValueError("a bad batch")' in log
    assert "Segmentation fault" in (folder_of(root, SEGFAULTS) / "run.log").read_text()
    assert "Traceback" not in (folder_of(root, REFUSED) / "run.log").read_text()


def test_the_same_command_again_runs_only_what_is_missing(wrecked):
    root, _ = wrecked
    again = run_sweep(root, "ppo=vanilla", EVERY_SEED, "jobs=3", HEALED="1")
    assert again.returncode == 0 and "4 of 9 runs are done already" in again.stdout
    assert [starts(root, seed) for seed in BAD] == [2] * 5
    assert [starts(root, seed) for seed in GOOD] == [1] * 4
    nothing = run_sweep(root, "ppo=vanilla", EVERY_SEED)
    assert nothing.returncode == 0 and "9 of 9 runs are done already" in nothing.stdout
    assert [starts(root, seed) for seed in (*BAD, *GOOD)] == [2] * 5 + [1] * 4


def test_a_result_of_other_settings_is_not_taken_for_done(tmp_path):
    run_sweep(tmp_path, "ppo=vanilla", "arm=same")
    other = run_sweep(tmp_path, "ppo=vanilla", "arm=same", "ppo.updates=3")
    assert other.returncode == 0 and "done already" not in other.stdout
    assert len((folder_of(tmp_path, 0, "same") / "starts.txt").read_text().split()) == 2


def test_no_more_runs_at_a_time_than_jobs(tmp_path):
    run_sweep(tmp_path, "ppo=vanilla", "seed=0,8,9,10,11", "jobs=2")
    spans = [json.loads((folder_of(tmp_path, seed) / "times.json").read_text()) for seed in (0, 8, 9, 10, 11)]
    at_once = [sum(begin <= moment < end for begin, end in spans) for moment, _ in spans]
    assert max(at_once) == 2


def test_a_run_over_its_time_is_stopped_alone(tmp_path):
    result = run_sweep(tmp_path, "ppo=vanilla", "seed=0", "hydra.launcher.task=stand_in.patient", "hydra.launcher.timeout=1.5")
    assert result.returncode == 1 and "vanilla seed=0: timed out after 1.5 s" in result.stderr


def test_one_interrupt_lets_running_runs_finish_and_starts_no_more(tmp_path):
    launcher = start_sweep(tmp_path, "ppo=vanilla", "seed=range(4)", "jobs=2", "hydra.launcher.task=stand_in.patient")
    wait_for(lambda: all((folder_of(tmp_path, seed) / "pid").exists() for seed in (0, 1)))
    os.killpg(launcher.pid, signal.SIGINT)  # to the whole group, as a terminal sends it
    err = launcher.communicate(timeout=30)[1]
    assert launcher.returncode == 130 and "2 runs were interrupted and 2 not started: the same command continues them" in err
    statuses = [json.loads((folder_of(tmp_path, seed) / "summary.json").read_text())["status"] for seed in (0, 1)]
    assert statuses == ["interrupted", "interrupted"]
    assert not folder_of(tmp_path, 2).exists() and not folder_of(tmp_path, 3).exists()


def test_a_second_interrupt_ends_them_now(tmp_path):
    launcher = start_sweep(tmp_path, "ppo=vanilla", "seed=0,8", "jobs=2", "hydra.launcher.task=stand_in.stubborn")
    wait_for(lambda: all((folder_of(tmp_path, seed) / "pid").exists() for seed in (0, 8)))
    pids = [int((folder_of(tmp_path, seed) / "pid").read_text()) for seed in (0, 8)]
    launcher.send_signal(signal.SIGINT)
    with pytest.raises(AssertionError, match="it did not come about"):
        wait_for(lambda: not any(alive(pid) for pid in pids), seconds=1.5)
    launcher.send_signal(signal.SIGINT)
    launcher.communicate(timeout=10)
    assert launcher.returncode == 130 and not any(alive(pid) for pid in pids)


def test_runs_die_with_a_killed_launcher(tmp_path):
    launcher = start_sweep(tmp_path, "ppo=vanilla", "seed=0", "hydra.launcher.task=stand_in.stubborn")
    wait_for((folder_of(tmp_path, 0) / "pid").exists)
    pid = int((folder_of(tmp_path, 0) / "pid").read_text())
    assert alive(pid)
    launcher.kill()
    launcher.communicate(timeout=10)
    wait_for(lambda: not alive(pid), seconds=10)


def test_shared_stages_are_built_once_for_each_set_of_pipeline_settings(tmp_path):
    result = run_sweep(tmp_path, "data.language=en,zh", "ppo.kl_penalty=true,false", "seed=0,8")
    assert result.returncode == 0
    assert sorted((tmp_path / "stages.txt").read_text().splitlines()) == ["en 0", "zh 0"]


def test_a_stage_that_cannot_be_built_fails_the_runs_that_need_it_and_no_other(tmp_path):
    result = run_sweep(tmp_path, "preferences.pairs=6000,13")
    assert result.returncode == 1 and (folder_of(tmp_path, 0, "preferences.pairs=6000") / "summary.json").exists()
    reason = "its shared stages were not built: error: 13 pairs are too few: raise preferences.pairs"
    assert result.stderr.splitlines()[-2:] == ["1 of 2 runs failed:", f"  preferences.pairs=13 seed=0: {reason}"]
