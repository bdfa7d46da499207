"""A run that was stopped, by whatever means, ends as if it never had been."""

from __future__ import annotations

import json
import random
import signal
import time

import pytest
from processes import command_line, run, start, wait_for

from ablate.runs.folder import run_folder
from ablate.runs.summary import read_summary
from ablate.session import execute

# What has state of its own: the KL controller, history moments, Adam over two epochs, warm-up and decay, text for ptx.
STATEFUL = ("ppo.kl_adaptive=true", "ppo.kl_horizon=50", "ppo.warmup_ratio=0.5", "ppo.lr_schedule=inverse_sqrt", "ppo.epochs=2",
            "ppo.ptx=true")  # fmt: skip

# The moment of death, as the call of a function, by how many calls of it came before. A run makes 1 + 6 rollouts of its own and
# 1 + 4 for evaluations; 4 gradient steps of critic pre-training and 4 an update; 3 checkpoints.
MOMENTS = {
    "while the critic is pre-trained, before any checkpoint": ("critic_update", 1),
    "in a rollout, between sampling and scoring": ("score_responses", 9),
    "in an update, between two gradient steps": ("apply_gradients", 4 + 4 * 4 + 3),
    "in an evaluation, between its scores and its samples": ("sample_rows", 4),
    "inside the writing of the second checkpoint": ("save_file", 3 + 3),
    "when an old checkpoint is about to be removed": ("prune", 3),
    "before the summary": ("finish", 1),
}


@pytest.fixture(scope="module")
def unbroken(make_config, tmp_path_factory):
    """The folder of a run that was never stopped."""
    config = make_config(tmp_path_factory.mktemp("unbroken"), *STATEFUL)
    assert run(config) == 0
    return run_folder(config)


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS.keys())
def test_a_killed_run_ends_with_the_bits_of_one_never_stopped(moment, unbroken, make_config, tmp_path, same_numbers):
    config = make_config(tmp_path, *STATEFUL)
    assert run(config, *moment) == -signal.SIGKILL
    assert not (run_folder(config) / "summary.json").exists()
    assert run(config) == 0
    same_numbers(run_folder(config), unbroken)


def test_an_optimiser_that_forgets_every_two_updates_moves_the_third_update_and_nothing_before_it(make_config, tmp_path):
    rows = []
    for name, every in (("kept", 0), ("forgotten", 2)):
        config = make_config(tmp_path / name, f"bugs.optimizer_reset_every={every}")
        assert run(config) == 0
        text = (run_folder(config) / "metrics.jsonl").read_text().splitlines()
        rows.append([{k: v for k, v in json.loads(line).items() if k.startswith(("ppo/", "monitor/"))} for line in text[:4]])
    kept, forgotten = rows
    assert kept[:3] == forgotten[:3] and kept[3]["ppo/value_loss"] != forgotten[3]["ppo/value_loss"]


# Weights beside the policy's: a sampler two updates behind and a reference that follows.
BESIDE = ("sampling.staleness=2", "ppo.mismatch_correction=tis", "ppo.reference_update=ema", "ppo.reference_update_every=2", "ppo.epochs=2",
          "bugs.optimizer_reset_every=2")  # fmt: skip


def test_a_killed_run_with_a_stale_sampler_and_a_moving_reference_ends_with_the_bits_of_one_never_stopped(
    make_config, tmp_path, same_numbers
):
    whole, killed = (make_config(tmp_path / name, *BESIDE) for name in ("whole", "killed"))
    assert run(whole) == 0
    assert run(killed, "apply_gradients", 2 + 4 * 4 + 3) == -signal.SIGKILL
    assert run(killed) == 0
    same_numbers(run_folder(killed), run_folder(whole))
    newest = run_folder(whole) / "checkpoints/6"
    assert {"policy", "critic", "reference", "earlier_policies.safetensors"} <= {path.name for path in newest.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("more", [["ppo.advantage_estimator=remax"], ["ppo.advantage_estimator=grpo", "model.lora_rank=2"]], ids=" ".join)
def test_a_killed_run_without_a_critic_ends_with_the_bits_of_one_never_stopped(more, make_config, tmp_path, same_numbers):
    if "model.lora_rank=2" in more:
        pytest.importorskip("peft")
    whole, killed = (make_config(tmp_path / name, *more, "ppo.samples_per_prompt=2", "ppo.updates=6") for name in ("whole", "killed"))
    assert run(whole) == 0
    assert run(killed, "apply_gradients", 2 * 3) == -signal.SIGKILL
    assert run(killed) == 0
    same_numbers(run_folder(killed), run_folder(whole))


def test_a_run_killed_three_times_ends_with_the_bits_of_one_never_stopped(unbroken, make_config, tmp_path, same_numbers):
    config = make_config(tmp_path, *STATEFUL)
    for function, count in (("apply_gradients", 4 + 4 * 2 + 1), ("optimizer_tensors", 1), ("backward_minibatch", 3)):
        assert run(config, function, count) == -signal.SIGKILL
    assert run(config) == 0
    same_numbers(run_folder(config), unbroken)


def test_a_checkpoint_left_half_written_at_an_update_that_has_none_again_is_removed(unbroken, make_config, tmp_path, same_numbers):
    config = make_config(tmp_path, *STATEFUL)
    assert run(config, "save_file", 3 + 3) == -signal.SIGKILL
    checkpoints = run_folder(config) / "checkpoints"
    (checkpoints / ".4.partial").rename(checkpoints / ".3.partial")  # as after a signal in update 3 and a kill in its checkpoint
    assert run(config) == 0
    same_numbers(run_folder(config), unbroken)


def test_the_state_that_must_travel_is_really_in_play(unbroken):
    rows = [json.loads(line) for line in (unbroken / "metrics.jsonl").read_text().splitlines()]
    coefficients = [row["ppo/kl_coef"] for row in rows[1:]]
    assert len(set(coefficients)) == 6
    state = json.loads((unbroken / "checkpoints/6/state.json").read_text())["progress"]
    assert state["shaping"]["moments"]["count"] == (1 + 6) * 16


def test_a_finished_run_is_not_run_again(make_config, tmp_path):
    config = make_config(tmp_path, "ppo.updates=2")
    execute(config)
    before = {path: path.stat().st_mtime_ns for path in run_folder(config).rglob("*")}
    execute(config)
    assert {path: path.stat().st_mtime_ns for path in run_folder(config).rglob("*")} == before


@pytest.mark.parametrize(("number", "times"), [(signal.SIGTERM, 1), (signal.SIGTERM, 2), (signal.SIGINT, 1)])
def test_a_signal_finishes_the_update_then_says_interrupted_and_the_run_goes_on_to_the_same_bits(
    number, times, unbroken, make_config, tmp_path, same_numbers
):
    config = make_config(tmp_path, *STATEFUL)
    assert run(config, "apply_gradients", 4 + 4 * 2 + 2, number, times) == 0
    summary = read_summary(run_folder(config))
    assert (summary["status"], summary["updates"]) == ("interrupted", 3)
    assert len((run_folder(config) / "metrics.jsonl").read_text().splitlines()) == 1 + 3
    assert (run_folder(config) / "checkpoints/3/state.json").exists()
    assert run(config) == 0
    assert read_summary(run_folder(config))["status"] == "completed"
    for path in ("checkpoints/3", "checkpoints/2"):
        assert not (run_folder(config) / path).exists()
    same_numbers(run_folder(config), unbroken)


def test_the_command_stopped_by_ctrl_c_exits_with_130_and_without_a_traceback(stage_folders, tmp_path):
    paths = [f"{name}.path={path}" for name, path in stage_folders.items() if name != "pretrained"]
    folder = tmp_path / "results/default/a/seed=0"

    def interrupt(process) -> None:
        wait_for(folder / "checkpoints/1")
        process.send_signal(signal.SIGINT)

    done = command_line(
        f"model.path={stage_folders['pretrained']}", *paths, "arm=a", "tracker=none", "cache=cache", "ppo.updates=100000",
        "ppo.batch_size=8", "ppo.minibatch_size=4", "ppo.critic_pretrain=false", "sampling.max_new_tokens=4", "evaluation.prompts=4",
        "checkpoint.every=1", cwd=tmp_path, meanwhile=interrupt,
    )  # fmt: skip
    assert done.returncode == 130
    assert done.stderr.splitlines() == ["default: a seed=0, 100000 updates, results in results/default/a/seed=0"]
    summary = read_summary(folder)
    assert summary["status"] == "interrupted" and summary["updates"] < 100_000
    assert summary["reason"] == f"stopped by a signal after update {summary['updates']}"
    assert (folder / f"checkpoints/{summary['updates']}/state.json").exists()


def test_a_second_ctrl_c_ends_the_run_at_once_and_it_still_goes_on_to_the_same_bits(unbroken, make_config, tmp_path, same_numbers):
    config = make_config(tmp_path, *STATEFUL)
    assert run(config, "apply_gradients", 4 + 4 * 2 + 2, signal.SIGINT, times=2) != 0
    assert read_summary(run_folder(config))["status"] == "interrupted"
    assert len((run_folder(config) / "metrics.jsonl").read_text().splitlines()) == 1 + 2
    assert run(config) == 0
    same_numbers(run_folder(config), unbroken)


def test_a_run_stopped_at_collapse_and_killed_before_its_summary_does_no_further_update(make_config, tmp_path, same_numbers):
    strict = ("collapse.stop=true", "collapse.threshold=0", "collapse.patience=1", "ppo.learning_rate=0.02", "ppo.kl_penalty=false")
    for seed in range(20):  # which seeds make gold fall is a matter of luck with random models
        whole, killed = (make_config(tmp_path / name, *strict, f"seed={seed}") for name in ("whole", "killed"))
        summary = execute(whole)
        if summary["updates"] < 6:
            break
    assert (summary["collapsed"], summary["reason"], summary["collapse_update"]) == (True, "stopped at collapse", summary["updates"])
    assert summary["updates"] in (2, 4)
    assert run(killed, "finish", 1) == -signal.SIGKILL
    assert run(killed) == 0
    same_numbers(run_folder(killed), run_folder(whole))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_a_run_killed_at_random_times_ends_with_the_bits_of_one_never_stopped(seed, unbroken, make_config, tmp_path, same_numbers):
    config, delays = make_config(tmp_path, *STATEFUL), random.Random(seed)
    for _ in range(3):
        process = start(config)
        time.sleep(delays.uniform(0.1, 2.0))
        process.kill()
        process.join()
    assert run(config) == 0
    same_numbers(run_folder(config), unbroken)
