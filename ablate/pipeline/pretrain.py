"""A causal language model from nothing, on the corpus: the `pretrained` policy, and what SFT starts from."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ablate.config import Config
from ablate.data.source import open_source
from ablate.pipeline.supervised import batches, fit, language_model_loss, pad_right
from ablate.streams import numpy_stream, torch_stream


def pretrain(config: Config, folder: Path, device: torch.device) -> None:
    """Train on corpus sentences, each closed by the end token, and write a Hugging Face folder."""
    source = open_source(config)
    tokenizer = source.tokenizer()
    seed, stage = config.pipeline_seed, config.pretrain
    sentences = source.corpus(stage.examples, numpy_stream(seed, "corpus"))
    rows = [ids + [tokenizer.eos_token_id] for ids in tokenizer(list(sentences), add_special_tokens=False)["input_ids"]]
    model = new_model(config, len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id).to(device)
    order = batches(len(rows), stage.batch_size, numpy_stream(seed, "pretrain order"))

    def loss_of(step: int):
        tokens = pad_right([rows[i] for i in next(order)], tokenizer.pad_token_id, device)
        loss = language_model_loss(model, model.get_output_embeddings(), tokens, tokens != tokenizer.pad_token_id)
        return loss, {}

    fit(list(model.parameters()), loss_of, stage.steps, stage.learning_rate, "pretrain", folder / "training.jsonl")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def new_model(config: Config, vocabulary: int, pad: int, end: int) -> LlamaForCausalLM:
    """A Llama-shaped model with weights drawn from the pipeline's seed."""
    shape = config.model
    settings = LlamaConfig(
        vocab_size=vocabulary, hidden_size=shape.hidden_size, intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.heads,
        max_position_embeddings=512, tie_word_embeddings=False, pad_token_id=pad, eos_token_id=end, bos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_stream(config.pipeline_seed, "initial weights").initial_seed())
        return LlamaForCausalLM(settings).eval()
