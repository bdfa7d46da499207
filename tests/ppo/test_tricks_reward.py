"""The tricks on the reward, the running moments and the KL controller."""

import pytest
import reference
import torch
from synthetic import random_rollout

from ablate.ppo.tricks.reward import kl_estimate, kl_penalty, missing_eos_penalty, place_score, reward_clip, reward_norm, reward_scaling
from ablate.ppo.tricks.running import kl_adaptive, update_moments
from ablate.ppo.types import RunningMoments

SCORES = torch.tensor([1.0, 3.0, 5.0])


def test_reward_tricks_by_hand():
    assert reward_scaling(SCORES, 2.0).tolist() == pytest.approx([0.5, 1.5, 2.5])
    assert reward_norm(SCORES, 3.0, 2.0).tolist() == pytest.approx([-1, 0, 1])
    assert reward_clip(torch.tensor([-9.0, 0.1, 9.0]), 0.3).tolist() == pytest.approx([-0.3, 0.1, 0.3])
    ended = torch.tensor([True, False, True])
    assert missing_eos_penalty(SCORES, ended, 1.5, "subtract").tolist() == [1.0, 1.5, 5.0]
    assert missing_eos_penalty(SCORES, ended, 1.5, "replace").tolist() == [1.0, -1.5, 5.0]
    assert kl_penalty(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]]), 0.1).tolist() == [pytest.approx([0.7, 2.1])]


def test_scaling_is_norm_with_the_mean_left_in():
    torch.testing.assert_close(reward_scaling(SCORES, 2.0), reward_norm(SCORES, 0.0, 2.0), rtol=0, atol=0)


def test_place_score_by_hand():
    mask = torch.tensor([[True, True, False], [True, True, True], [True, False, False], [False, False, False]])
    expected = [[0.0, 7.0, 0.0], [0.0, 0.0, 8.0], [9.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert place_score(torch.tensor([7.0, 8.0, 9.0, 10.0]), mask).tolist() == expected


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_estimates_equal_the_formula_in_probabilities(estimator):
    rollout = random_rollout()
    estimate = kl_estimate(rollout.logprobs, rollout.ref_logprobs, rollout.kl, estimator)
    p, q = rollout.logprobs[rollout.mask].double().exp(), rollout.ref_logprobs[rollout.mask].double().exp()
    slow = [reference.kl_sample(a, b, estimator) for a, b in zip(p.tolist(), q.tolist(), strict=True)]
    torch.testing.assert_close(estimate[rollout.mask].tolist(), slow, rtol=1e-4, atol=1e-5)


def test_kl_estimates_by_hand():
    """(π, π_ref) = (0.5, 0.25), (0.25, 0.5), (0.25, 0.25): d = ln 2 = 0.693147, −ln 2, 0."""
    lp, lref = torch.log(torch.tensor([[0.5, 0.25, 0.25]])), torch.log(torch.tensor([[0.25, 0.5, 0.25]]))
    full = torch.tensor([[0.9, 0.8, 0.7]])
    expected = {
        "k1": [0.693147, -0.693147, 0.0], "k2": [0.240227, 0.240227, 0.0], "k3": [0.193147, 0.306853, 0.0], "full": [0.9, 0.8, 0.7],
    }  # fmt: skip
    for name, values in expected.items():
        assert kl_estimate(lp, lref, full, name).tolist() == [pytest.approx(values, abs=1e-6)]


def test_an_unknown_estimator_or_form_is_an_error():
    with pytest.raises(ValueError, match="halve"):
        missing_eos_penalty(SCORES, SCORES > 1, 1.0, "halve")
    with pytest.raises(ValueError, match="k9"):
        kl_estimate(SCORES, SCORES, SCORES, "k9")


def test_running_moments_equal_the_moments_of_everything_seen():
    generator = torch.Generator().manual_seed(0)
    batches = [1e3 + torch.randn(n, generator=generator) for n in (1, 7, 128, 2)]
    moments, seen = RunningMoments(), []
    for batch in batches:
        moments = update_moments(moments, batch)
        seen += batch.double().tolist()
        assert moments.count == len(seen)
        if len(seen) > 1:
            mean, std = reference.mean_and_std(seen)
            assert moments.mean == pytest.approx(mean, rel=1e-12)
            assert moments.std == pytest.approx(std, rel=1e-9)


def test_running_moments_do_not_depend_on_how_scores_are_batched():
    scores = torch.randn(60, generator=torch.Generator().manual_seed(1))
    whole, parts = update_moments(RunningMoments(), scores), RunningMoments()
    for part in scores.split(7):
        parts = update_moments(parts, part)
    assert (parts.mean, parts.std) == (pytest.approx(whole.mean, abs=1e-12), pytest.approx(whole.std, rel=1e-12))


def test_the_std_of_fewer_than_two_scores_is_one():
    assert RunningMoments().std == 1.0
    assert update_moments(RunningMoments(), torch.tensor([5.0])).std == 1.0


def test_no_scores_leave_the_running_moments_as_they_are():
    moments = update_moments(RunningMoments(), SCORES)
    assert update_moments(moments, SCORES[:0]) == moments
    assert update_moments(RunningMoments(), SCORES[:0]) == RunningMoments()


@pytest.mark.parametrize(("kl", "coefficient"), [
    (6.0, 0.1), (6.6, 0.101), (5.4, 0.099),  # 10 % off: 0.1 · (1 ± 0.1 · 128 / 1280)
    (7.2, 0.102), (1e9, 0.102), (4.8, 0.098), (0.0, 0.098),  # from 20 % off on, the error is held
])  # fmt: skip
def test_the_adaptive_coefficient_by_hand(kl, coefficient):
    """From 0.1 with a target of 6 nats, 128 responses and a horizon of 1280."""
    assert kl_adaptive(0.1, kl, 6.0, 1280, 128) == pytest.approx(coefficient, rel=1e-12)


@pytest.mark.parametrize(("kl", "factor"), [(60.0, 1.2212), (0.0, 0.8186)])
def test_in_one_horizon_of_responses_the_coefficient_moves_by_a_fifth_not_by_a_factor_of_two(kl, factor):
    """100 updates of 100 responses at a horizon of 10,000: 1.002^100 and 0.998^100, close to e^±0.2."""
    coefficient = 1.0
    for _ in range(100):
        coefficient = kl_adaptive(coefficient, kl, 6.0, 10_000, 100)
    assert coefficient == pytest.approx(factor, abs=1e-4)


def test_the_horizon_and_the_responses_set_the_step_of_the_adaptive_coefficient():
    """KL at twice its target, 512 responses, a horizon of 10,000: 0.15 · (1 + 0.2 · 0.0512) = 0.151536."""
    assert kl_adaptive(0.15, 12.0, 6.0, 10_000, 512) == pytest.approx(0.151536, rel=1e-12)
