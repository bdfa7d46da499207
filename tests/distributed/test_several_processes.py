"""One run in several processes has the numbers of one process."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from several import run, said
from transformers import AutoModelForCausalLM

from ablate.runs.folder import run_folder
from ablate.runs.summary import read_summary
from ablate.session import execute

APART = ("time/", "responses_per_second", "wall_seconds", "git_commit")
STREAMS = ("metrics.jsonl", "scores.jsonl", "samples.jsonl")
ROUNDED = 1.1e-3  # of the numbers of tokens.jsonl, which have four digits: a unit of the last, and what a float adds


def rows_of(folder: Path, stream: str) -> list[dict]:
    return [json.loads(line) for line in (folder / stream).read_text().splitlines()]


def largest_difference(one: object, other: object, where: str = "") -> float:
    """Greatest |a − b| / max(1, |a|) of two numbers, or of all within two records; what is not a number must be equal."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        return max((largest_difference(one[key], other[key], f"{where}/{key}") for key in one if not key.startswith(APART)), default=0.0)
    if isinstance(one, list):
        assert len(one) == len(other), where
        return max((largest_difference(a, b, where) for a, b in zip(one, other, strict=True)), default=0.0)
    if isinstance(one, float) and isinstance(other, float):
        return 0.0 if math.isinf(one) and one == other else abs(one - other) / max(1.0, abs(one))
    assert one == other, (where, one, other)
    return 0.0


def difference(one: Path, other: Path) -> float:
    """Greatest difference of the numbers of two run folders. Answers, lengths and the verdict must be equal, tokens but for rounding."""
    assert largest_difference(*(rows_of(folder, "tokens.jsonl") for folder in (one, other))) <= ROUNDED
    records = [[rows_of(folder, name) for name in STREAMS] + [read_summary(folder)] for folder in (one, other)]
    return largest_difference(*records)


def weights(folder: Path, update: int) -> dict[str, torch.Tensor]:
    """Policy, critic and Adam's moments of a checkpoint."""
    files = sorted((folder / "checkpoints" / str(update)).rglob("*.safetensors"))
    return {f"{path.parent.name}/{name}": tensor for path in files for name, tensor in load_file(path).items()}


def greatest_change(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


VANILLA = ["ppo.kl_penalty=false", "ppo.reward_norm=false", "ppo.advantage_norm=false", "ppo.critic_pretrain=false", "ppo.grad_clip=false"]
LARGE = ["ppo.batch_size=128", "ppo.minibatch_size=64", "ppo.micro_batch_size=64"]  # beyond ablate.models.linear.LEAST_ROWS
RECOMPUTED = ["model.gradient_checkpointing=true", "ppo.micro_batch_size=1"]
BESIDE = ["ppo.reference_update=ema", "ppo.reference_update_every=1", "sampling.staleness=1", "ppo.mismatch_correction=tis"]
LOSS = ["ppo.loss_aggregation=sequence", "ppo.overlong_filter=true", "ppo.kl_loss=true", "ppo.kl_loss_estimator=full", "ppo.epochs=2",
        "ppo.target_kl=0.5", "ppo.ratio_guard=5", "ppo.value_norm=true", "ppo.micro_batch_size=1"]  # fmt: skip
SCORE = ["ppo.reward_shape=sigmoid", "ppo.reward_shape_references=2", "ppo.length_penalty=linear", "ppo.chi2_penalty=0.01",
         "ppo.entropy_bonus=true", "ppo.entropy_adaptive=1.0"]  # fmt: skip
ENTROPY = ["ppo.entropy_bonus=true", "ppo.entropy_coef=0.5", "ppo.entropy_clip=0.1", "ppo.policy_kl=true", "ppo.micro_batch_size=1"]
GROUP = ["ppo.samples_per_prompt=8", "ppo.micro_batch_size=1"]  # the answers to the one prompt of a batch lie in both processes


@pytest.mark.parametrize(
    ("overrides", "sharded"),
    [
        pytest.param([], False, id="ppo_max, DDP"),
        pytest.param(ENTROPY, True, id="entropy clip and PPO-penalty, FSDP"),
        pytest.param([], True, id="ppo_max, FSDP", marks=pytest.mark.slow),
        pytest.param(ENTROPY, False, id="entropy clip and PPO-penalty, DDP", marks=pytest.mark.slow),
        pytest.param(VANILLA, False, id="vanilla, DDP", marks=pytest.mark.slow),
        pytest.param(VANILLA, True, id="vanilla, FSDP", marks=pytest.mark.slow),
        pytest.param([*VANILLA, "ppo.ptx=true"], False, id="ptx, DDP", marks=pytest.mark.slow),
        pytest.param([*VANILLA, "ppo.ptx=true"], True, id="ptx, FSDP", marks=pytest.mark.slow),
        pytest.param(RECOMPUTED, True, id="gradient checkpointing, FSDP", marks=pytest.mark.slow),
        pytest.param(LARGE, True, id="large passes, FSDP", marks=pytest.mark.slow),
        pytest.param(["model.lora_rank=2"], False, id="LoRA, DDP", marks=pytest.mark.slow),
        pytest.param(BESIDE, False, id="moving reference and stale sampler, DDP", marks=pytest.mark.slow),
        pytest.param(BESIDE, True, id="moving reference and stale sampler, FSDP", marks=pytest.mark.slow),
        pytest.param(LOSS, True, id="choices of the loss, FSDP", marks=pytest.mark.slow),
        pytest.param(SCORE, False, id="choices of the score, DDP", marks=pytest.mark.slow),
        pytest.param([*GROUP, "ppo.advantage_estimator=rloo"], False, id="rloo, DDP", marks=pytest.mark.slow),
        pytest.param([*GROUP, "ppo.advantage_estimator=grpo"], True, id="grpo, FSDP", marks=pytest.mark.slow),
        pytest.param(["ppo.advantage_estimator=remax"], False, id="remax, DDP", marks=pytest.mark.slow),
        pytest.param(["ppo.advantage_estimator=reinforce", "model.lora_rank=2"], False, id="reinforce, LoRA, DDP", marks=pytest.mark.slow),
    ],
)
def test_two_processes_have_the_numbers_of_one(overrides, sharded, tiny_config, tmp_path):
    alone = tiny_config(*overrides, f"results={tmp_path / 'alone'}")
    execute(alone)
    both = tiny_config(*overrides, f"results={tmp_path / 'both'}")
    assert run(both, 2, sharded) == [0, 0], said(both)
    found = difference(run_folder(alone), run_folder(both))
    moved = greatest_change(*(weights(run_folder(config), 4) for config in (alone, both)))
    print(f"largest difference: {found:.1e} in what was logged, {moved:.1e} in weights and moments")
    assert found < 1e-5
    assert moved < 1e-5


@pytest.mark.slow
def test_three_processes_with_unequal_shares_have_the_numbers_of_one(tiny_config, tmp_path):
    """Minibatches of 5 and 8 held-out prompts over 3 processes, micro-batches of one row: no two counts are equal."""
    overrides = ["ppo.batch_size=10", "ppo.minibatch_size=5", "ppo.micro_batch_size=1"]
    alone, three = (tiny_config(*overrides, f"results={tmp_path / name}") for name in ("alone", "three"))
    execute(alone)
    assert run(three, 3) == [0, 0, 0], said(three)
    assert difference(run_folder(alone), run_folder(three)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_tied_embeddings_stay_one_parameter_in_shards(architecture, tiny_config, tied_policy, tmp_path):
    """Also where the layers are not Llama's: a GPT-2, and a Llama whose head is its embedding; two processes, FSDP."""
    tied = tied_policy(architecture)
    overrides = [f"sft.path={tied}", f"model.path={tied}"]
    alone, both = (tiny_config(*overrides, f"results={tmp_path / name}") for name in ("alone", "both"))
    execute(alone)
    assert run(both, 2, sharded=True) == [0, 0], said(both)
    assert difference(run_folder(alone), run_folder(both)) < 1e-5
    policy = AutoModelForCausalLM.from_pretrained(run_folder(both) / "checkpoints" / "4" / "policy")
    assert policy.get_input_embeddings().weight is policy.get_output_embeddings().weight
    start = AutoModelForCausalLM.from_pretrained(tied).get_input_embeddings().weight
    assert not torch.equal(policy.get_input_embeddings().weight, start), "the embedding must have learned"
