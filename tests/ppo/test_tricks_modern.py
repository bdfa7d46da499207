"""The loss's choices of 2023 and later, by hand and against slow loops over tokens."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from synthetic import loss_of, random_rollout, random_targets, rows_of

from ablate.config import BugsConfig, PPOConfig, PPOSettings
from ablate.errors import Diverged
from ablate.ppo import bugs
from ablate.ppo.models import Models
from ablate.ppo.rollout import chi2
from ablate.ppo.shaping import counted, initial_state, minibatch_advantages, shape_rewards
from ablate.ppo.tricks.policy import (
    divergence_mask,
    dual_clip,
    kl_loss,
    loss_aggregation,
    overlong_filter,
    ratio_clip,
    ratio_guard,
    target_kl,
)
from ablate.ppo.tricks.running import entropy_adaptive
from ablate.ppo.update import new_optimizer, update
from ablate.system.seeding import torch_generator

PLAIN = PPOConfig(kl_penalty=False, ratio_clip=False, value_clip=False, advantage_norm=False, reward_norm=False, reward_clip=None)
MASK = torch.tensor([[True, True, False], [True, False, False]])
VALUES = torch.tensor([[2.0, 4.0, math.nan], [9.0, math.nan, math.nan]])


def test_three_means_of_the_same_terms_by_hand():
    """Two tokens with 2 and 4, one with 9: 15/3 over tokens, (3 + 9)/2 over responses, 15/(2 · 4) over a constant."""
    means = [float(loss_aggregation(VALUES, MASK, form, 3, 2, 4)) for form in ("token", "sequence", "constant")]
    assert means == [5.0, 6.0, 15 / 8]


def test_a_response_without_a_token_that_counts_adds_nothing():
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert [float(loss_aggregation(VALUES, mask, form, 2, 1, 4)) for form in ("token", "sequence", "constant")] == [3.0, 3.0, 6 / 4]


def slow_loss(ppo: PPOConfig, new: torch.Tensor, rollout, targets) -> float:
    """The policy's loss without a clip, one token at a time."""
    lp, old, ref, advantages = (rows_of(x, rollout.mask) for x in (new, rollout.logprobs, rollout.ref_logprobs, targets.advantages))
    rows, longest = [], 9
    for i, row in enumerate(lp):
        if ppo.overlong_filter and not rollout.ended[i]:
            continue
        terms = []
        for t, value in enumerate(row):
            term = -advantages[i][t] * math.exp(value - old[i][t])
            moved = math.exp(value) - math.exp(old[i][t])
            if ppo.divergence_mask is not None and abs(moved) > ppo.divergence_mask and moved * advantages[i][t] > 0:
                term = 0.0
            if ppo.kl_loss:
                d = value - ref[i][t]
                term += ppo.kl_loss_coef * {"k1": d, "k2": d * d / 2, "k3": math.exp(-d) - 1 + d}[ppo.kl_loss_estimator]
            terms.append(term)
        rows.append(terms)
    flat = [term for terms in rows for term in terms]
    return {
        "token": sum(flat) / len(flat), "sequence": sum(sum(terms) / len(terms) for terms in rows) / len(rows),
        "constant": sum(flat) / (len(rows) * longest),
    }[ppo.loss_aggregation]  # fmt: skip


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
@pytest.mark.parametrize("settings", [
    {}, {"overlong_filter": True}, {"divergence_mask": 0.02}, *({"kl_loss": True, "kl_loss_estimator": k} for k in ("k1", "k2", "k3")),
    {"overlong_filter": True, "kl_loss": True, "kl_loss_coef": 0.7, "divergence_mask": 0.05},
])  # fmt: skip
def test_the_loss_equals_a_slow_loop_over_tokens(settings, aggregation):
    rollout = random_rollout()
    targets, new = (
        random_targets(rollout),
        rollout.logprobs + 0.3 * torch.randn(rollout.mask.shape, generator=torch.Generator().manual_seed(4)),
    )
    ppo = replace(PLAIN, loss_aggregation=aggregation, value_coef=1e-30, **settings)
    found = loss_of(new, rollout.entropy, rollout.values, rollout, targets, ppo)
    assert float(found.total) == pytest.approx(slow_loss(ppo, new, rollout, targets), abs=2e-6)


def test_the_gradient_of_each_kl_in_the_loss_over_the_vocabulary():
    """Σ_v π(v) ∇k_n is 0 for k1, ∇KL(π‖π_ref) for k2, ∇KL(π_ref‖π) for k3, of a distribution over five tokens."""
    generator = torch.Generator().manual_seed(0)
    logits, reference = (
        torch.randn(5, generator=generator).double().requires_grad_(),
        torch.randn(5, generator=generator).double().log_softmax(0),
    )
    own = logits.log_softmax(0)
    expected = {
        "k1": torch.zeros(5), "k2": torch.autograd.grad((own.exp() * (own - reference)).sum(), logits, retain_graph=True)[0],
        "k3": torch.autograd.grad((reference.exp() * (reference - own)).sum(), logits, retain_graph=True)[0],
    }  # fmt: skip
    for name, gradient in expected.items():
        estimate = (own.exp().detach() * kl_loss(own, reference, None, name, 2.0)).sum()
        torch.testing.assert_close(torch.autograd.grad(estimate, logits, retain_graph=True)[0], 2 * gradient.double(), rtol=0, atol=1e-12)
    assert kl_loss(own, reference, own, "full", 3.0) is not own and torch.equal(kl_loss(own, reference, own, "full", 3.0), 3 * own)


def test_a_dual_clip_bounds_the_loss_of_bad_tokens_alone():
    """ρ = 5 and 0.5: a bad token's loss of 5 becomes 3; a good one's and a small one's stay."""
    ratio, advantage = torch.tensor([5.0, 5.0, 0.5]), torch.tensor([-1.0, 1.0, -1.0])
    clipped = ratio_clip(ratio.log(), advantage, 0.2, 0.2)
    assert clipped.tolist() == pytest.approx([5.0, -1.2, 0.8])
    assert dual_clip(clipped, advantage, 3.0).tolist() == pytest.approx([3.0, -1.2, 0.8])


def test_a_token_leaves_where_its_probability_has_moved_far_the_way_it_is_pushed():
    old, new = torch.tensor([0.1, 0.1, 0.5, 0.5, 1e-6]).log(), torch.tensor([0.4, 0.4, 0.1, 0.1, 1e-4]).log()
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    assert divergence_mask(new, old, advantages, 0.2).tolist() == [False, True, True, False, True]


def test_the_filter_keeps_the_responses_that_ended():
    assert overlong_filter(MASK, torch.tensor([False, True])).tolist() == [[False] * 3, [True, False, False]]


def test_advantages_are_whitened_over_what_counts():
    rollout = random_rollout()
    ppo = replace(PLAIN, overlong_filter=True, advantage_norm=True)
    mask = counted(rollout, ppo)
    whitened = minibatch_advantages(random_targets(rollout).advantages, mask, PPOSettings(ppo))[mask]
    assert float(whitened.mean()) == pytest.approx(0, abs=1e-6) and float(whitened.std()) == pytest.approx(1, abs=1e-5)


def test_a_minibatch_of_which_nothing_ended_has_a_loss_and_gradient_of_zero():
    rollout = random_rollout()
    rollout = replace(rollout, ended=torch.zeros_like(rollout.ended))
    leaves = [x.clone().requires_grad_() for x in (rollout.logprobs, rollout.entropy, rollout.values)]
    ppo = replace(PLAIN, overlong_filter=True, entropy_bonus=True)
    found = loss_of(*leaves, rollout, random_targets(rollout), ppo)
    gradients = torch.autograd.grad(found.total, leaves, allow_unused=True)
    assert float(found.total.detach()) == 0 and all(float(g.abs().max()) == 0 for g in gradients if g is not None)
    assert math.isfinite(float(found.ratio_min)) and math.isfinite(float(found.ratio_max))


def test_the_entropy_coefficient_steps_toward_its_target_and_never_below_zero():
    assert entropy_adaptive(0.01, 0.5, 1.0, 0.004) == pytest.approx(0.014)
    assert entropy_adaptive(0.01, 1.5, 1.0, 0.004) == pytest.approx(0.006)
    assert entropy_adaptive(0.003, 1.5, 1.0, 0.004) == 0
    assert entropy_adaptive(0.01, 1.0, 1.0, 0.004) == 0.01


def test_guards_by_hand():
    assert ratio_guard(5.1, 5.0) and not ratio_guard(5.0, 5.0)
    assert target_kl(0.0151, 0.01) and not target_kl(0.0149, 0.01)


def test_chi2_is_zero_at_the_reference_exact_by_hand_and_finite_where_the_reference_has_almost_no_mass():
    """π = (¾, ¼), π_ref = (½, ½): 9/8 + 1/8 − 1 = ¼."""
    own, reference = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.5, 0.5]]).log()
    assert chi2(own, reference).item() == pytest.approx(0.25, abs=1e-6)
    assert chi2(own, own).item() == pytest.approx(0, abs=1e-6)
    far = chi2(torch.tensor([[0.0, -torch.inf]]), torch.tensor([[-200.0, 0.0]])).item()
    assert far == pytest.approx(math.exp(40), rel=1e-5) and math.isfinite((1e-3 * far) ** 2)
    assert chi2(torch.tensor([[0.0, -torch.inf]]), torch.tensor([[0.0, -torch.inf]])).item() == 0


def test_the_chi2_penalty_is_charged_at_every_token():
    rollout = random_rollout()
    rollout = replace(rollout, chi2=torch.where(rollout.mask, 2.0, 0.0))
    plain, charged = (shape_rewards(rollout, PPOSettings(ppo), initial_state(ppo))[0] for ppo in (PLAIN, replace(PLAIN, chi2_penalty=0.25)))
    torch.testing.assert_close(plain - charged, torch.where(rollout.mask, 0.5, 0.0))


def test_the_bug_of_means_of_means_weighs_tokens_by_their_micro_batch():
    """Two micro-batches of one response each, of 1 and 3 tokens with a loss of 4 and 2 per token: (4 + 2)/2, not (4 + 6)/4."""
    parts = [(torch.tensor(4.0) / 4, 1), (torch.tensor(6.0) / 4, 3)]
    assert sum(float(bugs.micro_batch_mean(loss, 4, own, 0.5)) for loss, own in parts) == pytest.approx(3.0)
    assert sum(float(loss) for loss, _ in parts) == pytest.approx(2.5)


def test_adam_forgets_before_the_update_after_every_nth_and_its_next_step_is_a_first_one():
    """The first step of Adam is lr · g / (|g| + ε) whatever the size of g; a later one also carries the moments of the steps before."""
    steps = []
    for every in (2, 0):
        parameter = torch.nn.Parameter(torch.zeros(1))
        optimizer, before = torch.optim.Adam([parameter], lr=0.1, fused=True), []
        for number, gradient in enumerate((8.0, 8.0, 0.5, 0.5, -0.25), start=1):
            if every:
                bugs.optimizer_reset(optimizer, number, every)
            parameter.grad, start = torch.tensor([gradient]), parameter.item()
            optimizer.step()
            before.append(parameter.item() - start)
        steps.append(before)
    reset, kept = steps
    assert [reset[i] for i in (0, 2, 4)] == pytest.approx([-0.1, -0.1, 0.1], rel=1e-5)
    assert reset[:2] == kept[:2] and abs(kept[2] + 0.1) > 0.01 and kept[4] < 0


def test_a_clamped_k3_has_no_gradient_where_the_policy_has_gone_farthest():
    rollout = random_rollout(lengths=(2,))
    new = torch.tensor([[-9.0, -1.0]], requires_grad=True)
    rollout = replace(rollout, ref_logprobs=torch.tensor([[-1.0, -1.5]]), logprobs=new.detach())
    ppo, targets = replace(PLAIN, kl_loss=True, kl_loss_estimator="k3"), random_targets(rollout)
    slopes = []
    for on in (False, True):
        settings = PPOSettings(ppo, bugs=BugsConfig(kl_loss_clamped=on))
        loss = loss_of(new, rollout.entropy, rollout.values, rollout, replace(targets, advantages=torch.zeros(1, 2)), settings)
        slopes.append(torch.autograd.grad(loss.total, new)[0][0].tolist())
    assert slopes[0][0] == pytest.approx(0.1 * (1 - math.exp(8)) / 2, rel=1e-5) and slopes[1][0] == 0
    assert slopes[0][1] == slopes[1][1] != 0


def test_fractions_of_the_clip_and_of_the_value_clip_count_tokens():
    rollout = random_rollout(lengths=(4,))
    new = rollout.logprobs + torch.tensor([[1.5, 0.7, 1.0, 3.0]]).log()
    values = rollout.values + torch.tensor([[0.3, -0.1, 0.0, -0.5]])
    found = loss_of(new, rollout.entropy, values, rollout, random_targets(rollout), PPOConfig())
    fractions = found.clip_fraction_low, found.clip_fraction_high, found.clip_fraction, found.value_clip_fraction
    assert [float(x) for x in fractions] == [0.25, 0.5, 0.75, 0.5]
    assert [float(x) for x in (found.ratio_mean, found.ratio_min, found.ratio_max)] == pytest.approx([6.2 / 4, 0.7, 3.0], rel=1e-5)


def steps_of(models: Models, lower: float = 0.0, ended: bool = True, **settings) -> tuple[dict[str, float], bool]:
    """The metrics of an update of two epochs of two minibatches on records of other weights, and whether a weight moved.

    lower: nats by which the old log-probs are lowered. ended: whether any response ended.
    """
    ppo = PPOConfig(batch_size=8, minibatch_size=4, micro_batch_size=2, epochs=2, learning_rate=1e-2, **settings)
    rollout = random_rollout(lengths=(5, 2, 7, 1, 7, 4, 3, 6))
    rollout = replace(rollout, logprobs=rollout.logprobs - lower, ended=rollout.ended & ended)
    before = [p.clone() for p in models.policy.parameters()]
    optimizer = new_optimizer(models, ppo)
    generator = torch_generator(0, "order")
    stats = update(models, optimizer, rollout, random_targets(rollout), PPOSettings(ppo), generator, 0, lambda step: None, 0.01)
    return stats, any(not torch.equal(a, b) for a, b in zip(before, models.policy.parameters(), strict=True))


def test_a_guard_below_every_ratio_leaves_out_every_step_and_one_above_none(tiny_models):
    stats, moved = steps_of(tiny_models, ratio_guard=1e-9)
    assert stats["ppo/skipped"] == 1 and not moved and stats["ppo/grad_norm"] > 0
    stats, moved = steps_of(tiny_models, ratio_guard=1e9)
    assert stats["ppo/skipped"] == 0 and moved


@pytest.mark.parametrize("lower", [60.0, 120.0])
@pytest.mark.parametrize("guard", [{"ratio_guard": 5.0}, {"target_kl": 0.1}])
def test_a_guard_leaves_out_a_step_that_would_end_the_run_as_diverged(guard, lower, tiny_models):
    """Ratios of e^60 make an infinite gradient, of e^120 an infinite loss."""
    stats, moved = steps_of(tiny_models, lower, ratio_clip=False, **guard)
    assert stats["ppo/skipped"] == 1 and not moved
    with pytest.raises(Diverged):
        steps_of(tiny_models, lower, ratio_clip=False)


def test_minibatches_without_a_response_that_ended_make_no_step(tiny_models):
    stats, moved = steps_of(tiny_models, ended=False, overlong_filter=True)
    assert stats == {"ppo/skipped": 1} and not moved


def test_a_target_kl_ends_the_update_at_the_first_minibatch_beyond_it(tiny_models):
    stats, moved = steps_of(tiny_models, target_kl=1e-6)
    assert stats["ppo/skipped"] == 1 and not moved
    stats, moved = steps_of(tiny_models, target_kl=1e6)
    assert stats["ppo/skipped"] == 0 and moved


def test_the_norms_of_policy_and_critic_are_the_legs_of_the_joint_one(tiny_models):
    stats, _ = steps_of(tiny_models)
    assert math.hypot(stats["ppo/actor_grad_norm"], stats["ppo/critic_grad_norm"]) == pytest.approx(stats["ppo/grad_norm"], rel=0.05)
