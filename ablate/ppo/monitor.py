"""Metrics of a rollout: `monitor/*`, which describe the responses without regard to the reward, `reward/*` and some of `ppo/*`.

The names are those of metrics.jsonl. KL is in nats per response unless its name has `per_token`, and length is in tokens. Shapes are
those of `ablate.ppo.types`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ablate.ppo.shaping import explained_variance
from ablate.ppo.tricks.masked import masked_mean, masked_sum
from ablate.ppo.tricks.reward import kl_estimate
from ablate.ppo.types import Rollout, Targets


def monitors(rollout: Rollout) -> dict[str, float]:
    """`monitor/*` of one rollout. Entropy and kl_to_sft are sums over the vocabulary.

    kl_k1, kl_k3 and kl_per_token (the mean of k1 over tokens) are estimates from the sampled tokens.
    """
    count, mask = len(rollout.tokens), rollout.mask
    moves, sft, kl = False, rollout.ref_logprobs, rollout.kl
    if rollout.sft_logprobs is not None and rollout.sft_kl is not None:
        moves, sft, kl = True, rollout.sft_logprobs, rollout.sft_kl
    per_response = {
        name: float(masked_sum(kl_estimate(rollout.logprobs, sft, kl, name), mask)) / count for name in ("full", "k1", "k2", "k3")
    }
    return (
        {
            "monitor/perplexity": perplexity(rollout.logprobs, mask),
            "monitor/perplexity_ref": perplexity(sft, mask),
            "monitor/perplexity_moss": perplexity_moss(rollout),
            "monitor/response_length": float(rollout.lengths.float().mean()),
            "monitor/response_length_p95": float(rollout.lengths.float().quantile(0.95)),
            "monitor/response_length_std": float(rollout.lengths.float().std()) if count > 1 else 0.0,
            "monitor/kl_to_sft": per_response["full"],
            "monitor/kl_per_token": float(masked_mean(rollout.logprobs - sft, mask)),
            "monitor/kl_k1": per_response["k1"],
            "monitor/kl_k2": per_response["k2"],
            "monitor/kl_k3": per_response["k3"],
            "monitor/entropy": float(masked_mean(rollout.entropy, mask)),
            "monitor/truncated": 1 - float(rollout.ended.float().mean()),
            "monitor/distinct": distinct(rollout),
            "monitor/distinct_across": distinct_across(rollout),
            "monitor/reward_length_corr": correlation(rollout.score, rollout.lengths.float()),
        }
        | ({"monitor/kl_to_reference": float(masked_sum(rollout.kl, mask)) / count} if moves else {})
        | mismatch(rollout)
    )


def mismatch(rollout: Rollout) -> dict[str, float]:
    """How far the sampler is from the policy: nothing where the policy samples itself. w_t = π_old(y_t) / π_sampler(y_t) at each token.

    mismatch_kl: KL(π_sampler‖π_old) in nats per token by k3, mean(w − 1 − log w). mismatch_ess: the effective sample size of the weights
    as a share of the tokens, (Σ w)² / (n Σ w²) (Kong 1992); 1 where all are equal.
    """
    if rollout.sampler_logprobs is None:
        return {}
    log_weight = torch.where(rollout.mask, rollout.logprobs - rollout.sampler_logprobs, 0.0).double()
    weight = log_weight.exp()
    total, squares = masked_sum(weight, rollout.mask), masked_sum(weight**2, rollout.mask)
    return {
        "monitor/mismatch_kl": float(masked_mean(torch.expm1(log_weight) - log_weight, rollout.mask)),
        "monitor/mismatch_ess": float(total**2 / (rollout.mask.sum() * squares)),
    }


def perplexity(logprobs: Tensor, mask: Tensor) -> float:
    """exp(−Σ log π / Σ 1) over the True entries of the mask; logprobs and mask [B, T]. At most e^700."""
    return math.exp(min(-float(masked_mean(logprobs, mask)), 700.0))


def perplexity_moss(rollout: Rollout) -> float:
    """What MOSS-RLHF logs as perplexity: exp(Σ_i mean NLL_i / Σ_i response tokens_i). At most e^700.

    mean NLL_i is over prompt *and* response of sequence i, without the prompt's first token. The quantity therefore falls when
    responses only get longer. It is logged for comparison with the figures of Secrets of RLHF I.
    In rows that it pads on the left MOSS-RLHF also counts the first token, predicted from the pad before it. That term depends on
    padding alone and is left out here.
    """
    response_nll = torch.where(rollout.mask, -rollout.logprobs, 0.0).sum(1)
    predicted = rollout.attention.sum(1) - 1
    means = (rollout.prompt_nll + response_nll) / predicted
    return math.exp(min(float(means.sum()) / float(rollout.lengths.sum()), 700.0))


def distinct(rollout: Rollout) -> float:
    """Mean over responses of different bigrams / bigrams, distinct-2 within a response (Li et al. 1510.03055).

    Responses of one token are left out. It is 1 if none is left.
    """
    steps = rollout.mask.shape[1]
    if steps < 2:
        return 1.0
    responses = rollout.tokens[:, -steps:]
    real = rollout.mask[:, 1:]
    vocabulary = int(rollout.tokens.max()) + 1
    bigrams = torch.where(real, responses[:, :-1] * vocabulary + responses[:, 1:], -1)
    ordered = bigrams.sort(1).values
    first = torch.ones_like(real)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    different = (first & (ordered >= 0)).sum(1)
    total = real.sum(1)
    share = different[total > 0] / total[total > 0]
    return float(share.mean()) if len(share) else 1.0


def distinct_across(rollout: Rollout) -> float:
    """Different bigrams / bigrams of all responses together, distinct-2 of the batch (Li et al. 1510.03055). 1 without a bigram.

    It falls where the answers become alike, which `distinct` cannot see.
    """
    steps = rollout.mask.shape[1]
    responses, real = rollout.tokens[:, -steps:], rollout.mask[:, 1:]
    bigrams = (responses[:, :-1] * (int(rollout.tokens.max()) + 1) + responses[:, 1:])[real]
    return len(bigrams.unique()) / len(bigrams) if len(bigrams) else 1.0


def correlation(left: Tensor, right: Tensor) -> float:
    """Pearson's correlation of two vectors [B]; 0 where one of them does not vary."""
    left, right = left.double() - left.double().mean(), right.double() - right.double().mean()
    scale = float(left.norm() * right.norm())
    return float(left @ right) / scale if scale > 0 else 0.0


def reward_metrics(rollout: Rollout, rewards: Tensor) -> dict[str, float]:
    """`reward/*`: the raw scores of the reward model, and the shaped rewards [B, T] summed per response."""
    score = rollout.score
    return {
        "reward/proxy_mean": float(score.mean()),
        "reward/proxy_std": float(score.std()) if len(score) > 1 else 0.0,
        "reward/proxy_p95": float(score.quantile(0.95)),
        "reward/shaped_mean": float(rewards.sum(1).mean()),
    }


def advantage_metrics(rollout: Rollout, targets: Targets, critic: bool = True) -> dict[str, float]:
    """`ppo/*` before the first gradient step: moments of values, advantages and returns over response tokens, and explained variance.

    critic: whether there is one; without it only the advantages are there.
    """
    mask = rollout.mask
    mean = masked_mean(targets.advantages, mask)
    advantages = {
        "ppo/advantage_mean": float(mean),
        "ppo/advantage_std": float(masked_mean((targets.advantages - mean) ** 2, mask).sqrt()),
    }
    if not critic:
        return advantages
    return advantages | {
        "ppo/explained_variance": explained_variance(rollout, targets),
        "ppo/value_mean": float(masked_mean(rollout.values, mask)),
        "ppo/return_mean": float(masked_mean(targets.returns, mask)),
    }
