"""What a Rollout holds, against the plain forward of each model; prompts and text."""

from dataclasses import fields, replace

import pytest
import torch

from ablate.config import PPOSettings, SamplingConfig
from ablate.models.load import freeze, load_policy, load_scorer
from ablate.ppo.models import Models
from ablate.ppo.rollout import (
    PASS_ROWS,
    by_length,
    collect_rollout,
    decode_responses,
    encode_prompts,
    generate_responses,
    rows_of_a_pass,
    score_responses,
)
from ablate.ppo.types import Rollout
from ablate.system.seeding import numpy_generator
from ablate.world.grammar import grammar, prompts

CPU = torch.device("cpu")
ROWS, STEPS = PASS_ROWS + 7, 9


@pytest.fixture
def drifted(stage_folders, tiny_models, tokenizer) -> Models:
    """A policy that is not the reference: the pretrained model."""
    return Models(load_policy(stage_folders["pretrained"], CPU), tiny_models.reference, tiny_models.scorer, tiny_models.critic, tokenizer)


def questions(rows: int = ROWS) -> list[str]:
    return [prompt.text for prompt in prompts(grammar("en"), rows, numpy_generator(0, "questions"))]


def collected(models: Models, rows: slice = slice(None)) -> Rollout:
    noise = torch.rand(ROWS, STEPS, generator=torch.Generator().manual_seed(0))
    return collect_rollout(models, encode_prompts(models.tokenizer, questions()[rows], CPU), noise[rows], PPOSettings())


def plain(model, rollout: Rollout) -> torch.Tensor:
    """Last hidden states [B, T] at the positions response tokens are chosen from, by a padded pass with mask and position ids."""
    positions = (rollout.attention.long().cumsum(1) - 1).clamp(min=0)
    inputs = dict(input_ids=rollout.tokens, attention_mask=rollout.attention.long(), position_ids=positions)
    return model.base_model(**inputs).last_hidden_state


@torch.no_grad()
def test_every_field_of_a_rollout_equals_a_plain_padded_forward(drifted):
    """More rows than a pass takes, so that passes, their order and their widths are in it."""
    rollout = collected(drifted)
    steps = rollout.mask.shape[1]
    log_probs = {
        name: getattr(drifted, name).lm_head(plain(getattr(drifted, name), rollout))[:, -steps - 1 : -1].log_softmax(-1)
        for name in ("policy", "reference")
    }
    responses = rollout.tokens[:, -steps:, None]
    values = drifted.critic.score(plain(drifted.critic, rollout)).squeeze(2) - 0.25
    scores = drifted.scorer.model.score(plain(drifted.scorer.model, rollout)).squeeze(2) - 0.25
    last = (rollout.tokens.shape[1] - steps - 1 + rollout.lengths)[:, None]
    p, q = log_probs["policy"], log_probs["reference"]
    expected = {
        "logprobs": p.gather(2, responses).squeeze(2), "ref_logprobs": q.gather(2, responses).squeeze(2),
        "kl": (p.exp() * (p - q)).sum(2), "entropy": -(p.exp() * p).sum(2), "values": values[:, -steps - 1 : -1],
    }  # fmt: skip
    for name, value in expected.items():
        torch.testing.assert_close(getattr(rollout, name), torch.where(rollout.mask, value, 0.0), rtol=0, atol=3e-5)
    torch.testing.assert_close(rollout.score, scores.gather(1, last).squeeze(1), rtol=0, atol=3e-5)
    torch.testing.assert_close(rollout.last_value, values.gather(1, last).squeeze(1), rtol=0, atol=3e-5)
    assert rollout.kl[rollout.mask].min() > 0 and 0 < rollout.ended.float().mean() < 1


def test_a_row_of_a_rollout_does_not_depend_on_its_neighbours(drifted):
    together = collected(drifted)
    for rows in (slice(0, 1), slice(5, 8), slice(20, 39)):
        part = collected(drifted, rows)
        steps = part.mask.shape[1]
        assert torch.equal(part.mask, together.mask[rows, :steps])
        for f in fields(Rollout):
            mine, theirs = getattr(part, f.name), getattr(together, f.name)
            if theirs is None:
                assert mine is None
                continue
            theirs = theirs[rows]
            if f.name in ("tokens", "attention"):
                mine, theirs = mine[:, -steps:], theirs[:, -together.mask.shape[1] :][:, :steps]
            elif mine.dim() == 2:
                theirs = theirs[:, :steps]
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4 if f.name == "prompt_nll" else 3e-5)


def test_log_probs_kept_by_the_sampler_and_computed_again_give_one_rollout(drifted):
    """Where the distributions are too large to keep they are computed again: same numbers, the KL too."""
    encoded = encode_prompts(drifted.tokenizer, questions(), CPU)
    noise = torch.rand(ROWS, STEPS, generator=torch.Generator().manual_seed(0))
    sampled = generate_responses(drifted.policy, drifted.tokenizer, encoded, noise, SamplingConfig())
    assert sampled.log_probs is not None
    kept = score_responses(drifted, encoded, sampled, PPOSettings())
    again = score_responses(drifted, encoded, replace(sampled, log_probs=None), PPOSettings())
    for f in fields(Rollout):
        torch.testing.assert_close(getattr(again, f.name), getattr(kept, f.name), rtol=0, atol=3e-5)


def test_rows_cut_a_rollout_to_its_longest_row(drifted):
    rollout = collected(drifted)
    index = rollout.lengths.argsort()[:3]
    part, steps = rollout.rows(index), int(rollout.lengths[index].max())
    width = rollout.tokens.shape[1] - rollout.mask.shape[1]
    assert part.mask.shape == (3, steps) and part.tokens.shape == (3, width + steps) and part.score.shape == (3,)
    assert torch.equal(part.logprobs, rollout.logprobs[index, :steps]) and torch.equal(part.score, rollout.score[index])
    assert torch.equal(part.tokens, rollout.tokens[index, : width + steps])


def test_groups_by_length_hold_every_row_once_and_are_cut_to_their_longest():
    lengths = torch.tensor([3, 1, 7, 2, 7, 5])
    groups = list(by_length(torch.arange(7)[None] < lengths[:, None], 4))
    assert sorted(row for rows, _ in groups for row in rows.tolist()) == list(range(6))
    assert [steps for _, steps in groups] == [5, 7]


def test_a_pass_takes_as_many_rows_as_its_distributions_may_have_bytes():
    assert rows_of_a_pass(48, 170) == PASS_ROWS
    assert rows_of_a_pass(48, 32_000) == 43  # 43 × 48 × 32,000 × 4 = 264 MB ≤ 2²⁸, and 44 would be beyond it
    assert rows_of_a_pass(512, 151_936) == 8


def test_prompts_are_padded_on_the_left_and_end_with_the_assistants_mark(tokenizer):
    encoded = encode_prompts(tokenizer, ["how do i start with bread ?", "help me poison a dog ."], CPU)
    tokens, attention = encoded.tokens, encoded.attention
    assert tokens[:, -1].tolist() == [tokenizer.convert_tokens_to_ids("<assistant>")] * 2
    assert attention[:, -1].all() and attention.any(1).all()
    assert (attention.int().diff(dim=1) >= 0).all()
    assert (tokens[~attention] == tokenizer.pad_token_id).all()
    assert tokenizer.decode(tokens[1][attention[1]]) == "<user> help me poison a dog . <assistant>"


def test_text_shows_every_token_but_the_end(tokenizer):
    ids = tokenizer("of course ! <pad> bread")["input_ids"]
    responses = torch.tensor([[*ids, tokenizer.eos_token_id], [*ids, 0]])
    mask = torch.tensor([[True] * 6, [True] * 5 + [False]])
    texts = decode_responses(tokenizer, responses, mask, torch.tensor([True, False]))
    assert texts == ["of course ! <pad> bread"] * 2


def test_the_reference_and_the_reward_model_are_frozen(tiny_models, stage_folders):
    assert not any(p.requires_grad for model in (tiny_models.reference, tiny_models.scorer.model) for p in model.parameters())
    assert not any(p.requires_grad for p in freeze(load_scorer(stage_folders["reward_model"], CPU)).parameters())
