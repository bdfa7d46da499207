"""Moments over all scores of a run so far, and the adaptive KL controller: state in, state out."""

from __future__ import annotations

import torch
from torch import Tensor

from ablate.ppo.types import RunningMoments


def update_moments(moments: RunningMoments, scores: Tensor) -> RunningMoments:
    """Add a batch of scores [B] to the running moments (Chan, Golub & LeVeque 1979: exact merging of two samples).

    An empty batch leaves them as they are.
    """
    if not len(scores):
        return moments
    scores = scores.double()
    count, mean = float(scores.numel()), float(scores.mean())
    m2 = float(torch.sum((scores - mean) ** 2))
    total = moments.count + count
    delta = mean - moments.mean
    return RunningMoments(
        count=total,
        mean=moments.mean + delta * count / total,
        m2=moments.m2 + m2 + delta**2 * moments.count * count / total,
    )


def kl_adaptive(kl_coef: float, kl: float, target: float, horizon: float, responses: int) -> float:
    """Next KL coefficient of a proportional controller.

    e = clip(KL / target − 1, −0.2, 0.2);  η ← η · (1 + e · n / horizon)

    kl: mean KL of this batch in nats per response; n = responses in the batch. While KL stays 20 % or more off its target, η moves by
    (1 ± 0.2 n / horizon)^(horizon / n), about e^±0.2 = 1.22 or 0.82, in `horizon` responses.
    Off: η stays. Source: Ziegler et al. 1909.08593, §2.2.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * responses / horizon)


def entropy_adaptive(coef: float, entropy: float, target: float, step: float) -> float:
    """Next coefficient of the entropy bonus: c + Δ where H < H*, c − Δ where H > H*, at least 0. entropy: mean H of the rollout's tokens.

    Off: c stays. Source: Skywork-OR1 2505.22312, §4 (there the bonus is also left out while H > H*, which c = 0 does here in time).
    """
    if entropy == target:
        return coef
    return max(coef + step if entropy < target else coef - step, 0.0)
