"""Monitors by hand and against slow loops."""

import math
from dataclasses import replace

import pytest
import reference
import torch
from synthetic import flat, random_rollout, random_targets, rows_of

from ablate.ppo.monitor import advantage_metrics, distinct, monitors, perplexity, perplexity_moss, reward_metrics
from ablate.ppo.shaping import explained_variance
from ablate.ppo.types import Targets


def test_perplexity_is_exp_of_the_mean_nll_over_response_tokens():
    rollout = random_rollout()
    nll = rows_of(-rollout.logprobs, rollout.mask)
    assert perplexity(rollout.logprobs, rollout.mask) == pytest.approx(reference.perplexity(nll), rel=1e-5)
    assert monitors(rollout)["monitor/perplexity"] == pytest.approx(reference.perplexity(nll), rel=1e-5)


def test_perplexity_weighs_tokens_and_not_responses():
    """Three tokens of p = 1/2 and one of 1/16: exp((3 ln 2 + 4 ln 2) / 4) = 2^(7/4), not the mean of the rows."""
    logprobs = torch.tensor([[0.5, 0.5, 0.5], [1 / 16, 1, 1]]).log()
    assert perplexity(logprobs, torch.tensor([[True, True, True], [True, False, False]])) == pytest.approx(2**1.75, rel=1e-6)


def test_moss_perplexity_equals_the_slow_loop():
    rollout = random_rollout()
    prompts = [[x / 2, x / 2] for x in rollout.prompt_nll.tolist()]  # three prompt tokens, of which two are predicted
    slow = reference.perplexity_moss(prompts, rows_of(-rollout.logprobs, rollout.mask))
    assert perplexity_moss(rollout) == pytest.approx(slow, rel=1e-5)


def test_moss_perplexity_of_a_row_padded_on_the_left_is_that_of_its_real_tokens():
    """The first row's prompt has two tokens behind a pad, of which one is predicted; the others' have three, of which two are."""
    rollout = random_rollout()
    attention = rollout.attention.clone()
    attention[0, 0] = False
    prompts = [[rollout.prompt_nll[0].item()]] + [[x / 2, x / 2] for x in rollout.prompt_nll[1:].tolist()]
    slow = reference.perplexity_moss(prompts, rows_of(-rollout.logprobs, rollout.mask))
    assert perplexity_moss(replace(rollout, attention=attention)) == pytest.approx(slow, rel=1e-5)


def test_moss_perplexity_falls_when_responses_merely_get_longer_and_the_true_one_does_not():
    short, long = (random_rollout(lengths=(n, n)) for n in (2, 20))
    same = [replace(r, logprobs=torch.full_like(r.logprobs, -1.0), prompt_nll=torch.full((2,), 2.0)) for r in (short, long)]
    assert perplexity(same[0].logprobs, same[0].mask) == pytest.approx(perplexity(same[1].logprobs, same[1].mask)) == pytest.approx(math.e)
    assert [perplexity_moss(r) for r in same] == pytest.approx([math.exp(1 / 2), math.exp(1 / 20)])


def test_distinct_2_equals_the_slow_loop_and_sees_no_pad():
    rollout = random_rollout(lengths=(6, 2, 7, 1, 7, 4))
    responses = [row[real].tolist() for row, real in zip(rollout.tokens[:, 3:], rollout.mask, strict=True)]
    assert distinct(rollout) == pytest.approx(reference.distinct_2(responses), rel=1e-6)


@pytest.mark.parametrize(("response", "share"), [([5, 5, 5, 5, 5], 1 / 4), ([2, 3, 2, 3, 2], 2 / 4), ([2, 3, 4, 5, 6], 1.0)])
def test_distinct_2_by_hand(response, share):
    rollout = random_rollout(lengths=(5,), prompt=1)
    assert distinct(replace(rollout, tokens=torch.tensor([[9, *response]]))) == pytest.approx(share)


def test_kl_length_entropy_and_truncation_by_slow_means():
    rollout = random_rollout()
    row = monitors(rollout)
    lp, lref = (rows_of(x, rollout.mask) for x in (rollout.logprobs, rollout.ref_logprobs))
    k1 = [a - b for x, y in zip(lp, lref, strict=True) for a, b in zip(x, y, strict=True)]
    k3 = [reference.kl_sample(math.exp(a), math.exp(b), "k3") for x, y in zip(lp, lref, strict=True) for a, b in zip(x, y, strict=True)]
    tokens, responses = len(k1), len(lp)
    expected = {
        "monitor/kl_to_sft": sum(flat(rollout.kl, rollout.mask)) / responses, "monitor/kl_k1": sum(k1) / responses,
        "monitor/kl_k3": sum(k3) / responses, "monitor/kl_per_token": sum(k1) / tokens,
        "monitor/entropy": sum(flat(rollout.entropy, rollout.mask)) / tokens, "monitor/response_length": tokens / responses,
        "monitor/truncated": 1 / responses, "monitor/perplexity_ref": reference.perplexity([[-x for x in y] for y in lref]),
    }  # fmt: skip
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_monitors_have_the_names_of_the_contract():
    contract = (
        "perplexity", "perplexity_ref", "perplexity_moss", "response_length", "response_length_p95", "response_length_std", "kl_to_sft",
        "kl_per_token", "kl_k1", "kl_k2", "kl_k3", "entropy", "truncated", "distinct", "distinct_across", "reward_length_corr",
    )  # fmt: skip
    assert set(monitors(replace(random_rollout(), sampler_logprobs=None))) == {f"monitor/{name}" for name in contract}
    mismatch = {"mismatch_kl", "mismatch_ess"}  # only of a sampler with weights of its own
    assert set(monitors(random_rollout())) == {f"monitor/{name}" for name in mismatch.union(contract)}
    rollout = random_rollout()
    assert set(reward_metrics(rollout, rollout.kl)) == {f"reward/{n}" for n in ("proxy_mean", "proxy_std", "proxy_p95", "shaped_mean")}
    assert set(advantage_metrics(rollout, random_targets(rollout))) == {
        f"ppo/{n}" for n in ("explained_variance", "value_mean", "advantage_mean", "advantage_std", "return_mean")
    }


def test_rewards_seen_by_hand():
    rollout = replace(random_rollout(lengths=(1, 1, 1)), score=torch.tensor([1.0, 2.0, 6.0]))
    row = reward_metrics(rollout, torch.tensor([[1.0], [2.0], [3.0]]))
    assert row["reward/proxy_mean"] == 3 and row["reward/proxy_std"] == pytest.approx(math.sqrt(7)) and row["reward/shaped_mean"] == 2


def test_explained_variance_is_one_for_the_right_values_zero_for_a_constant_and_negative_for_worse():
    rollout = random_rollout()
    targets = random_targets(rollout)
    right = replace(rollout, values=targets.returns)
    assert explained_variance(right, targets) == pytest.approx(1)
    assert explained_variance(replace(rollout, values=torch.full_like(rollout.values, 5.0)), targets) == pytest.approx(0, abs=1e-6)
    assert explained_variance(replace(rollout, values=-targets.returns), targets) == pytest.approx(-3, abs=1e-5)
    assert explained_variance(rollout, Targets(targets.advantages, torch.ones_like(targets.returns))) == 0.0


def test_an_infinite_nll_gives_a_large_finite_perplexity():
    assert math.isfinite(perplexity(torch.tensor([[-1e9]]), torch.tensor([[True]])))


def test_the_spread_of_lengths_by_hand():
    row = monitors(random_rollout(lengths=(1, 2, 3, 4, 5)))
    assert row["monitor/response_length_p95"] == pytest.approx(4.8)
    assert row["monitor/response_length_std"] == pytest.approx(math.sqrt(2.5))


def test_bigrams_across_the_batch_are_counted_once_and_pads_never():
    """[2 3 2 3] and [2 3]: four bigrams, of which 2 3 and 3 2 differ; within the answers the shares are 2/3 and 1."""
    rollout = random_rollout(lengths=(4, 2), prompt=1)
    rollout = replace(rollout, tokens=torch.tensor([[9, 2, 3, 2, 3], [9, 2, 3, 7, 7]]))
    row = monitors(rollout)
    assert row["monitor/distinct_across"] == pytest.approx(2 / 4)
    assert row["monitor/distinct"] == pytest.approx((2 / 3 + 1) / 2)


def test_score_and_length_correlate_by_hand_and_not_at_all_where_one_is_constant():
    rollout = replace(random_rollout(lengths=(1, 2, 3)), score=torch.tensor([1.0, 3.0, 2.0]))
    assert monitors(rollout)["monitor/reward_length_corr"] == pytest.approx(0.5)
    assert monitors(replace(rollout, score=torch.ones(3)))["monitor/reward_length_corr"] == 0


def test_k2_is_half_the_mean_square_per_response():
    rollout = random_rollout()
    squares = [d * d for row in rows_of(rollout.logprobs - rollout.ref_logprobs, rollout.mask) for d in row]
    assert monitors(rollout)["monitor/kl_k2"] == pytest.approx(sum(squares) / 2 / len(rollout.tokens), rel=1e-5)
