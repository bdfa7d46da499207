"""Tricks on the reward: score [B] from the reward model → reward [B, T] of every token."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-8


def missing_eos_penalty(score: Tensor, ended: Tensor, penalty: float, form: str) -> Tensor:
    """The score of a response that never ended, under a penalty p. Shapes [B].

    subtract: score − p, TRL's `missing_eos_penalty`; replace: −p whatever the text is worth, as in lm-human-preferences (p = 1).
    Off: a truncated response keeps the score of its truncated text. Source: lm-human-preferences; TRL.
    """
    if form == "subtract":
        return torch.where(ended, score, score - penalty)
    if form == "replace":
        return torch.where(ended, score, -penalty)
    raise ValueError(f"unknown form of the missing-EOS penalty {form!r}")


def reward_scaling(score: Tensor, std: float) -> Tensor:
    """r / σ(r), σ over all scores so far; the mean is not touched. Shapes [B].

    Off: r. Source: Secrets of RLHF I, §5.3.1. The paper writes the deviation of a rolling discounted sum; with one reward
    per response and γ = 1 that sum is the score itself, and its code takes the running deviation of the scores.
    """
    return score / (std + EPS)


def reward_norm(score: Tensor, mean: float, std: float) -> Tensor:
    """(r − mean) / σ. Shapes [B]. Moments (reward_norm_over): of all scores so far, `history` (PPO-max), or of this `batch`.

    Off: r. Source: Secrets of RLHF I, eq. 18 (there with the clip, which is `reward_clip` here).
    """
    return (score - mean) / (std + EPS)


def reward_clip(score: Tensor, threshold: float) -> Tensor:
    """clip(r, −δ, δ), after norm or scaling, before the KL penalty. Shapes [B].

    Off: r. Source: Secrets of RLHF I, eq. 18.
    """
    return score.clamp(-threshold, threshold)


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, full: Tensor, estimator: str) -> Tensor:
    """KL(π‖π_ref) of each token from one sample of π, or in full. Shapes [B, T], nats.

    With d = log π(y) − log π_ref(y):  k1 = d;  k2 = d²/2;  k3 = exp(−d) − 1 + d;  full = Σ_v π(v)(log π(v) − log π_ref(v)).
    k1 and k3 are unbiased, k3 is never negative, k2 is biased (Schulman, Approximating KL divergence, 2020).
    """
    difference = logprobs - ref_logprobs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference**2 / 2
    if estimator == "k3":
        return torch.expm1(-difference) + difference
    if estimator == "full":
        return full
    raise ValueError(f"unknown KL estimator {estimator!r}")


def kl_penalty(rewards: Tensor, kl: Tensor, coef: float) -> Tensor:
    """r_t − η · KL_t. Shapes [B, T].

    Off: r_t. Source: Secrets of RLHF I, eqs. 3 and 19; Ziegler et al. 1909.08593, eq. 2.
    """
    return rewards - coef * kl


def place_score(score: Tensor, mask: Tensor) -> Tensor:
    """Rewards [B, T]: the score [B] at the last True of each row of mask [B, T], 0 elsewhere. A row without a token gets none."""
    last = (mask.sum(1) - 1).clamp(min=0)
    rewards = torch.zeros(mask.shape, dtype=score.dtype, device=score.device)
    rewards.scatter_(1, last[:, None], score[:, None])
    return torch.where(mask, rewards, 0.0)
