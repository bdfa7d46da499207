"""Sampling responses with a KV cache; rows that have ended leave the batch.

The noise is one uniform number per response and position, drawn before the first token, and a token is the inverse of the
cumulative distribution at that number. A row's tokens therefore depend on its prompt and its noise alone: not on its
neighbours, and not on which rows have already ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from ablate.config import SamplingConfig
from ablate.data.chat import Turns
from ablate.models.attention import attends_in_groups
from ablate.models.forward import log_softmax, vocabulary_head
from ablate.models.kv_cache import reserved_cache

# The sampler's distributions are kept for the KL up to this size. Beyond it they are computed again, as they are in bfloat16, where
# a cached and an uncached pass round differently and the ratio of the first minibatch would not be 1.
DISTRIBUTION_BYTES = 2**29
LOGIT_BYTES = 2**28  # most bytes of the logits [N, V] of one pass without gradients
COMPACT_BELOW = 0.75  # the cache is copied without its ended rows once this share of them is left


@dataclass(frozen=True)
class EncodedPrompts:
    """A batch of prompts, as turns and in the policy's tokens. Those are padded on the left."""

    turns: Sequence[Turns]  # B of them
    tokens: Tensor  # [B, P]
    attention: Tensor  # [B, P] bool: a real token

    def __getitem__(self, rows: slice) -> EncodedPrompts:
        return EncodedPrompts(self.turns[rows], self.tokens[rows], self.attention[rows])


@dataclass(frozen=True)
class Sampled:
    """Responses to left-padded prompts. Shapes as in `ablate.ppo.types.Rollout`."""

    responses: Tensor  # [B, T] pads after the end
    mask: Tensor  # [B, T] bool
    ended: Tensor  # [B] bool
    log_probs: Tensor | None  # [B, T, V] the whole training distribution at real tokens, or null where it would be too large
    prompt_nll: Tensor  # [B] summed NLL of prompt tokens after the first, nats, at temperature 1


@torch.no_grad()
def sample(
    policy: PreTrainedModel,
    prompts: Tensor,
    attention: Tensor,
    noise: Tensor,
    sampling: SamplingConfig,
    eos: int,
    pad: int,
    look_every: int = 1,
) -> Sampled:
    """Sample up to T = noise.shape[1] tokens after each prompt [B, P]; noise [B, T] is uniform on [0, 1).

    look_every: steps between looks at which rows have ended. A look waits for the device; between looks ended rows are computed on.
    """
    rows, steps = noise.shape
    temperature = sampling.training_temperature
    vocabulary = policy.config.vocab_size
    keep = rows * steps * vocabulary * 4 <= DISTRIBUTION_BYTES and not torch.is_autocast_enabled(prompts.device.type)
    responses = torch.full((rows, steps), pad, device=prompts.device)
    mask = torch.zeros((rows, steps), dtype=torch.bool, device=prompts.device)
    distributions = torch.zeros((rows, steps, vocabulary) if keep else (0,), device=prompts.device)
    ended = torch.zeros(rows, dtype=torch.bool, device=prompts.device)
    prompt_nll = torch.zeros(rows, device=prompts.device)

    with torch.inference_mode():  # spares bookkeeping, a tenth of the time; what leaves is made above, since no gradient can pass the rest
        cache = reserved_cache(policy.config, prompts.shape[1] + steps)
        positions = (attention.long().cumsum(1) - 1).clamp(min=0)
        real = torch.cat([attention, attention.new_ones(rows, steps)], dim=1)  # False at the pads of prompts
        hidden = trunk(policy, prompts, attention, positions, cache)
        head = vocabulary_head(policy)
        few = max(1, LOGIT_BYTES // (4 * prompts.shape[1] * vocabulary))  # prompts whose logits are in memory at once
        parts = (hidden[:, :-1].split(few), prompts[:, 1:].split(few), (attention[:, :-1] & attention[:, 1:]).split(few))
        torch.cat([next_token_nll(head(h).float(), tokens, real) for h, tokens, real in zip(*parts, strict=True)], out=prompt_nll)
        hidden, position = hidden[:, -1], positions[:, -1]
        alive = torch.arange(rows, device=prompts.device)  # the batch's rows, in the order the cache holds them
        seen = torch.where(attention, prompts, prompts[:, -1:])  # no pad is a seen token
        if sampling.repetition_penalty == 1:
            seen = seen[:, :0]
        for step in range(steps):
            logits = head(hidden).float()
            log_probs = log_softmax(logits, temperature)
            running = ~ended[alive]
            token = torch.where(running, choose(logits, log_probs, noise[alive, step], sampling, seen), pad)
            responses[alive, step], mask[alive, step] = token, running
            if keep:
                distributions[alive, step] = log_probs
            running &= token != eos
            ended[alive] = ~running
            if step + 1 == steps:
                break
            if step % look_every == look_every - 1:
                left = int(running.sum())
                if left == 0:
                    break
                if left < COMPACT_BELOW * len(alive):
                    cache.batch_select_indices(running.nonzero().squeeze(1))
                    alive, real, position = alive[running], real[running], position[running]
                    token, seen = token[running], seen[running]
            if sampling.repetition_penalty != 1:
                seen = torch.cat([seen, token[:, None]], dim=1)
            position = position + 1
            hidden = trunk(policy, token[:, None], real[:, : prompts.shape[1] + step + 1], position[:, None], cache)[:, -1]
    longest = int(mask.sum(1).max())
    log_probs = distributions[:, :longest] if keep else None
    return Sampled(responses[:, :longest], mask[:, :longest], ended, log_probs, prompt_nll)


def trunk(policy: PreTrainedModel, tokens: Tensor, attention: Tensor, positions: Tensor, cache: Cache) -> Tensor:
    """Hidden states of new tokens [b, t] after what the cache holds; left pads are masked and positions count real tokens.

    One new token sees every real one: its mask [b, 1, 1, k] is what transformers would make of `attention` at each step.
    """
    if tokens.shape[1] == 1 and attends_in_groups(policy):
        attention = attention[:, None, None]
    return policy.base_model(
        input_ids=tokens, attention_mask=attention, position_ids=positions, past_key_values=cache, use_cache=True
    ).last_hidden_state


def choose(logits: Tensor, log_probs: Tensor, noise: Tensor, sampling: SamplingConfig, seen: Tensor) -> Tensor:
    """Next tokens [b] at uniform noise [b]: the training distribution, or the sampler's own where the two are mismatched."""
    if not sampling.match_training_distribution:
        log_probs = sampler_log_probs(logits, sampling, seen)
    cumulative = log_probs.exp().cumsum(-1)
    level = (noise * cumulative[:, -1].clamp(max=1.0))[:, None]
    return torch.searchsorted(cumulative, level, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)


def sampler_log_probs(logits: Tensor, sampling: SamplingConfig, seen: Tensor) -> Tensor:
    """Repetition penalty on seen tokens (Keskar et al. 1909.05858), then temperature, then the nucleus; log-probs [b, V]."""
    if sampling.repetition_penalty != 1:
        score = logits.gather(1, seen)
        score = torch.where(score < 0, score * sampling.repetition_penalty, score / sampling.repetition_penalty)
        logits = logits.scatter(1, seen, score)
    log_probs = log_softmax(logits, sampling.temperature)
    if sampling.top_p < 1:
        ordered, order = log_probs.sort(descending=True)
        before = ordered.exp().cumsum(-1) - ordered.exp()
        ordered = ordered.masked_fill(before >= sampling.top_p, -torch.inf)
        log_probs = torch.empty_like(log_probs).scatter_(1, order, ordered)
        log_probs = log_probs.log_softmax(-1)
    return log_probs


def next_token_nll(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """Σ_t −log π(tokens_t) over the True entries of each row: logits [B, L, V], tokens and mask [B, L] → [B]."""
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view(tokens.shape)
    return torch.where(mask, nll, 0.0).sum(1)


def concat_prompt_response(prompts: EncodedPrompts, sampled: Sampled) -> tuple[Tensor, Tensor]:
    """Tokens and attention [B, P+T] of prompts and their responses."""
    return torch.cat([prompts.tokens, sampled.responses], dim=1), torch.cat([prompts.attention, sampled.mask], dim=1)
