"""GAE, its bootstrap, and the tricks on advantages."""

import itertools
from dataclasses import replace

import pytest
import reference
import torch
from synthetic import flat, random_rollout, rows_of

from ablate.config import PPOConfig, PPOSettings
from ablate.ppo.shaping import estimate_targets, initial_state, shape_rewards
from ablate.ppo.tricks.advantage import advantage_clip, advantage_norm, bootstrap_truncated, gae
from ablate.ppo.tricks.masked import masked_mean, masked_sum, masked_whiten
from ablate.ppo.types import Rollout, Targets

TRUE = torch.ones(1, 3, dtype=torch.bool)


def test_gae_by_hand():
    """γ = 0.5, λ = 0.5: δ = (1 + 0.5·2 − 1, 0 + 0.5·4 − 2, 3 − 4) = (1, 0, −1); A = (1 − 1/16, −1/4, −1)."""
    rewards, values = torch.tensor([[1.0, 0, 3]]), torch.tensor([[1.0, 2, 4]])
    advantages, returns = gae(rewards, values, TRUE, torch.zeros(1), 0.5, 0.5)
    assert advantages.tolist() == [[0.9375, -0.25, -1.0]]
    assert returns.tolist() == [[1.9375, 1.75, 3.0]]


@pytest.mark.parametrize(("gamma", "gae_lambda"), list(itertools.product((1.0, 0.9), (0.0, 0.9, 0.95, 1.0))))
def test_gae_equals_the_sum_over_td_errors_row_by_row(gamma, gae_lambda):
    rollout = random_rollout()
    rewards = torch.where(rollout.mask, rollout.entropy - 1.3, 0.0)
    bootstrap = rollout.last_value
    advantages, returns = gae(rewards, rollout.values, rollout.mask, bootstrap, gamma, gae_lambda)
    slow = [
        reference.gae(r, v, b, gamma, gae_lambda)
        for r, v, b in zip(rows_of(rewards, rollout.mask), rows_of(rollout.values, rollout.mask), bootstrap.tolist(), strict=True)
    ]
    torch.testing.assert_close(flat(advantages, rollout.mask), list(itertools.chain(*slow)), rtol=0, atol=1e-5)
    torch.testing.assert_close(returns, torch.where(rollout.mask, advantages + rollout.values, 0.0), rtol=0, atol=0)
    assert (advantages[~rollout.mask] == 0).all() and (returns[~rollout.mask] == 0).all()


def test_gae_with_lambda_1_and_gamma_1_is_the_reward_to_come_minus_the_value():
    rollout = random_rollout(seed=3)
    rewards = torch.where(rollout.mask, rollout.kl, 0.0)
    advantages, returns = gae(rewards, rollout.values, rollout.mask, torch.zeros(len(rewards)), 1.0, 1.0)
    to_come = [[sum(row[t:]) for t in range(len(row))] for row in rows_of(rewards, rollout.mask)]
    assert rows_of(returns, rollout.mask) == [pytest.approx(row, abs=1e-5) for row in to_come]
    for row, values, sums in zip(rows_of(advantages, rollout.mask), rows_of(rollout.values, rollout.mask), to_come, strict=True):
        assert row == pytest.approx([to_go - value for to_go, value in zip(sums, values, strict=True)], abs=1e-5)


def test_gae_with_lambda_0_is_the_td_error():
    rollout = random_rollout(seed=4)
    advantages, _ = gae(rollout.kl, rollout.values, rollout.mask, torch.zeros(6), 0.9, 0.0)
    for row, rewards, values in zip(*(rows_of(x, rollout.mask) for x in (advantages, rollout.kl, rollout.values)), strict=True):
        for t, reward in enumerate(rewards):
            following = values[t + 1] if t + 1 < len(values) else 0.0
            assert row[t] == pytest.approx(reward + 0.9 * following - values[t], abs=1e-6)


def test_the_right_values_leave_no_advantage():
    rewards = torch.tensor([[0.0, 0.0, 2.0]])
    advantages, _ = gae(rewards, torch.full((1, 3), 2.0), TRUE, torch.zeros(1), 1.0, 0.95)
    assert advantages.abs().max() == 0


def test_bootstrap_is_the_last_value_of_truncated_rows_only():
    value, ended = torch.tensor([1.5, -2.0]), torch.tensor([True, False])
    assert bootstrap_truncated(value, ended).tolist() == [0.0, -2.0]


# A chain with one state, the same before every token. A token ends the answer well (score 4) or badly (−1) with probability 1/4 each, and
# goes on with 1/2; answers are cut off after three. The reward model has a score for the cut-off text too, 7. At γ = 0.8 the value of
# the state is V = (4 − 1) / 4 + γ V / 2 = 1.25, whatever was said before.
CUT = 3
ANSWERS = [(length, score, 0.5 ** (length - 1) / 4) for length in range(1, CUT + 1) for score in (4.0, -1.0)] + [(CUT, 7.0, 0.5**CUT)]
CHAIN = PPOConfig(kl_penalty=False, reward_norm=False, reward_clip=None, gamma=0.8, bootstrap_truncated=True)


def chain_rollout(value: float, answers: list[tuple[int, float, float]] = ANSWERS) -> Rollout:
    """One row for each answer that the chain can give, under a critic that says `value` of its state."""
    base = random_rollout(lengths=tuple(length for length, _, _ in answers))
    return replace(
        base, ended=torch.tensor([score != 7.0 for _, score, _ in answers]), score=torch.tensor([score for _, score, _ in answers]),
        values=torch.where(base.mask, value, 0.0), last_value=torch.full((len(answers),), value),
    )  # fmt: skip


def chain_targets(rollout: Rollout, ppo: PPOConfig = CHAIN) -> Targets:
    return estimate_targets(rollout, shape_rewards(rollout, PPOSettings(ppo), initial_state(ppo))[0], ppo)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 1.0])
def test_under_an_exact_critic_the_expected_advantage_is_zero_at_every_token_truncated_or_not(gae_lambda):
    """Over the chain's seven answers, weighed by their probabilities, given that a token is reached."""
    rollout, probability = chain_rollout(1.25), torch.tensor([p for _, _, p in ANSWERS])
    assert probability.sum() == 1 and (~rollout.ended).sum() == 1
    advantages = chain_targets(rollout, replace(CHAIN, gae_lambda=gae_lambda)).advantages
    assert advantages.abs().max() > 1
    torch.testing.assert_close(probability @ advantages, torch.zeros(CUT), rtol=0, atol=1e-6)


def test_where_every_end_is_worth_the_same_an_exact_critic_leaves_no_advantage_at_all():
    """γ = 1 and a score of 2 at every end: V = 2. Counted twice, the score of a cut-off answer gave its tokens an advantage of +2."""
    rollout = replace(chain_rollout(2.0), score=torch.full((len(ANSWERS),), 2.0))
    assert chain_targets(rollout, replace(CHAIN, gamma=1.0)).advantages.abs().max() == 0


@pytest.mark.parametrize(("gamma", "exact"), [(0.8, 1.25), (1.0, 1.5)])
def test_a_critic_fitted_to_its_own_targets_again_and_again_comes_to_the_exact_value(gamma, exact):
    ppo, weight = replace(CHAIN, gamma=gamma), torch.tensor([p for _, _, p in ANSWERS])[:, None]
    for value in (0.0, 50.0):
        for _ in range(200):
            rollout = chain_rollout(value)
            value = float((chain_targets(rollout, ppo).returns * weight).sum() / (rollout.mask * weight).sum())
        assert value == pytest.approx(exact, abs=1e-4)


def test_where_every_answer_is_cut_off_the_fitted_value_stays_where_it_was():
    """Nothing has been scored, so nothing moves it at γ = 1. With the score as well, each fit would add 7."""
    value = 3.0
    for _ in range(50):
        targets = chain_targets(chain_rollout(value, [(CUT, 7.0, 1.0)] * 4), replace(CHAIN, gamma=1.0))
        value = float(targets.returns.mean())
    assert value == 3.0


@pytest.mark.parametrize("over", ["history", "batch"])
def test_the_score_of_a_truncated_answer_that_goes_on_is_in_no_moment(over):
    """Scores 4 and −1 of the ended answers have mean 1.5; the 7 of the truncated one would move it. Where none ended nothing is scored."""
    answers = [(1, 4.0, 0.5), (1, -1.0, 0.5), (CUT, 7.0, 1.0)]
    ppo = replace(CHAIN, reward_norm=True, reward_norm_over=over)
    rewards, state = shape_rewards(chain_rollout(0.0, answers), PPOSettings(ppo), initial_state(ppo))
    assert (state.moments.count, state.moments.mean) == (2, 1.5)
    assert rewards.sum(1).tolist() == pytest.approx([0.5**0.5, -(0.5**0.5), 0.0])
    rewards, after = shape_rewards(chain_rollout(0.0, answers[2:]), PPOSettings(ppo), state)
    assert after.moments == state.moments and rewards.abs().max() == 0


def test_whitening_equals_the_slow_loop_with_bessels_correction():
    rollout = random_rollout(seed=5)
    whitened = masked_whiten(rollout.values, rollout.mask)
    slow = reference.whiten(rows_of(rollout.values, rollout.mask))
    torch.testing.assert_close(flat(whitened, rollout.mask), list(itertools.chain(*slow)), rtol=0, atol=1e-6)
    torch.testing.assert_close(advantage_norm(rollout.values, rollout.mask), whitened, rtol=0, atol=0)


def test_whitening_ignores_shift_and_scale_and_keeps_order():
    rollout = random_rollout(seed=6)
    base = masked_whiten(rollout.values, rollout.mask)
    torch.testing.assert_close(masked_whiten(100 * rollout.values - 7, rollout.mask), base, rtol=0, atol=1e-5)
    torch.testing.assert_close(masked_whiten(-rollout.values, rollout.mask), -base, rtol=0, atol=1e-6)
    assert flat(base, rollout.mask).index(max(flat(base, rollout.mask))) == flat(rollout.values, rollout.mask).index(
        max(flat(rollout.values, rollout.mask))
    )


def test_whitening_one_entry_or_equal_entries_gives_zero():
    mask = torch.tensor([[True, False]])
    assert masked_whiten(torch.tensor([[4.0, 9.0]]), mask).tolist() == [[0.0, 0.0]]
    assert masked_whiten(torch.full((1, 3), 4.0), TRUE).tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("value", [0.1, 0.7, -3.3, 1e3 / 7, 1e6 / 3, 1e-6])
@pytest.mark.parametrize("rows", [1, 3, 32, 100])
def test_whitening_equal_entries_gives_exactly_zero_though_their_mean_is_rounded(value, rows):
    mask = torch.rand(rows, 48, generator=torch.Generator().manual_seed(rows)) < 0.7
    assert masked_whiten(torch.full(mask.shape, value), mask).abs().max() == 0


def test_whitening_by_hand_with_epsilon_under_the_root():
    """(0, 2e-4): deviations ∓1e-4, variance 2e-8, so ∓1e-4 / √3e-8 = ∓0.57735; with no ε it would be ∓0.70711."""
    whitened = masked_whiten(torch.tensor([[0.0, 2e-4]]), torch.ones(1, 2, dtype=torch.bool))
    assert whitened.tolist() == [pytest.approx([-0.57735, 0.57735], abs=1e-5)]


def test_masked_sum_and_mean_by_hand_and_of_nothing():
    values, mask = torch.tensor([[1.0, 5.0, torch.inf]]), torch.tensor([[True, True, False]])
    assert masked_sum(values, mask) == 6 and masked_mean(values, mask) == 3
    assert masked_mean(values, torch.zeros_like(mask)) == 0


def test_advantage_clip_by_hand():
    assert advantage_clip(torch.tensor([-2.0, -0.1, 0.12, 3.0]), 0.12).tolist() == pytest.approx([-0.12, -0.1, 0.12, 0.12])
