"""Tricks in the critic's loss and on the gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def value_loss(values: Tensor, returns: Tensor) -> Tensor:
    """(V_θ − R)² per token, no half. Shapes [B, T]. Source: Secrets of RLHF I, eq. 16."""
    return (values - returns) ** 2


def value_clip(values: Tensor, old_values: Tensor, returns: Tensor, clip_range: float) -> Tensor:
    """max((V − R)², (clip(V, V_old − ε, V_old + ε) − R)²). Shapes [B, T]. ε is in reward units.

    Off: `value_loss`. Source: Secrets of RLHF I, eq. 16 and its code.
    """
    clipped_values = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return torch.maximum(value_loss(values, returns), value_loss(clipped_values, returns))


def value_norm(loss: Tensor, scale: float) -> Tensor:
    """(V − R)² / σ² = (v − (R − μ) / σ)², the error in units of the returns' deviation σ = scale, where V = μ + σ v. Shapes [B, T].

    When the moments of the returns move, the head is rescaled so that V stays (`ablate.ppo.value_norm`).
    Off: (V − R)². Source: van Hasselt et al. 1602.07714, §2 (PopArt); ReaLHF `value_norm`.
    """
    return loss / scale**2


def gradient_norm(parameters: list[nn.Parameter]) -> Tensor:
    """L2 norm of all gradients taken as one vector, a scalar."""
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def grad_clip(parameters: list[nn.Parameter], norm: Tensor, max_norm: float) -> None:
    """Scale all gradients in place by min(1, max_norm / norm): one norm over policy and critic together.

    Off: gradients stay. Source: Secrets of RLHF I, §5.4; Pascanu et al. 1211.5063.
    """
    nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)


def critic_pretrain(values: Tensor, returns: Tensor) -> Tensor:
    """(V_θ − R)² per token on rollouts of the fixed SFT policy, the only loss of the pre-training phase. Shapes [B, T].

    Never clipped: the new head has no old value worth holding to. Off: the critic meets its first update as initialised.
    Source: Secrets of RLHF I, §5.3.4.
    """
    return value_loss(values, returns)
