"""Estimators of advantages without a critic, two λ and adaptive λ: by hand, against slow loops, and in runs that hold no critic."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from synthetic import random_rollout, rows_of

from ablate.config import Config, PPOConfig, PPOSettings, SamplingConfig
from ablate.errors import UserError
from ablate.memory.estimate import estimate, run_of
from ablate.memory.shapes import model_shapes
from ablate.ppo.shaping import estimate_targets, greedy_baseline, initial_state, shape_rewards
from ablate.ppo.tricks.advantage import advantage_estimator, gae, gae_lambda_critic, gae_length_adaptive
from ablate.ppo.types import Rollout
from ablate.runs.folder import read_rows, run_folder
from ablate.runs.fork import forked
from ablate.session import execute
from ablate.settings.identity import CRITIC_ONLY, config_hash, inert
from ablate.settings.validation import validate
from ablate.trainer import Trainer

FREE = ("rloo", "grpo", "dr_grpo", "remax", "reinforce")
MASK = torch.tensor([[True, True], [True, False], [True, True], [True, False]])
REWARDS = torch.tensor([[1.0, 2.0], [5.0, math.nan], [0.0, -1.0], [1.0, math.nan]])  # totals 3 and 5; −1 and 1


def advantages(form: str, **more) -> list[list[float]]:
    return rows_of(advantage_estimator(REWARDS, MASK, form, 2, 1.0, **more), MASK)


def test_group_estimators_by_hand():
    assert advantages("rloo") == [[-2, -2], [2], [-2, -2], [2]]
    assert advantages("dr_grpo") == [[-1, -1], [1], [-1, -1], [1]]
    scale = 1 / (math.sqrt(2) + 1e-4)
    for row, expected in zip(advantages("grpo"), [[-1, -1], [1], [-1, -1], [1]], strict=True):
        assert row == pytest.approx([value * scale for value in expected])


def test_remax_is_the_return_over_the_greedy_answers():
    assert advantages("remax", greedy=torch.tensor([1.0, 1.0, 2.0, 2.0])) == [[2, 2], [4], [-3, -3], [-1]]


def test_reinforce_whitens_returns_to_go_over_the_tokens_of_the_batch():
    returns = [3.0, 2.0, 5.0, -1.0, -1.0, 1.0]
    mean = sum(returns) / 6
    deviation = math.sqrt(sum((x - mean) ** 2 for x in returns) / 5)
    found = [x for row in advantages("reinforce") for x in row]
    assert found == pytest.approx([(x - mean) / deviation for x in returns], rel=1e-5)


def slow(form: str, rewards: list[list[float]], samples: int, gamma: float, greedy: list[float]) -> list[list[float]]:
    totals = [sum(row) for row in rewards]
    if form == "reinforce":
        returns = [[sum(gamma ** (u - t) * row[u] for u in range(t, len(row))) for t in range(len(row))] for row in rewards]
        flat = [x for row in returns for x in row]
        mean = sum(flat) / len(flat)
        variance = sum((x - mean) ** 2 for x in flat) / (len(flat) - 1)
        return [[(x - mean) / math.sqrt(variance + 1e-8) for x in row] for row in returns]
    found = []
    for i, row in enumerate(rewards):
        group = totals[i // samples * samples : i // samples * samples + samples]
        others = [total for j, total in enumerate(totals) if j // samples == i // samples and j != i]
        mean = sum(group) / samples
        deviation = math.sqrt(sum((x - mean) ** 2 for x in group) / (samples - 1))
        value = {
            "rloo": totals[i] - sum(others) / len(others), "grpo": (totals[i] - mean) / (deviation + 1e-4), "dr_grpo": totals[i] - mean,
            "remax": totals[i] - greedy[i],
        }[form]  # fmt: skip
        found.append([value] * len(row))
    return found


@pytest.mark.parametrize("samples", [2, 3])
@pytest.mark.parametrize("form", FREE)
def test_each_estimator_equals_a_slow_loop(form, samples):
    rollout = random_rollout(lengths=(5, 2, 7, 1, 7, 4))
    rewards = torch.randn(rollout.mask.shape, generator=torch.Generator().manual_seed(1))
    greedy = torch.randn(6, generator=torch.Generator().manual_seed(2))
    found = rows_of(advantage_estimator(rewards, rollout.mask, form, samples, 0.9, greedy), rollout.mask)
    for mine, theirs in zip(found, slow(form, rows_of(rewards, rollout.mask), samples, 0.9, greedy.tolist()), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)


def test_an_unknown_estimator_is_an_error():
    with pytest.raises(ValueError, match="unknown estimator"):
        advantages("x")


def slow_gae(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """A_t = Σ_j (γλ)^j δ_{t+j}, as it is defined."""
    deltas = [r + gamma * (values[t + 1] if t + 1 < len(values) else 0) - values[t] for t, r in enumerate(rewards)]
    return [sum((gamma * lam) ** j * deltas[t + j] for j in range(len(deltas) - t)) for t in range(len(deltas))]


def test_two_lambdas_and_an_adaptive_one_equal_slow_loops():
    rollout, alpha, gamma = random_rollout(), 0.4, 0.97
    rewards, none = torch.randn(rollout.mask.shape, generator=torch.Generator().manual_seed(1)), torch.zeros(len(rollout.mask))
    ppo = PPOConfig(gae_lambda=0.8, gae_lambda_critic=1.0, gae_length_adaptive=alpha, gamma=gamma)
    found = estimate_targets(rollout, rewards, ppo)
    rows = zip(*(rows_of(x, rollout.mask) for x in (rewards, rollout.values, found.advantages, found.returns)), strict=True)
    for row, values, mine, returns in rows:
        lam = min(max(1 - 1 / (alpha * len(row)), 0), 1)
        assert mine == pytest.approx(slow_gae(row, values, gamma, lam), abs=1e-5)
        assert returns == pytest.approx([a + v for a, v in zip(slow_gae(row, values, gamma, 1.0), values, strict=True)], abs=1e-5)
    assert gae_length_adaptive(rollout.mask, alpha).tolist() == pytest.approx([max(1 - 1 / (alpha * n), 0) for n in (5, 2, 7, 1, 7, 4)])
    record = rewards, rollout.values, rollout.mask, none, gamma
    assert torch.equal(gae_lambda_critic(*record, 0.8), gae(*record, 0.8)[1])


def test_without_a_lambda_of_its_own_the_critic_has_the_advantages():
    rollout = random_rollout()
    one, other = (estimate_targets(rollout, rollout.kl, PPOConfig(gae_lambda_critic=value)) for value in (None, 0.95))
    assert torch.equal(one.returns, other.returns) and torch.equal(one.advantages, other.advantages)


def with_greedy(rollout: Rollout, ppo: PPOConfig) -> list[float]:
    """The baseline of greedy answers that are the responses themselves, so it must be their own score."""
    same = replace(rollout, greedy_score=rollout.score, greedy_lengths=rollout.lengths, greedy_ended=rollout.ended)
    settings = PPOSettings(ppo, SamplingConfig(max_new_tokens=8))
    _, before = shape_rewards(random_rollout(seed=5), settings, initial_state(ppo))
    rewards, state = shape_rewards(same, settings, before)
    baseline = greedy_baseline(same, settings, state)
    return (rewards.sum(1) - baseline).tolist()


@pytest.mark.parametrize("settings", [
    {}, {"reward_norm": True}, {"reward_norm": True, "reward_norm_over": "batch", "reward_clip": 0.5}, {"reward_scaling": True},
    {"missing_eos_penalty": 2.0}, {"length_penalty": "linear"},
    {"reward_shape": "minmax", "length_penalty": "overlong", "length_penalty_free": 2},
])  # fmt: skip
def test_a_greedy_answer_is_scored_on_the_same_scale_as_a_response(settings):
    ppo = replace(PPOConfig(kl_penalty=False, reward_norm=False, reward_clip=None, advantage_estimator="remax"), **settings)
    assert with_greedy(random_rollout(), ppo) == pytest.approx([0] * 6, abs=1e-6)


@pytest.mark.parametrize("form", FREE)
def test_a_run_without_a_critic_loads_trains_and_keeps_none(form, tiny_config, monkeypatch):
    held = []
    load = Trainer.load.__func__
    monkeypatch.setattr(Trainer, "load", classmethod(lambda cls, *arguments: held.append(load(cls, *arguments)) or held[-1]))
    config = tiny_config(f"ppo.advantage_estimator={form}", "ppo.samples_per_prompt=2", "ppo.learning_rate=1e-2")
    validate(config)
    assert execute(config)["status"] == "completed"
    assert held[0].models.critic is None and len(held[0].optimizer.param_groups) == 1
    checkpoint = run_folder(config) / "checkpoints/4"
    assert {path.name for path in checkpoint.iterdir()} == {"policy", "optimizer.safetensors", "state.json"}
    parameters = len(list(held[0].models.policy.parameters()))
    assert {int(name.split(".")[0]) for name in load_file(checkpoint / "optimizer.safetensors")} == set(range(parameters))
    rows = read_rows(run_folder(config) / "metrics.jsonl")
    absent = {
        "ppo/value_loss",
        "ppo/value_mean",
        "ppo/explained_variance",
        "ppo/return_mean",
        "ppo/critic_grad_norm",
        "ppo/value_clip_fraction",
    }
    assert not absent & {name for row in rows for name in row}
    assert rows[-1]["ppo/actor_grad_norm"] == rows[-1]["ppo/grad_norm"] > 0
    assert rows[-1]["monitor/kl_to_sft"] > 0


def test_each_prompt_stands_k_times_and_the_first_prompts_and_the_noise_are_those_of_one_answer_each(tiny_config, monkeypatch):
    drawn = {}
    collect = Trainer.collect

    def spied(self, models, prompts, noise, *rest):
        drawn.setdefault(self.config.arm, (prompts.turns, noise))
        return collect(self, models, prompts, noise, *rest)

    monkeypatch.setattr(Trainer, "collect", spied)
    for arm, samples in (("one", 1), ("four", 4)):
        execute(tiny_config(f"arm={arm}", f"ppo.samples_per_prompt={samples}", "ppo.critic_pretrain=false", "ppo.updates=1"))
    (one, noise), (four, same) = drawn["one"], drawn["four"]
    assert list(four) == [one[i] for i in (0, 0, 0, 0, 1, 1, 1, 1)]
    assert torch.equal(noise, same)


def test_a_critics_settings_are_no_part_of_a_run_without_one_and_are_refused_by_name(tiny_config):
    free = tiny_config("ppo.advantage_estimator=reinforce")
    for override in (
        "ppo.value_clip=false",
        "ppo.gae_lambda=0.3",
        "ppo.critic_init=sft",
        "ppo.critic_learning_rate=1",
        "ppo.critic_pretrain=false",
    ):
        assert config_hash(tiny_config("ppo.advantage_estimator=reinforce", override)) == config_hash(free)
        name = override.partition("=")[0]
        assert inert(free, [name]) == {name: f"{name} acts only with ppo.advantage_estimator=gae"}
    assert config_hash(tiny_config("ppo.advantage_estimator=reinforce", "ppo.gamma=0.9")) != config_hash(free)
    assert {f"ppo.{name}" for name in CRITIC_ONLY} == set(inert(free, [f"ppo.{name}" for name in CRITIC_ONLY]))


def test_a_fork_takes_no_critic_from_where_there_is_none_and_leaves_none_behind(tiny_config):
    for arm, own, other in (("free", "reinforce", "gae"), ("critic", "gae", "reinforce")):
        run = tiny_config(f"ppo.advantage_estimator={own}", f"arm={arm}")
        execute(run)
        branch = [f"fork={run_folder(run) / 'checkpoints/2'}", f"ppo.advantage_estimator={other}"]
        with pytest.raises(UserError, match=r"ppo.advantage_estimator needs (a|no) critic, .*: leave it out, or start a new run"):
            forked(tiny_config(*branch), branch)


def test_the_prediction_of_memory_holds_no_critic():
    config = Config()
    shapes = model_shapes(config, None)
    whole = estimate(run_of(config, *shapes))
    config.ppo.advantage_estimator = "rloo"
    free = estimate(run_of(config, *shapes))
    assert free.phases["update"]["critic"] == 0 and free.phases["update"]["optimiser"] < 0.6 * whole.phases["update"]["optimiser"]
    assert free.peak("update") < whole.peak("update")


def test_a_summary_of_a_run_without_a_critic_is_json(tiny_config):
    config = tiny_config("ppo.advantage_estimator=reinforce", "ppo.updates=2")
    execute(config)
    assert json.loads((run_folder(config) / "summary.json").read_text())["status"] == "completed"
