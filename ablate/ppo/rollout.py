"""Prompts → Rollout: sample, then one pass of reference, reward model and critic over the same tokens.

Passes run over groups of rows of similar length, as many as memory bears; results return to the rows' order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import fields

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ablate.config import PPOSettings, SamplingConfig
from ablate.data.chat import Turns, encode_turns
from ablate.models.forward import entropy_of, log_softmax, response_logits, response_values, unflatten
from ablate.ppo.bugs import dropout_on
from ablate.ppo.models import Models
from ablate.ppo.sampling import LOGIT_BYTES, EncodedPrompts, Sampled, concat_prompt_response, sample
from ablate.ppo.types import NOT_PER_TOKEN, Rollout
from ablate.system.distributed import all_gather_object, gather_rows, world_size

PASS_ROWS = 128  # most rows of one forward pass without gradients
LOOK_EVERY = 8  # steps of sampling between looks at which rows have ended, on a GPU


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Turns], device: torch.device) -> EncodedPrompts:
    """Prompts → left-padded tokens and attention [B, P], in the tokenizer's chat template."""
    rows = encode_turns(tokenizer, prompts)
    width, pad = max(map(len, rows)), tokenizer.pad_token_id
    tokens = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    attention = torch.arange(width) >= width - torch.tensor([len(row) for row in rows])[:, None]
    return EncodedPrompts(prompts, tokens.to(device), attention.to(device))


def decode_responses(tokenizer: PreTrainedTokenizerBase, responses: Tensor, mask: Tensor, ended: Tensor) -> list[str]:
    """Text of responses [B, T] without the end token; every other token shows, special ones too."""
    lengths = (mask.sum(1) - ended.long()).tolist()
    return [tokenizer.decode(row[:n], skip_special_tokens=False) for row, n in zip(responses.tolist(), lengths, strict=True)]


def collect_rollout(models: Models, prompts: EncodedPrompts, noise: Tensor, settings: PPOSettings) -> Rollout:
    """Sample a response to every prompt and measure it. noise: uniform on [0, 1), [B, T]."""
    sampled = generate_responses(models.sampling, models.tokenizer, prompts, noise, settings.sampling)
    return score_responses(models, prompts, sampled, settings)


def generate_responses(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: EncodedPrompts,
    noise: Tensor,
    sampling: SamplingConfig,
    greedy: bool = False,
) -> Sampled:
    """Responses of the policy, under the tokenizer's end-of-sequence and pad tokens. noise: uniform on [0, 1), [B, T].

    greedy: take the most likely token everywhere; of the noise only the shape counts then.
    """
    look_every = LOOK_EVERY if noise.is_cuda else 1
    ends = tokenizer.eos_token_id, tokenizer.pad_token_id
    return sample(policy, prompts.tokens, prompts.attention, noise, sampling, *ends, look_every, greedy)


@torch.no_grad()
def score_responses(models: Models, prompts: EncodedPrompts, sampled: Sampled, settings: PPOSettings) -> Rollout:
    """Measure sampled responses: log-probs under policy and reference, full KL, entropy, values, and the reward model's score.

    Where the reference moves also log-probs under SFT and the KL to it, and where a sampler has weights of its own its log-probs.
    Responses are taken in groups of similar length; no row depends on its neighbours. Raises UserError where the scorer does.
    """
    temperature = settings.sampling.training_temperature
    tokens, attention = concat_prompt_response(prompts.tokens, prompts.attention, sampled)
    mask = sampled.mask
    names = ["logprobs", "ref_logprobs", "kl", "entropy", "values"]
    names += ["sft_logprobs", "sft_kl"] if models.moved_from is not None else []
    names += ["chi2"] if settings.ppo.measures_chi2 else []
    names += ["sampler_logprobs"] if models.sampler is not None else []
    out = {name: torch.zeros(mask.shape, device=tokens.device) for name in names}
    out["last_value"] = torch.zeros(len(tokens), device=tokens.device)
    for rows, steps in by_length(mask, rows_of_a_pass(mask.shape[1], models.policy.config.vocab_size)):
        part = mask[rows, :steps]
        width = tokens.shape[1] - mask.shape[1] + steps
        view = tokens[rows, :width], attention[rows, :width]
        targets = sampled.responses[rows, :steps][part][:, None]
        policy = policy_log_probs(models, sampled, rows, steps, view, settings)
        reference = log_softmax(response_logits(models.reference, *view, part), temperature)
        zeros = policy.new_zeros(part.shape), policy.new_zeros(len(rows))
        values, last_value = zeros if models.critic is None else response_values(models.critic, *view, part)
        measured = {
            "logprobs": unflatten(policy.gather(1, targets).squeeze(1), part),
            "ref_logprobs": unflatten(reference.gather(1, targets).squeeze(1), part),
            "kl": unflatten(full_kl(policy, reference), part),
            "entropy": unflatten(entropy_of(policy), part),
            "values": values,
        }
        if settings.ppo.measures_chi2:
            measured["chi2"] = unflatten(chi2(policy, reference), part)
        if models.moved_from is not None:
            sft = log_softmax(response_logits(models.moved_from, *view, part), temperature)
            measured["sft_logprobs"] = unflatten(sft.gather(1, targets).squeeze(1), part)
            measured["sft_kl"] = unflatten(full_kl(policy, sft), part)
        if models.sampler is not None:
            sampler = sampler_log_probs(models.sampler, sampled, rows, steps, view, settings)
            measured["sampler_logprobs"] = unflatten(sampler.gather(1, targets).squeeze(1), part)
        for name, value in measured.items():
            out[name][rows, :steps] = value
        out["last_value"][rows] = last_value
    out["score"] = models.scorer.scores(prompts, sampled)
    if models.more_scorers:
        out["member_scores"] = torch.stack([out["score"], *(scorer.scores(prompts, sampled) for scorer in models.more_scorers)], dim=1)
        out["score"] = out["member_scores"].mean(1)
    return Rollout(tokens=tokens, attention=attention, mask=mask, ended=sampled.ended, prompt_nll=sampled.prompt_nll, **out)


@torch.no_grad()
def score_references(models: Models, prompts: EncodedPrompts, noise: Tensor, settings: PPOSettings) -> Tensor:
    """Scores [B, k] of k answers of SFT to each prompt. noise: uniform on [0, 1), [k, B, T]. Raises UserError where the scorer does."""
    answers = (generate_responses(models.sft, models.tokenizer, prompts, draw, settings.sampling) for draw in noise)
    return torch.stack([models.scorer.scores(prompts, sampled) for sampled in answers], dim=1)


@torch.no_grad()
def score_greedy(models: Models, prompts: EncodedPrompts, steps: int, settings: PPOSettings) -> dict[str, Tensor]:
    """The policy's greedy answer to each prompt, as the fields `greedy_*` of a Rollout. Raises UserError where the scorer does."""
    shape = torch.zeros(len(prompts.tokens), steps, device=prompts.tokens.device)
    sampled = generate_responses(models.policy, models.tokenizer, prompts, shape, settings.sampling, greedy=True)
    scores = models.scorer.scores(prompts, sampled)
    return {"greedy_score": scores, "greedy_lengths": sampled.mask.sum(1), "greedy_ended": sampled.ended}


def policy_log_probs(
    models: Models, sampled: Sampled, rows: Tensor, steps: int, view: tuple[Tensor, Tensor], settings: PPOSettings
) -> Tensor:
    """The policy's distributions [N, V] at the real tokens of some rows: kept from sampling, or computed again.

    They are computed again where they were too large to keep, under dropout, and where another model has sampled.
    """
    part, dropout = sampled.mask[rows, :steps], settings.bugs.dropout_in_rollouts
    if models.sampler is None and not dropout:
        return sampler_log_probs(models.policy, sampled, rows, steps, view, settings)
    with dropout_on(models.policy) if dropout else nullcontext():
        return log_softmax(response_logits(models.policy, *view, part), settings.sampling.training_temperature)


def sampler_log_probs(
    sampler: PreTrainedModel, sampled: Sampled, rows: Tensor, steps: int, view: tuple[Tensor, Tensor], settings: PPOSettings
) -> Tensor:
    """The distributions [N, V] of the model that sampled at the real tokens of some rows: kept, or computed again."""
    part = sampled.mask[rows, :steps]
    if sampled.log_probs is not None:
        return sampled.log_probs[rows, :steps][part]
    return log_softmax(response_logits(sampler, *view, part), settings.sampling.training_temperature)


def full_kl(log_probs: Tensor, reference: Tensor) -> Tensor:
    """Σ_v π (log π − log π_ref) at each token, [N, V] → [N], nats; a token π never takes adds nothing."""
    return torch.where(log_probs > -torch.inf, log_probs.exp() * (log_probs - reference), 0.0).sum(-1)


def chi2(log_probs: Tensor, reference: Tensor) -> Tensor:
    """χ²(π‖π_ref) = Σ_v π(v)² / π_ref(v) − 1 at each token, [N, V] → [N]; a token that π never takes adds nothing.

    A term is held at e^40, so that even the square of a value's error under it is finite in float32.
    """
    terms = (2 * log_probs - reference).clamp(max=40.0).exp()
    return torch.where(log_probs > -torch.inf, terms, 0.0).sum(-1) - 1


def rows_of_a_pass(steps: int, vocabulary: int) -> int:
    """Responses of `steps` tokens that one pass takes, so that their distributions [N, V] in float32 keep to LOGIT_BYTES; at least 8."""
    return max(8, min(PASS_ROWS, LOGIT_BYTES // (4 * steps * vocabulary)))


def by_length(mask: Tensor, size: int) -> Iterator[tuple[Tensor, int]]:
    """Row indices in groups of `size` of similar response length, with the longest length of each group."""
    lengths = mask.sum(1)
    for rows in lengths.argsort(stable=True).split(size):
        yield rows, int(lengths[rows].max())


def gather_rollout(rollout: Rollout, pad: int) -> Rollout:
    """The rows of all processes, in the order of `own_rows`, as wide as the longest response of all needs."""
    if world_size() == 1:
        return rollout
    shapes = all_gather_object(tuple(rollout.mask.shape))
    counts, steps = [rows for rows, _ in shapes], max(width for _, width in shapes)
    gathered = {}
    for field in fields(rollout):
        rows = getattr(rollout, field.name)
        if rows is None:  # in all processes alike, since the settings decide it
            continue
        if rows.dim() == 2 and field.name not in NOT_PER_TOKEN:
            rows = nn.functional.pad(rows, (0, steps - rollout.mask.shape[1]), value=pad if field.name == "tokens" else 0)
        gathered[field.name] = gather_rows(rows, counts)
    return Rollout(**gathered)
