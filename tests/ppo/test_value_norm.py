"""PopArt: the critic's units move and what it says stays; its loss is in these units; runs resume and export with them."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest
import torch
from synthetic import loss_of, random_rollout, random_targets

from ablate.config import PPOConfig
from ablate.export.folder import export
from ablate.models.forward import VALUE_SCALE, response_values, value_units
from ablate.models.load import load_scorer
from ablate.ppo.shaping import critic_pretrain_loss
from ablate.ppo.tricks.value import value_norm
from ablate.ppo.types import RunningMoments, Targets
from ablate.ppo.value_norm import follow_returns, plain_units, rescale
from ablate.runs.folder import read_rows, run_folder
from ablate.session import execute
from ablate.settings.identity import config_hash, inert

CPU = torch.device("cpu")


def says(critic) -> torch.Tensor:
    rollout = random_rollout()
    with torch.no_grad():
        values, last = response_values(critic, rollout.tokens, rollout.attention, rollout.mask)
    return torch.cat([values[rollout.mask], last])


def test_what_the_critic_says_stays_while_its_units_move_and_its_head_follows(tiny_models):
    critic = tiny_models.critic
    before, head = says(critic), critic.score.weight.clone()
    for mean, scale in ((3.0, 2.0), (-1.0, 0.25), (10.0, 8.0)):
        rescale(critic, mean, scale)
        torch.testing.assert_close(says(critic), before, rtol=0, atol=2e-5)
        torch.testing.assert_close(critic.score.weight, head / scale)
        assert value_units(critic) == (mean, scale)
    plain_units(critic)
    assert not hasattr(critic.config, VALUE_SCALE)
    torch.testing.assert_close(says(critic), before, rtol=0, atol=2e-5)
    plain_units(critic)
    torch.testing.assert_close(critic.score.weight, head, rtol=1e-6, atol=0)


def test_the_units_are_the_moments_of_all_returns_so_far(tiny_models):
    seen, moments = [], RunningMoments()
    for seed in range(3):
        rollout = random_rollout(seed)
        targets = random_targets(rollout, seed)
        seen += targets.returns[rollout.mask].tolist()
        moments = follow_returns(tiny_models.critic, targets, rollout.mask, moments)
        mean, scale = value_units(tiny_models.critic)
        assert mean == pytest.approx(torch.tensor(seen).mean().item(), abs=1e-6)
        assert scale == pytest.approx(torch.tensor(seen).std().item(), rel=1e-5)


def test_the_loss_is_the_squared_error_in_these_units_by_hand():
    assert value_norm(torch.tensor([4.0, 9.0]), 2.0).tolist() == [1.0, 2.25]
    rollout = random_rollout(lengths=(2,))
    values, returns = torch.tensor([[3.0, 5.0]]), torch.tensor([[1.0, 4.0]])
    targets = Targets(torch.zeros(1, 2), returns)
    rollout = replace(rollout, values=values - torch.tensor([[0.0, 0.5]]))
    found = [loss_of(rollout.logprobs, rollout.entropy, values, rollout, targets, PPOConfig(value_clip=clip), value_scale=2.0) for clip in
             (False, True)]  # fmt: skip
    assert float(found[0].value) == pytest.approx((4 + 1) / 4 / 2)
    assert float(found[1].value) == pytest.approx((4 + 1) / 4 / 2) and float(found[1].value_clip_fraction) == 0.5  # beyond 0.2 · 2 = 0.4
    assert float(critic_pretrain_loss(values, rollout, targets, 2, 2.0)) == pytest.approx((4 + 1) / 4 / 2)


def test_a_killed_run_with_it_ends_with_the_bits_of_one_never_stopped_and_its_critic_is_exported_in_reward_units(
    tiny_config, tmp_path, monkeypatch
):
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parents[1] / "runs"))
    from processes import run

    settings = ("ppo.value_norm=true", "checkpoint.every=2", "ppo.critic_learning_rate=1e-2")
    whole, killed = (tiny_config(*settings, f"results={tmp_path / name}") for name in ("whole", "killed"))
    execute(whole)
    assert run(killed, "apply_gradients", 2 + 2 * 3) == -signal.SIGKILL
    assert run(killed) == 0
    rows = [[{k: v for k, v in row.items() if not k.startswith(("time/", "responses"))} for row in
             read_rows(run_folder(config) / "metrics.jsonl")] for config in (whole, killed)]  # fmt: skip
    assert rows[0] == rows[1]
    kept = load_scorer(run_folder(whole) / "checkpoints/4/critic", CPU)
    assert value_units(kept)[1] != 1
    exported = load_scorer(export(run_folder(whole), tmp_path / "critic", "critic", None), CPU)
    assert value_units(exported) == (0, 1)
    torch.testing.assert_close(says(exported), says(kept), rtol=0, atol=2e-5)


def test_a_critic_from_a_folder_starts_as_it_was_exported_and_the_run_has_another_identity(tiny_config, tmp_path):
    """Trained once, for many runs: its values at the first update are those that it ended with."""
    trained = tiny_config("arm=trained", "ppo.critic_learning_rate=1e-2", "ppo.learning_rate=0")
    execute(trained)
    critic = export(run_folder(trained), tmp_path / "critic", "critic", None)
    config = tiny_config("arm=started", f"critic.path={critic}", "ppo.critic_pretrain=false", "ppo.updates=1")
    execute(config)
    found = read_rows(run_folder(config) / "metrics.jsonl")[-1]["ppo/value_mean"]
    plain = tiny_config("arm=plain", "ppo.critic_pretrain=false", "ppo.updates=1")
    execute(plain)
    assert found != read_rows(run_folder(plain) / "metrics.jsonl")[-1]["ppo/value_mean"]
    assert config_hash(config) != config_hash(plain)
    other = tiny_config(f"critic.path={critic}", "ppo.critic_init=sft", "ppo.critic_pretrain=false", "ppo.updates=1")
    assert config_hash(other) == config_hash(config) and list(inert(other, ["ppo.critic_init"])) == ["ppo.critic_init"]
    ended = load_scorer(run_folder(trained) / "checkpoints/4/critic", CPU)
    torch.testing.assert_close(says(load_scorer(critic, CPU)), says(ended), rtol=0, atol=1e-6)
