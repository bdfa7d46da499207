"""The only reader of the reward, advantage and loss toggles: one line per trick, one line per bug.

    score [B] → shape_rewards → rewards [B, T] → estimate_targets → Targets → minibatch_advantages → ppo_loss → LossTerms

Order on the reward: the ensemble's score, shape, length penalty, missing-EOS penalty, norm or scaling, clip, placement at the last
token, KL penalty.
Under `bootstrap_truncated` a truncated response has no score: only its KL penalty is a reward, and V follows its last token.
Order on the advantage: GAE over the buffer; then norm and clip over each minibatch.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ablate.config import PPOConfig, PPOSettings
from ablate.ppo import bugs as bug
from ablate.ppo.tricks import advantage as adv
from ablate.ppo.tricks import policy as pol
from ablate.ppo.tricks import reward as rew
from ablate.ppo.tricks import value as val
from ablate.ppo.tricks.masked import masked_mean, masked_sum
from ablate.ppo.tricks.running import entropy_adaptive, kl_adaptive, update_moments
from ablate.ppo.types import LossTerms, MinibatchSize, Rollout, RunningMoments, ShapingState, Targets


def initial_state(ppo: PPOConfig, member_scores: Tensor | None = None) -> ShapingState:
    """Empty moments, the configured KL coefficient, and the moments of an ensemble's members over SFT's answers.

    member_scores: [N, k], of N answers of SFT; null with one reward model.
    """
    columns = () if member_scores is None else member_scores.unbind(1)
    members = tuple(update_moments(RunningMoments(), scores) for scores in columns)
    return ShapingState(
        moments=RunningMoments(), kl_coef=ppo.kl_coef, entropy_coef=ppo.entropy_coef if ppo.steers_entropy else 0.0, members=members
    )


def shape_rewards(rollout: Rollout, settings: PPOSettings, state: ShapingState) -> tuple[Tensor, ShapingState]:
    """Scores → rewards [B, T] per token, and the state for the next update. The moments include this batch before they are used.

    r_t = clip((R − mean) / σ)·[t last] − η KL_t,  each part as far as its toggle is on
    With bootstrap_truncated the first part and the moments are those of responses that ended.
    """
    ppo, bugs = settings.ppo, settings.bugs
    scored = rollout.ended if ppo.bootstrap_truncated else torch.ones_like(rollout.ended)
    score, extremes = charged_score(rollout, settings, state)
    moments = update_moments(state.moments, score[scored])
    score = normed_score(score, settings, moments, score[scored])
    rewards = rew.place_score(score, rollout.mask & scored[:, None])
    if bugs.reward_on_pad:
        rewards = bug.reward_on_pad(rewards, rollout.mask)
    kl_coef = state.kl_coef
    if ppo.kl_penalty:
        kl = rew.kl_estimate(rollout.logprobs, rollout.ref_logprobs, rollout.kl, ppo.kl_estimator)
        rewards = rew.kl_penalty(rewards, kl, bug.kl_wrong_sign(kl_coef) if bugs.kl_wrong_sign else kl_coef)
        if ppo.kl_adaptive:
            per_response = float(masked_sum(kl, rollout.mask)) / len(score)
            kl_coef = kl_adaptive(kl_coef, per_response, ppo.kl_target, ppo.kl_horizon, len(score))
    if ppo.chi2_penalty is not None:
        rewards = rew.chi2_penalty(rewards, rollout.chi2, ppo.chi2_penalty)
    entropy_coef = state.entropy_coef
    if ppo.steers_entropy:
        entropy = float(masked_mean(rollout.entropy, rollout.mask))
        entropy_coef = entropy_adaptive(entropy_coef, entropy, ppo.entropy_adaptive, ppo.entropy_adaptive_step)
    rewards = torch.where(rollout.mask, rewards, 0.0)
    return rewards, replace(state, moments=moments, kl_coef=kl_coef, entropy_coef=entropy_coef, extremes=extremes)


def charged_score(rollout: Rollout, settings: PPOSettings, state: ShapingState) -> tuple[Tensor, tuple[float, ...]]:
    """The score [B] after everything but norm and clip, and the least and greatest score so far, where the shape asks for them."""
    ppo, score, extremes = settings.ppo, rollout.score, state.extremes
    if rollout.member_scores is not None:
        means, deviations = member_moments(state, rollout.member_scores)
        score = rew.ensemble_score(rollout.member_scores, means, deviations, ppo.ensemble_score, ppo.ensemble_coef)
    if ppo.reward_shape != "none":
        extremes = min([*extremes, float(score.min())]), max([*extremes, float(score.max())])
        references = score.new_zeros(len(score), 0) if rollout.reference_scores is None else rollout.reference_scores
        score = rew.reward_shape(score, references, extremes, ppo.reward_shape)
    if ppo.length_penalty != "none":
        longest = settings.sampling.max_new_tokens
        score = rew.length_penalty(score, rollout.lengths, longest, ppo.length_penalty, ppo.length_penalty_coef, ppo.length_penalty_free)
    if ppo.missing_eos_penalty is not None:
        score = rew.missing_eos_penalty(score, rollout.ended, ppo.missing_eos_penalty, ppo.missing_eos_form)
    return score, extremes


def normed_score(score: Tensor, settings: PPOSettings, moments: RunningMoments, batch: Tensor) -> Tensor:
    """The score under norm or scaling, and clip. Shapes [B]. batch: the scores over which a norm of the batch has its moments."""
    ppo, bugs = settings.ppo, settings.bugs
    if ppo.reward_scaling:
        score = rew.reward_scaling(score, moments.std)
    if ppo.reward_norm:
        norm = moments if ppo.reward_norm_over == "history" else update_moments(RunningMoments(), batch)
        normed = rew.reward_norm(score, norm.mean, norm.std)
        score = bug.nested_reward_norm(score, normed) if bugs.nested_reward_norm else normed
    if ppo.reward_clip is not None:
        score = rew.reward_clip(score, ppo.reward_clip)
    return score


def greedy_baseline(rollout: Rollout, settings: PPOSettings, state: ShapingState) -> Tensor | None:
    """The score [B] of the greedy answers as `shape_rewards` makes it of responses, without a KL penalty; null where there are none.

    state: as `shape_rewards` returned it for this rollout, so that both are on one scale.
    """
    if rollout.greedy_score is None or rollout.greedy_lengths is None:
        return None
    own, _ = charged_score(rollout, settings, state)
    steps = torch.arange(int(rollout.greedy_lengths.max()), device=own.device)
    mask = steps[None] < rollout.greedy_lengths[:, None]
    greedy, _ = charged_score(replace(rollout, score=rollout.greedy_score, ended=rollout.greedy_ended, mask=mask), settings, state)
    return normed_score(greedy, settings, state.moments, own)


def member_moments(state: ShapingState, scores: Tensor) -> tuple[Tensor, Tensor]:
    """(means [k], standard deviations [k]) of the members of an ensemble; 0 and 1 where none are known. scores: [B, k]."""
    known = state.members or tuple(RunningMoments() for _ in range(scores.shape[1]))
    return scores.new_tensor([member.mean for member in known]), scores.new_tensor([member.std for member in known])


def estimate_targets(rollout: Rollout, rewards: Tensor, ppo: PPOConfig, greedy: Tensor | None = None) -> Targets:
    """Advantages over the whole buffer, and the critic's returns. These are of the raw advantages: norm and clip never reach the critic.

    greedy: `greedy_baseline`, where the estimator has it. Without a critic the returns are 0 and nobody reads them.
    """
    if not ppo.has_critic:
        advantages = adv.advantage_estimator(rewards, rollout.mask, ppo.advantage_estimator, ppo.samples_per_prompt, ppo.gamma, greedy)
        return Targets(advantages=advantages, returns=torch.zeros_like(advantages))
    bootstrap = torch.zeros_like(rollout.last_value)
    if ppo.bootstrap_truncated:
        bootstrap = adv.bootstrap_truncated(rollout.last_value, rollout.ended)
    record = rewards, rollout.values, rollout.mask, bootstrap, ppo.gamma
    advantages, returns = adv.gae(*record, ppo.gae_lambda)
    if ppo.gae_length_adaptive is not None:
        advantages, _ = adv.gae(*record, adv.gae_length_adaptive(rollout.mask, ppo.gae_length_adaptive))
    if ppo.gae_lambda_critic is not None:
        returns = adv.gae_lambda_critic(*record, ppo.gae_lambda_critic)
    return Targets(advantages=advantages, returns=returns)


def minibatch_advantages(advantages: Tensor, mask: Tensor, settings: PPOSettings) -> Tensor:
    """Norm, then clip, over the real tokens of one minibatch [b, T]; never over a micro-batch."""
    ppo, bugs = settings.ppo, settings.bugs
    if ppo.advantage_norm:
        advantages = adv.advantage_norm(advantages, bug.unmasked_whitening(mask) if bugs.unmasked_whitening else mask)
    if ppo.advantage_clip is not None:
        advantages = adv.advantage_clip(advantages, ppo.advantage_clip)
    return torch.where(mask, advantages, 0.0)


def counted(batch: Rollout, ppo: PPOConfig) -> Tensor:
    """The tokens of a batch that count in the loss and in the moments of its advantages, bool [B, T]."""
    return pol.overlong_filter(batch.mask, batch.ended) if ppo.overlong_filter else batch.mask


def average(terms: Tensor, mask: Tensor, ppo: PPOConfig, size: MinibatchSize) -> Tensor:
    """A micro-batch's part of the minibatch's mean of a term of the policy's loss, a scalar. terms, mask: [b, T]."""
    return pol.loss_aggregation(terms, mask, ppo.loss_aggregation, size.tokens, size.responses, size.longest)


def ppo_loss(
    logprobs: Tensor,
    entropy: Tensor,
    values: Tensor | None,
    batch: Rollout,
    targets: Targets,
    settings: PPOSettings,
    size: MinibatchSize,
    *,
    entropy_coef: float,
    minibatch_entropy: Tensor | None = None,
    full_kl: Tensor | None = None,
    value_scale: float = 1.0,
) -> LossTerms:
    """Losses of one micro-batch, divided by the counts of its whole minibatch (`size`), so that micro-batches add up exactly.

    total = mean_t [policy_t + β KL(π_b‖π_θ)_t + β' k_n(d_t)] − c · min(H, δ) + value_coef · Σ_t value_t / N,    N = size.tokens,
    policy_t the clipped surrogate or −ρ_t A_t, value_t the clipped or plain squared error; a toggle that is off leaves its term out. The
    mean of the policy's terms and of H is that of loss_aggregation, the value's is over tokens always.
    ρ_t is π_θ / π_old, with π_old of importance_sampling. KL, of the penalty and of approx_kl, is from the behaviour policy π_b always:
    the tokens are samples of no other.

    logprobs, entropy, values: [b, T] under the current weights, with gradients; values are null without a critic. batch, targets: the
    same rows; the advantages are already those of `minibatch_advantages`. minibatch_entropy: mean entropy of the whole minibatch, which
    decides on which side of its clip the bonus is; null where the micro-batch is the minibatch. full_kl: KL(π_θ‖π_ref) [b, T] over the
    vocabulary, with a gradient, where the KL in the loss is the full one. value_scale: σ of the critic's units (`ablate.ppo.value_norm`).
    """
    ppo, bugs, tokens = settings.ppo, settings.bugs, size.tokens
    mask = counted(batch, ppo)
    old = pol.importance_sampling(batch.logprobs, batch.ref_logprobs, ppo.importance_sampling)
    if ppo.mismatch_correction == "bypass":
        old = batch.sampler_logprobs
    log_ratio = pol.log_ratio(logprobs, old, batch.mask)
    moved = pol.log_ratio(logprobs, batch.logprobs, batch.mask)
    if ppo.ratio_clip:
        high = pol.clip_range_high(ppo.clip_range_high, ppo.clip_range)
        policy = pol.ratio_clip(log_ratio, targets.advantages, ppo.clip_range, high)
        below, above = pol.outside_clip(log_ratio, ppo.clip_range, high)
        if ppo.dual_clip is not None:
            policy = pol.dual_clip(policy, targets.advantages, ppo.dual_clip)
    else:
        policy = pol.policy_gradient(log_ratio, targets.advantages)
        below = above = torch.zeros_like(mask)
    if ppo.divergence_mask is not None:
        policy = torch.where(pol.divergence_mask(logprobs, old, targets.advantages, ppo.divergence_mask), policy, 0.0)
    if ppo.mismatch_correction != "none":
        assert batch.sampler_logprobs is not None  # `check_sampler` refuses a correction where the policy samples itself
        weight = batch.logprobs - batch.sampler_logprobs
        policy = policy * pol.mismatch_correction(weight, mask, ppo.mismatch_correction, ppo.mismatch_low, ppo.mismatch_high)
    policy_loss = average(policy, mask, ppo, size)
    total = policy_loss
    if ppo.policy_kl:
        total = total + average(pol.policy_kl(moved, ppo.policy_kl_coef), mask, ppo, size)
    if ppo.kl_loss:
        kl = pol.kl_loss(logprobs, batch.ref_logprobs, full_kl, ppo.kl_loss_estimator, ppo.kl_loss_coef)
        total = total + average(bug.kl_loss_clamped(kl, ppo.kl_loss_coef) if bugs.kl_loss_clamped else kl, mask, ppo, size)
    if ppo.entropy_bonus:
        bonus = average(entropy, mask, ppo, size)
        if ppo.entropy_clip is not None:
            if minibatch_entropy is not None:
                bonus = bonus - bonus.detach() + minibatch_entropy
            bonus = pol.entropy_clip(bonus, ppo.entropy_clip, ppo.entropy_clip_form)
        total = total + pol.entropy_bonus(bonus, entropy_coef)
    if values is None:
        value, held = torch.zeros_like(policy), torch.zeros_like(mask)
    elif ppo.value_clip:
        clip_range = ppo.value_clip_range * value_scale
        value = val.value_clip(values, batch.values, targets.returns, clip_range)
        held = (values.detach() - batch.values).abs() > clip_range
    else:
        value = val.value_loss(values, targets.returns)
        held = torch.zeros_like(mask)
    if value_scale != 1.0:
        value = val.value_norm(value, value_scale)
    value_loss = masked_sum(value, mask) / tokens
    if bugs.micro_batch_mean:
        value_loss = bug.micro_batch_mean(value_loss, tokens, int(mask.sum()), len(mask) / size.rows)
    with torch.no_grad():
        k3 = torch.expm1(moved) - moved
        low, high = (masked_sum(part.float(), mask) / tokens for part in (below, above))
        return_terms = dict(
            approx_kl=masked_sum(k3, mask) / tokens,
            clip_fraction=masked_sum((below | above).float(), mask) / tokens,
            clip_fraction_low=low,
            clip_fraction_high=high,
            value_clip_fraction=masked_sum(held.float(), mask) / tokens,
            ratio_mean=masked_sum(log_ratio.exp(), mask) / tokens,
            ratio_min=torch.where(batch.mask, log_ratio, torch.inf).exp().amin(),
            ratio_max=torch.where(batch.mask, log_ratio, -torch.inf).exp().amax(),
        )
    return LossTerms(total=total + ppo.value_coef * value_loss, policy=policy_loss, value=value_loss, **return_terms)


def critic_pretrain_loss(values: Tensor, batch: Rollout, targets: Targets, tokens: int, value_scale: float = 1.0) -> Tensor:
    """Value loss alone, for the phase before the first update. tokens: of the whole minibatch. value_scale: as in `ppo_loss`."""
    loss = val.critic_pretrain(values, targets.returns)
    return masked_sum(val.value_norm(loss, value_scale) if value_scale != 1.0 else loss, batch.mask) / tokens


def explained_variance(rollout: Rollout, targets: Targets) -> float:
    """1 − Var(R − V) / Var(R) over real tokens; 0 where the returns do not vary."""
    returns, errors = targets.returns, targets.returns - rollout.values
    variance = masked_mean((returns - masked_mean(returns, rollout.mask)) ** 2, rollout.mask)
    residual = masked_mean((errors - masked_mean(errors, rollout.mask)) ** 2, rollout.mask)
    return float(1 - residual / variance) if variance > 1e-12 else 0.0
