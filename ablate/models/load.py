"""Policy, reference, reward model and critic: loading, initialisation, and the forward passes over them.

A forward pass takes the padded batch of a Rollout and packs the real tokens of its rows into slots of one long row
(`ablate.models.attention`): positions start anew at 0 with each sequence, and attention stays within it. Few pads are computed. The
vocabulary head runs only on the positions that are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MethodType

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging as transformers_logging

from ablate.data.chat import Turns, prepare
from ablate.errors import UserError
from ablate.models.attention import slots_for, takes_slots, use_slots
from ablate.models.folder import SCORE_SHIFT, adopt_head, check_causal, check_folder, linear_score, one_line, read_shape
from ablate.models.linear import quicken

# A new score head is expected here, and a bar for a load of milliseconds is noise; `load` reports what is truly missing.
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


@dataclass(frozen=True)
class Models:
    """What PPO trains and what it is held against. Modules only: no settings, no optimiser.

    Where `text_reward` gives the scores, `reward` is the critic: its scores of the policy's tokens are not used.
    """

    policy: PreTrainedModel
    reference: PreTrainedModel
    reward: PreTrainedModel
    critic: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    text_reward: Callable[[Sequence[Turns], Sequence[str], Sequence[bool]], Tensor] | None = None  # a reward model of another tokenizer


def load_tokenizer(folder: str | Path, template: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face folder, with a pad and a chat template (`ablate.data.chat.prepare`). Raises UserError."""
    check_folder(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers, JSON and transformers each raise their own kinds
        raise UserError(f"cannot load the tokenizer in {folder} ({one_line(error)}): restore the folder or name another") from error
    return prepare(tokenizer, folder, template)


def load_policy(folder: str | Path, device: torch.device) -> PreTrainedModel:
    """A causal language model in float32 and evaluation mode (dropout never runs: pitfall 1). Raises UserError."""
    model = load(AutoModelForCausalLM, folder, device)
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(model.config, name, None) not in (None, 1, 1.0):
            raise UserError(f"{folder} rescales its logits ({name}), which the vocabulary head here does not: use another architecture")
    return model


def load_scorer(folder: str | Path, device: torch.device, new_head: bool = False) -> PreTrainedModel:
    """A sequence classifier with one label: a reward model or a critic, its head as stored. Raises UserError.

    new_head: any causal model's trunk, under a head that the caller fills.
    """
    model = load(AutoModelForSequenceClassification, folder, device, num_labels=1)
    if not linear_score(model):
        raise UserError(f"{folder} has no linear `score` head: a reward model must be a decoder with a one-label score")
    if not new_head:
        adopt_head(model, folder)
    return model


def load(kind: type, folder: str | Path, device: torch.device, **settings) -> PreTrainedModel:
    """Load safetensors weights without remote code; a missing or corrupt folder is a UserError that names it."""
    read_shape(folder)
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
    keep_end_trainable(model)
    check_causal(model.eval(), folder)
    return quicken(use_slots(model)).to(device)


def keep_end_trainable(model: PreTrainedModel) -> None:
    """Where the config pads with the end token, let that token's embedding learn: nn.Embedding gives its padding index no gradient."""
    embedding, end = model.get_input_embeddings(), model.config.get_text_config().eos_token_id
    if embedding.padding_idx is not None and embedding.padding_idx in (end if isinstance(end, list) else [end]):
        embedding.padding_idx = None


def new_critic(init: str, sft: str | Path, reward: str | Path, device: torch.device, generator: torch.Generator) -> PreTrainedModel:
    """The critic's starting weights (Secrets of RLHF I, §5.3.4).

    reward: the reward model, head included; sft: the SFT trunk with a new head; random: a new trunk and a new head. New
    weights are drawn on the CPU from `generator`, so that they belong to the run's seed on every device.
    """
    if init == "reward":
        return load_scorer(reward, device)
    critic = load_scorer(sft, torch.device("cpu"), new_head=True)
    if init == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator.initial_seed())
            critic = quicken(use_slots(AutoModelForSequenceClassification.from_config(critic.config)).eval())
    nn.init.normal_(critic.score.weight, std=critic.config.initializer_range, generator=generator)
    return critic.to(device)


def freeze(model: PreTrainedModel) -> PreTrainedModel:
    return model.requires_grad_(False)


def checkpoint_gradients(model: PreTrainedModel) -> None:
    """In a pass with gradients, keep only the input of each layer and compute the layer again in the backward pass.

    transformers' own switch acts in training mode alone, which models here never enter (dropout: pitfall 1). Raises UserError.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(f"model.gradient_checkpointing: {type(model).__name__} has no layers that can be computed again: set it to false")
    for layer in layers:
        layer.forward = MethodType(recomputed, layer)  # bound, so that a copy of the model gets its own


def recomputed(layer: GradientCheckpointingLayer, *inputs, **named):
    """The layer's forward, its activations dropped where a gradient will be asked for."""
    forward = MethodType(type(layer).forward, layer)
    if not torch.is_grad_enabled():
        return forward(*inputs, **named)
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False, **named)


def hidden_states(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    """Last hidden states [B, L, H] of right-padded rows; pads come last, so causal attention needs no mask."""
    return model.base_model(input_ids=tokens, use_cache=False).last_hidden_state


def packed_states(model: PreTrainedModel, tokens: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
    """Last hidden states [S, H] of the real tokens of a padded batch [B, L] as S packed positions, and each row's first position [B].

    The state of the i-th real token of row r is at first[r] + i. A model that does not attend by slots (`ablate.models.attention`) is run once
    for each group of them.
    """
    starts, slots = slots_for(attention.sum(1).tolist())
    first = torch.tensor(starts, device=tokens.device)
    positions = attention.cumsum(1) - 1
    places = (first[:, None] + positions)[attention]
    packed, restarts = (tokens.new_zeros(sum(number * width for number, width in slots)) for _ in range(2))
    packed[places], restarts[places] = tokens[attention], positions[attention]
    if takes_slots(model):
        # transformers passes a mask of four dimensions on as it is. This one is empty: an attention that reads it fails, and
        # does not look across slots.
        none = torch.empty(1, 1, 0, 0, device=tokens.device)
        hidden = model.base_model(
            input_ids=packed[None], position_ids=restarts[None], attention_mask=none, slots=slots, use_cache=False
        ).last_hidden_state
        return hidden.squeeze(0), first
    groups = packed.split([number * width for number, width in slots])
    hidden = [hidden_states(model, group.view(slot)) for group, slot in zip(groups, slots, strict=True)]
    return torch.cat([states.flatten(0, 1) for states in hidden]), first


def response_positions(attention: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(row, index among the row's real tokens) of the state each real response token was chosen from; N = mask.sum(), row-major."""
    rows, steps = mask.nonzero(as_tuple=True)
    positions = attention.cumsum(1) - 1
    return rows, positions[rows, attention.shape[1] - mask.shape[1] + steps] - 1


def response_logits(policy: PreTrainedModel, tokens: Tensor, attention: Tensor, mask: Tensor) -> Tensor:
    """Logits [N, V], float32, that the N real response tokens were drawn from, in row-major order of mask [B, T]."""
    hidden, first = packed_states(policy, tokens, attention)
    rows, index = response_positions(attention, mask)
    return policy.get_output_embeddings()(hidden[first[rows] + index]).float()


def log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """log π [N, V] of the training distribution, float32 (pitfall 12)."""
    return (logits.float() / temperature).log_softmax(-1)


def entropy_of(log_probs: Tensor) -> Tensor:
    """−Σ_v π log π [N], nats; −inf log-probs count 0."""
    return -torch.where(log_probs > -torch.inf, log_probs.exp() * log_probs, 0.0).sum(-1)


def spread(flat: Tensor, mask: Tensor) -> Tensor:
    """Values of the N real tokens [N] → [B, T], 0 at pads."""
    return torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(mask, flat)


def score_shift(scorer: PreTrainedModel) -> float:
    return float(getattr(scorer.config, SCORE_SHIFT, 0.0))


def response_values(critic: PreTrainedModel, tokens: Tensor, attention: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Critic's values [B, T] of the states response tokens were chosen from (0 at pads), and [B] after the last token."""
    hidden, first = packed_states(critic, tokens, attention)
    values = critic.score(hidden).float().squeeze(-1) - score_shift(critic)
    rows, index = response_positions(attention, mask)
    return spread(values[first[rows] + index], mask), values[first + attention.sum(1) - 1]


def sequence_score(reward: PreTrainedModel, tokens: Tensor, attention: Tensor) -> Tensor:
    """Reward model's score [B], float32: the head at the last real token, less the mean over SFT samples (pitfall 19)."""
    hidden, first = packed_states(reward, tokens, attention)
    return reward.score(hidden[first + attention.sum(1) - 1]).float().squeeze(-1) - score_shift(reward)
