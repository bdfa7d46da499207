"""A causal language model with new weights, trained on the corpus. SFT starts from it, and so does ppo.policy_init=pretrained."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ablate.config import Config
from ablate.data.chat import encode_texts
from ablate.data.source import open_source
from ablate.models.folder import context_length
from ablate.models.forward import vocabulary_head
from ablate.models.linear import use_onednn
from ablate.pipeline.supervised import batches, fit, language_model_loss, pad_right, response_targets
from ablate.system.seeding import numpy_generator, torch_generator

POSITIONS = 512  # of a new model, at least


def pretrain(config: Config, folder: Path, device: torch.device) -> None:
    """Train on corpus texts, each closed by the end token and cut to the model's positions.

    Writes a Hugging Face folder and training.jsonl.
    """
    source = open_source(config)
    tokenizer = source.tokenizer()
    seed, stage = config.pipeline_seed, config.pretrain
    sentences = source.corpus(stage.examples, numpy_generator(seed, "corpus"))
    model = new_model(config, len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id).to(device)
    rows = encode_texts(tokenizer, sentences, context_length(model.config))
    order = batches(len(rows), stage.batch_size, numpy_generator(seed, "pretrain order"))

    def loss_of(step: int):
        chosen = [rows[i] for i in next(order)]
        tokens = pad_right(chosen, tokenizer.pad_token_id, device)
        targets = response_targets([(row, 0) for row in chosen], tokens)
        return language_model_loss(model, vocabulary_head(model), tokens, targets), {}

    fit(list(model.parameters()), loss_of, stage.steps, stage.learning_rate, "pretrain", folder / "training.jsonl")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def longest_dialogue(config: Config) -> int:
    """Tokens of the longest prompt and the longest answer together, of people or of the policy, that the settings allow for human data."""
    return config.data.max_prompt_tokens + max(config.data.max_response_tokens, config.sampling.max_new_tokens)


def new_model(config: Config, vocabulary: int, pad: int, end: int) -> LlamaForCausalLM:
    """A Llama-shaped model with weights drawn from the pipeline's seed, and positions for the longest dialogue of human data."""
    shape = config.model
    positions = max(POSITIONS, longest_dialogue(config) if config.data.source != "world" else 0)
    settings = LlamaConfig(
        vocab_size=vocabulary, hidden_size=shape.hidden_size, intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.heads,
        max_position_embeddings=positions, tie_word_embeddings=False, pad_token_id=pad, eos_token_id=end, bos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_generator(config.pipeline_seed, "initial weights").initial_seed())
        return use_onednn(LlamaForCausalLM(settings).eval())
