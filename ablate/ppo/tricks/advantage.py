"""Advantages, and the tricks on them."""

from __future__ import annotations

import torch
from torch import Tensor

from ablate.ppo.tricks.masked import masked_whiten


def gae(rewards: Tensor, values: Tensor, mask: Tensor, bootstrap: Tensor, gamma: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation and the returns the critic regresses on.

    δ_t = r_t + γ V_{t+1} − V_t;  A_t = δ_t + γ λ A_{t+1};  returns R_t = A_t + V_t

    Shapes: rewards, values, mask [B, T]; bootstrap [B] stands for V after the last token (0 where the episode ends there).
    Rows are right-padded; pads are zeroed before the recursion, so that no value past the end enters it, and come out 0. λ = 0 is
    the one-step TD error; λ = 1 with γ = 1 is the sum of rewards to come minus V. Source: Schulman et al. 1506.02438, eqs. 11
    and 16.
    """
    values = torch.where(mask, values, 0.0)
    rewards = torch.where(mask, rewards, 0.0)
    last = mask.sum(1) - 1
    steps = mask.shape[1]
    advantage = torch.zeros_like(bootstrap)
    columns = []
    for t in reversed(range(steps)):
        next_values = values[:, t + 1] if t + 1 < steps else torch.zeros_like(bootstrap)
        next_values = torch.where(last == t, bootstrap, next_values)
        delta = rewards[:, t] + gamma * next_values - values[:, t]
        advantage = torch.where(mask[:, t], delta + gamma * gae_lambda * advantage, 0.0)
        columns.append(advantage)
    advantages = torch.stack(columns[::-1], dim=1)
    return advantages, advantages + values


def bootstrap_truncated(last_value: Tensor, ended: Tensor) -> Tensor:
    """V(s_T), the value of the state after the last token, where a response was cut off; 0 where it ended. Shapes [B].

    A truncated response goes on, so it gets no score now, and its last TD error is δ_{T−1} = −η KL_{T−1} + γ V(s_T) − V(s_{T−1}).
    `ablate.ppo.shaping.shape_rewards` leaves its score out of the rewards and of the running moments: V(s_T) predicts the score to
    come, and with both it would count twice. At γ = 1 values of answers that never end have nothing to hold them.
    Off: truncation is an end. The truncated text is scored, and V is 0 after it.
    Source: Pardo et al. 1712.00378, §3 (partial-episode bootstrapping).
    """
    return torch.where(ended, 0.0, last_value)


def advantage_norm(advantages: Tensor, mask: Tensor) -> Tensor:
    """(A − mean) / √(var + 1e-8) over the real tokens of one minibatch, mean shifted to 0, variance unbiased (N − 1). Shapes [B, T].

    Equal advantages become 0. Off: A. Source: Secrets of RLHF I, §5.3.1; Engstrom et al. 2005.12729.
    """
    return masked_whiten(advantages, mask)


def advantage_clip(advantages: Tensor, threshold: float) -> Tensor:
    """clip(A, −δ, δ), after the norm. Shapes [B, T]. Off: A. Source: Secrets of RLHF I, §5.3.1 and Fig. 6."""
    return advantages.clamp(-threshold, threshold)
