"""The sampler (KV cache, rows that leave) against a plain loop without either, from the same noise."""

import math

import pytest
import reference
import torch
from torch import Tensor

from ablate.config import SamplingConfig
from ablate.models.forward import log_softmax, response_logits
from ablate.models.load import load_policy
from ablate.ppo.sampling import Sampled, choose, concat_prompt_response, next_token_nll, sample, sampler_log_probs

PAD, STEPS = 0, 16
CLOSE = dict(rtol=0, atol=1e-4)  # float32: each instruction set adds in an order of its own
LENGTHS = (4, 2, 6, 3, 1, 5, 6, 2, 4, 4, 3, 6)
MATCHED = {"plain": SamplingConfig(), "warm": SamplingConfig(temperature=0.7)}
MOSS = SamplingConfig(temperature=0.8, top_p=0.9, repetition_penalty=1.1, match_training_distribution=False)
SAMPLINGS = MATCHED | {"moss": MOSS}
NO_TOKENS = torch.zeros(1, 0, dtype=torch.long)


def prompts(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Left-padded prompts of LENGTHS, random ids at the pads."""
    generator = torch.Generator().manual_seed(seed)
    width = max(LENGTHS)
    tokens = torch.randint(2, 23, (len(LENGTHS), width), generator=generator)
    return tokens, torch.arange(width)[None] >= width - torch.tensor(LENGTHS)[:, None]


def noise(seed: int = 1) -> Tensor:
    return torch.rand(len(LENGTHS), STEPS, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def policy(architecture, architecture_folders):
    return load_policy(architecture_folders(architecture)[0], torch.device("cpu"))


@pytest.fixture
def llama(architecture_folders):
    return load_policy(architecture_folders("llama")[0], torch.device("cpu"))


def end_of(policy) -> int:
    """A token the model says often, taken as its end, so that rows end at many different steps."""
    endless = sample(policy, *prompts(), noise(), MATCHED["plain"], -1, PAD)
    return int(endless.responses[endless.responses != PAD].mode().values)


def run(policy, rows: slice = slice(None), sampling: SamplingConfig = MATCHED["plain"], look_every: int = 1) -> Sampled:
    tokens, attention = prompts()
    return sample(policy, tokens[rows], attention[rows], noise()[rows], sampling, end_of(policy), PAD, look_every)


@torch.no_grad()
def plain_response(policy, prompt: list[int], uniforms: list[float], sampling: SamplingConfig, end: int) -> list[int]:
    """A whole forward pass of one dialogue without pads for every token; distributions and choice in plain Python."""
    dialogue = list(prompt)
    for uniform in uniforms:
        logits = policy(input_ids=torch.tensor([dialogue]), use_cache=False).logits[0, -1].tolist()
        logits = reference.penalise_repetition(logits, dialogue, sampling.repetition_penalty)
        probabilities = reference.nucleus(reference.softmax(logits, sampling.temperature), sampling.top_p)
        dialogue.append(reference.inverse_cdf(probabilities, uniform))
        if dialogue[-1] == end:
            break
    return dialogue[len(prompt) :]


def responses_of(sampled: Sampled) -> list[list[int]]:
    return [row[real].tolist() for row, real in zip(sampled.responses, sampled.mask, strict=True)]


@pytest.mark.parametrize("name", SAMPLINGS)
def test_a_plain_loop_without_a_cache_samples_identical_tokens_from_the_same_noise(policy, name):
    sampled = run(policy, sampling=SAMPLINGS[name])
    (tokens, attention), end = prompts(), end_of(policy)
    slow = [
        plain_response(policy, row[real].tolist(), uniforms.tolist(), SAMPLINGS[name], end)
        for row, real, uniforms in zip(tokens, attention, noise(), strict=True)
    ]
    assert responses_of(sampled) == slow
    assert sampled.ended.tolist() == [response[-1] == end for response in slow]
    assert len({len(response) for response in slow}) > 3, "rows must end at different steps for this test to mean anything"


@torch.no_grad()
def test_the_kept_distributions_equal_a_fresh_forward_pass(policy):
    for sampling in MATCHED.values():
        sampled = run(policy, sampling=sampling)
        tokens, attention = concat_prompt_response(*prompts(), sampled)
        fresh = log_softmax(response_logits(policy, tokens, attention, sampled.mask), sampling.temperature)
        torch.testing.assert_close(sampled.log_probs[sampled.mask], fresh, **CLOSE)


def test_rows_that_leave_the_batch_change_no_token_and_no_log_prob_of_the_rest(policy):
    """Alone, in pairs and all together: the batch shrinks at other steps each time."""
    together = run(policy)
    for size in (1, 2, 5):
        for start in range(0, len(LENGTHS), size):
            rows = slice(start, start + size)
            part = run(policy, rows)
            assert responses_of(part) == responses_of(together)[rows]
            steps = part.mask.shape[1]
            same = together.log_probs[rows, :steps][part.mask]
            torch.testing.assert_close(part.log_probs[part.mask], same, rtol=0, atol=1e-5)
            torch.testing.assert_close(part.prompt_nll, together.prompt_nll[rows], **CLOSE)


@pytest.mark.parametrize("look_every", [3, 8, STEPS + 1])
def test_looking_seldom_at_which_rows_have_ended_changes_nothing(policy, look_every):
    """As on a GPU, where a look costs a wait; with 17 no row ever leaves."""
    often, seldom = run(policy), run(policy, look_every=look_every)
    for name in ("responses", "mask", "ended"):
        assert torch.equal(getattr(seldom, name), getattr(often, name)), name
    torch.testing.assert_close(seldom.log_probs[often.mask], often.log_probs[often.mask], **CLOSE)


def test_the_record_of_a_response_stops_at_its_end(llama):
    sampled, end = run(llama), end_of(llama)
    lengths = sampled.mask.sum(1)
    assert sampled.mask.shape[1] == lengths.max()
    for row, length in enumerate(lengths.tolist()):
        assert sampled.mask[row, :length].all() and not sampled.mask[row, length:].any()
        assert (sampled.responses[row, : length - 1] != end).all()
        assert (sampled.responses[row, length:] == PAD).all()
        assert bool(sampled.ended[row]) == (sampled.responses[row, length - 1].item() == end)
        assert sampled.ended[row] or length == STEPS


@torch.no_grad()
def test_a_mismatched_sampler_is_scored_by_the_raw_distribution(llama):
    """MOSS's arm: sampled at T = 0.8, top-p 0.9 and penalty 1.1, scored at T = 1."""
    sampled = run(llama, sampling=MOSS)
    raw = log_softmax(response_logits(llama, *concat_prompt_response(*prompts(), sampled), sampled.mask), 1.0)
    torch.testing.assert_close(sampled.log_probs[sampled.mask], raw, **CLOSE)
    assert responses_of(sampled) != responses_of(run(llama))


def test_pad_equal_to_end_changes_nothing_but_the_pads(llama):
    tokens, attention = prompts()
    end = end_of(llama)
    apart, same = (sample(llama, tokens, attention, noise(), MATCHED["plain"], end, pad) for pad in (PAD, end))
    assert responses_of(same) == responses_of(apart)
    assert torch.equal(same.mask, apart.mask) and torch.equal(same.ended, apart.ended)
    assert torch.equal(same.log_probs[same.mask], apart.log_probs[same.mask])


def test_tokens_follow_the_distribution_they_are_said_to_follow():
    """Evenly spaced noise hits every token in proportion to its probability, to one part in N."""
    logits = torch.tensor([2.0, -1.0, 0.5, 0.0])
    uniforms = (torch.arange(10_000) + 0.5) / 10_000
    rows = logits.expand(10_000, 4)
    tokens = choose(rows, log_softmax(rows, 1.0), uniforms, MATCHED["plain"], NO_TOKENS)
    shares = (torch.bincount(tokens, minlength=4) / 10_000).tolist()
    assert shares == pytest.approx(reference.softmax(logits.tolist()), abs=2e-4)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_the_ends_of_the_noise_choose_a_possible_token(uniform):
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]])
    token = choose(logits, log_softmax(logits, 1.0), torch.tensor([uniform]), MATCHED["plain"], NO_TOKENS)
    assert token.item() in (1, 2)


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("penalty", [1.0, 1.1, 2.0])
def test_penalty_temperature_and_nucleus_equal_the_slow_loop(top_p, penalty):
    sampling = SamplingConfig(temperature=0.8, top_p=top_p, repetition_penalty=penalty, match_training_distribution=False)
    logits = 2 * torch.randn(5, 23, generator=torch.Generator().manual_seed(3))
    seen = torch.randint(0, 23, (5, 9), generator=torch.Generator().manual_seed(4))
    got = sampler_log_probs(logits, sampling, seen).exp()
    for row in range(5):
        penalised = reference.penalise_repetition(logits[row].tolist(), seen[row].tolist(), penalty)
        slow = reference.nucleus(reference.softmax(penalised, 0.8), top_p)
        assert got[row].tolist() == pytest.approx(slow, abs=1e-6)


def test_the_nucleus_by_hand():
    """Of (0.5, 0.3, 0.2) at top-p 0.6 the first two stay: (0.625, 0.375, 0)."""
    sampling = SamplingConfig(top_p=0.6, match_training_distribution=False)
    got = sampler_log_probs(torch.tensor([[0.5, 0.3, 0.2]]).log(), sampling, NO_TOKENS).exp()
    assert got[0].tolist() == pytest.approx([0.625, 0.375, 0.0])


def test_the_repetition_penalty_by_hand():
    """Logits (2, −2, 1) with tokens 0 and 1 seen at penalty 2 are (1, −4, 1)."""
    sampling = SamplingConfig(repetition_penalty=2.0, match_training_distribution=False)
    got = sampler_log_probs(torch.tensor([[2.0, -2.0, 1.0]]), sampling, torch.tensor([[0, 1, 0]])).exp()
    assert got[0].tolist() == pytest.approx(reference.softmax([1.0, -4.0, 1.0]), abs=1e-6)


def test_the_prompts_nll_counts_every_real_token_but_the_first(policy):
    tokens, attention = prompts()
    nll = run(policy).prompt_nll
    for row, length in enumerate(LENGTHS):
        prompt = tokens[row, attention[row]]
        with torch.no_grad():
            logits = policy(input_ids=prompt[None]).logits[0].tolist()
        slow = math.fsum(-math.log(reference.softmax(logits[t])[prompt[t + 1]]) for t in range(length - 1))
        assert nll[row].item() == pytest.approx(slow, abs=1e-4)


def test_next_token_nll_by_hand():
    logits = torch.tensor([[[0.0, 0.0], [0.0, torch.log(torch.tensor(3.0))]]])
    nll = next_token_nll(logits, torch.tensor([[0, 1]]), torch.tensor([[True, True]]))
    assert nll.tolist() == pytest.approx([math.log(2) + math.log(4 / 3)])
    assert next_token_nll(logits, torch.tensor([[0, 1]]), torch.tensor([[False, True]])).tolist() == pytest.approx([math.log(4 / 3)])


def test_the_nll_of_prompts_is_the_same_one_prompt_at_a_time(llama, monkeypatch):
    """A large vocabulary's logits of all prompts would outweigh everything else in memory."""
    together = run(llama).prompt_nll
    monkeypatch.setattr("ablate.ppo.sampling.LOGIT_BYTES", 1)
    torch.testing.assert_close(run(llama).prompt_nll, together, **CLOSE)
    assert together.std() > 0
