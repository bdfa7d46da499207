"""Two arms with one seed see the same prompts and noise; nothing else of a run is random."""

import numpy as np
import pytest
import torch

from ablate.pipeline.build import Stages
from ablate.ppo.rollout import collect_rollout
from ablate.ppo.types import Rollout
from ablate.runs.folder import read_rows, run_folder
from ablate.runs.store import RunStore
from ablate.runs.tracking import Trackers
from ablate.system.seeding import numpy_generator, torch_generator
from ablate.trainer import Trainer

STILL = ("ppo.learning_rate=0", "ppo.critic_learning_rate=0")
ARMS = {
    "no KL": ("ppo.kl_penalty=false",), "no pre-training": ("ppo.critic_pretrain=false",),
    "two epochs": ("ppo.epochs=2", "ppo.minibatch_size=2"), "critic from SFT": ("ppo.critic_init=sft",),
    "ptx": ("ppo.ptx=true",), "frequent evaluation": ("evaluation.every=1", "evaluation.prompts=16"),
}  # fmt: skip


@pytest.fixture
def run(tiny_config, stage_folders):
    """run(name, overrides…) → (rows of metrics, Trainer) of a run of three updates in a folder of its own."""
    stores = []

    def start(name: str, *overrides: str) -> tuple[list[dict], Trainer]:
        config = tiny_config(f"arm={name}", "ppo.updates=3", "evaluation.every=3", *overrides)
        stores.append(RunStore(config))
        trainer = Trainer.load(config, Stages(**stage_folders), stores[-1])
        trainer.run(Trackers([]))
        rows = read_rows(run_folder(config) / "metrics.jsonl")
        return [row for row in rows if row["update"] > 0], trainer

    yield start
    for store in stores:
        store.close()


def rollouts(trainer: Trainer) -> list[Rollout]:
    """What the run's policy, as it is now, says at the updates that were made."""
    config, models = trainer.config, trainer.models
    return [collect_rollout(models, *trainer.sample_prompts("rollout", number), config.ppo_settings()) for number in (1, 2, 3)]


def seen(row: dict) -> dict:
    """What the rollout of an update fixes, without what the toggles make of it."""
    return {name: value for name, value in row.items() if name.startswith(("monitor/", "reward/proxy"))}


def prompts_of(rollout: Rollout) -> torch.Tensor:
    return rollout.tokens[:, : rollout.tokens.shape[1] - rollout.mask.shape[1]]


@pytest.mark.parametrize("arm", ARMS)
def test_with_learning_rate_0_two_arms_have_token_identical_rollouts(arm, run):
    """The rollouts the runs logged, and the same drawn again, token by token."""
    (rows, base), (other_rows, other) = run("base", *STILL), run("other", *STILL, *ARMS[arm])
    assert [seen(row) for row in rows] == [seen(row) for row in other_rows]
    again, first = rollouts(other), rollouts(base)
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one.tokens, two.tokens) and torch.equal(one.mask, two.mask)
        assert torch.equal(one.logprobs, two.logprobs) and torch.equal(one.score, two.score)
    assert seen(rows[0]) != seen(rows[1]), "updates must differ among themselves"


def test_arms_that_learn_differently_still_see_equal_prompts_update_by_update(run):
    """And what they say at the first update is equal, since nothing has been learnt yet."""
    fast = "ppo.learning_rate=0.05"
    (rows, base), (other_rows, other) = run("base", fast), run("other", fast, "ppo.kl_penalty=false", "ppo.epochs=3")
    assert seen(rows[0]) == seen(other_rows[0]) and seen(rows[2]) != seen(other_rows[2])
    for one, two in zip(rollouts(base), rollouts(other), strict=True):
        assert torch.equal(prompts_of(one), prompts_of(two))


def test_other_seeds_see_other_prompts_and_other_noise(run):
    (rows, first), (other_rows, second) = (run(f"seed{seed}", *STILL, f"seed={seed}") for seed in (0, 1))
    assert seen(rows[0]) != seen(other_rows[0])
    one, two = rollouts(first)[0], rollouts(second)[0]
    assert prompts_of(one).shape != prompts_of(two).shape or not torch.equal(prompts_of(one), prompts_of(two))


def test_pretraining_text_counts_its_end_even_where_the_pad_is_the_end_token(run):
    """The loss of ptx is one number whatever token pads are."""
    _, trainer = run("ptx", "ppo.ptx=true")
    tokenizer = trainer.models.tokenizer
    apart = trainer.ptx_loss(0)
    tokenizer.pad_token = tokenizer.eos_token
    torch.testing.assert_close(trainer.ptx_loss(0), apart, rtol=0, atol=1e-6)


def without_times(rows: list[dict]) -> list[dict]:
    return [{k: v for k, v in row.items() if not k.startswith("time/") and k != "responses_per_second"} for row in rows]


def test_a_run_uses_no_global_random_state(run):
    """The same run after other draws from the global generators has the same metrics and weights, bit for bit."""
    rows, first = run("first")
    torch.rand(17)
    np.random.rand(5)
    again, second = run("second")
    assert without_times(rows) == without_times(again)
    assert all(torch.equal(a, b) for a, b in zip(first.models.policy.parameters(), second.models.policy.parameters(), strict=True))


def test_a_stream_depends_on_seed_name_and_step_alone():
    def draw(seed: int, stream: str, step: int) -> tuple[float, float]:
        return torch.rand(1, generator=torch_generator(seed, stream, step)).item(), numpy_generator(seed, stream, step).random()

    base = draw(0, "noise", 1)
    assert draw(0, "noise", 1) == base
    for seed, stream, step in ((1, "noise", 1), (0, "prompts", 1), (0, "noise", 2), (1, "noise", 0)):
        assert not set(draw(seed, stream, step)) & set(base)


def test_streams_of_neighbouring_seeds_and_steps_are_unrelated():
    draws = np.array([[numpy_generator(seed, "noise", step).random(200) for step in range(5)] for seed in range(5)]).reshape(25, 200)
    correlation = np.corrcoef(draws) - np.eye(25)
    assert np.abs(correlation).max() < 0.3
