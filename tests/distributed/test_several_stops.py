"""Several processes stop together, whatever stops one of them, and any number of processes goes on from there."""

from __future__ import annotations

import signal

import pytest
from several import Cue, run, said
from test_several_processes import difference

from ablate.runs.folder import run_folder
from ablate.runs.summary import read_summary
from ablate.session import execute

pytestmark = pytest.mark.slow
STATEFUL = ["ppo.kl_adaptive=true", "ppo.kl_horizon=50", "ppo.warmup_ratio=0.5", "ppo.lr_schedule=inverse_sqrt", "ppo.epochs=2"]


@pytest.fixture
def unbroken(tiny_config, tmp_path):
    """The folder of a run of one process that nobody stopped."""
    config = tiny_config(*STATEFUL, f"results={tmp_path / 'unbroken'}")
    execute(config)
    return run_folder(config)


def test_a_run_goes_on_from_one_process_to_two_in_shards_and_back(unbroken, tiny_config):
    """One process, two by DDP, two by FSDP, one again; each is told to stop in its first update, the last one goes to the end.

    Before the first update of all, pre-training the critic and the evaluation each estimate targets once.
    """
    config = tiny_config(*STATEFUL)
    folder = run_folder(config)
    for update, (processes, sharded) in enumerate([(1, False), (2, False), (2, True)], 1):
        assert run(config, processes, sharded, Cue(processes - 1, "estimate_targets", 3 if update == 1 else 1)) == [0] * processes
        summary = read_summary(folder)
        assert (summary["status"], summary["updates"]) == ("interrupted", update), said(config)
    assert run(config, 1) == [0]
    assert difference(unbroken, folder) < 1e-5


@pytest.mark.parametrize("sharded", [False, True], ids=["DDP", "FSDP"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_others_with_one_sentence_and_the_run_goes_on(rank, sharded, unbroken, tiny_config):
    """By SIGKILL in the third update, between two gradient steps."""
    config = tiny_config(*STATEFUL)
    codes = run(config, 2, sharded, Cue(rank, "apply_gradients", 2 + 2 * 4 + 2, signal.SIGKILL))
    assert codes == ([-signal.SIGKILL, 1] if rank == 0 else [1, -signal.SIGKILL])
    assert said(config).count("error: another process of this run has ended") == 1, said(config)
    assert "Traceback" not in said(config)
    summary = read_summary(run_folder(config))
    assert summary is None if rank == 0 else summary["status"] == "failed"
    assert run(config, 2, sharded) == [0, 0], said(config)
    assert difference(unbroken, run_folder(config)) < 1e-5


def test_a_full_disk_of_the_main_process_ends_all_with_one_sentence(tiny_config):
    config = tiny_config()
    assert run(config, 2, cue=Cue(0, limit=20_000)) == [1, 1]
    assert said(config).count("error: cannot write the checkpoint") == 1, said(config)
    assert "Traceback" not in said(config)
    assert read_summary(run_folder(config))["status"] == "failed"


def test_a_run_that_diverges_ends_so_in_all_processes(tiny_config):
    config = tiny_config("ppo.learning_rate=1e30", "ppo.grad_clip=false")
    assert run(config, 2) == [0, 0], said(config)
    assert read_summary(run_folder(config))["status"] == "diverged"


@pytest.mark.parametrize(
    ("overrides", "sharded", "settings", "named"),
    [
        (["ppo.minibatch_size=1"], False, {}, "ppo.minibatch_size=1"),
        (["evaluation.prompts=2", "ppo.batch_size=3", "ppo.minibatch_size=3"], False, {}, "evaluation.prompts=2"),
        (["ppo.batch_size=4", "ppo.minibatch_size=4"], True, {}, "multiple of 3"),
        (["ppo.batch_size=6", "ppo.minibatch_size=6", "model.lora_rank=2"], True, {}, "model.lora_rank"),
        (["ppo.batch_size=6", "ppo.minibatch_size=6"], True, {"FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params"),
        (["ppo.batch_size=6", "ppo.minibatch_size=6"], False, {"ACCELERATE_MIXED_PRECISION": "bf16"}, "precision=bf16"),
        (["ppo.batch_size=6", "ppo.minibatch_size=6"], False, {"ACCELERATE_USE_DEEPSPEED": "true"}, "DEEPSPEED"),
    ],
)
def test_a_refusal_is_said_once(overrides, sharded, settings, named, tiny_config):
    """By three processes, before there is a run folder."""
    config = tiny_config(*overrides)
    assert run(config, 3, sharded, **settings) == [1, 1, 1], said(config)
    assert said(config).count("error: ") == 1
    assert named in said(config)
    assert not run_folder(config).exists()
