"""Advantages, and the tricks on them."""

from __future__ import annotations

import torch
from torch import Tensor

from ablate.ppo.tricks.masked import masked_whiten

GROUP_EPS = 1e-4  # beside the deviation of a prompt's answers, as in TRL


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, bootstrap: Tensor, gamma: float, gae_lambda: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation and the returns the critic regresses on.

    δ_t = r_t + γ V_{t+1} − V_t;  A_t = δ_t + γ λ A_{t+1};  returns R_t = A_t + V_t

    Shapes: rewards, values, mask [B, T]; gae_lambda a number, or [B] of each response; bootstrap [B] stands for V after the last token
    (0 where the episode ends there). Rows are right-padded; pads are zeroed before the recursion, so that no value past the end enters
    it, and come out 0. λ = 0 is the one-step TD error; λ = 1 with γ = 1 is the sum of rewards to come minus V.
    Source: Schulman et al. 1506.02438, eqs. 11 and 16.
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


def gae_lambda_critic(rewards: Tensor, values: Tensor, mask: Tensor, bootstrap: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """The critic's returns R_t = A_t^{λ_V} + V_t, with the A of `gae` under a λ_V of their own. Shapes as there.

    λ_V = 1 regresses on the sum of rewards to come, which no error of the critic enters, while the advantages keep a λ < 1.
    Off: R_t = A_t^λ + V_t, with the advantages' λ. Source: VC-PPO 2503.01491, §3.2 (decoupled GAE).
    """
    return gae(rewards, values, mask, bootstrap, gamma, gae_lambda)[1]


def gae_length_adaptive(mask: Tensor, alpha: float) -> Tensor:
    """λ_i = 1 − 1 / (α l_i) of a response of l_i tokens, within [0, 1]. Shapes: mask [B, T] → [B].

    The weights λ^j of the TD errors then sum to about α l_i. Off: one λ for all. Source: VAPO 2504.05118, §3.2 (there α = 0.05).
    """
    return (1 - 1 / (alpha * mask.sum(1).clamp(min=1))).clamp(0, 1)


def advantage_estimator(rewards: Tensor, mask: Tensor, form: str, samples: int, gamma: float, greedy: Tensor | None = None) -> Tensor:
    """Advantages [B, T] without a critic. rewards, mask: [B, T]; rows i k … i k + k − 1 answer prompt i, k = samples.

    With R_i = Σ_t r_it, the KL penalty in it as far as it is on, every token of response i has
        rloo        R_i − mean of R_j over the other answers j to its prompt
        grpo        (R_i − μ) / (σ + 1e-4), μ and σ (N − 1) over the answers to its prompt
        dr_grpo     R_i − μ
        remax       R_i − R of the greedy answer to its prompt, whose KL penalty is left out: greedy [B]
    and reinforce gives its token t the return G_t = Σ_{t'≥t} γ^{t'−t} r_t', whitened over all tokens of the batch.
    Off (gae): `gae`. Source: rloo Ahmadian et al. 2402.14740, §2.3 (R with the KL as in TRL); grpo Shao et al. 2402.03300, §4.1;
    dr_grpo Liu et al. 2503.20783, §3; remax Li et al. 2310.10505; reinforce REINFORCE++ 2501.03262, §3.
    """
    rewards = torch.where(mask, rewards, 0.0)
    if form == "reinforce":
        returns = torch.zeros_like(rewards[:, 0])
        columns = []
        for t in reversed(range(mask.shape[1])):
            returns = rewards[:, t] + gamma * returns
            columns.append(returns)
        return masked_whiten(torch.stack(columns[::-1], dim=1), mask)
    totals = rewards.sum(1)
    groups = totals.view(-1, samples)
    if form == "rloo":
        advantages = (groups - (groups.sum(1, keepdim=True) - groups) / (samples - 1)).flatten()
    elif form in ("grpo", "dr_grpo"):
        centred = groups - groups.mean(1, keepdim=True)
        advantages = (centred / (groups.std(1, keepdim=True) + GROUP_EPS) if form == "grpo" else centred).flatten()
    elif form == "remax":
        assert greedy is not None
        advantages = totals - greedy
    else:
        raise ValueError(f"unknown estimator of advantages {form!r}")
    return torch.where(mask, advantages[:, None], 0.0)


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
