"""TRL 1.12's side of the benchmark. Run by `bench.py` with the interpreter of TRL's own environment; knows nothing of `ablate`.

    side_trl.py WORK [--forward-batch N]     the last line printed is one JSON object

What TRL is given, so that it does the same work in its best reasonable way:

- the same safetensors folders in float32; policy and reference from SFT, reward and value model from the reward model;
- the same prompts, update by update: a dataset of token ids, read in order instead of shuffled; padded on the left to the batch;
- a batch of 128 as `per_device_train_batch_size=128` and `num_mini_batches=4`, `gradient_accumulation_steps=1`: four optimiser
  steps on 32 responses each. (TRL hands gradient_accumulation_steps to accelerate, which would then skip optimiser steps.)
- no gradient checkpointing (TRL's default has it), bf16 (its default) only where the work file says so, fused AdamW, scaled
  dot-product attention. TRL's own bf16 is autocast in the passes of the update alone; here sampling and measuring have it too,
  which is faster on a GPU;
- `local_rollout_forward_batch_size=128` on the CPU: as fast as 64 here and faster than 32, since one call decodes the whole batch; on a
  GPU the whole batch;
- no sample generations, no saving, no reporting, no progress bar; log-probs of the sampler are reused by TRL itself;
- stop token eos, no missing-EOS penalty, temperature 1 (TRL adds 1e-7), top-p 1, top-k off, k1 KL penalty of 0.1.

TRL has no gradient clip in PPO and measures fewer monitors: no full-vocabulary KL, no perplexities, no distinct-n.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer


class Stopwatch(TrainerCallback):
    """Notes wall and CPU seconds at the end of every update, after a GPU was waited for, and the metrics TRL logs."""

    def __init__(self, device: str):
        self.device = device
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.rows: list[dict] = []

    def note(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())

    def on_train_begin(self, args, state, control, **kwargs):
        self.note()

    def on_step_end(self, args, state, control, **kwargs):
        self.note()

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.rows.append(dict(logs))


def new_trainer(work: dict, output: str, callbacks: list[TrainerCallback], **settings) -> PPOTrainer:
    """A trainer of the folders and prompts in `work`; `settings` go over the benchmark's PPOConfig."""
    tokenizer = AutoTokenizer.from_pretrained(work["sft"], padding_side="left")
    policy, reference = (AutoModelForCausalLM.from_pretrained(work["sft"], dtype=torch.float32) for _ in range(2))
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(work["reward_model"], num_labels=1, dtype=torch.float32) for _ in range(2)
    )
    prompts = [ids for batch in work["prompts"] for ids in batch]
    config = dict(
        output_dir=output, total_episodes=len(prompts), per_device_train_batch_size=work["batch"], gradient_accumulation_steps=1,
        num_mini_batches=work["batch"] // work["minibatch"], num_ppo_epochs=1, local_rollout_forward_batch_size=work["batch"],
        response_length=work["max_new_tokens"], stop_token="eos", missing_eos_penalty=None, temperature=1.0, kl_coef=0.1,
        vf_coef=1.0, learning_rate=0.0, lr_scheduler_type="constant", optim="adamw_torch_fused", seed=work["seed"],
        num_sample_generations=0, report_to="none", save_strategy="no", eval_strategy="no", logging_steps=1, disable_tqdm=True,
        use_cpu=work["device"] == "cpu", bf16=work["precision"] == "bf16", gradient_checkpointing=False,
    )  # fmt: skip
    dataset = Dataset.from_dict({"input_ids": prompts})
    trainer = PPOTrainer(
        args=PPOConfig(**(config | settings)), processing_class=tokenizer, model=policy, ref_model=reference, reward_model=reward,
        value_model=value, train_dataset=dataset, callbacks=callbacks,
    )  # fmt: skip
    trainer.dataloader = DataLoader(dataset, batch_size=work["batch"], collate_fn=trainer.data_collator)
    return trainer


def keep_samples(samples: list[tuple[torch.Tensor, int]]) -> None:
    """Let TRL's sampler also leave its tokens in `samples`, with the width of the prompts; nothing is computed in the measured time."""
    generate = ppo_trainer.batch_generation

    def batch_generation(model, queries, *arguments):
        tokens, logits = generate(model, queries, *arguments)
        samples.append((tokens, queries.shape[1]))
        return tokens, logits

    ppo_trainer.batch_generation = batch_generation


def run(work: dict, forward_batch: int | None) -> dict:
    """Train and report what `side_ablate.run` reports."""
    torch.set_num_threads(1)
    forward_batch = forward_batch or (work["batch"] if work["device"] == "cuda" else 128)
    clock, samples = Stopwatch(work["device"]), []
    keep_samples(samples)
    with tempfile.TemporaryDirectory() as output:
        trainer = new_trainer(work, output, [clock], local_rollout_forward_batch_size=forward_batch)
        with torch.autocast(work["device"], dtype=torch.bfloat16, enabled=work["precision"] == "bf16", cache_enabled=False):
            trainer.train()
    on_gpu = work["device"] == "cuda"
    memory = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    first, last = work["skip"], work["skip"] + work["updates"]
    rows = [row for row in clock.rows if "objective/scores" in row][first:last]
    pad = trainer.processing_class.pad_token_id
    lengths = [float((tokens[:, width:] != pad).sum(1).float().mean()) for tokens, width in samples[first:last]]
    return {
        "wall": [b - a for a, b in zip(clock.wall[first:last], clock.wall[first + 1 : last + 1], strict=True)],
        "cpu": [b - a for a, b in zip(clock.cpu[first:last], clock.cpu[first + 1 : last + 1], strict=True)],
        "tokens": sum(lengths) / len(lengths),
        "score": sum(row["objective/scores"] for row in rows) / len(rows),
        "memory_mb": memory,
        "batch": work["batch"],
        "code": str(Path(ppo_trainer.__file__).parent),
        "check": check(trainer, work),
    }


@torch.no_grad()
def check(trainer: PPOTrainer, work: dict) -> dict[str, list[float]]:
    """Log-probs of some prompts under the policy, and score and value of each, by TRL's own forward passes."""
    tokenizer: PreTrainedTokenizerBase = trainer.processing_class
    pad = tokenizer.pad_token_id
    tokens = trainer.data_collator([{"input_ids": ids} for ids in work["prompts"][0][: len(work["check"])]])["input_ids"]
    tokens = tokens.to(trainer.policy_model.device)
    mask = (tokens[:, 1:] != pad) & (tokens[:, :-1] != pad)
    logits = ppo_trainer.forward(trainer.policy_model, tokens, pad).logits[:, :-1]
    logprob = ppo_trainer.selective_log_softmax(logits, tokens[:, 1:])
    width = tokens.shape[1] - 1
    return {
        "logprob": torch.where(mask, logprob, 0.0).sum(1).tolist(),
        "score": ppo_trainer.get_reward(trainer.reward_model, tokens, pad, width)[1].tolist(),
        "value": ppo_trainer.get_reward(trainer.value_model, tokens, pad, width)[1].tolist(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work")
    parser.add_argument("--forward-batch", type=int, help="responses that are sampled at a time; 128, or all on a GPU, if not given")
    options = parser.parse_args()
    print(json.dumps(run(json.loads(Path(options.work).read_text()), options.forward_batch)))
