"""A sampler with other weights than the policy: how they are rounded, which policy's they are, and what the monitors say of them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from synthetic import random_rollout, rows_of
from transformers.pytorch_utils import Conv1D

from ablate.config import SamplingConfig
from ablate.models.load import load_policy
from ablate.ppo.monitor import mismatch, monitors
from ablate.ppo.sampler import fill, int8, new_sampler, remembered, round_weights
from ablate.session import execute
from ablate.trainer import Trainer

CPU = torch.device("cpu")


def test_int8_puts_each_output_channel_on_its_own_grid_of_255_levels():
    weight = torch.tensor([[127.0, 0.4, -126.6], [0.0, 0.0, 0.0], [1.27, 0.014, -0.006]])
    expected = torch.tensor([[127.0, 0.0, -127.0], [0.0, 0.0, 0.0], [1.27, 0.01, -0.01]])
    torch.testing.assert_close(int8(weight, outputs=0), expected)
    torch.testing.assert_close(int8(weight.t(), outputs=1), expected.t())


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_int8_rounds_the_linear_maps_and_leaves_embeddings_norms_and_the_vocabulary_head(architecture, architecture_folders):
    before, after = (load_policy(architecture_folders(architecture)[0], CPU) for _ in range(2))
    round_weights(after, "int8")
    head = after.get_output_embeddings()
    for (name, old), new in zip(before.named_modules(), after.modules(), strict=True):
        weight = getattr(old, "weight", None)
        if not isinstance(weight, torch.nn.Parameter):
            continue
        rounded = isinstance(new, (torch.nn.Linear, Conv1D)) and new is not head
        assert torch.equal(weight, new.weight) != rounded, name
        if rounded:
            channels = new.weight.detach() if isinstance(new, torch.nn.Linear) else new.weight.detach().t()
            for row in channels:
                levels = row / (row.abs().max() / 127)
                assert float((levels - levels.round()).abs().max()) < 1e-4


def test_bf16_keeps_eight_significant_bits_of_every_parameter(tiny_models):
    policy = tiny_models.policy
    before = [parameter.clone() for parameter in policy.parameters()]
    round_weights(policy, "bf16")
    for old, new in zip(before, policy.parameters(), strict=True):
        assert torch.equal(new, old.to(torch.bfloat16).float())
        mantissa, _ = torch.frexp(new)
        assert torch.equal(mantissa * 256, (mantissa * 256).round())


def test_no_copy_is_made_where_the_policy_samples_itself(tiny_models):
    assert new_sampler(tiny_models.policy, SamplingConfig()) is None
    assert tiny_models.sampling is tiny_models.policy


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_a_rollout_is_sampled_by_the_policy_of_n_updates_ago_and_in_the_first_by_that_of_the_start(staleness, tiny_models):
    policy, sampling = tiny_models.policy, SamplingConfig(staleness=staleness, sampler_precision="fp32" if staleness else "bf16")
    sampler, history, weight = new_sampler(policy, sampling), [], next(policy.parameters())
    assert sampler is not None
    for update in range(6):  # the policy before update u + 1 holds the number u
        torch.nn.init.constant_(weight, float(update))
        fill(sampler, policy, history, sampling)
        assert float(next(sampler.parameters()).max()) == max(update - staleness, 0)
        history = remembered(history, policy, staleness)
        assert len(history) == min(update + 1, staleness)
    assert not any(parameter.requires_grad for parameter in sampler.parameters())


def test_a_run_samples_with_the_sampler_and_evaluates_and_trains_the_policy(tiny_config, monkeypatch):
    """At staleness 1 the second update's rollout comes from the policy before the first; its measured log-probs are the policy's own."""
    seen: list[tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]] = []
    collect = Trainer.collect

    def spied(self, models, *arguments):
        rollout = collect(self, models, *arguments)
        if models.sampler is not None:
            seen.append(([p.clone() for p in models.sampler.parameters()], rollout.logprobs, rollout.sampler_logprobs))
        else:
            assert rollout.sampler_logprobs is None
        return rollout

    monkeypatch.setattr(Trainer, "collect", spied)
    execute(tiny_config("sampling.staleness=1", "ppo.learning_rate=1e-2", "ppo.updates=3"))
    (first, *logprobs), (second, *later), (third, *_) = seen
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(second, third, strict=True))
    torch.testing.assert_close(*logprobs, rtol=0, atol=1e-5)
    assert float((later[0] - later[1]).abs().max()) > 1e-3


def test_the_monitors_of_a_mismatch_equal_a_slow_loop_and_are_absent_without_one():
    rollout = random_rollout()
    ratios = [math.exp(d) for row in rows_of(rollout.logprobs - rollout.sampler_logprobs, rollout.mask) for d in row]
    found = mismatch(rollout)
    assert found["monitor/mismatch_kl"] == pytest.approx(sum(w - 1 - math.log(w) for w in ratios) / len(ratios), rel=1e-5)
    assert found["monitor/mismatch_ess"] == pytest.approx(sum(ratios) ** 2 / (len(ratios) * sum(w * w for w in ratios)), rel=1e-6)
    assert mismatch(replace(rollout, sampler_logprobs=None)) == {}


def test_kl_to_sft_stays_that_to_sft_where_the_reference_moves():
    rollout = random_rollout()
    moved = replace(
        rollout, sft_logprobs=rollout.ref_logprobs, sft_kl=rollout.kl, ref_logprobs=rollout.logprobs, kl=torch.zeros_like(rollout.kl)
    )
    still, moving = monitors(rollout), monitors(moved)
    assert moving.pop("monitor/kl_to_reference") == 0
    assert still == moving
