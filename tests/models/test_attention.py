"""Slots: where sequences lie in a packed row, and attention that stays within them, also where a model looks back a few tokens only
or has an attention of its own (tests/models/test_models.py compares the common architectures)."""

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ablate.config import SamplingConfig
from ablate.models.attention import MIN_FILLED, ROW_MULTIPLE, attend, attends_in_groups, band, bmm_attention, length_groups, use_bmm
from ablate.models.forward import log_softmax, packed_states
from ablate.models.load import load_policy
from ablate.ppo.sampling import concat_prompt_response, sample

CPU = torch.device("cpu")
LENGTHS = (3, 9, 8, 1, 5, 12, 2)
CLOSE = dict(rtol=0, atol=1e-4)  # float32: each instruction set adds in an order of its own


def test_slots_by_hand():
    """Longest first: 4 fills four fifths of the slot of 5; 3, 2 and 1 open narrower groups; the rest of 64 is filling."""
    assert length_groups([4, 5, 1, 3, 2]) == ([5, 0, 15, 10, 13], [(2, 5), (1, 3), (1, 2), (1, 1), (1, 48)])
    assert length_groups([32, 32]) == ([0, 32], [(2, 32)])


def test_slots_never_overlap_and_are_well_filled():
    lengths = torch.randint(1, 60, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    starts, groups = length_groups(lengths)
    taken = [place for start, length in zip(starts, lengths, strict=True) for place in range(start, start + length)]
    whole = sum(number * width for number, width in groups)
    assert len(set(taken)) == len(taken) == sum(lengths) and max(taken) < whole and whole % ROW_MULTIPLE == 0
    ends = {start + i * width: width for start, (number, width) in zip(offsets(groups), groups, strict=True) for i in range(number)}
    assert all(MIN_FILLED * ends[start] <= length <= ends[start] for start, length in zip(starts, lengths, strict=True))


def offsets(groups) -> list[int]:
    return [sum(number * width for number, width in groups[:i]) for i in range(len(groups))]


def padded(lengths=LENGTHS) -> tuple[Tensor, Tensor]:
    """Left-padded tokens and attention [B, L]."""
    generator, width = torch.Generator().manual_seed(0), max(lengths)
    tokens, attention = torch.zeros(len(lengths), width, dtype=torch.long), torch.zeros(len(lengths), width, dtype=torch.bool)
    for row, length in enumerate(lengths):
        tokens[row, width - length :] = torch.randint(2, 23, (length,), generator=generator)
        attention[row, width - length :] = True
    return tokens, attention


@pytest.fixture(params=["mistral", "gptj"])
def pair(request, architecture_folders) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A policy as the product loads it, and as Hugging Face does."""
    folder = architecture_folders(request.param)[0]
    return load_policy(folder, CPU), AutoModelForCausalLM.from_pretrained(folder).eval()


def test_a_model_that_does_not_ask_transformers_for_its_attention_is_run_group_by_group(pair):
    assert attends_in_groups(pair[0]) == (pair[0].config.model_type == "mistral")


def test_states_and_gradients_equal_those_of_each_sequence_alone(pair):
    tokens, attention = padded()
    weights = torch.randn(sum(LENGTHS), 16, generator=torch.Generator().manual_seed(2))
    found = []
    for model, packed in zip(pair, (True, False), strict=True):
        if packed:
            hidden, first = packed_states(model, tokens, attention)
            states = [hidden[start : start + length] for start, length in zip(first.tolist(), LENGTHS, strict=True)]
        else:
            rows = (row[real][None] for row, real in zip(tokens, attention, strict=True))
            states = [model.base_model(input_ids=row, use_cache=False).last_hidden_state[0] for row in rows]
        (torch.cat(states) * weights).sum().backward()
        found.append((torch.cat(states), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (ours, gradients), (plain, expected) = found
    torch.testing.assert_close(ours, plain, **CLOSE)
    assert gradients.keys() == expected.keys() and gradients
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=0, atol=1e-5 * float(gradient.abs().max()) + 1e-6)


@torch.no_grad()
def test_sampling_sees_what_a_plain_pass_over_the_whole_sees(pair):
    """Left-padded prompts of unlike length, and responses longer than the four tokens that Mistral looks back."""
    (policy, plain), (prompts, attention) = pair, padded()
    noise = torch.rand(len(LENGTHS), 10, generator=torch.Generator().manual_seed(1))
    sampled = sample(policy, prompts, attention, noise, SamplingConfig(), eos=1, pad=0)
    tokens, real = concat_prompt_response(prompts, attention, sampled)
    assert int(sampled.mask.sum(1).max()) > 6
    for row, length in enumerate(LENGTHS):
        alone = tokens[row][real[row]][None]
        logits = plain(input_ids=alone, use_cache=False).logits[0, length - 1 : -1]
        torch.testing.assert_close(sampled.log_probs[row][sampled.mask[row]], log_softmax(logits, 1.0), **CLOSE)


@torch.no_grad()
def test_products_equal_transformers_own_attention_where_a_query_sees_anything():
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(3, 2, t, 8, generator=generator) for t in (5, 7, 7))
    mask = torch.rand(3, 1, 5, 7, generator=generator) < 0.5
    mask[0, 0, 0] = False
    assert use_bmm(query, key, {"dropout": 0.0})
    assert not any((use_bmm(query, key[:, :1], {}), use_bmm(query, key.repeat(1, 1, 20, 1), {}), use_bmm(query, key, {"dropout": 0.1})))
    ours, (plain, _) = (
        bmm_attention(query, key, value, mask, 0.3),
        sdpa_attention_forward(torch.nn.Module(), query, key, value, mask, scaling=0.3),
    )
    seeing = mask.any(3)[:, 0]
    torch.testing.assert_close(ours[seeing], plain[seeing], rtol=0, atol=1e-6)
    assert ours.isfinite().all()


def test_the_band_by_hand():
    """A window of 2 is the token itself and the one before."""
    assert band(3, 2, CPU)[0, 0].tolist() == [[True, False, False], [True, True, False], [False, True, True]]
    assert band(3, 3, CPU)[0, 0].tolist() == [[True, False, False], [True, True, False], [True, True, True]]


def test_an_attention_that_does_not_hear_of_its_slots_fails_and_looks_across_none():
    """What would happen if an architecture kept the word from its attention."""
    states = torch.randn(1, 2, 64, 8)  # gradients are on: `sdpa` computes
    module = torch.nn.Module()
    out, _ = attend(module, states, states, states, torch.empty(1, 1, 0, 0), slots=[(2, 32)], scaling=1.0)
    assert out.shape == (1, 64, 2, 8)
    with pytest.raises(RuntimeError, match="size of tensor"):
        attend(module, states, states, states, torch.empty(1, 1, 0, 0), scaling=1.0)
