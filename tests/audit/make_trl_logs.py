"""Make the logs of TRL 1.12 that `test_audit.py` reads: a few steps of three trainers on a random tiny model, on the CPU, offline.

    python tests/audit/make_trl_logs.py FOLDER     with an interpreter that has trl==1.12.0

Writes FOLDER/trl_grpo.json, trl_rloo.json and trl_ppo.json, each the `trainer_state.json` of that trainer's last checkpoint as TRL wrote
it. The reward counts one word; the reward model of PPO is random. Those beside this file were made with transformers 5.24; made again,
they differ in the clocks `step_time` and `eps` alone.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.experimental.ppo import PPOConfig, PPOTrainer

WORDS, PROMPTS, STEPS = 24, 64, 12
SHAPE = LlamaConfig(
    vocab_size=WORDS, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_labels=1,
    max_position_embeddings=64, pad_token_id=0, eos_token_id=1, bos_token_id=None, initializer_range=0.3,
)  # fmt: skip
COMMON = dict(
    per_device_train_batch_size=16, learning_rate=3e-3, logging_steps=1, report_to="none", use_cpu=True, bf16=False, seed=0,
    save_strategy="steps", save_steps=STEPS, gradient_checkpointing=False, disable_tqdm=True,
)  # fmt: skip


def words() -> PreTrainedTokenizerFast:
    plain = Tokenizer(WordLevel({word: index for index, word in enumerate(["<pad>", "<eos>", *(f"w{i}" for i in range(WORDS - 2))])}))
    plain.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>", padding_side="left")


def count(completions: list[str], **kwargs) -> list[float]:
    return [float(text.split().count("w3")) for text in completions]


def grouped(trainer: type, config: type, output: str) -> None:
    """GRPO or RLOO: four responses per prompt, a KL coefficient of 0.05."""
    prompts = Dataset.from_dict({"prompt": [f"w{i % 20} w{(i * 7) % 20}" for i in range(PROMPTS)]})
    settings = config(output_dir=output, max_steps=STEPS, num_generations=4, max_completion_length=12, beta=0.05, **COMMON)
    policy = f"{output}/policy"  # these trainers load the reference from the policy's folder
    LlamaForCausalLM(SHAPE).save_pretrained(policy)
    trainer(model=policy, reward_funcs=count, args=settings, train_dataset=prompts, processing_class=words()).train()


def ppo(output: str) -> None:
    tokenizer = words()
    policy, reference = LlamaForCausalLM(SHAPE), LlamaForCausalLM(SHAPE)
    reference.load_state_dict(policy.state_dict())
    reward, value = LlamaForSequenceClassification(SHAPE), LlamaForSequenceClassification(SHAPE)
    prompts = Dataset.from_dict({"input_ids": [[2 + i % 20, 2 + (i * 7) % 20] for i in range(PROMPTS)]})
    settings = PPOConfig(
        output_dir=output, total_episodes=16 * STEPS, num_mini_batches=1, num_ppo_epochs=2, local_rollout_forward_batch_size=16,
        response_length=12, stop_token="eos", num_sample_generations=0, kl_coef=0.05, **COMMON,
    )  # fmt: skip
    PPOTrainer(
        args=settings, processing_class=tokenizer, model=policy, ref_model=reference, reward_model=reward, value_model=value,
        train_dataset=prompts,
    ).train()  # fmt: skip


def main() -> None:
    target = Path(sys.argv[1])
    runs = {
        "trl_grpo": lambda output: grouped(GRPOTrainer, GRPOConfig, output),
        "trl_rloo": lambda output: grouped(RLOOTrainer, RLOOConfig, output),
        "trl_ppo": ppo,
    }
    for name, run in runs.items():
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as output:
            run(output)
            (state,) = Path(output).glob("checkpoint-*/trainer_state.json")
            shutil.copy(state, target / f"{name}.json")


if __name__ == "__main__":
    main()
