"""Ensembles, shapes of the reward and length penalties, by hand and against slow loops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from synthetic import random_rollout

from ablate.config import PPOConfig, PPOSettings, SamplingConfig
from ablate.ppo.shaping import initial_state, shape_rewards
from ablate.ppo.tricks.reward import ensemble_score, length_penalty, reward_shape

PLAIN = PPOConfig(kl_penalty=False, reward_norm=False, reward_clip=None)
NONE = torch.zeros(2, 0)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_an_ensembles_score_by_hand():
    """Two responses, three members; the second member counts in units of 2 and from 1 on."""
    scores = torch.tensor([[1.0, 3.0, 4.0], [0.0, 1.0, 0.0]])
    means, deviations = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1.0, 2.0, 1.0])
    standard = [[1.0, 1.0, 4.0], [0.0, 0.0, 0.0]]
    assert ensemble_score(scores, means, deviations, "mean", 0.5).tolist() == pytest.approx([2.0, 0.0])
    assert ensemble_score(scores, means, deviations, "worst", 0.5).tolist() == pytest.approx([1.0, 0.0])
    expected = [sum(row) / 3 - 0.5 * sum((z - sum(row) / 3) ** 2 for z in row) / 3 for row in standard]
    assert ensemble_score(scores, means, deviations, "uncertainty", 0.5).tolist() == pytest.approx(expected)
    assert expected == [1.0, 0.0]


def test_members_that_agree_have_one_score_whatever_the_form():
    scores = torch.randn(5, 1, generator=torch.Generator().manual_seed(0)).expand(5, 4)
    forms = [ensemble_score(scores, torch.zeros(4), torch.ones(4), form, 3.0) for form in ("mean", "worst", "uncertainty")]
    for form in forms:
        torch.testing.assert_close(form, scores[:, 0])


def test_a_shape_of_the_reward_by_hand():
    score, references = torch.tensor([2.0, -1.0]), torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    assert reward_shape(score, references, (), "sigmoid").tolist() == pytest.approx([(sigmoid(1) + sigmoid(-1)) / 2, sigmoid(-1)])
    assert reward_shape(score, references, (), "log_sigmoid").tolist() == pytest.approx([math.log(0.5), math.log(sigmoid(-1))])
    assert reward_shape(score, references, (), "tanh").tolist() == pytest.approx([0.0, math.tanh(-1)])
    assert reward_shape(score, references, (-2.0, 2.0), "minmax").tolist() == pytest.approx([1.0, 0.25])


@pytest.mark.parametrize(("form", "expected"), [("sigmoid", sigmoid(2)), ("log_sigmoid", math.log(sigmoid(2))), ("tanh", math.tanh(2))])
def test_without_references_the_score_itself_is_shaped(form, expected):
    assert float(reward_shape(torch.tensor([2.0, 0.0]), NONE, (), form)[0]) == pytest.approx(expected)


def test_a_huge_score_stays_finite_and_bounded_where_the_shape_is():
    score = torch.tensor([1e6, -1e6])
    assert reward_shape(score, NONE, (), "sigmoid").tolist() == [1.0, 0.0]
    assert reward_shape(score, NONE, (), "log_sigmoid").tolist() == [0.0, -1e6]
    assert reward_shape(torch.ones(2), NONE, (1.0, 1.0), "minmax").tolist() == [0.0, 0.0]


def test_a_length_penalty_by_hand():
    score, lengths = torch.zeros(4), torch.tensor([1, 6, 8, 10])
    assert length_penalty(score, lengths, 10, "linear", 0.5, 6).tolist() == [-0.5, -3.0, -4.0, -5.0]
    assert length_penalty(score, lengths, 10, "overlong", 0.5, 6).tolist() == [0.0, 0.0, -0.25, -0.5]


@pytest.mark.parametrize("function", [
    lambda: ensemble_score(NONE, NONE[0], NONE[0], "x", 1), lambda: reward_shape(NONE[:, 0], NONE, (), "x") if NONE.numel() else
    reward_shape(torch.zeros(2), NONE, (), "x"), lambda: length_penalty(torch.zeros(2), torch.ones(2), 3, "x", 1, 1),
])  # fmt: skip
def test_an_unknown_form_is_an_error(function):
    with pytest.raises(ValueError, match="unknown"):
        function()


def last_rewards(rollout, ppo: PPOConfig, state=None) -> list[float]:
    rewards, _ = shape_rewards(rollout, PPOSettings(ppo, SamplingConfig(max_new_tokens=8)), state or initial_state(ppo))
    return rewards.sum(1).tolist()


def test_shaping_joins_the_members_shapes_and_charges_for_length_in_this_order():
    """Against a loop over responses: the worst member, its sigmoid without a reference, less 0.1 a token, norm and clip off."""
    rollout = random_rollout()
    members = torch.randn(len(rollout.score), 3, generator=torch.Generator().manual_seed(3))
    rollout = replace(rollout, member_scores=members, score=members.mean(1))
    ppo = replace(
        PLAIN, ensemble_score="worst", reward_shape="sigmoid", reward_shape_references=0, length_penalty="linear", length_penalty_coef=0.1
    )
    expected = [sigmoid(min(row)) - 0.1 * int(length) for row, length in zip(members.tolist(), rollout.lengths, strict=True)]
    assert last_rewards(rollout, ppo) == pytest.approx(expected, abs=1e-5)


def test_members_are_standardised_by_their_scores_of_sfts_answers():
    rollout = random_rollout()
    sft = torch.tensor([[0.0, 10.0], [2.0, 30.0]])  # means 1 and 20, deviations √2 and 10√2
    rollout = replace(rollout, member_scores=torch.stack([rollout.score, 10 * rollout.score + 10], dim=1))
    state = initial_state(PLAIN, sft)
    assert [member.mean for member in state.members] == [1, 20]
    for form in ("mean", "worst"):
        found = last_rewards(rollout, replace(PLAIN, ensemble_score=form), state)
        assert found == pytest.approx([(score - 1) / math.sqrt(2) for score in rollout.score.tolist()], abs=1e-5)


def test_minmax_knows_all_scores_so_far():
    ppo = replace(PLAIN, reward_shape="minmax")
    settings, state, seen = PPOSettings(ppo), initial_state(ppo), []
    for seed in range(3):
        rollout = random_rollout(seed)
        seen += rollout.score.tolist()
        rewards, state = shape_rewards(rollout, settings, state)
        expected = [(score - min(seen)) / (max(seen) - min(seen)) for score in rollout.score.tolist()]
        assert rewards.sum(1).tolist() == pytest.approx(expected, abs=1e-6)
    assert state.extremes == (min(seen), max(seen))


def test_the_fields_of_a_response_are_not_cut_to_the_length_of_rows():
    rollout = random_rollout()
    rollout = replace(rollout, member_scores=torch.randn(6, 3), reference_scores=torch.randn(6, 4))
    rows = rollout.rows(torch.tensor([1, 3]))  # of two tokens and of one
    assert rows.mask.shape[1] == 2
    assert rows.member_scores.shape == (2, 3) and rows.reference_scores.shape == (2, 4)
