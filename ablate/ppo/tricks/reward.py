"""Tricks on the reward: score [B] from the reward model → reward [B, T] of every token."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-8


def ensemble_score(scores: Tensor, means: Tensor, deviations: Tensor, form: str, coef: float) -> Tensor:
    """One score of k reward models: scores [B, k], each standardised first, z_i = (r_i − μ_i) / σ_i over SFT's answers. Returns [B].

    mean: mean_i z_i. worst: min_i z_i. uncertainty: mean_i z_i − λ var_i z_i, the variance over the members (divided by k), λ = coef.
    A mean that is too high where the members disagree is what the other two do not follow. means, deviations: [k].
    Off: one reward model, whose score is not standardised. Source: Coste et al. 2310.02743, §3; Eisenstein et al. 2312.09244.
    """
    standard = (scores - means) / (deviations + EPS)
    if form == "mean":
        return standard.mean(1)
    if form == "worst":
        return standard.amin(1)
    if form == "uncertainty":
        return standard.mean(1) - coef * standard.var(1, correction=0)
    raise ValueError(f"unknown score of an ensemble {form!r}")


def reward_shape(score: Tensor, references: Tensor, extremes: tuple[float, float], form: str) -> Tensor:
    """The score R [B] under a function that saturates. references: R_ref [B, k], scores of k answers of SFT to the same prompt; k may be 0.

    With d_j = R − R_ref,j, or d = R where k = 0:  log_sigmoid: log σ(mean_j d_j), which bounds the gain from above. sigmoid:
    mean_j σ(d_j), in (0, 1). tanh: tanh(mean_j d_j), in (−1, 1). minmax: (R − low) / (high − low), with extremes = (low, high) the least
    and the greatest score so far, in [0, 1]; it reads no reference.
    Off (none): R. Source: log_sigmoid LSC 2402.00742, eq. 3; sigmoid PAR 2502.18770, §4, where tanh and minmax are compared with it.
    """
    if form == "minmax":
        low, high = extremes
        return (score - low) / max(high - low, EPS)
    differences = score[:, None] - references if references.shape[1] else score[:, None]
    if form == "log_sigmoid":
        return torch.nn.functional.logsigmoid(differences.mean(1))
    if form == "sigmoid":
        return differences.sigmoid().mean(1)
    if form == "tanh":
        return differences.mean(1).tanh()
    raise ValueError(f"unknown shape of the reward {form!r}")


def length_penalty(score: Tensor, lengths: Tensor, longest: int, form: str, coef: float, free: int) -> Tensor:
    """The score less a cost of its response's length l in tokens. Shapes: score, lengths [B].

    linear: R − c l. overlong: R − c clip((l − L₀) / (L_max − L₀), 0, 1), with L₀ = free and L_max = longest, `sampling.max_new_tokens`.
    Off (none): R. Source: linear Singhal et al. 2310.03716; overlong DAPO 2503.14476, §3.4 (soft overlong punishment, c = 1).
    """
    if form == "linear":
        return score - coef * lengths
    if form == "overlong":
        return score - coef * ((lengths - free) / (longest - free)).clamp(0, 1)
    raise ValueError(f"unknown length penalty {form!r}")


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


def chi2_penalty(rewards: Tensor, chi2: Tensor, coef: float) -> Tensor:
    """r_t − λ χ²_t, with χ²_t = Σ_v π(v)² / π_ref(v) − 1 of the state that token t was chosen from. Shapes [B, T].

    It grows where π puts mass that π_ref has not, far faster than the KL. Off: r_t. Source: Laidlaw et al. 2403.03185, §4.
    """
    return rewards - coef * chi2


def place_score(score: Tensor, mask: Tensor) -> Tensor:
    """Rewards [B, T]: the score [B] at the last True of each row of mask [B, T], 0 elsewhere. A row without a token gets none."""
    last = (mask.sum(1) - 1).clamp(min=0)
    rewards = torch.zeros(mask.shape, dtype=score.dtype, device=score.device)
    rewards.scatter_(1, last[:, None], score[:, None])
    return torch.where(mask, rewards, 0.0)
