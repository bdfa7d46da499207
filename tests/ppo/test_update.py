"""The update: micro-batches, rates, minibatch order, and what one update leaves alone."""

from dataclasses import replace

import pytest
import torch

from ablate.config import PPOConfig, PPOSettings, SamplingConfig
from ablate.errors import Diverged
from ablate.models.forward import response_logits
from ablate.ppo.models import Models
from ablate.ppo.rollout import collect_rollout, encode_prompts
from ablate.ppo.shaping import estimate_targets, initial_state, shape_rewards
from ablate.ppo.types import Rollout, Targets
from ablate.ppo.update import backward_minibatch, critic_update, forward, minibatches, new_optimizer, rate_factor, update
from ablate.session import autocast
from ablate.system.seeding import numpy_generator, torch_generator
from ablate.world.grammar import grammar, prompts

CPU, SAMPLING = torch.device("cpu"), SamplingConfig()
ROWS = 12
PPO = PPOConfig(batch_size=ROWS, minibatch_size=ROWS, micro_batch_size=ROWS)


def rollout_of(models: Models, rows: int = ROWS, steps: int = 10) -> Rollout:
    questions = [prompt.text for prompt in prompts(grammar("en"), rows, numpy_generator(0, "test prompts"))]
    noise = torch.rand(rows, steps, generator=torch_generator(0, "test noise"))
    return collect_rollout(models, encode_prompts(models.tokenizer, questions, CPU), noise, PPOSettings(sampling=SAMPLING))


def records(models: Models, ppo: PPOConfig = PPO) -> tuple[Rollout, Targets]:
    """A rollout with its targets; then the weights move, so that ratios are not 1 and values not the old ones."""
    rollout = rollout_of(models)
    rewards, _ = shape_rewards(rollout, PPOSettings(ppo), initial_state(ppo))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for model in (models.policy, models.critic):
            for parameter in model.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return rollout, estimate_targets(rollout, rewards, ppo)


def gradients(models: Models, rollout: Rollout, targets: Targets, ppo: PPOConfig) -> tuple[torch.Tensor, dict]:
    for model in (models.policy, models.critic):
        model.zero_grad()
    _, terms = backward_minibatch(models, rollout, targets, torch.arange(ROWS), PPOSettings(ppo, SAMPLING), ppo.entropy_coef)
    return torch.cat([p.grad.flatten() for m in (models.policy, models.critic) for p in m.parameters() if p.grad is not None]), terms


ENTROPY = dict(entropy_bonus=True, entropy_coef=0.5)
CASES = {
    "ppo_max": {},
    "no clips": dict(ratio_clip=False, value_clip=False, advantage_norm=False),
    "policy KL and advantage clip": dict(policy_kl=True, advantage_clip=0.5),
    "reference ratio": dict(importance_sampling="reference"),
    "entropy bonus": ENTROPY,
    "entropy below its clip": ENTROPY | dict(entropy_clip=20.0),
    "entropy above its clip": ENTROPY | dict(entropy_clip=0.1),
    "moss below": ENTROPY | dict(entropy_clip=20.0, entropy_clip_form="moss"),
    "KL in the loss": dict(kl_loss=True, kl_loss_estimator="k3"),
    "full KL in the loss": dict(kl_loss=True, kl_loss_estimator="full", kl_loss_coef=0.5),
    "sequence means": ENTROPY | dict(loss_aggregation="sequence", kl_loss=True, policy_kl=True),
    "sequence means and a clip": ENTROPY | dict(loss_aggregation="sequence", entropy_clip=0.1),
    "a constant": ENTROPY | dict(loss_aggregation="constant", entropy_clip=0.01),
    "overlong filter": ENTROPY | dict(overlong_filter=True, loss_aggregation="sequence"),
    "dual clip and divergence mask": dict(dual_clip=1.001, divergence_mask=0.001),
    "moss above": ENTROPY | dict(entropy_clip=0.1, entropy_clip_form="moss"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_of_a_minibatch_does_not_depend_on_the_micro_batch_size(name, tiny_models):
    """Sizes 1, 5 (leaves a rest), 12 (all) and 32 (more than all)."""
    ppo = replace(PPO, **CASES[name])
    rollout, targets = records(tiny_models)
    assert len(set(rollout.lengths.tolist())) > 2, "rows of one length would hide means of means"
    whole, terms = gradients(tiny_models, rollout, targets, ppo)
    assert whole.abs().max() > 1e-3
    if ppo.overlong_filter:
        assert 0 < int(rollout.ended.sum()) < ROWS, "all or none of the responses would be left out"
    for size in (1, 5, 32):
        parts, part_terms = gradients(tiny_models, rollout, targets, replace(ppo, micro_batch_size=size))
        torch.testing.assert_close(parts, whole, rtol=0, atol=2e-6 * max(0.5, float(whole.abs().max())))
        assert part_terms == pytest.approx(terms, abs=1e-5)


def test_a_clip_between_the_entropies_of_the_micro_batches_acts_on_the_mean_of_the_whole(tiny_models):
    """δ just above and just below the minibatch's mean entropy: single rows lie on both sides of it."""
    rollout, targets = records(tiny_models)
    with torch.no_grad():
        head = tiny_models.policy.get_output_embeddings().weight
        head[4:] *= torch.linspace(0.5, 3, len(head) - 4)[:, None]  # so that entropies of rows differ
        _, entropy, *_ = forward(tiny_models, rollout, PPOSettings(sampling=SAMPLING))
    mean = entropy[rollout.mask].mean().item()
    by_row = (entropy.sum(1) / rollout.lengths).tolist()
    for form in ("min", "moss"):
        for threshold in (mean - 0.005, mean + 0.005):
            assert min(by_row) < threshold < max(by_row)
            ppo = replace(PPO, **ENTROPY, entropy_clip=threshold, entropy_clip_form=form)
            whole, _ = gradients(tiny_models, rollout, targets, ppo)
            parts, _ = gradients(tiny_models, rollout, targets, replace(ppo, micro_batch_size=1))
            torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)


def run_update(models: Models, ppo: PPOConfig, rollout: Rollout, targets: Targets) -> dict[str, float]:
    optimizer = new_optimizer(models, ppo)
    return update(
        models,
        optimizer,
        rollout,
        targets,
        PPOSettings(ppo, SAMPLING),
        torch_generator(0, "minibatches", 1),
        0,
        lambda step: None,
        ppo.entropy_coef,
    )


def test_with_learning_rate_0_every_ratio_is_one_on_every_minibatch(tiny_models):
    """Three epochs of minibatches and micro-batches that divide nothing: max |log ratio| stays under 1e-5."""
    ppo = replace(PPO, minibatch_size=4, micro_batch_size=3, epochs=3, learning_rate=0.0, critic_learning_rate=0.0, ratio_clip=False)
    rollout = rollout_of(tiny_models)
    rewards, _ = shape_rewards(rollout, PPOSettings(ppo), initial_state(ppo))
    targets = estimate_targets(rollout, rewards, ppo)
    stats = run_update(tiny_models, ppo, rollout, targets)
    assert abs(stats["ppo/ratio_max"] - 1) < 1e-5
    assert 0 <= stats["ppo/approx_kl"] < 1e-9
    wrong = replace(rollout, logprobs=rollout.logprobs - 0.2)
    assert run_update(tiny_models, ppo, wrong, targets)["ppo/ratio_max"] > 1.1, "the statistic must see a ratio that is not 1"
    with torch.no_grad():
        for rows in minibatches(ppo, torch_generator(0, "minibatches", 1)):
            batch = rollout.rows(rows)
            logprobs, _, values, _ = forward(tiny_models, batch, PPOSettings(ppo, SAMPLING))
            assert (logprobs - batch.logprobs)[batch.mask].abs().max() < 1e-5
            assert (values - batch.values)[batch.mask].abs().max() < 1e-5


def test_the_kl_to_the_reference_is_zero_before_the_first_update(tiny_models):
    rollout = rollout_of(tiny_models)
    assert rollout.kl.abs().max() < 1e-6
    assert (rollout.logprobs - rollout.ref_logprobs).abs().max() < 1e-5


def test_an_update_trains_policy_and_critic_and_nothing_else(tiny_models):
    models = {name: getattr(tiny_models, name) for name in ("policy", "critic", "reference")} | {"reward": tiny_models.scorer.model}
    before = {name: [p.clone() for p in model.parameters()] for name, model in models.items()}
    run_update(tiny_models, PPO, *records(tiny_models))
    changed = {
        name for name, model in models.items() if not all(torch.equal(a, b) for a, b in zip(before[name], model.parameters(), strict=True))
    }
    assert changed == {"policy", "critic"}


def test_critic_pretraining_lowers_the_value_loss_and_leaves_the_policy(tiny_models):
    ppo = replace(PPO, critic_learning_rate=1e-2)
    rollout, targets = records(tiny_models)
    policy = [p.clone() for p in tiny_models.policy.parameters()]
    optimizer = new_optimizer(tiny_models, ppo)
    losses = [critic_update(tiny_models, optimizer, rollout, targets, ppo, torch_generator(0, "order", step)) for step in range(8)]
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(a, b) for a, b in zip(policy, tiny_models.policy.parameters(), strict=True))


@pytest.mark.parametrize("field", ["advantages", "returns"])
def test_a_loss_that_is_not_finite_is_named(field, tiny_models):
    rollout, targets = records(tiny_models)
    broken = replace(targets, **{field: torch.full_like(targets.returns, torch.inf)})
    with pytest.raises(Diverged, match={"advantages": "policy", "returns": "value"}[field]):
        run_update(tiny_models, replace(PPO, advantage_norm=False), rollout, broken)


def test_the_logged_gradient_norm_is_the_one_before_the_clip(tiny_models):
    rollout, targets = records(tiny_models)
    gradient, _ = gradients(tiny_models, rollout, targets, PPO)
    stats = run_update(tiny_models, replace(PPO, max_grad_norm=1e-3), rollout, targets)
    assert stats["ppo/grad_norm"] == pytest.approx(gradient.norm().item(), rel=1e-4)


def test_every_epoch_visits_every_response_once_in_another_order():
    ppo = PPOConfig(batch_size=12, minibatch_size=4, epochs=2)
    batches = list(minibatches(ppo, torch_generator(0, "minibatches", 1)))
    assert [len(rows) for rows in batches] == [4] * 6
    first, second = torch.cat(batches[:3]), torch.cat(batches[3:])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(12))
    assert first.tolist() != second.tolist()


def test_rates_by_hand():
    """10 updates of 2 steps, warm-up 0.2: 4 steps. Then 1, or √(4 / step)."""
    ppo = PPOConfig(updates=10, batch_size=8, minibatch_size=4, warmup_ratio=0.2)
    assert [rate_factor(step, ppo) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    inverse = replace(ppo, lr_schedule="inverse_sqrt")
    assert [rate_factor(step, inverse) for step in (3, 4, 15)] == pytest.approx([1.0, (4 / 5) ** 0.5, 0.5])
    assert [rate_factor(step, replace(inverse, warmup_ratio=0.0)) for step in (0, 3)] == [1.0, 0.5]


def test_the_linear_schedule_by_hand():
    """4 updates of 2 steps: the rate falls once an update, by a quarter, and would be 0 at the fifth."""
    ppo = PPOConfig(updates=4, batch_size=8, minibatch_size=4, lr_schedule="linear")
    assert [rate_factor(step, ppo) for step in range(8)] == [1.0, 1.0, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25]


def test_the_linear_schedule_after_a_warm_up_starts_at_the_peak_and_ends_at_the_same_place():
    """4 updates of 2 steps of which 3 warm up: 1 − (s − 3) / 5 from there on, s = 3, 4, 4, 6, 6."""
    ppo = PPOConfig(updates=4, batch_size=8, minibatch_size=4, lr_schedule="linear", warmup_ratio=0.375)
    expected = [1 / 3, 2 / 3, 1.0, 1.0, 0.8, 0.8, 0.4, 0.4]
    assert [rate_factor(step, ppo) for step in range(8)] == pytest.approx(expected)


def test_adams_epsilons_betas_and_rates_are_those_of_the_settings(tiny_models):
    ppo = PPOConfig(adam_eps=1e-3, critic_adam_eps=1e-4, adam_betas=[0.5, 0.6], learning_rate=1e-5, critic_learning_rate=1e-6)
    policy, critic = new_optimizer(tiny_models, ppo).param_groups
    assert [(g["lr"], g["eps"], g["betas"], g["weight_decay"]) for g in (policy, critic)] == [
        (1e-5, 1e-3, (0.5, 0.6), 0), (1e-6, 1e-4, (0.5, 0.6), 0),
    ]  # fmt: skip
    assert {id(p) for p in policy["params"]} == {id(p) for p in tiny_models.policy.parameters()}


def test_a_larger_epsilon_makes_the_first_step_smaller(tiny_models, stage_folders):
    """Adam's first step is lr · g / (|g| + ε): with ε far above the gradients it is nearly nothing."""
    rollout, targets = records(tiny_models)
    start = [p.detach().clone() for p in tiny_models.policy.parameters()]

    def moved(eps: float) -> float:
        with torch.no_grad():
            for parameter, value in zip(tiny_models.policy.parameters(), start, strict=True):
                parameter.copy_(value)
        run_update(tiny_models, replace(PPO, adam_eps=eps, learning_rate=1e-3), rollout, targets)
        return max((p - q).abs().max().item() for p, q in zip(tiny_models.policy.parameters(), start, strict=True))

    assert moved(1e-8) == pytest.approx(1e-3, rel=1e-2)
    assert moved(100.0) < 1e-5


def test_a_pass_in_bf16_sees_the_weights_that_the_last_step_left(tiny_models, tiny_config):
    """Autocast caches cast weights for as long as it is entered; a run enters it once."""
    bf16 = tiny_config("precision=bf16")
    with autocast(bf16):
        rollout = rollout_of(tiny_models)
        batch = rollout.tokens, rollout.attention, rollout.mask
        before = response_logits(tiny_models.policy, *batch).detach()
        with torch.no_grad():
            for parameter in tiny_models.policy.parameters():
                parameter.mul_(0.5)
        after = response_logits(tiny_models.policy, *batch).detach()
    with autocast(bf16):
        assert torch.equal(response_logits(tiny_models.policy, *batch), after)
    assert not torch.equal(before, after)
