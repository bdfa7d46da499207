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
from transformers import PreTrainedModel

from ablate.config import SamplingConfig
from ablate.data.chat import Turns
from ablate.models.forward import cached_states, log_softmax, vocabulary_head
from ablate.models.kv_cache import reserved_cache

# The largest distributions [B, T, V], in bytes, that the sampler keeps for the KL; larger ones are computed again. In bfloat16 they are
# always computed again: passes with and without a cache round differently there, so the first minibatch's ratio would not be 1.
DISTRIBUTION_BYTES = 2**29
LOGIT_BYTES = 2**28  # most bytes of the logits [N, V] of one pass without gradients
COMPACT_BELOW = 0.75  # the ended rows are removed from the cache once a smaller share than this is running


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
    """Responses to prompts that are padded on the left. The letters of shapes are those of `ablate.ppo.types`."""

    responses: Tensor  # [B, T] tokens, pads after the end
    mask: Tensor  # [B, T] bool: a token the policy chose, its end token included
    ended: Tensor  # [B] bool: the response closed with the end token
    log_probs: Tensor | None  # [B, T, V] the whole training distribution at the tokens of the mask; None where it is computed again
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
    greedy: bool = False,
) -> Sampled:
    """Sample a response of at most T tokens to each prompt, up to its end token.

    prompts: tokens [B, P], padded on the left. attention: [B, P] bool, False at pads. noise: [B, T], uniform on [0, 1).
    greedy: take the most likely token everywhere, whatever the noise.
    look_every: steps between two checks of which rows have ended. A check waits for the device, and until the next one ended rows
    are still computed. The rows of the result are cut to the longest response.
    """
    rows, steps = noise.shape
    temperature = sampling.training_temperature
    vocabulary = policy.config.get_text_config().vocab_size
    keep = rows * steps * vocabulary * 4 <= DISTRIBUTION_BYTES and not torch.is_autocast_enabled(prompts.device.type)
    responses = torch.full((rows, steps), pad, device=prompts.device)
    mask = torch.zeros((rows, steps), dtype=torch.bool, device=prompts.device)
    distributions = torch.zeros((rows, steps, vocabulary) if keep else (0,), device=prompts.device)
    ended = torch.zeros(rows, dtype=torch.bool, device=prompts.device)
    prompt_nll = torch.zeros(rows, device=prompts.device)

    with torch.inference_mode():  # a tenth faster than no_grad; results are made above, since tensors made here allow no gradient
        cache = reserved_cache(policy.config, prompts.shape[1] + steps)
        positions = (attention.long().cumsum(1) - 1).clamp(min=0)
        real = torch.cat([attention, attention.new_ones(rows, steps)], dim=1)  # False at the pads of prompts
        hidden = cached_states(policy, prompts, attention, positions, cache)
        head = vocabulary_head(policy)
        few = max(1, LOGIT_BYTES // (4 * prompts.shape[1] * vocabulary))  # prompts whose logits [few, P, V] are in memory at once
        parts = (hidden[:, :-1].split(few), prompts[:, 1:].split(few), (attention[:, :-1] & attention[:, 1:]).split(few))
        torch.cat([next_token_nll(head(h).float(), tokens, real) for h, tokens, real in zip(*parts, strict=True)], out=prompt_nll)
        hidden, position = hidden[:, -1], positions[:, -1]
        alive = torch.arange(rows, device=prompts.device)  # [b] index in the batch of each row of the cache
        seen = torch.where(attention, prompts, prompts[:, -1:])  # [b, n] tokens to penalise; the last prompt token stands for the pads
        if sampling.repetition_penalty == 1:
            seen = seen[:, :0]
        for step in range(steps):
            logits = head(hidden).float()
            log_probs = log_softmax(logits, temperature)
            running = ~ended[alive]
            chosen = log_probs.argmax(-1) if greedy else choose(logits, log_probs, noise[alive, step], sampling, seen)
            token = torch.where(running, chosen, pad)
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
            hidden = cached_states(policy, token[:, None], real[:, : prompts.shape[1] + step + 1], position[:, None], cache)[:, -1]
    longest = int(mask.sum(1).max())
    log_probs = distributions[:, :longest] if keep else None
    return Sampled(responses[:, :longest], mask[:, :longest], ended, log_probs, prompt_nll)


def choose(logits: Tensor, log_probs: Tensor, noise: Tensor, sampling: SamplingConfig, seen: Tensor) -> Tensor:
    """The next tokens [b], each the inverse of the cumulative distribution at uniform noise [b].

    log_probs: [b, V], the training distribution. Without `match_training_distribution` it is the sampler's own, from logits [b, V]
    and the seen tokens [b, n].
    """
    if not sampling.match_training_distribution:
        log_probs = sampler_log_probs(logits, sampling, seen)
    cumulative = log_probs.exp().cumsum(-1)
    level = (noise * cumulative[:, -1].clamp(max=1.0))[:, None]
    return torch.searchsorted(cumulative, level, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)


def sampler_log_probs(logits: Tensor, sampling: SamplingConfig, seen: Tensor) -> Tensor:
    """The sampler's log-probs [b, V] of logits [b, V], after repetition penalty, temperature and nucleus, in this order.

    The penalty r makes z / r of a logit z ≥ 0 of a seen token [b, n], and z · r of z < 0 (Keskar et al. 1909.05858). The nucleus is
    the fewest most likely tokens with a total probability of at least top_p (Holtzman et al. 1904.09751).
    """
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


def concat_prompt_response(prompts: Tensor, attention: Tensor, sampled: Sampled) -> tuple[Tensor, Tensor]:
    """Tokens and attention [B, P+T] of prompts, whose tokens and attention are [B, P], followed by their responses."""
    return torch.cat([prompts, sampled.responses], dim=1), torch.cat([attention, sampled.mask], dim=1)
