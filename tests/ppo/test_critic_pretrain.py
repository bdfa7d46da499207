"""Critic pre-training in a run: what it carries into the first update."""

import json

import pytest

from ablate.config import Config
from ablate.runs.folder import run_folder
from ablate.session import execute


def first_row(config: Config) -> dict[str, float]:
    """The row of the first update, whose KL coefficient is the one after that update."""
    execute(config)
    rows = [json.loads(line) for line in (run_folder(config) / "metrics.jsonl").read_text().splitlines()]
    return rows[1]


@pytest.mark.parametrize("updates", [1, 5])
def test_the_adaptive_kl_coefficient_enters_the_first_update_as_it_was_set(updates, tiny_config):
    """The first rollout is SFT's own, so KL is 0 and the error is held at −0.2. With 8 responses and a horizon of 50 the coefficient
    is 0.1 · (1 − 0.2 · 8 / 50) = 0.0968 after the update, however many pre-training updates came before, all at KL 0.
    """
    adaptive = ("ppo.kl_coef=0.1", "ppo.kl_adaptive=true", "ppo.kl_horizon=50", "ppo.batch_size=8", "ppo.updates=1")
    row = first_row(tiny_config(*adaptive, f"ppo.critic_pretrain_updates={updates}"))
    assert row["ppo/kl_coef"] == pytest.approx(0.0968, rel=1e-9)


def test_the_running_moments_do_enter_it(tiny_config):
    """Reward norm over a history of two batches is another than over one."""
    longer, shorter = (first_row(tiny_config("ppo.updates=1", f"arm={n}", f"ppo.critic_pretrain_updates={n}", "ppo.critic_learning_rate=0",
                                             "ppo.learning_rate=0")) for n in (2, 1))  # fmt: skip
    assert longer["reward/proxy_mean"] == shorter["reward/proxy_mean"]
    assert longer["reward/shaped_mean"] != shorter["reward/shaped_mean"]
