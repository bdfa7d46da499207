"""Policy, reference, reward model and critic: loading and initialisation. Only safetensors are read, and no remote code runs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from ablate.data.chat import prepare
from ablate.errors import UserError
from ablate.models.agreement import use_checked_passes
from ablate.models.attention import attends_in_groups, use_grouped_attention
from ablate.models.folder import (
    TOKENIZER_FILES,
    check_classifier,
    check_folder,
    check_sizes,
    check_surplus,
    has_tokenizer,
    linear_score,
    load_score_head,
    read_shape,
)
from ablate.models.frozen import hold_in_bfloat16
from ablate.models.linear import use_onednn
from ablate.models.weights import one_line

# A new score head is expected here, and a bar for a load of milliseconds is noise; `load` reports what is truly missing.
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


def load_tokenizer(folder: str | Path, template: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face folder, made ready by `ablate.data.chat.prepare`. Raises UserError where it cannot be loaded."""
    check_folder(folder)
    if not has_tokenizer(folder):
        raise UserError(f"{folder} holds no tokenizer ({', '.join(TOKENIZER_FILES)}): put the model's tokenizer files into it")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer("")  # settings that transformers does not check fail here
    except Exception as error:  # tokenizers, JSON and transformers each raise their own kinds
        raise UserError(f"cannot load the tokenizer in {folder} ({one_line(error)}): restore the folder or name another") from error
    if len(tokenizer) <= len(tokenizer.get_added_vocab()):
        raise UserError(f"the tokenizer in {folder} has no vocabulary but its special tokens: put the model's tokenizer files into it")
    return prepare(tokenizer, folder, template)


def load_policy(folder: str | Path, device: torch.device) -> PreTrainedModel:
    """A causal language model in float32 and evaluation mode: dropout never runs, since sampled and scored log-probs must agree.

    Raises UserError where it cannot be loaded, and for an architecture whose passes here differ from its own `forward`.
    """
    model = load(AutoModelForCausalLM, folder, device)
    check_finite(model, folder)
    return use_onednn(use_checked_passes(model, folder))


def load_scorer(folder: str | Path, device: torch.device, new_head: bool = False) -> PreTrainedModel:
    """A sequence classifier with one label, for a reward model or a critic, with its head as stored.

    new_head: take any causal model's trunk, under a head that the caller fills. Raises UserError where there is no linear `score` head.
    """
    model = load(AutoModelForSequenceClassification, folder, device, num_labels=1)
    if not linear_score(model):
        raise UserError(f"{folder} has no linear `score` head: a reward model must be a decoder with a one-label score")
    if not new_head:
        load_score_head(model, folder)
    check_finite(model.base_model if new_head else model, folder)
    return use_onednn(use_checked_passes(model, folder))


def check_finite(model: PreTrainedModel, folder: str | Path) -> None:
    """Raises UserError for a weight that is NaN or infinite: every answer and score would be so too."""
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight.sum()) and not torch.isfinite(weight).all():  # a sum takes a tenth of the time
            raise UserError(f"the weights in {folder} are not finite ({name}): restore the folder or name another")


def load(kind: type, folder: str | Path, device: torch.device, **settings) -> PreTrainedModel:
    """A model from safetensors, without remote code. Raises UserError for a folder that is missing or damaged. kind: its Auto class."""
    shape = read_shape(folder)
    if kind is AutoModelForSequenceClassification:
        check_classifier(shape, folder)
    check_sizes(kind, shape, folder)
    try:
        model, report = kind.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, trust_remote_code=False,
            output_loading_info=True, ignore_mismatched_sizes=True, **settings,
        )  # fmt: skip
    except Exception as error:  # safetensors, JSON and transformers each raise their own kinds
        raise UserError(f"cannot load the model in {folder} ({one_line(error)}): restore the folder or name another") from error
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("score."))
    if missing:
        raise UserError(f"the weights in {folder} lack {missing[0]} and {len(missing) - 1} more: restore the folder or name another")
    mismatched = sorted(str(key) for key, *_ in report["mismatched_keys"] if not key.startswith("score."))
    if mismatched:
        raise UserError(f"{mismatched[0]} in {folder} has another shape than config.json says: restore the folder or name another")
    check_surplus(model, report["unexpected_keys"], folder)
    unmask_eos_embedding(model)
    return model.eval().to(device)


def unmask_eos_embedding(model: PreTrainedModel) -> None:
    """Let the end token's embedding learn where it is also the padding index, to which nn.Embedding gives no gradient."""
    embedding, end = model.get_input_embeddings(), getattr(model.config.get_text_config(), "eos_token_id", None)
    if embedding.padding_idx is not None and embedding.padding_idx in (end if isinstance(end, list) else [end]):
        embedding.padding_idx = None


def new_critic(init: str, sft: str | Path, reward: str | Path, device: torch.device, generator: torch.Generator) -> PreTrainedModel:
    """The critic's starting weights (Secrets of RLHF I, §5.3.4).

    init: `reward` is the reward model, head included; `sft` the SFT trunk with a new head; `random` a new trunk and a new head. New
    weights are drawn on the CPU from `generator`, so that a seed gives the same ones on every device.
    """
    if init == "reward":
        return load_scorer(reward, device)
    critic = load_scorer(sft, torch.device("cpu"), new_head=True)
    if init == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator.initial_seed())
            new = AutoModelForSequenceClassification.from_config(critic.config).eval()
            critic = use_onednn(use_grouped_attention(new) if attends_in_groups(critic) else new)
    nn.init.normal_(critic.score.weight, std=critic.config.initializer_range, generator=generator)
    return critic.to(device)


def freeze(model: PreTrainedModel, dtype: str = "fp32") -> PreTrainedModel:
    """The model without gradients, its matrices held in `dtype`: fp32 or bf16 (`ablate.models.frozen`)."""
    model.requires_grad_(False)
    if dtype == "bf16":
        hold_in_bfloat16(model)
    return model
