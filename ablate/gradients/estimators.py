"""Surrogates: scalars of one batch of responses whose gradient by the policy's weights is an estimate of the KL's.

The KL of a response is D = E[Σ_t KL_t], KL_t = Σ_v π(v|s_t) (log π(v|s_t) − log π_ref(v|s_t)), over responses that π samples. With
d_t = log π(y_t|s_t) − log π_ref(y_t|s_t), all are in nats per response and every gradient is a mean over the B responses of a batch:

    states      Σ_t ∇KL_t                                            exact, with the states s_t held as they are
    response    Σ_t [∇KL_t + ∇log π(y_t) Σ_{t'>t} KL_t']             exact, ∇D: a token also decides which states come after it
    loss_kn     Σ_t ∇k_n(d_t)                                        an estimator in the loss
    reward_kn   Σ_t ∇log π(y_t) Σ_{t'≥t} k_n(d_t')                   an estimator in the reward, γ = 1; `reward_full` has k_n = KL_t'

k1 = d, k2 = d²/2, k3 = exp(−d) − 1 + d (Schulman, Approximating KL divergence, 2020). In expectation loss_k1 is 0, loss_k2 is `states`,
loss_k3 is the gradient of Σ_t KL(π_ref‖π) at the states, reward_k1 is `response`, and reward_full is `response` − `states`, because
KL_t depends on the state alone and no token of that state can change it. Sources: 2510.01555; 2512.21852.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ablate.ppo.tricks.masked import masked_sum
from ablate.ppo.tricks.reward import kl_estimate

EXACT = ("states", "response")
IN_LOSS = ("loss_k1", "loss_k2", "loss_k3")
IN_REWARD = ("reward_k1", "reward_k2", "reward_k3", "reward_full")
NAMES = EXACT + IN_LOSS + IN_REWARD


def surrogates(logprobs: Tensor, ref_logprobs: Tensor, kl: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """One scalar per name of `NAMES`. logprobs and kl (exact, per token) have gradients. Shapes [B, T]; pads count nothing.

    The score-function terms have a baseline, the mean of the other responses at the same position, which leaves expectations as they are.
    """
    responses = len(mask)
    logprobs, ref_logprobs, kl = (torch.where(mask, values, 0.0) for values in (logprobs, ref_logprobs, kl))
    fixed = kl.detach()
    states = masked_sum(kl, mask) / responses
    found = {"states": states, "response": states + credited(logprobs, to_go(fixed) - fixed, mask)}
    for name in ("k1", "k2", "k3"):
        estimate = kl_estimate(logprobs, ref_logprobs, fixed, name)
        found[f"loss_{name}"] = masked_sum(estimate, mask) / responses
        found[f"reward_{name}"] = credited(logprobs, to_go(torch.where(mask, estimate.detach(), 0.0)), mask)
    found["reward_full"] = credited(logprobs, to_go(fixed), mask)
    return {name: found[name] for name in NAMES}


def to_go(values: Tensor) -> Tensor:
    """Σ_{t' ≥ t} of each row of [B, T]."""
    return values.flip(1).cumsum(1).flip(1)


def credited(logprobs: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Σ_t log π(y_t) (G_t − b_t) / B, with b_t the mean of G_t over the other responses that are that long; 0 where there is none."""
    returns = torch.where(mask, returns, 0.0)
    others = mask.sum(0, keepdim=True) - mask.long()
    baseline = (returns.sum(0, keepdim=True) - returns) / others.clamp(min=1)
    return masked_sum(logprobs * (returns - baseline), mask) / len(mask)
