"""What tokens.jsonl holds of an answer, by hand."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from synthetic import random_rollout

from ablate.config import PPOConfig, PPOSettings
from ablate.ppo import tokens
from ablate.ppo.evaluate import Evaluation
from ablate.ppo.shaping import initial_state
from ablate.ppo.tokens import token_measures, token_rows

PLAIN = PPOConfig(
    kl_penalty=True, kl_coef=0.5, kl_estimator="full", gamma=1.0, gae_lambda=1.0, reward_norm=False, reward_clip=None, reward_scaling=False,
    missing_eos_penalty=None, bootstrap_truncated=False,
)  # fmt: skip


def measured(ppo: PPOConfig, **changed: object) -> dict:
    """Of one answer of three tokens: values 1, 2, 3, KL 0.2, 0.4, 0.6, score 10."""
    rollout = random_rollout(lengths=(3,))
    rollout = replace(rollout, values=torch.tensor([[1.0, 2.0, 3.0]]), kl=torch.tensor([[0.2, 0.4, 0.6]]), score=torch.tensor([10.0]))
    found = token_measures(replace(rollout, **changed), PPOSettings(ppo), initial_state(ppo))
    return {name: None if values is None else values[0].tolist() for name, values in found.items()}


def test_reward_and_advantage_are_those_of_an_update():
    """Rewards −0.1, −0.2, 10 − 0.3; at γ = λ = 1 the advantage is the sum of the rewards to come less the value."""
    found = measured(PLAIN)
    assert found["value"] == [1, 2, 3]
    assert found["kl"] == pytest.approx([0.2, 0.4, 0.6])
    assert found["reward"] == pytest.approx([-0.1, -0.2, 9.7])
    assert found["advantage"] == pytest.approx([8.4, 7.5, 6.7])


def test_kl_is_to_sft_where_the_reference_moves():
    found = measured(replace(PLAIN, reference_update="reset"), sft_kl=torch.tensor([[1.0, 2.0, 3.0]]), sft_logprobs=torch.zeros(1, 3))
    assert found["kl"] == [1, 2, 3] and found["reward"] == pytest.approx([-0.1, -0.2, 9.7])


@pytest.mark.parametrize(("changed", "missing"), [
    ({"advantage_estimator": "reinforce"}, {"value"}),
    ({"advantage_estimator": "rloo", "samples_per_prompt": 4}, {"value", "advantage"}),
    ({"advantage_estimator": "grpo", "samples_per_prompt": 4}, {"value", "advantage"}),
    ({"advantage_estimator": "dr_grpo", "samples_per_prompt": 4}, {"value", "advantage"}),
    ({"advantage_estimator": "remax"}, {"value", "advantage"}),
    ({"samples_per_prompt": 4}, set()),
    ({"reward_shape": "sigmoid", "reward_shape_references": 2}, {"advantage", "reward"}),
])  # fmt: skip
def test_what_an_evaluation_cannot_know_is_left_out(changed, missing):
    assert {name for name, values in measured(replace(PLAIN, **changed)).items() if values is None} == missing


def test_measuring_changes_no_state_and_draws_no_random_number():
    ppo = replace(PLAIN, reward_norm=True, kl_adaptive=True)
    state, before = initial_state(ppo), torch.get_rng_state()
    token_measures(random_rollout(), PPOSettings(ppo), state)
    assert state == initial_state(ppo) and torch.equal(torch.get_rng_state(), before)


def rows_of(rollout, count: int) -> list[dict]:
    prompts = [SimpleNamespace(text=f"prompt {index}") for index in range(len(rollout.tokens))]
    evaluation = Evaluation([], [], [], [], [], {}, rollout=rollout)
    tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: f"<{ids[0]}>")
    return token_rows(7, SimpleNamespace(prompts=prompts), evaluation, tokenizer, PPOSettings(PLAIN), initial_state(PLAIN), count)


def test_rows_are_of_few_prompts_and_of_as_many_tokens_as_are_allowed(monkeypatch):
    monkeypatch.setattr(tokens, "MOST_TOKENS", 5)
    rollout = random_rollout(lengths=(7, 2, 5, 6, 7, 7))
    rows = rows_of(rollout, 99)
    assert [row["prompt"] for row in rows] == ["prompt 0", "prompt 1", "prompt 2", "prompt 3"]
    assert [row["length"] for row in rows] == [7, 2, 5, 6]
    assert [len(row["tokens"]) for row in rows] == [len(row["value"]) for row in rows] == [5, 2, 5, 5]
    assert rows[1]["tokens"] == [f"<{token}>" for token in rollout.tokens[1, 3:5].tolist()]
    assert [row["prompt"] for row in rows_of(rollout, 2)] == ["prompt 0", "prompt 1"] and rows_of(rollout, 0) == []


def test_numbers_have_four_digits_and_none_is_not_finite():
    assert tokens.rounded(torch.tensor([1.23456, float("nan"), float("inf"), 0.0])) == [1.235, None, None, 0.0]
