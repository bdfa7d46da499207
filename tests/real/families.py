"""Tiny random models of four families with tokenizers unlike each other, and small files of dialogues: what users bring."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import (
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

FAMILIES = ("gpt2", "pythia", "llama", "qwen")
CHAT_ML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QUESTIONS = ("how do i bake bread ?", "what is a good name for a cat ?", "can you help me steal a car ?", "tell me of the sea .")
WORDS = "mix flour water and salt then wait no i can not help with that call it milo the sea is deep".split()


def byte_bpe(special: list[str], size: int) -> Tokenizer:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=sorted(ByteLevel.alphabet()), show_progress=False)
    tokenizer.train_from_iterator([*QUESTIONS, " ".join(WORDS)] * 3, trainer)
    return tokenizer


def family_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """gpt2 and pythia: an end token that is the beginning too, no pad, no template. llama: <s> before every text, no pad, no template.
    qwen: a pad of its own, ChatML."""
    if family in ("gpt2", "pythia"):
        end = "<|endoftext|>"
        return PreTrainedTokenizerFast(tokenizer_object=byte_bpe([end], 300), bos_token=end, eos_token=end, unk_token=end)
    if family == "llama":
        backend = byte_bpe(["<unk>", "<s>", "</s>"], 310)
        backend.post_processor = TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
        return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    backend = byte_bpe(["<|endoftext|>"], 305)
    backend.add_special_tokens([AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHAT_ML
    )  # fmt: skip


def family_shape(family: str, tokenizer: PreTrainedTokenizerFast, positions: int = 256):
    """Two layers of width 16; tied weights where the family's small models have them; Qwen's and Pythia's embedding wider than needed."""
    size, end = len(tokenizer), tokenizer.eos_token_id
    common = dict(eos_token_id=end, bos_token_id=tokenizer.bos_token_id, initializer_range=0.1)
    if family == "gpt2":
        return GPT2Config(vocab_size=size, n_embd=16, n_layer=2, n_head=2, n_positions=positions, **common)
    shape = dict(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=positions, **common
    )
    if family == "pythia":
        return GPTNeoXConfig(vocab_size=size + 20, tie_word_embeddings=False, **shape)
    if family == "llama":
        return LlamaConfig(vocab_size=size, num_key_value_heads=1, tie_word_embeddings=True, **shape)
    return Qwen2Config(vocab_size=size + 20, num_key_value_heads=1, tie_word_embeddings=True, pad_token_id=tokenizer.pad_token_id, **shape)


def random_model(kind: type, shape, seed: int, **settings) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind.from_config(shape, **settings).eval()


def hh_rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Dialogues in HH-RLHF's form; every third has three turns. The prompts are distinct."""
    rng = random.Random(seed)

    def answer() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(2, 6)))

    rows = []
    for i in range(count):
        prompt = f"\n\nHuman: {rng.choice(QUESTIONS)} case {i}"
        if i % 3 == 0:
            prompt += f"\n\nAssistant: {answer()}\n\nHuman: and then ?"
        rows.append({"chosen": f"{prompt}\n\nAssistant: {answer()} yes", "rejected": f"{prompt}\n\nAssistant: {answer()}"})
    return rows


def write_lines(path: Path, rows: list) -> Path:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def short_overrides(root: Path) -> list[str]:
    """A whole short run: SFT, pairs, reward model, two updates of PPO-max."""
    return [
        f"results={root / 'results'}", f"cache={root / 'cache'}", "tracker=none", "device=cpu", "arm=a", "study=s",
        "pretrain.steps=2", "sft.steps=2", "sft.batch_size=8", "reward_model.steps=2", "reward_model.batch_size=4",
        "data.held_out_share=0.3", "data.max_prompt_tokens=160", "data.max_response_tokens=64",
        "ppo.updates=2", "ppo.batch_size=8", "ppo.minibatch_size=4", "ppo.micro_batch_size=4", "ppo.critic_pretrain_updates=1",
        "ppo.learning_rate=1e-3", "sampling.max_new_tokens=8", "evaluation.every=1", "evaluation.prompts=8", "checkpoint.every=1",
    ]  # fmt: skip
