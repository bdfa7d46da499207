"""The tricks against TRL 1.12's own PPO update, on what TRL itself sampled.

Needs TRL's environment, named by its interpreter:

    ABLATE_TRL_PYTHON=.venv-bench/bin/python python -m pytest -m peer tests/benchmarks
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch

from ablate.models.forward import log_softmax, response_logits, response_values, sequence_score
from ablate.models.load import load_policy, load_scorer
from ablate.ppo.tricks.advantage import advantage_norm, gae
from ablate.ppo.tricks.policy import log_ratio, ratio_clip
from ablate.ppo.tricks.reward import kl_estimate, kl_penalty, place_score
from ablate.ppo.tricks.value import value_clip

pytestmark = pytest.mark.peer
HERE = Path(__file__).resolve().parent
CPU = torch.device("cpu")
PAD, EOS = 0, 1
KL_COEF, CLIP, GAMMA = 0.1, 0.1, 1.0  # as peer_trl.py sets them


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    python = os.environ.get("ABLATE_TRL_PYTHON")
    if not python:
        pytest.skip("ABLATE_TRL_PYTHON does not name the interpreter of TRL's environment")
    place = tmp_path_factory.mktemp("trl")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run([python, str(HERE / "peer_trl.py"), str(place)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return place


@pytest.fixture(scope="module")
def updates(folder) -> dict[float, dict]:
    """What TRL computed, by λ."""
    return torch.load(folder / "recorded.pt", weights_only=True)


@pytest.fixture(scope="module")
def trl(updates) -> dict:
    return updates[0.95]


def responses(trl: dict) -> torch.Tensor:
    return trl["tokens"][:, trl["prompt_width"] :]


def real_tokens(trl: dict) -> torch.Tensor:
    """Our mask, by a loop: every token up to and with the first end token."""
    mask = torch.zeros(responses(trl).shape, dtype=torch.bool)
    for row, tokens in enumerate(responses(trl).tolist()):
        mask[row, : tokens.index(EOS) + 1 if EOS in tokens else len(tokens)] = True
    return mask


def one_step_more(mask: torch.Tensor) -> torch.Tensor:
    """TRL's other mask: a response that ended has one state more, after its end token."""
    return mask | torch.nn.functional.pad(mask[:, :-1], (1, 0), value=True)


def chosen(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probs of tokens [B, T] under logits [B, T, V], by our log-softmax."""
    return log_softmax(logits, 1.0).gather(2, tokens[..., None]).squeeze(2)


def penalties(trl: dict, mask: torch.Tensor) -> torch.Tensor:
    """−η k1 at the real tokens."""
    logprobs, reference = chosen(trl["logits"], responses(trl)), chosen(trl["reference_logits"], responses(trl))
    kl = torch.where(mask, kl_estimate(logprobs, reference, torch.zeros_like(logprobs), "k1"), 0.0)
    return kl_penalty(torch.zeros_like(kl), kl, KL_COEF)


def close(ours: torch.Tensor, theirs: torch.Tensor, atol: float = 1e-6) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=atol)


def test_the_update_has_ended_and_truncated_responses_and_ratios_on_both_sides_of_the_clip(trl):
    ended = (responses(trl) == EOS).any(1)
    assert 5 <= int(ended.sum()) <= len(ended) - 5
    second = trl["epochs"][1]
    order, mask = second["order"], real_tokens(trl)
    tokens = responses(trl)[order]
    ratio = log_ratio(chosen(second["logits"], tokens), chosen(trl["logits"], responses(trl))[order], mask[order]).exp()[mask[order]]
    assert (ratio > 1 + CLIP).any() and (ratio < 1 - CLIP).any() and ((ratio - 1).abs() < CLIP).any()
    moved = (second["values"] - trl["values"][order])[mask[order]].abs()
    assert (moved > CLIP).any() and (moved < CLIP).any()


def test_real_tokens_are_those_trl_counts_in_the_policy_loss(trl):
    assert torch.equal(real_tokens(trl), trl["mask"])
    for epoch in trl["epochs"]:
        assert torch.equal(real_tokens(trl)[epoch["order"]], epoch["policy_mask"])


def test_trl_counts_one_state_more_in_the_value_loss_of_a_response_that_ended(trl):
    for epoch in trl["epochs"]:
        assert torch.equal(one_step_more(real_tokens(trl))[epoch["order"]], epoch["value_mask"])


def test_gae_on_kl_penalised_rewards_equals_trl_where_the_state_after_the_end_is_paid_the_score(trl):
    mask = real_tokens(trl)
    longer = one_step_more(mask)
    rewards = penalties(trl, mask) + place_score(trl["score"], longer)
    advantages, _ = gae(rewards, trl["values"], longer, torch.zeros(len(mask)), GAMMA, 0.95)
    close(advantages[mask], trl["advantages"][mask])


def test_gae_at_lambda_1_equals_trl_though_trl_pays_the_score_one_step_after_the_end(updates):
    trl = updates[1.0]
    mask = real_tokens(trl)
    rewards = penalties(trl, mask) + place_score(trl["score"], mask)
    advantages, _ = gae(rewards, trl["values"], mask, torch.zeros(len(mask)), GAMMA, 1.0)
    close(advantages[mask], trl["advantages"][mask])


def test_advantage_norm_equals_trls_whitening_with_the_unbiased_deviation_in_both(trl):
    mask = trl["mask"]
    close(advantage_norm(trl["advantages"], mask), trl["whitened"] * mask)


@pytest.mark.parametrize("epoch", [0, 1])
def test_ratio_clip_equals_trls_policy_loss_of_each_token(trl, epoch):
    seen = trl["epochs"][epoch]
    order, mask = seen["order"], real_tokens(trl)[seen["order"]]
    tokens = responses(trl)[order]
    difference = log_ratio(chosen(seen["logits"], tokens), chosen(trl["logits"], responses(trl))[order], mask)
    close(ratio_clip(difference, trl["whitened"][order], CLIP, CLIP)[mask], seen["policy_loss"][mask])


@pytest.mark.parametrize("epoch", [0, 1])
def test_value_clip_equals_trls_value_loss_of_each_token_before_trl_halves_its_mean(trl, epoch):
    seen = trl["epochs"][epoch]
    order, mask = seen["order"], real_tokens(trl)[seen["order"]]
    old = trl["values"][order]
    returns = trl["advantages"][order] + old
    close(value_clip(seen["values"], old, returns, CLIP)[mask], seen["value_loss"][mask])


def test_scores_values_and_reference_log_probs_of_left_padded_rows_equal_trls(trl, folder):
    mask = real_tokens(trl)
    width = trl["prompt_width"]
    tokens = trl["tokens"]
    attention = torch.cat([tokens[:, :width] != PAD, mask], dim=1)
    with torch.no_grad():
        score = sequence_score(load_scorer(folder / "reward_model", CPU), tokens, attention)
        values, _ = response_values(load_scorer(folder / "value-0.95", CPU), tokens, attention, mask)
        logits = response_logits(load_policy(folder / "reference-0.95", CPU), tokens, attention, mask)
    close(score, trl["score"], atol=1e-5)
    close(values[mask], trl["values"][mask], atol=1e-5)
    close(log_softmax(logits, 1.0), log_softmax(trl["reference_logits"], 1.0)[mask], atol=1e-5)
