"""The records that pass between stages, and the shape legend.

Shapes: B responses, P longest prompt, T longest response, V vocabulary. Prompts are padded on the left, responses on the
right, so the token at response position t is at column P + t, and the state it was chosen from at column P + t - 1.
Masks: True = counts, always.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor

NOT_PER_TOKEN = ("member_scores", "reference_scores")  # fields of two dimensions whose second is not time


@dataclass(frozen=True)
class Rollout:
    """What the policy did on a batch of prompts, before any reward shaping. Log-probs, KL and values are float32."""

    tokens: Tensor  # [B, P+T] prompt and response
    attention: Tensor  # [B, P+T] bool: a real token
    mask: Tensor  # [B, T] bool: a token the policy chose, its end token included
    ended: Tensor  # [B] bool: the response closed with the end token
    logprobs: Tensor  # [B, T] log π(y_t) of the policy as it is before the update, under the training distribution
    ref_logprobs: Tensor  # [B, T] log π_ref(y_t), same distribution; π_ref is SFT unless ppo.reference_update moves it
    kl: Tensor  # [B, T] KL(π‖π_ref) over the full vocabulary, nats
    entropy: Tensor  # [B, T] entropy of π, nats
    values: Tensor  # [B, T] critic's value of the state each token was chosen from; 0 without a critic
    last_value: Tensor  # [B] critic's value after the last token; 0 without a critic
    score: Tensor  # [B] the reward model's
    prompt_nll: Tensor  # [B] summed NLL of the prompt's tokens after its first, nats (for MOSS's perplexity only)
    chi2: Tensor | None = None  # [B, T] χ²(π‖π_ref) of the state each token was chosen from; null where no penalty reads it
    member_scores: Tensor | None = None  # [B, k] of each of k reward models; null where there is one. `score` is then their mean
    reference_scores: Tensor | None = None  # [B, k] of k answers of SFT to the same prompt; null where nothing compares with them
    greedy_score: Tensor | None = None  # [B] of the greedy answer to the same prompt; null where it is no baseline
    greedy_lengths: Tensor | None = None  # [B] its tokens
    greedy_ended: Tensor | None = None  # [B] bool
    sft_logprobs: Tensor | None = None  # [B, T] log π_SFT(y_t) where the reference moves; null where it is SFT
    sft_kl: Tensor | None = None  # [B, T] KL(π‖π_SFT) where the reference moves; null where it is SFT
    sampler_logprobs: Tensor | None = None  # [B, T] log π_sampler(y_t) of a sampler with other weights than the policy; null without one

    @property
    def lengths(self) -> Tensor:
        """[B] response tokens."""
        return self.mask.sum(1)

    def rows(self, index: Tensor) -> Rollout:
        """The responses at `index` [b], cut to the longest of them."""
        steps = int(self.mask[index].sum(1).max())
        prompt = self.tokens.shape[1] - self.mask.shape[1]
        selected = {}
        for field in fields(self):
            values = getattr(self, field.name)
            if values is None:
                continue
            rows, wide = values[index], field.name in ("tokens", "attention")
            per_token = rows.dim() == 2 and field.name not in NOT_PER_TOKEN
            selected[field.name] = rows[:, : prompt + steps] if wide else rows[:, :steps] if per_token else rows
        return Rollout(**selected)


@dataclass(frozen=True)
class Targets:
    """What the losses regress on, [B, T]; zero where the mask is False."""

    advantages: Tensor
    returns: Tensor

    def rows(self, index: Tensor, steps: int) -> Targets:
        """The responses at `index` [b], cut to `steps` tokens."""
        return Targets(self.advantages[index, :steps], self.returns[index, :steps])


@dataclass(frozen=True)
class RunningMoments:
    """Count, mean and sum of squared deviations of all scores so far (Welford); plain floats, so they travel in JSON."""

    count: float = 0.0
    mean: float = 0.0
    m2: float = 0.0

    @property
    def std(self) -> float:
        """Unbiased; 1 while fewer than two scores are known."""
        return (self.m2 / (self.count - 1)) ** 0.5 if self.count > 1 else 1.0


@dataclass(frozen=True)
class ShapingState:
    """What reward shaping carries from update to update."""

    moments: RunningMoments
    kl_coef: float
    entropy_coef: float = 0.0  # of the bonus, where it is on
    members: tuple[RunningMoments, ...] = ()  # of each reward model of an ensemble over SFT's answers; they stay as they are
    extremes: tuple[float, ...] = ()  # the least and the greatest score so far, where reward_shape asks for them


@dataclass(frozen=True)
class MinibatchSize:
    """What the means of a minibatch's loss are over."""

    tokens: int  # N, those that count in the loss; at least 1
    responses: int  # R, those with a token that counts; at least 1
    rows: int  # all of its responses
    longest: int  # L, the most tokens that a response may have


@dataclass(frozen=True)
class LossTerms:
    """Scalars of one micro-batch, each already divided by the minibatch's count: micro-batches add up. Of ratio_min and ratio_max the least
    and the greatest is the minibatch's."""

    total: Tensor  # what is differentiated
    policy: Tensor
    value: Tensor
    approx_kl: Tensor  # KL(π_b‖π_θ) from the behaviour policy by k3, nats per token
    clip_fraction: Tensor  # share of tokens with ρ = π_θ / π_old outside [1 − clip_range, 1 + clip_range_high]; 0 without ratio_clip
    clip_fraction_low: Tensor  # share below 1 − clip_range
    clip_fraction_high: Tensor  # share above 1 + clip_range_high
    value_clip_fraction: Tensor  # share of tokens whose value moved by more than value_clip_range; 0 without value_clip
    ratio_mean: Tensor
    ratio_min: Tensor  # least ρ
    ratio_max: Tensor  # largest ρ
