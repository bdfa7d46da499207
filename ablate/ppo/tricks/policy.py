"""Tricks in the policy's loss. Per-token terms [B, T] come out; the caller takes the masked mean."""

from __future__ import annotations

import torch
from torch import Tensor

from ablate.ppo.tricks.masked import masked_sum
from ablate.ppo.tricks.reward import kl_estimate

LARGEST_LOG_RATIO = 88.0  # exp of more than 88.7 is infinite in float32
TARGET_KL_FACTOR = 1.5


def importance_sampling(logprobs: Tensor, ref_logprobs: Tensor, observations: str) -> Tensor:
    """Old log-probs of the ratio: the behaviour policy's (off), or the SFT reference's. Shapes [B, T].

    `reference` fixes the policy's distribution to observations of the reference model, an infinite buffer, so the clip
    holds π near π_SFT instead of near the last π. Source: Secrets of RLHF I, §5.3.3 (our reading, the code has none).
    """
    if observations == "behaviour":
        return logprobs
    if observations == "reference":
        return ref_logprobs
    raise ValueError(f"unknown observations {observations!r}")


def reference_update(reference: Tensor, policy: Tensor, form: str, rate: float) -> Tensor:
    """The reference's weights after a move, from its own and the policy's, tensors of one shape.

    ema: α π + (1 − α) π_ref, α = rate, on weights; reset: π. KL to SFT stays a monitor: the reference may follow a policy that drifts.
    Off (none): π_ref = π_SFT for good. Source: TR-DPO 2404.09656, §3 (soft and hard updates); ProRL 2505.24864, §2.3.
    """
    if form == "ema":
        return rate * policy + (1 - rate) * reference
    if form == "reset":
        return policy
    raise ValueError(f"unknown update of the reference {form!r}")


def mismatch_correction(log_weight: Tensor, mask: Tensor, form: str, low: float, high: float) -> Tensor:
    """The weight of each token's policy loss, from log w_t = log π_old(y_t) − log π_sampler(y_t). Shapes [B, T].

    tis: min(w_t, b), truncated importance sampling. icepop: w_t where a ≤ w_t ≤ b, else 0. sequence_mask: 1 for all tokens of a response
    whose geometric mean exp(mean_t log w_t) lies in [a, b], else 0. bypass: 1, since the ratio is then π_θ / π_sampler, which corrects
    by itself as far as its clip lets it. a = low, b = high. A token of weight 0 still counts in the loss's denominator.
    Off (none): 1, as if the policy had sampled. Source: TIS 2510.18855; 2512.23075; verl `rollout_correction`.
    """
    if form in ("none", "bypass"):
        return torch.ones_like(log_weight)
    log_weight = torch.where(mask, log_weight, 0.0)
    weight = log_weight.exp()
    if form == "tis":
        return weight.clamp(max=high)
    if form == "icepop":
        return torch.where((weight >= low) & (weight <= high), weight, 0.0)
    if form == "sequence_mask":
        mean = (log_weight.sum(1) / mask.sum(1).clamp(min=1)).exp()
        return ((mean >= low) & (mean <= high)).to(weight.dtype)[:, None].expand_as(weight)
    raise ValueError(f"unknown correction of the mismatch {form!r}")


def log_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """log π_θ(y) − log π_old(y), 0 at pads: masked before any exp, since 0 × inf is NaN. Shapes [B, T]."""
    return torch.where(mask, logprobs - old_logprobs, 0.0)


def policy_gradient(log_ratio: Tensor, advantages: Tensor) -> Tensor:
    """−ρ_t A_t with ρ = exp(log ratio): the surrogate without a clip. Shapes [B, T]. Schulman et al. 1707.06347, eq. 6."""
    return -advantages * log_ratio.exp()


def ratio_clip(log_ratio: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """−min(ρ A, clip(ρ, 1 − ε, 1 + ε_high) A). low = ε, high = ε_high; the paper's clip is symmetric. Shapes [B, T].

    Where A ≥ 0 and ρ > 1 + ε_high the loss is flat, so holding log ρ at 88 there changes neither the loss nor its gradient of 0, and
    keeps 0 · ∞ = NaN out of both. Where A < 0 the loss grows with ρ without bound, and is infinite where ρ is.
    Off: `policy_gradient`. Source: Secrets of RLHF I, eq. 15; Schulman et al. 1707.06347, eq. 7.
    """
    ratio = log_ratio.clamp(max=torch.where(advantages < 0, torch.inf, LARGEST_LOG_RATIO)).exp()
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - low, 1 + high))


def clip_range_high(high: float | None, low: float) -> float:
    """The ε_high = `high` of `ratio_clip`, a scalar: tokens may become more likely by a factor of up to 1 + ε_high (clip-higher).

    Off: ε_high = ε. Source: DAPO 2503.14476, §3.1.
    """
    return low if high is None else high


def outside_clip(log_ratio: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Whether ρ is below 1 − ε, and whether it is above 1 + ε_high: the tokens that `clip_fraction` counts. Shapes: all [B, T]."""
    change = log_ratio.detach().exp() - 1
    return change < -low, change > high


def policy_kl(log_ratio: Tensor, coef: float) -> Tensor:
    """β · KL(π_old‖π_θ) of PPO-penalty, by k3: β (ρ − 1 − log ρ), ρ = π_θ / π_old, at tokens that π_old sampled: π_old is the behaviour
    policy whatever importance_sampling says. Shapes [B, T], added to the loss.

    Off: 0. Source: Secrets of RLHF I, eq. 14; Schulman et al. 1707.06347, eq. 8.
    """
    return coef * (torch.expm1(log_ratio) - log_ratio)


def dual_clip(loss: Tensor, advantages: Tensor, bound: float) -> Tensor:
    """min(L, c |A|) where A < 0, of the clipped loss L = −min(ρ A, clip(ρ) A); L elsewhere. Shapes [B, T]. bound = c > 1.

    Where A < 0 the clipped loss grows with ρ without bound; past ρ = c this one is flat. Off: L. Source: Ye et al. 1912.09729, eq. 5.
    """
    return torch.where(advantages < 0, torch.minimum(loss, -bound * advantages), loss)


def divergence_mask(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, threshold: float) -> Tensor:
    """Whether a token stays in the policy's loss, bool [B, T]. With D = π_θ(y) − π_old(y) it leaves where A > 0 and D > δ, or A < 0 and
    D < −δ: its probability has moved far enough in the direction that the gradient would move it on. threshold = δ.

    Unlike a ratio, D hardly moves for rare tokens. A token that leaves still counts in the loss's denominator.
    Off: every token stays. Source: DPPO 2602.04879 (binary total variation).
    """
    moved = (logprobs.exp() - old_logprobs.exp()).detach()
    return ~(((advantages > 0) & (moved > threshold)) | ((advantages < 0) & (moved < -threshold)))


def kl_loss(logprobs: Tensor, ref_logprobs: Tensor, full: Tensor | None, estimator: str, coef: float) -> Tensor:
    """β k_n(d), with d = log π_θ(y) − log π_ref(y) and the k_n of `ablate.ppo.tricks.reward.kl_estimate`, added to the loss. Shapes [B, T].

    What is differentiated is the estimate itself. On policy and in expectation its gradient is: k1 = d: 0; k2 = d²/2: that of KL(π‖π_ref)
    at the sampled states; k3 = exp(−d) − 1 + d: that of KL(π_ref‖π); full = Σ_v π(v) (log π(v) − log π_ref(v)): that of KL(π‖π_ref),
    without sampling. None of them lets a token answer for the states that follow it, as the penalty in the reward does.
    Off: 0. Source: GRPO 2402.03300, §4.1 (k3); 2510.01555 and 2512.21852 (gradients).
    """
    if estimator == "full":
        assert full is not None
        return coef * full
    return coef * kl_estimate(logprobs, ref_logprobs, logprobs, estimator)


def loss_aggregation(terms: Tensor, mask: Tensor, form: str, tokens: int, responses: int, longest: int) -> Tensor:
    """The sum over one micro-batch of what makes the mean of a minibatch of N tokens in R responses; a scalar. terms, mask: [b, T].

    token: Σ_it x_it / N. sequence: Σ_i (Σ_t x_it / l_i) / R, l_i the tokens of response i. constant: Σ_it x_it / (R L), L = longest. So a
    token of a long response counts as any other, less than one of a short response, or as any other while a longer minibatch weighs more.
    Off (token): the mean over tokens. Source: token DAPO 2503.14476, §3.3; sequence GRPO 2402.03300; constant Dr. GRPO 2503.20783, §3.1.
    """
    if form == "token":
        return masked_sum(terms, mask) / tokens
    if form == "sequence":
        return (torch.where(mask, terms, 0.0).sum(1) / mask.sum(1).clamp(min=1)).sum() / responses
    if form == "constant":
        return masked_sum(terms, mask) / (responses * longest)
    raise ValueError(f"unknown aggregation of the loss {form!r}")


def overlong_filter(mask: Tensor, ended: Tensor) -> Tensor:
    """The tokens that count in the loss, bool [B, T] = m_it · ended_i: those of responses that ended. ended: [B].

    Advantages are whitened over them alone, and N and R of the means are counted over them. GAE and the rewards' moments see all.
    Off: every token of the mask. Source: DAPO 2503.14476, §3.4 (overlong filtering).
    """
    return mask & ended[:, None]


def ratio_guard(mean_ratio: float, threshold: float) -> bool:
    """Whether a gradient step is left out: Σ_t ρ_t / N > τ over the N tokens of its minibatch. Off: every step is made.

    Source: ReaLHF, `early_stop_imp_ratio` (5 there; 2406.14088).
    """
    return mean_ratio > threshold


def target_kl(approx_kl: float, target: float) -> bool:
    """Whether an update ends before this gradient step: KL(π_b‖π_θ) > 1.5 · target, by k3 in nats per token.

    Off: every epoch is made. Source: Schulman et al. 1707.06347 (as Spinning Up, CleanRL and Stable-Baselines3 have it).
    """
    return approx_kl > TARGET_KL_FACTOR * target


def entropy_clip(entropy: Tensor, threshold: float, form: str) -> Tensor:
    """The entropy term under its clip δ, a scalar of the mean per-token entropy H (nats).

    min: min(H, δ), so no gradient asks for more entropy than δ; moss: −|H − δ|, the released code's, which pulls H to δ from
    both sides (there δ = 35 > ln V, so the clip never acts). Off: H. Source: Secrets of RLHF I, App. B.3, Fig. 16.
    """
    if form == "min":
        return entropy.clamp(max=threshold)
    if form == "moss":
        return -(entropy - threshold).abs()
    raise ValueError(f"unknown entropy clip {form!r}")


def entropy_bonus(entropy: Tensor, coef: float) -> Tensor:
    """−c · H, added to the loss; a scalar. Off: 0. Source: Secrets of RLHF I, §5.3.3; Mnih et al. 1602.01783."""
    return -coef * entropy


def ptx(nll: Tensor, coef: float) -> Tensor:
    """λ_ptx · language-model loss on pretraining text (nats per token), added to the loss; a scalar.

    Off: 0. Source: Secrets of RLHF I, eq. 17; Ouyang et al. 2203.02155, eq. 2.
    """
    return coef * nll
