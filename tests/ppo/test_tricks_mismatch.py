"""The moving reference and the corrections of a sampler's mismatch, by hand and against slow loops."""

from __future__ import annotations

import math

import pytest
import torch
from synthetic import random_rollout, rows_of

from ablate.ppo.tricks.policy import mismatch_correction, reference_update

LOG2 = math.log(2)


def weights(form: str, low: float = 0.5, high: float = 2.0) -> list[float]:
    """Of two responses with w = (1, 4, ¼) and w = (2, 2), a pad after the second that holds NaN."""
    log_weight = torch.tensor([[0.0, 2 * LOG2, -2 * LOG2], [LOG2, LOG2, math.nan]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    return mismatch_correction(log_weight, mask, form, low, high)[mask].tolist()


def test_tis_cuts_the_weight_from_above_alone():
    assert weights("tis") == pytest.approx([1, 2, 0.25, 2, 2])


def test_icepop_drops_tokens_outside_both_bounds():
    assert weights("icepop") == pytest.approx([1, 0, 0, 2, 2])
    assert weights("icepop", 0.1, 5) == pytest.approx([1, 4, 0.25, 2, 2])


def test_a_sequence_is_kept_whole_or_dropped_whole_by_the_geometric_mean_of_its_weights():
    assert weights("sequence_mask", 0.5, 1.9) == [1, 1, 1, 0, 0]
    assert weights("sequence_mask", 1.1, 2.1) == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("form", ["none", "bypass"])
def test_without_a_correction_every_weight_is_one(form):
    assert weights(form) == [1, 1, 1, 1, 1]


@pytest.mark.parametrize("form", ["tis", "icepop", "sequence_mask"])
def test_a_correction_equals_a_slow_loop(form):
    rollout, low, high = random_rollout(), 0.85, 1.2
    log_weight = rollout.logprobs - rollout.sampler_logprobs
    found = rows_of(mismatch_correction(log_weight, rollout.mask, form, low, high), rollout.mask)
    for row, weights_of_row in zip(rows_of(log_weight, rollout.mask), found, strict=True):
        mean = math.exp(sum(row) / len(row))
        for logarithm, weight in zip(row, weights_of_row, strict=True):
            w = math.exp(logarithm)
            expected = {"tis": min(w, high), "icepop": w if low <= w <= high else 0.0, "sequence_mask": float(low <= mean <= high)}[form]
            assert weight == pytest.approx(expected, rel=1e-5)


def test_the_reference_moves_to_the_policy_by_the_rate_or_whole():
    reference, policy = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 2.0])
    assert reference_update(reference, policy, "ema", 0.25).tolist() == [1.5, -1.0]
    assert reference_update(reference, policy, "reset", 0.25) is policy


def test_an_unknown_form_is_an_error():
    with pytest.raises(ValueError, match="unknown"):
        mismatch_correction(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), "x", 0.5, 2)
    with pytest.raises(ValueError, match="unknown"):
        reference_update(torch.zeros(1), torch.zeros(1), "x", 0.5)
