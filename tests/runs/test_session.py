"""A run that cannot go on says why in a sentence, and a signal while it is prepared ends it at once and leaves nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from processes import command_line

from ablate.config import MOST
from ablate.errors import UserError
from ablate.runs.folder import run_folder
from ablate.runs.summary import read_summary
from ablate.session import NO_MEMORY, execute, prepare

SMALL = (
    "study=s", "arm=a", "results=results", "cache=cache", "tracker=none", "device=cpu", "ppo.updates=1", "pretrain.examples=50",
    "pretrain.steps=3", "sft.examples=50", "sft.steps=3", "reward_model.steps=3", "preferences.pairs=20", "preferences.held_out_pairs=10",
)  # fmt: skip


def of_world(make_config, folder: Path, *overrides: str):
    """The settings of small stages that are built from the world, none of which is given as a folder."""
    own = [override for override in SMALL if not override.startswith(("results=", "cache="))]
    nothing = ("model.path=null", "sft.path=null", "preferences.path=null", "reward_model.path=null")
    return make_config(folder, *nothing, *own, *overrides)


@pytest.mark.parametrize(("stage", "said"), [("pretrain", "pretrain"), ("sft", "SFT"), ("reward_model", "reward model")])
def test_a_stage_that_diverges_is_one_sentence(make_config, tmp_path, stage, said):
    config = of_world(make_config, tmp_path, f"{stage}.learning_rate=1e9")
    remedy = "lower this stage's rate, pretrain., sft. or reward_model.learning_rate"
    with pytest.raises(UserError, match=f"^{said}: the loss of step [12] is not finite: {remedy}$"):
        execute(config)
    assert not run_folder(config).exists() and not list((tmp_path / "cache").glob(f"*{stage}-*"))


def test_too_little_memory_for_a_stage_is_one_sentence(make_config, tmp_path):
    config = of_world(make_config, tmp_path, "model.hidden_size=4000000", "model.heads=4")
    with pytest.raises(UserError) as refused:
        prepare(config)
    assert str(refused.value) == NO_MEMORY


def test_too_little_memory_for_ppo_is_one_sentence_which_the_summary_keeps(make_config, tmp_path):
    """The noise of 2^16 held-out answers of 2^20 tokens takes 256 GiB."""
    config = make_config(tmp_path, f"sampling.max_new_tokens={MOST}", f"evaluation.prompts={2**16}")
    with pytest.raises(UserError) as refused:
        execute(config)
    summary = read_summary(run_folder(config))
    assert str(refused.value) == NO_MEMORY and (summary["status"], summary["reason"]) == ("failed", NO_MEMORY)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_stages_are_built_ends_the_process_with_a_sentence_and_nothing_half_written(number, tmp_path):
    seconds = []

    def stop(process: subprocess.Popen) -> None:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("cache/.sft-*.partial/training.jsonl")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        seconds.append(time.monotonic())
        os.kill(process.pid, number)
        if number == signal.SIGTERM:
            os.kill(process.pid, number)  # as Slurm does
        process.wait(30)
        seconds.append(time.monotonic())

    done = command_line(*SMALL, "sft.steps=100000", cwd=tmp_path, meanwhile=stop)
    assert (done.returncode, "Traceback" in done.stderr) == (128 + number, False)
    first, *progress, sentence = done.stderr.splitlines()
    assert first.startswith("s: ") and ", results in results/s/" in first
    assert sentence == "the preparation of this run was interrupted: the same command goes on from what is done"
    assert all(line.startswith("pretrain: ") for line in progress)
    assert seconds[1] - seconds[0] < 3
    assert [path.name.partition("-")[0] for path in (tmp_path / "cache").iterdir()] == ["pretrain"]
    assert not (tmp_path / "results" / "s").exists()
