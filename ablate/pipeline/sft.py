"""Supervised fine-tuning on demonstrations: the reference policy."""

from __future__ import annotations

from pathlib import Path

import torch

from ablate.config import Config
from ablate.data.chat import encode_dialogues
from ablate.data.source import open_source
from ablate.models.folder import check_length
from ablate.models.forward import vocabulary_head
from ablate.models.load import load_policy, load_tokenizer
from ablate.pipeline.supervised import batches, fit, language_model_loss, pad_right, response_targets
from ablate.system.seeding import numpy_generator


def sft(config: Config, pretrained: Path, folder: Path, device: torch.device) -> None:
    """Minimise the NLL of demonstrated responses, end token included. The prompt's tokens do not count.

    Writes a Hugging Face folder and training.jsonl.
    """
    tokenizer, model = load_tokenizer(pretrained), load_policy(pretrained, device)
    seed, stage = config.pipeline_seed, config.sft
    demonstrations = open_source(config, tokenizer).demonstrations(stage.examples, numpy_generator(seed, "demonstrations"))
    prompts, responses = [prompt.turns for prompt, _ in demonstrations], [response for _, response in demonstrations]
    rows = encode_dialogues(tokenizer, prompts, responses, [True] * len(demonstrations))
    check_length(max(len(ids) for ids, _ in rows), model.config, "a demonstration", "name a model with a longer context in model.path")
    order = batches(len(rows), stage.batch_size, numpy_generator(seed, "sft order"))

    def loss_of(step: int):
        chosen = [rows[i] for i in next(order)]
        tokens = pad_right([ids for ids, _ in chosen], tokenizer.pad_token_id, device)
        return language_model_loss(model, vocabulary_head(model), tokens, response_targets(chosen, tokens)), {}

    fit(list(model.parameters()), loss_of, stage.steps, stage.learning_rate, "SFT", folder / "training.jsonl")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
