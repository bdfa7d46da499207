"""Known numerical mistakes in PPO, each against a slow loop or a value made by hand.

Those of sampling, of the update and of the models' passes are in test_sampling.py, test_update.py and tests/models/test_models.py.
"""

import itertools
import math
from dataclasses import replace

import pytest
import reference
import torch
from synthetic import loss_of, random_rollout, random_targets, rows_of, with_pads

from ablate.config import BugsConfig, PPOConfig, PPOSettings, SamplingConfig
from ablate.ppo.monitor import advantage_metrics, monitors
from ablate.ppo.rollout import collect_rollout, encode_prompts, full_kl
from ablate.ppo.shaping import estimate_targets, initial_state, minibatch_advantages, shape_rewards
from ablate.ppo.tricks.advantage import gae
from ablate.ppo.tricks.masked import masked_mean
from ablate.ppo.tricks.policy import log_ratio, ratio_clip
from ablate.ppo.tricks.reward import kl_estimate
from ablate.ppo.tricks.value import value_clip
from ablate.ppo.types import Targets

NO_BUGS, CPU = BugsConfig(), torch.device("cpu")
PLAIN = PPOConfig(kl_penalty=False, reward_norm=False, reward_clip=None, advantage_norm=False, value_clip=False, critic_pretrain=False)


def shaped(ppo: PPOConfig, rollout=None, bugs: BugsConfig = NO_BUGS) -> torch.Tensor:
    return shape_rewards(rollout or random_rollout(), PPOSettings(ppo, bugs=bugs), initial_state(ppo))[0]


@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_policy_and_reference_use_the_sampling_temperature_and_the_values_do_not(temperature, tiny_models):
    prompts = encode_prompts(tiny_models.tokenizer, ["how do i start with bread ?"] * 8, CPU)
    noise = torch.rand(8, 6, generator=torch.Generator().manual_seed(0))
    warm = collect_rollout(tiny_models, prompts, noise, PPOSettings(sampling=SamplingConfig(temperature=temperature)))
    with torch.no_grad():
        positions = (warm.attention.long().cumsum(1) - 1).clamp(min=0)
        inputs = dict(input_ids=warm.tokens, attention_mask=warm.attention.long(), position_ids=positions)
        steps = warm.mask.shape[1]
        log_probs = (tiny_models.reference(**inputs).logits[:, -steps - 1 : -1] / temperature).log_softmax(-1)
        hidden = tiny_models.critic.model(**inputs).last_hidden_state
    chosen = log_probs.gather(2, warm.tokens[:, -steps:, None]).squeeze(2)
    values = tiny_models.critic.score(hidden).detach().squeeze(2)[:, -steps - 1 : -1] - 0.25
    for name, expected in (("logprobs", chosen), ("ref_logprobs", chosen), ("values", values)):
        torch.testing.assert_close(getattr(warm, name)[warm.mask], expected[warm.mask], rtol=0, atol=2e-5)
    assert warm.kl.abs().max() < 1e-6


def test_dropout_is_off_in_every_pass_and_on_only_as_a_bug(architecture_folders, tiny_models):
    assert not any(module.training for model in (tiny_models.policy, tiny_models.critic) for module in model.modules())
    prompts = encode_prompts(tiny_models.tokenizer, ["how do i start with bread ?"] * 8, CPU)
    noise = torch.rand(8, 6, generator=torch.Generator().manual_seed(0))
    first, again = (collect_rollout(tiny_models, prompts, noise, PPOSettings()) for _ in range(2))
    assert torch.equal(first.logprobs, again.logprobs)
    torch.manual_seed(0)
    bugged = collect_rollout(tiny_models, prompts, noise, PPOSettings(bugs=BugsConfig(dropout_in_rollouts=True)))
    assert torch.equal(bugged.tokens, first.tokens)
    assert (bugged.logprobs - first.logprobs).abs().max() > 1e-4
    assert not any(module.training for module in tiny_models.policy.modules())


@pytest.mark.parametrize("fill", [float("nan"), 1e30])
def test_pads_count_in_no_monitor(fill):
    rollout = random_rollout()
    ppo = PPOConfig()
    targets = estimate_targets(rollout, shaped(ppo), ppo)
    filled = with_pads(rollout, fill)
    pads = Targets(*(torch.where(rollout.mask, x, fill) for x in (targets.advantages, targets.returns)))
    assert monitors(filled) == monitors(rollout)
    assert advantage_metrics(filled, pads) == advantage_metrics(rollout, targets)
    assert monitors(rollout)["monitor/entropy"] > 0 and monitors(rollout)["monitor/kl_k3"] > 0


def test_ratio_max_is_that_of_real_tokens_when_all_of_them_are_below_one():
    rollout = random_rollout()
    terms = loss_of(rollout.logprobs - 1, rollout.entropy, rollout.values, rollout, random_targets(rollout), PLAIN)
    assert terms.ratio_max.item() == pytest.approx(math.exp(-1), rel=1e-6)


def test_the_log_ratio_is_masked_before_exp():
    """At a pad the log ratio is +1000 or −inf: exp would be inf, and inf × 0 is NaN, forward and backward."""
    mask = torch.tensor([[True, False, False]])
    new = torch.tensor([[-1.0, 1000.0, -torch.inf]], requires_grad=True)
    ratio = log_ratio(new, torch.tensor([[-1.0, 0.0, 0.0]]), mask)
    assert ratio.tolist() == [[0.0, 0.0, 0.0]]
    masked_mean(ratio_clip(ratio, torch.ones(1, 3), 0.2, 0.2), mask).backward()
    assert new.grad.tolist() == [[-1.0, 0.0, 0.0]]


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "full"])
@pytest.mark.parametrize("amount", [0.05, 0.2])
def test_rewards_of_a_response_sum_to_score_minus_eta_times_kl(estimator, amount):
    """For ended and truncated responses, of one token and of the longest."""
    rollout = random_rollout()
    ppo = replace(PLAIN, kl_penalty=True, kl_coef=amount, kl_estimator=estimator)
    assert not rollout.ended.all() and rollout.ended.any()
    policy, sft, full = (rows_of(x, rollout.mask) for x in (rollout.logprobs, rollout.ref_logprobs, rollout.kl))
    expected = []
    for score, *tokens in zip(rollout.score.tolist(), policy, sft, full, strict=True):
        for p, q, given in zip(*tokens, strict=True):
            score -= amount * (given if estimator == "full" else reference.kl_sample(math.exp(p), math.exp(q), estimator))
        expected.append(score)
    assert shaped(ppo).sum(1).tolist() == pytest.approx(expected, abs=1e-5)


def test_the_score_is_at_the_last_real_token_and_nowhere_else():
    rollout = random_rollout()
    for row, rewards in enumerate(shaped(PLAIN)):
        last = int(rollout.lengths[row]) - 1
        assert rewards[last] == rollout.score[row]
        assert rewards[:last].abs().sum() == rewards[last + 1 :].abs().sum() == 0


def test_the_missing_end_is_punished_exactly_where_the_end_is_missing():
    rollout = random_rollout()
    difference = (shaped(PLAIN) - shaped(replace(PLAIN, missing_eos_penalty=1.5))).sum(1)
    assert difference.tolist() == pytest.approx([0.0 if ended else 1.5 for ended in rollout.ended.tolist()], abs=1e-6)


def test_with_the_bug_reward_on_pad_every_row_loses_its_reward_the_longest_too():
    rollout = random_rollout()
    assert shaped(PLAIN, rollout, BugsConfig(reward_on_pad=True)).abs().sum() == 0


def test_gae_never_reads_a_value_past_the_end():
    rollout = random_rollout()
    rewards = torch.where(rollout.mask, rollout.kl, 0.0)
    dirty = torch.where(rollout.mask, rollout.values, torch.nan)
    advantages, returns = gae(torch.where(rollout.mask, rewards, torch.nan), dirty, rollout.mask, torch.zeros(6), 1.0, 0.95)
    rows = zip(rows_of(rewards, rollout.mask), rows_of(rollout.values, rollout.mask), strict=True)
    slow = [reference.gae(r, v, 0.0, 1.0, 0.95) for r, v in rows]
    assert advantages[rollout.mask].tolist() == pytest.approx(list(itertools.chain(*slow)), abs=1e-5)
    assert torch.isfinite(returns).all()


def test_truncation_is_an_end_unless_asked_and_then_the_value_goes_on():
    """By default 0 follows the last token. With bootstrap_truncated the critic's value follows in truncated rows, which have no score."""
    assert not PPOConfig().bootstrap_truncated and PPOConfig().missing_eos_penalty is None
    rollout = random_rollout()
    for ppo, follows in ((PLAIN, torch.zeros(6)), (replace(PLAIN, bootstrap_truncated=True), rollout.last_value * ~rollout.ended)):
        rewards = shaped(ppo)
        scored = rollout.ended | (not ppo.bootstrap_truncated)
        assert rewards.sum(1).tolist() == (rollout.score * scored).tolist()
        advantages = rows_of(estimate_targets(rollout, rewards, ppo).advantages, rollout.mask)
        for row in range(6):
            values = rollout.values[row, rollout.mask[row]].tolist()
            slow = reference.gae(rewards[row, rollout.mask[row]].tolist(), values, follows[row].item(), ppo.gamma, ppo.gae_lambda)
            assert advantages[row] == pytest.approx(slow, abs=1e-5)


def categorical_pair() -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.randn(2, 11, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    return logits[0].log_softmax(0), (logits[0] + 0.5 * logits[1]).log_softmax(0)


def test_the_expectation_of_k1_and_k3_is_the_full_kl_and_that_of_k2_is_not():
    """Exactly, as sums over the vocabulary under π; and the sign: χ² − KL would not be KL."""
    policy, sft = categorical_pair()
    kl = reference.kl_full(policy.exp().tolist(), sft.exp().tolist())
    mean = {name: (policy.exp() * kl_estimate(policy, sft, policy, name)).sum().item() for name in ("k1", "k2", "k3")}
    assert mean["k1"] == pytest.approx(kl, rel=1e-12) and mean["k3"] == pytest.approx(kl, rel=1e-12)
    assert mean["k2"] == pytest.approx(kl, rel=0.3) and abs(mean["k2"] - kl) > 1e-4
    assert (kl_estimate(policy, sft, policy, "k3") >= 0).all() and (kl_estimate(policy, sft, policy, "k1") < 0).any()
    assert full_kl(policy[None], sft[None]).item() == pytest.approx(kl, rel=1e-12)


def test_sampled_means_approach_the_full_kl():
    policy, sft = categorical_pair()
    kl = full_kl(policy[None], sft[None]).item()
    tokens = torch.multinomial(policy.exp(), 200_000, replacement=True, generator=torch.Generator().manual_seed(1))
    for name in ("k1", "k3"):
        estimates = kl_estimate(policy[tokens], sft[tokens], policy[tokens], name)
        assert abs(estimates.mean().item() - kl) < 5 * estimates.std().item() / len(tokens) ** 0.5


@pytest.mark.parametrize("observations", ["behaviour", "reference"])
def test_the_kl_of_the_update_is_from_the_policy_that_sampled_whatever_the_old_one_of_the_ratio_is(observations):
    """Summed over the vocabulary under π_b, one answer of one token each: approx_kl is KL(π_b‖π_θ), and the penalty β times it."""
    behaviour, new = categorical_pair()
    base = random_rollout(lengths=(1,) * 11)
    reference_policy = torch.full((11,), 1 / 11, dtype=torch.double).log()
    rollout = replace(base, logprobs=behaviour.float()[:, None], ref_logprobs=reference_policy.float()[:, None])
    kl = reference.kl_full(behaviour.exp().tolist(), new.exp().tolist())

    def expectation(**settings) -> tuple[float, float]:
        ppo, approx_kl, total = replace(PLAIN, importance_sampling=observations, **settings), 0.0, 0.0
        for token, p in enumerate(behaviour.exp().tolist()):
            row = rollout.rows(torch.tensor([token]))
            terms = loss_of(new.float()[token].view(1, 1), row.entropy, row.values, row, Targets(row.values, row.values), ppo)
            approx_kl, total = approx_kl + p * terms.approx_kl.item(), total + p * terms.total.item()
        return approx_kl, total

    free, (approx_kl, penalised) = expectation(), expectation(policy_kl=True, policy_kl_coef=3.0)
    assert free[0] == approx_kl == pytest.approx(kl, rel=1e-5)
    assert penalised - free[1] == pytest.approx(3 * kl, rel=1e-5)


def test_full_kl_by_hand_and_where_the_policy_never_goes():
    """(½, ½, 0) against (¼, ¼, ½): ln 2."""
    p, q = torch.tensor([[0.5, 0.5, 0.0]]).log(), torch.tensor([[0.25, 0.25, 0.5]]).log()
    assert full_kl(p, q).item() == pytest.approx(math.log(2))


def test_the_penalty_lowers_the_reward_of_drift_and_the_bug_raises_it():
    rollout = replace(random_rollout(), ref_logprobs=random_rollout().logprobs - 1)
    ppo = replace(PLAIN, kl_penalty=True)
    free, held, bugged = shaped(PLAIN, rollout), shaped(ppo, rollout), shaped(ppo, rollout, BugsConfig(kl_wrong_sign=True))
    assert (held < free)[rollout.mask].all() and (bugged > free)[rollout.mask].all()


def test_the_whitened_minibatch_has_mean_0_and_unbiased_std_1_over_real_tokens():
    rollout = random_rollout()
    raw = random_targets(rollout).advantages + 3
    white = minibatch_advantages(raw, rollout.mask, PPOSettings(replace(PLAIN, advantage_norm=True)))
    mean, std = reference.mean_and_std(white[rollout.mask].tolist())
    assert mean == pytest.approx(0, abs=1e-6) and std == pytest.approx(1, abs=1e-5)
    assert (white[~rollout.mask] == 0).all()
    slow = reference.whiten(rows_of(raw, rollout.mask))
    assert white[rollout.mask].tolist() == pytest.approx(list(itertools.chain(*slow)), abs=1e-5)


def test_whitening_by_hand():
    """(1, 2, 3): mean 2, std 1 with N − 1 (0.816 with N)."""
    raw, mask = torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(1, 3, dtype=torch.bool)
    white = minibatch_advantages(raw, mask, PPOSettings(replace(PLAIN, advantage_norm=True)))
    assert white.tolist() == [pytest.approx([-1.0, 0.0, 1.0])]


def test_with_the_bug_unmasked_whitening_pads_count_in_the_moments():
    rollout = random_rollout()
    ppo, raw = replace(PLAIN, advantage_norm=True), random_targets(rollout).advantages + torch.where(rollout.mask, 3.0, 0.0)
    bugged = minibatch_advantages(raw, rollout.mask, PPOSettings(ppo, bugs=BugsConfig(unmasked_whitening=True)))
    assert abs(masked_mean(bugged, rollout.mask).item()) > 0.1


def test_reward_norm_acts_without_reward_scaling_and_with_the_bug_nested_reward_norm_does_not():
    """MOSS's nested `if`: normalisation that needs scaling. The contract test shows the same of every other toggle."""
    ppo = replace(PLAIN, reward_norm=True)
    assert not torch.equal(shaped(ppo), shaped(PLAIN))
    assert torch.equal(shaped(ppo, bugs=BugsConfig(nested_reward_norm=True)), shaped(PLAIN))


def test_a_response_that_holds_the_pad_token_is_counted_whole(tiny_models):
    """Masks come from lengths, not from token ids: a policy may say <pad>, and the reward then still lands on the last token."""
    tokenizer = tiny_models.tokenizer
    with torch.no_grad():
        tiny_models.policy.get_output_embeddings().weight[tokenizer.pad_token_id, 0] = 4.0
    prompts = encode_prompts(tokenizer, ["how do i start with bread ?"] * 16, CPU)
    rollout = collect_rollout(tiny_models, prompts, torch.rand(16, 8, generator=torch.Generator().manual_seed(0)), PPOSettings())
    said = (rollout.tokens[:, -rollout.mask.shape[1] :] == tokenizer.pad_token_id) & rollout.mask
    assert said.any() and (rollout.logprobs[said] < 0).all()
    assert shaped(PLAIN, rollout).sum(1).tolist() == pytest.approx(rollout.score.tolist())


def test_scores_are_scaled_first_and_clipped_after():
    """Scores (0, 0, 0, 8) / 4 clipped to 0.5 give 0.5; clipped first they would give 0.125."""
    rollout = replace(random_rollout(lengths=(2, 2, 2, 2)), score=torch.tensor([0.0, 0.0, 0.0, 8.0]))
    ppo = replace(PLAIN, reward_scaling=True, reward_clip=0.5)
    assert shaped(ppo, rollout).sum(1).tolist() == pytest.approx([0, 0, 0, 0.5])
    normed = shaped(replace(PLAIN, reward_norm=True, reward_clip=0.6), rollout).sum(1)
    assert normed.tolist() == pytest.approx([-0.5, -0.5, -0.5, 0.6])


def test_the_clip_is_over_the_score_and_the_kl_penalty_is_not_clipped():
    rollout = replace(random_rollout(), ref_logprobs=random_rollout().logprobs - 100)
    ppo = replace(PLAIN, kl_penalty=True, kl_coef=0.1, reward_clip=0.3)
    assert (shaped(ppo, rollout)[:, 0] < -9).all()


def test_the_missing_end_is_punished_before_the_norm_and_advantages_are_clipped_after_theirs():
    rollout = random_rollout()
    ppo = replace(PLAIN, missing_eos_penalty=50.0, reward_clip=1.0)
    assert shaped(ppo).sum(1)[~rollout.ended].tolist() == [-1.0]
    advantages = minibatch_advantages(
        100 * rollout.values, rollout.mask, PPOSettings(replace(PLAIN, advantage_norm=True, advantage_clip=0.8))
    )
    assert advantages.max().item() == pytest.approx(0.8) and len(set(advantages[rollout.mask].tolist())) > 8


def test_the_value_clip_is_in_units_of_reward():
    """Ten times the reward at ten times the range is the same clip; at the same range it is not. The docstring says so."""
    value, old, target = torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([2.0])
    small = value_clip(value, old, target, 0.2)
    torch.testing.assert_close(value_clip(10 * value, 10 * old, 10 * target, 2.0), 100 * small, rtol=1e-6, atol=0)
    assert value_clip(10 * value, 10 * old, 10 * target, 0.2) > 1.2 * 100 * small
    assert "reward units" in value_clip.__doc__
