"""GAE, its bootstrap, and the tricks on advantages."""

import itertools

import pytest
import reference
import torch
from synthetic import flat, random_rollout, rows_of

from ablate.ppo.tricks.advantage import advantage_clip, advantage_norm, bootstrap_truncated, gae
from ablate.ppo.tricks.masked import masked_mean, masked_sum, masked_whiten

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


def test_masked_sum_and_mean_by_hand_and_of_nothing():
    values, mask = torch.tensor([[1.0, 5.0, torch.inf]]), torch.tensor([[True, True, False]])
    assert masked_sum(values, mask) == 6 and masked_mean(values, mask) == 3
    assert masked_mean(values, torch.zeros_like(mask)) == 0


def test_advantage_clip_by_hand():
    assert advantage_clip(torch.tensor([-2.0, -0.1, 0.12, 3.0]), 0.12).tolist() == pytest.approx([-0.12, -0.1, 0.12, 0.12])
