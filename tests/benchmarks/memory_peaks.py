"""Predicted against measured peaks of memory.

    python tests/benchmarks/memory_peaks.py                          every case, on the CPU
    python tests/benchmarks/memory_peaks.py "8M Llama" --device cuda

Real phases of one PPO update on random weights. On the CPU torch's profiler reports every allocation and release of its
allocator, in the order they happen; a phase's peak is what was alive before it plus the highest running sum within it. That is exact,
where the resident set of a process also holds what the C library has not given back. On a GPU torch's allocator keeps the same two
numbers itself. What lies there before the models do, such as the workspaces of cuBLAS, is not counted.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GPT2Config, GPTNeoXConfig, LlamaConfig, PretrainedConfig

from ablate.config import Config, ModelConfig, PPOConfig, PPOSettings, SamplingConfig
from ablate.memory.estimate import Run, estimate
from ablate.memory.shapes import SHAPES, Shape
from ablate.models.load import freeze, load_policy, load_scorer
from ablate.models.recompute import checkpoint_gradients
from ablate.ppo.models import Models
from ablate.ppo.rollout import score_responses
from ablate.ppo.sampling import EncodedPrompts, sample
from ablate.ppo.scoring import TokenScorer
from ablate.ppo.shaping import estimate_targets, initial_state, shape_rewards
from ablate.ppo.update import new_optimizer, update
from ablate.runs.checkpoint import load_adapted
from ablate.session import autocast
from ablate.system.seeding import torch_generator

os.environ.setdefault("KINETO_LOG_LEVEL", "5")
CPU = torch.device("cpu")
SMALL = Shape("llama", 8192, 256, 6, 4, 4, 512)
MIDDLE = Shape("gpt_neox", 16384, 448, 8, 7, 7, 1792)
GROUPED = Shape("llama", 32000, 512, 10, 8, 2, 1536, tied=True)
GPT2 = SHAPES["GPT-2 124M"]
SMOLLM2 = SHAPES["SmolLM2 135M"]
LONG = Run(SMOLLM2, SMOLLM2, prompt=64, response=128, batch=8, minibatch=4, micro=4)
CASES = {
    "8M Llama": Run(SMALL, SMALL, prompt=32, response=48, batch=32, minibatch=16, micro=8),
    "8M Llama, one micro-batch": Run(SMALL, SMALL, prompt=32, response=48, batch=16, minibatch=16, micro=16),
    "8M Llama, checkpointing": Run(SMALL, SMALL, prompt=64, response=96, batch=16, minibatch=16, micro=16, checkpointing=True),
    "8M Llama, LoRA": Run(SMALL, SMALL, prompt=32, response=48, batch=16, minibatch=16, micro=16, lora_rank=8),
    "8M Llama, bf16": Run(SMALL, SMALL, prompt=32, response=48, batch=16, minibatch=16, micro=16, precision="bf16"),
    "8M Llama, frozen bf16": Run(SMALL, SMALL, prompt=32, response=48, batch=16, minibatch=16, micro=16, frozen="bf16"),
    "34M GPT-NeoX": Run(MIDDLE, MIDDLE, prompt=48, response=48, batch=16, minibatch=8, micro=4),
    "47M Llama, grouped": Run(GROUPED, GROUPED, prompt=32, response=64, batch=16, minibatch=8, micro=4),
    "124M GPT-2": Run(GPT2, GPT2, prompt=32, response=32, batch=8, minibatch=4, micro=4),
    "124M GPT-2, LoRA, checkpointing": Run(
        GPT2, GPT2, prompt=64, response=64, batch=16, minibatch=16, micro=8, lora_rank=16, checkpointing=True
    ),
    "135M SmolLM2": LONG,
    "135M SmolLM2, checkpointing": replace(LONG, checkpointing=True),
    "135M SmolLM2, LoRA": replace(LONG, lora_rank=8),
    "135M SmolLM2, bf16": replace(LONG, precision="bf16"),
    "135M SmolLM2, 256 new tokens": replace(LONG, response=256, minibatch=2, micro=2),
}  # fmt: skip


def config_of(shape: Shape, **settings) -> PretrainedConfig:
    """A transformers config of this shape."""
    common = dict(vocab_size=shape.vocabulary, pad_token_id=0, bos_token_id=None, eos_token_id=1) | settings
    common["tie_word_embeddings"] = shape.tied
    if shape.family == "gpt2":
        return GPT2Config(
            n_embd=shape.hidden, n_layer=shape.layers, n_head=shape.heads, n_inner=shape.inner, n_positions=shape.positions, **common
        )
    kind = {"llama": LlamaConfig, "gpt_neox": GPTNeoXConfig}[shape.family]
    if shape.family == "llama":
        common["num_key_value_heads"] = shape.kv_heads
    return kind(
        hidden_size=shape.hidden, intermediate_size=shape.inner, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        max_position_embeddings=2048, **common,
    )  # fmt: skip


def random_models(run: Run, folder: Path, device: torch.device) -> Models:
    """Policy, reference, critic and reward model as a run loads them, from folders of random weights."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config_of(run.policy)).save_pretrained(folder / "policy")
    AutoModelForSequenceClassification.from_config(config_of(run.reward, num_labels=1)).save_pretrained(folder / "reward")
    reference, reward = (
        freeze(load(folder / name, device), run.frozen) for name, load in (("policy", load_policy), ("reward", load_scorer))
    )
    if run.lora_rank:
        policy, critic = load_adapted(None, reference, reward, Config(model=ModelConfig(lora_rank=run.lora_rank)))
    else:
        policy, critic = load_policy(folder / "policy", device), load_scorer(folder / "reward", device)
    for model in (policy, critic) if run.checkpointing else ():
        checkpoint_gradients(model)
    return Models(policy, reference, TokenScorer(reward), critic, tokenizer=None)


def alive(*tensors: torch.Tensor) -> int:
    """Bytes of the storages of these tensors, each once."""
    return sum({s.data_ptr(): s.nbytes() for s in (tensor.untyped_storage() for tensor in tensors)}.values())


def profiled(device: torch.device, work: Callable) -> tuple[object, int, int]:
    """(result, highest running sum, sum at the end) of the bytes that `work` allocates and releases."""
    gc.collect()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        result = work()
        return result, torch.cuda.max_memory_allocated() - before, torch.cuda.memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        result = work()
    events = sorted((e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns())
    now = highest = 0
    for event in events:
        now += event.nbytes()
        highest = max(highest, now)
    return result, highest, now


def plainly(work: Callable) -> tuple[object, int, int]:
    """As `profiled`, unseen."""
    return work(), 0, 0


def measured(run: Run, device: torch.device = CPU) -> dict[str, float]:
    """Peak of every phase of the second update, bytes: the first makes Adam's moments, and the workspaces of a GPU's libraries."""
    with tempfile.TemporaryDirectory() as folder, autocast(Config(precision=run.precision, device=device.type)):
        models = random_models(run, Path(folder), device)
        optimizer = new_optimizer(models, ppo_of(run))
        one_update(run, models, optimizer, plainly)
        return one_update(run, models, optimizer, partial(profiled, device))


def ppo_of(run: Run) -> PPOConfig:
    return PPOConfig(batch_size=run.batch, minibatch_size=run.minibatch, micro_batch_size=run.micro, updates=2,
                     entropy_bonus=run.entropy_bonus)  # fmt: skip


def one_update(run: Run, models: Models, optimizer: torch.optim.Optimizer, seen: Callable) -> dict[str, float]:
    """Sample, measure and update once, each under `seen`; no response ends before its last token."""
    settings = PPOSettings(ppo_of(run), SamplingConfig(max_new_tokens=run.response))
    ppo, device = settings.ppo, models.policy.device
    tokens = torch.randint(2, run.policy.vocabulary, (run.batch, run.prompt), generator=torch_generator(0, "prompts")).to(device)
    attention, noise = torch.ones_like(tokens, dtype=torch.bool), torch.rand(run.batch, run.response, device=device)
    prompts = EncodedPrompts([""] * run.batch, tokens, attention)
    states = [entry for state in optimizer.state.values() for entry in state.values()]
    weights = [t for m in (models.policy, models.reference, models.scorer.model, models.critic) for t in (*m.parameters(), *m.buffers())]
    before, peaks = alive(*weights, *states), {}
    sampled, high, left = seen(lambda: sample(models.policy, tokens, attention, noise, settings.sampling, eos=-1, pad=0))
    peaks["rollout"], before = before + high, before + left
    rollout, high, left = seen(lambda: score_responses(models, prompts, sampled, settings))
    peaks["measure"], before = before + high, before + left
    rewards, _ = shape_rewards(rollout, settings, initial_state(ppo))
    targets, order = estimate_targets(rollout, rewards, ppo), torch_generator(0, "minibatches")
    _, high, _ = seen(lambda: update(models, optimizer, rollout, targets, settings, order, 0, lambda step: None))
    return peaks | {"update": before + high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)}")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    print("| run | parameters | phase | predicted MB | measured MB | predicted / measured |\n|---|---|---|---|---|---|")
    for name in options.names or CASES:
        run = CASES[name]
        predicted, peaks = estimate(run), measured(run, torch.device(options.device))
        for phase, peak in peaks.items():
            guess, size = predicted.peak(phase), run.policy.parameters
            print(f"| {name} | {size / 1e6:.0f} M | {phase} | {guess / 1e6:.0f} | {peak / 1e6:.0f} | {guess / peak:.2f} |", flush=True)


if __name__ == "__main__":
    main()
