"""The tricks in the losses of policy and critic, and on the gradient."""

import math

import pytest
import reference
import torch
from synthetic import flat, random_rollout, random_targets
from torch import nn

from ablate.ppo.tricks.policy import (
    clip_range_high,
    entropy_bonus,
    entropy_clip,
    importance_sampling,
    log_ratio,
    outside_clip,
    policy_gradient,
    policy_kl,
    ptx,
    ratio_clip,
)
from ablate.ppo.tricks.value import critic_pretrain, grad_clip, gradient_norm, value_clip, value_loss


def ratios_and_advantages():
    rollout = random_rollout(seed=2)
    return log_ratio(rollout.logprobs, rollout.ref_logprobs, rollout.mask), random_targets(rollout).advantages, rollout


def test_the_clipped_surrogate_equals_the_slow_cases():
    ratio, advantages, rollout = ratios_and_advantages()
    loss = ratio_clip(ratio, advantages, 0.2, 0.2)
    columns = (rollout.logprobs, rollout.ref_logprobs, advantages, loss)
    cases = [[x.item() for x in row] for row in zip(*(column[rollout.mask].double() for column in columns), strict=True)]
    for new, old, advantage, got in cases:
        assert got == pytest.approx(reference.ratio_clip(math.exp(new), math.exp(old), advantage, 0.2), abs=1e-5)


@pytest.mark.parametrize(("ratio", "advantage", "loss", "moves"), [
    (1.5, 2.0, -2.4, False), (0.5, 2.0, -1.0, True), (1.5, -2.0, 3.0, True), (0.5, -2.0, 1.6, False), (1.1, 2.0, -2.2, True),
])  # fmt: skip
def test_the_clip_stops_the_gradient_only_where_moving_on_would_be_rewarded(ratio, advantage, loss, moves):
    log = torch.tensor(math.log(ratio), requires_grad=True)
    value = ratio_clip(log, torch.tensor(advantage), 0.2, 0.2)
    value.backward()
    assert value.item() == pytest.approx(loss, abs=1e-6)
    assert log.grad.item() == pytest.approx(-advantage * ratio if moves else 0.0, abs=1e-6)


@pytest.mark.parametrize(("advantage", "loss"), [(3.0, -3.6), (0.0, 0.0)])
@pytest.mark.parametrize("log_ratio", [88.5, 100.0, 1e6, math.inf])
def test_a_clipped_token_whose_ratio_overflows_has_the_clipped_loss_and_no_gradient(log_ratio, advantage, loss):
    """Its neighbour at ratio 1.1 and A = 2 keeps its own: −2.2, with the slope −2.2."""
    log = torch.tensor([log_ratio, math.log(1.1)], requires_grad=True)
    losses = ratio_clip(log, torch.tensor([advantage, 2.0]), 0.2, 0.2)
    losses.sum().backward()
    assert losses.tolist() == pytest.approx([loss, -2.2], abs=1e-6)
    assert log.grad.tolist() == pytest.approx([0.0, -2.2], abs=1e-6)


def test_a_bad_token_whose_ratio_overflows_has_an_infinite_loss_and_is_not_hidden():
    """A finite stand-in would let training go on with a gradient of 0 where it is steepest."""
    assert ratio_clip(torch.tensor(100.0), torch.tensor(-1.0), 0.2, 0.2).item() == math.inf
    log = torch.tensor(88.5, requires_grad=True)
    loss = ratio_clip(log, torch.tensor(-1.0), 0.2, 0.2)
    loss.backward()
    assert loss.item() == log.grad.item() == pytest.approx(math.exp(88.5), rel=1e-4)


@pytest.mark.parametrize(("ratio", "advantage", "loss", "outside"), [
    (1.25, 1.0, -1.25, False), (1.5, 1.0, -1.4, True), (1.5, -1.0, 1.5, True), (0.7, 1.0, -0.7, True), (0.7, -1.0, 0.8, True),
    (0.85, -1.0, 0.85, False),
])  # fmt: skip
def test_an_asymmetric_clip_leaves_more_room_upwards(ratio, advantage, loss, outside):
    """ε = 0.2 and ε_high = 0.4: a good token may rise to 1.4 times its probability, and falls no further than to 0.8 of it."""
    log = torch.tensor(math.log(ratio))
    assert ratio_clip(log, torch.tensor(advantage), 0.2, 0.4).item() == pytest.approx(loss, abs=1e-6)
    assert any(side.item() for side in outside_clip(log, 0.2, 0.4)) is outside


def test_without_an_upper_range_the_clip_is_symmetric():
    assert (clip_range_high(None, 0.2), clip_range_high(0.28, 0.2)) == (0.2, 0.28)


def test_a_wide_clip_is_no_clip_and_the_clip_never_lowers_the_loss():
    ratio, advantages, _ = ratios_and_advantages()
    assert ratio.exp().max() < 50
    torch.testing.assert_close(ratio_clip(ratio, advantages, 50.0, 50.0), policy_gradient(ratio, advantages), rtol=0, atol=0)
    assert (ratio_clip(ratio, advantages, 0.2, 0.2) >= policy_gradient(ratio, advantages)).all()


def test_at_ratio_one_the_surrogate_is_minus_the_advantage():
    advantages = torch.tensor([[1.0, -2.0]])
    for surrogate in (policy_gradient(torch.zeros(1, 2), advantages), ratio_clip(torch.zeros(1, 2), advantages, 0.2, 0.2)):
        assert surrogate.tolist() == [[-1.0, 2.0]]


def test_importance_sampling_picks_the_old_log_probs():
    rollout = random_rollout()
    assert importance_sampling(rollout.logprobs, rollout.ref_logprobs, "behaviour") is rollout.logprobs
    assert importance_sampling(rollout.logprobs, rollout.ref_logprobs, "reference") is rollout.ref_logprobs
    with pytest.raises(ValueError, match="neither"):
        importance_sampling(rollout.logprobs, rollout.ref_logprobs, "neither")


def test_the_policy_kl_by_hand():
    """β = 2: a token made twice as likely costs 2 (2 − 1 − ln 2), one made half as likely 2 (½ − 1 + ln 2)."""
    penalty = policy_kl(torch.tensor([[math.log(2), -math.log(2), 0.0]]), 2.0)
    assert penalty.tolist() == [pytest.approx([0.613706, 0.386294, 0.0], abs=1e-6)]


def test_the_policy_kl_is_k3_seen_from_the_old_policy():
    """At a token of π_old, with π_θ as the other distribution: β (π_θ/π_old − 1 − log(π_θ/π_old))."""
    rollout = random_rollout(seed=3)
    penalty = policy_kl(log_ratio(rollout.ref_logprobs, rollout.logprobs, rollout.mask), 2.0)
    p, q = (x[rollout.mask].double().exp().tolist() for x in (rollout.logprobs, rollout.ref_logprobs))
    slow = [2 * reference.kl_sample(old, new, "k3") for old, new in zip(p, q, strict=True)]
    torch.testing.assert_close(penalty[rollout.mask].tolist(), slow, rtol=1e-4, atol=1e-5)
    assert (penalty >= 0).all() and (penalty[~rollout.mask] == 0).all()


@pytest.mark.parametrize(("form", "entropy", "term"), [
    ("min", 0.1, 0.1), ("min", 0.5, 0.5), ("min", 2.0, 0.5), ("moss", 0.1, -0.4), ("moss", 0.5, 0.0), ("moss", 2.0, -1.5),
])  # fmt: skip
def test_the_entropy_clip_by_hand(form, entropy, term):
    """δ = 0.5: `min` is flat above it, `moss` highest at it."""
    assert entropy_clip(torch.tensor(entropy), 0.5, form).item() == pytest.approx(term)


@pytest.mark.parametrize(("form", "entropy", "slope"), [("min", 0.4, 1), ("min", 0.6, 0), ("moss", 0.4, 1), ("moss", 0.6, -1)])
def test_only_moss_pulls_the_entropy_down(form, entropy, slope):
    h = torch.tensor(entropy, requires_grad=True)
    entropy_clip(h, 0.5, form).backward()
    assert h.grad.item() == slope


def test_an_unknown_entropy_clip_is_an_error():
    with pytest.raises(ValueError, match="soft"):
        entropy_clip(torch.tensor(1.0), 0.5, "soft")


def test_bonus_and_ptx_by_hand():
    """The bonus lowers the loss, the language-model loss raises it."""
    assert entropy_bonus(torch.tensor(2.0), 0.01).item() == pytest.approx(-0.02)
    assert ptx(torch.tensor(3.0), 0.1).item() == pytest.approx(0.3)


def test_the_value_clip_equals_the_slow_cases():
    rollout = random_rollout(seed=4)
    targets = random_targets(rollout)
    new = rollout.values + 0.5 * targets.advantages
    loss = value_clip(new, rollout.values, targets.returns, 0.2)
    columns = (new, rollout.values, targets.returns, loss)
    for value, old, target, got in zip(*(column[rollout.mask].tolist() for column in columns), strict=True):
        assert got == pytest.approx(reference.value_clip(value, old, target, 0.2), abs=1e-5)


def test_the_value_loss_by_hand():
    """(3 − 1)² = 4, no half; held at 0.5 + 0.2 the error to 3 is 2.3, larger than 1 at V = 2."""
    assert value_loss(torch.tensor(3.0), torch.tensor(1.0)).item() == 4
    assert value_clip(torch.tensor(2.0), torch.tensor(0.5), torch.tensor(3.0), 0.2).item() == pytest.approx(2.3**2)


def test_the_value_clip_at_the_old_value_and_critic_pretraining_are_the_squared_error():
    rollout = random_rollout(seed=5)
    returns = random_targets(rollout).returns
    pairs = zip(flat(rollout.values, rollout.mask), flat(returns, rollout.mask), strict=True)
    squares = [(value - target) ** 2 for value, target in pairs]
    for loss in (value_clip(rollout.values, rollout.values, returns, 0.2), critic_pretrain(rollout.values, returns)):
        assert flat(loss, rollout.mask) == pytest.approx(squares, rel=1e-5, abs=1e-6)


def parameters_with_gradients(*gradients: list[float]) -> list[nn.Parameter]:
    made = [nn.Parameter(torch.zeros(len(g))) for g in gradients]
    for parameter, gradient in zip(made, gradients, strict=True):
        parameter.grad = torch.tensor(gradient)
    return made


def test_the_gradient_clip_uses_one_norm_over_all_parameters():
    """‖(3, 0), (4)‖ = 5: clipped to 1 each is divided by 5; a norm a module would give 1 and 1."""
    parameters = parameters_with_gradients([3.0, 0.0], [4.0])
    norm = gradient_norm([*parameters, nn.Parameter(torch.zeros(2))])
    assert norm.item() == 5
    grad_clip(parameters, norm, 1.0)
    assert parameters[0].grad.tolist() == pytest.approx([0.6, 0.0], abs=1e-5)
    assert parameters[1].grad.tolist() == pytest.approx([0.8], abs=1e-5)


def test_a_gradient_within_the_norm_is_not_touched():
    parameters = parameters_with_gradients([0.3, 0.4])
    grad_clip(parameters, gradient_norm(parameters), 1.0)
    assert parameters[0].grad.tolist() == torch.tensor([0.3, 0.4]).tolist()
