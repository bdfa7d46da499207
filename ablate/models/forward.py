"""Forward passes: logits, values and scores of the real tokens.

A pass takes the padded batch of a Rollout and packs the real tokens of its rows into one long row, in groups of nearly equal
length (`ablate.models.attention`). Positions start anew at 0 with each sequence, and attention stays within it. Few pads are
computed. The vocabulary head runs only on the positions that are asked for.

tokens and attention are [B, L], and attention is True at real tokens. mask [B, T] is True at the N real tokens of the responses, which
are the last T columns. H is the hidden width, V the vocabulary.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from ablate.models.attention import attends_in_groups, length_groups
from ablate.models.folder import SCORE_SHIFT

VALUE_MEAN, VALUE_SCALE = "value_mean", "value_scale"  # in the config.json of a critic under ppo.value_norm


def hidden_states(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    """Last hidden states [B, L, H] of rows [B, L] padded at the right, where causal attention needs no mask."""
    return model.base_model(input_ids=tokens, use_cache=False).last_hidden_state


def packed_states(model: PreTrainedModel, tokens: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
    """(last hidden states [S, H] of the real tokens of a batch [B, L] as S packed positions, first position [B] of each row).

    The state of the i-th real token of row r is at first[r] + i. A model that does not attend in groups of equal length
    (`ablate.models.attention`) is run once per group.
    """
    starts, slots = length_groups(attention.sum(1).tolist())
    first = torch.tensor(starts, device=tokens.device)
    positions = attention.cumsum(1) - 1
    places = (first[:, None] + positions)[attention]
    packed, restarts = (tokens.new_zeros(sum(number * width for number, width in slots)) for _ in range(2))
    packed[places], restarts[places] = tokens[attention], positions[attention]
    if attends_in_groups(model):
        # transformers passes a mask of four dimensions on as it is. This one is empty, so that an attention
        # that reads it fails instead of looking across slots.
        none = torch.empty(1, 1, 0, 0, device=tokens.device)
        hidden = model.base_model(
            input_ids=packed[None], position_ids=restarts[None], attention_mask=none, slots=slots, use_cache=False
        ).last_hidden_state
        return hidden.squeeze(0), first
    groups = packed.split([number * width for number, width in slots])
    hidden = [hidden_states(model, group.view(slot)) for group, slot in zip(groups, slots, strict=True)]
    return torch.cat([states.flatten(0, 1) for states in hidden]), first


def response_positions(attention: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(row [N], index [N] among its real tokens) of the state that each real response token was drawn from, in row-major order of mask."""
    rows, steps = mask.nonzero(as_tuple=True)
    positions = attention.cumsum(1) - 1
    return rows, positions[rows, attention.shape[1] - mask.shape[1] + steps] - 1


def cached_states(policy: PreTrainedModel, tokens: Tensor, attention: Tensor, positions: Tensor, cache: Cache) -> Tensor:
    """Hidden states [b, t, H] of new tokens [b, t] that follow those in the cache.

    attention: [b, k] bool over cached and new tokens, False at pads. positions: [b, t], counted without pads.
    A single new token attends to all real ones, so `attention` as [b, 1, 1, k] is its mask. transformers would build the same one.
    """
    if tokens.shape[1] == 1 and attends_in_groups(policy):
        attention = attention[:, None, None]
    return policy.base_model(
        input_ids=tokens, attention_mask=attention, position_ids=positions, past_key_values=cache, use_cache=True
    ).last_hidden_state


class RescalingHead(nn.Module):
    """softcap(scale · head(h)) [V] of hidden states h [H], where softcap(z) = c · tanh(z / c), or z without a cap c."""

    def __init__(self, head: nn.Module, scale: float, cap: float | None):
        super().__init__()
        self.head, self.scale, self.cap = head, scale, cap

    def forward(self, hidden: Tensor) -> Tensor:
        logits = self.head(hidden) * self.scale
        return logits if self.cap is None else self.cap * (logits / self.cap).tanh()


def vocabulary_head(policy: PreTrainedModel) -> nn.Module:
    """The layer [H] → [V] from a hidden state of a causal language model to its logits.

    It rescales them as the architecture does: Cohere, Granite and Falcon-H1 by a factor, Gemma 2 by a softcap. Whether it gives the
    logits of the model's own `forward` is checked at load (`ablate.models.agreement`).
    """
    head, config = policy.get_output_embeddings(), policy.config.get_text_config()
    assert head is not None  # every causal language model has one
    factors, divisors = (
        [getattr(config, name, None) or 1.0 for name in names] for names in (("logit_scale", "lm_head_multiplier"), ("logits_scaling",))
    )
    scale, cap = prod(factors) / prod(divisors), getattr(config, "final_logit_softcapping", None)
    return head if scale == 1 and cap is None else RescalingHead(head, scale, cap)


def response_logits(policy: PreTrainedModel, tokens: Tensor, attention: Tensor, mask: Tensor) -> Tensor:
    """Logits [N, V], float32, that the N real response tokens were drawn from, in row-major order of mask."""
    hidden, first = packed_states(policy, tokens, attention)
    rows, index = response_positions(attention, mask)
    return vocabulary_head(policy)(hidden[first[rows] + index]).float()


def log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """log π [N, V] of the training distribution, from logits [N, V]. Float32, since bfloat16 lacks the digits that ratios and KL need."""
    return (logits.float() / temperature).log_softmax(-1)


def entropy_of(log_probs: Tensor) -> Tensor:
    """−Σ_v π log π [N], nats, from log π [N, V], of which −inf counts 0."""
    return -torch.where(log_probs > -torch.inf, log_probs.exp() * log_probs, 0.0).sum(-1)


def unflatten(flat: Tensor, mask: Tensor) -> Tensor:
    """Values [N] of the real response tokens → [B, T], 0 at pads."""
    return torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(mask, flat)


def value_units(critic: PreTrainedModel) -> tuple[float, float]:
    """(μ, σ) of a critic whose values are μ + σ times what its head says; (0, 1) of any other."""
    return float(getattr(critic.config, VALUE_MEAN, 0.0)), float(getattr(critic.config, VALUE_SCALE, 1.0))


def score_shift(scorer: PreTrainedModel) -> float:
    """The constant that is subtracted from every score of this model."""
    return float(getattr(scorer.config, SCORE_SHIFT, 0.0))


def response_values(critic: PreTrainedModel, tokens: Tensor, attention: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(the critic's values [B, T] of the states that response tokens were drawn from, 0 at pads; its values [B] after the last token)."""
    hidden, first = packed_states(critic, tokens, attention)
    values = critic.score(hidden).float().squeeze(-1) - score_shift(critic)
    if hasattr(critic.config, VALUE_SCALE):
        mean, scale = value_units(critic)
        values = mean + scale * values
    rows, index = response_positions(attention, mask)
    return unflatten(values[first[rows] + index], mask), values[first + attention.sum(1) - 1]


def sequence_score(reward: PreTrainedModel, tokens: Tensor, attention: Tensor) -> Tensor:
    """The reward model's score [B], float32: its head at the last real token, less the score shift."""
    hidden, first = packed_states(reward, tokens, attention)
    return reward.score(hidden[first + attention.sum(1) - 1]).float().squeeze(-1) - score_shift(reward)
