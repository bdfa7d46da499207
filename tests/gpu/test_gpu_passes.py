"""Passes on a GPU against transformers' own on the same device: packed rows, sampling, gradients, and what saves memory.

A test that takes `device` claims the same of the CPU, in `make test`.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig, PreTrainedModel

from ablate.config import ModelConfig, SamplingConfig
from ablate.models import attention as attention_module
from ablate.models import linear
from ablate.models.forward import log_softmax, response_logits, response_values, score_shift, sequence_score
from ablate.models.load import freeze, load_policy, load_scorer
from ablate.models.lora import add_adapter, merged
from ablate.models.offload import OffloadedModel, loaded_on_device
from ablate.models.recompute import checkpoint_gradients
from ablate.ppo.rollout import LOOK_EVERY
from ablate.ppo.sampling import Sampled, concat_prompt_response, sample
from ablate.system.seeding import torch_generator

CPU = torch.device("cpu")
CLOSE = dict(rtol=0, atol=1e-4)  # float32: each kernel adds in an order of its own
PROMPTS, RESPONSES = (3, 6, 1, 4, 5), (5, 2, 11, 1, 8)  # tokens of each row


@pytest.fixture(params=["llama", "gpt2"])
def folders(request, architecture_folders):
    """(policy, scorer) folders of two layers of width 16 and 23 tokens, pad 0, end 1."""
    return architecture_folders(request.param)


def batch(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, attention [B, P+T] and mask [B, T] of five dialogues, their prompts padded on the left."""
    width, steps = max(PROMPTS), max(RESPONSES)
    tokens = torch.randint(2, 23, (len(PROMPTS), width + steps), generator=torch.Generator().manual_seed(0))
    place = torch.arange(width + steps)[None]
    prompt, response = (torch.tensor(lengths)[:, None] for lengths in (PROMPTS, RESPONSES))
    attention = (place >= width - prompt) & (place < width + response)
    return tokens.to(device), attention.to(device), attention[:, width:].to(device)


def plain_logits(model: PreTrainedModel, tokens: Tensor, attention: Tensor, mask: Tensor) -> Tensor:
    """Logits [N, V] by transformers alone, a row at a time and without pads."""
    found = []
    for row, real, steps in zip(tokens, attention, mask.sum(1).tolist(), strict=True):
        found.append(model(input_ids=row[real][None], use_cache=False).logits[0, -steps - 1 : -1])
    return torch.cat(found)


def plain_policy(folder, device: torch.device) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().to(device)


def sampled_from(model: PreTrainedModel, device: torch.device, look_every: int = LOOK_EVERY) -> tuple[Tensor, Tensor, Sampled]:
    """Left-padded prompts, their attention, and responses of up to 12 tokens to each under one noise."""
    width = max(PROMPTS)
    tokens, attention, _ = batch(device)
    prompts, real = tokens[:, :width], attention[:, :width]
    noise = torch.rand(len(PROMPTS), 12, generator=torch.Generator().manual_seed(1)).to(device)
    return prompts, real, sample(model, prompts, real, noise, SamplingConfig(), eos=1, pad=0, look_every=look_every)


@torch.no_grad()
def test_packed_logits_values_and_scores_equal_transformers_own_passes(folders, device):
    policy, scorer = load_policy(folders[0], device), load_scorer(folders[1], device)
    plain = AutoModelForSequenceClassification.from_pretrained(folders[1], dtype=torch.float32).eval().to(device)
    tokens, attention, mask = batch(device)
    expected = plain_logits(plain_policy(folders[0], device), tokens, attention, mask)
    torch.testing.assert_close(response_logits(policy, tokens, attention, mask), expected, **CLOSE)
    alone = [row[real][None] for row, real in zip(tokens, attention, strict=True)]
    scores = torch.cat([plain(input_ids=row, use_cache=False).logits.flatten() for row in alone]) - score_shift(scorer)
    torch.testing.assert_close(sequence_score(scorer, tokens, attention), scores, **CLOSE)
    values, last = response_values(scorer, tokens, attention, mask)
    torch.testing.assert_close(last, scores, **CLOSE)
    assert values.device.type == device.type and torch.equal(values != 0, mask)


def test_gradients_of_a_packed_pass_equal_those_of_transformers_own(folders, device):
    models = load_policy(folders[0], device), plain_policy(folders[0], device)
    for model, logits_of in zip(models, (response_logits, plain_logits), strict=True):
        log_softmax(logits_of(model, *batch(device)), 1.0)[:, 3].mean().backward()
    for ours, plain in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours.grad, plain.grad, rtol=0, atol=1e-4 * float(plain.grad.abs().max()) + 1e-6)


@torch.no_grad()
def test_the_sampler_draws_from_the_distributions_of_the_packed_pass_and_of_transformers(folders, device):
    policy = load_policy(folders[0], device)
    prompts, real, drawn = sampled_from(policy, device)
    tokens, attention = concat_prompt_response(prompts, real, drawn)
    assert drawn.log_probs is not None and int(drawn.mask.sum(1).max()) > LOOK_EVERY  # past the first look at what has ended
    seen = drawn.log_probs[drawn.mask]
    torch.testing.assert_close(log_softmax(response_logits(policy, tokens, attention, drawn.mask), 1.0), seen, **CLOSE)
    expected = plain_logits(plain_policy(folders[0], device), tokens, attention, drawn.mask)
    torch.testing.assert_close(log_softmax(expected, 1.0), seen, **CLOSE)


def test_one_noise_gives_the_same_tokens_twice_and_however_often_the_sampler_looks_what_has_ended(folders, device):
    policy = load_policy(folders[0], device)
    first, again, at_every_step = (sampled_from(policy, device, look_every)[2] for look_every in (LOOK_EVERY, LOOK_EVERY, 1))
    assert torch.equal(first.responses, again.responses) and torch.equal(first.log_probs, again.log_probs)
    assert torch.equal(first.responses, at_every_step.responses) and torch.equal(first.ended, at_every_step.ended)


@pytest.mark.gpu
def test_on_a_gpu_the_tokens_of_a_noise_are_those_on_the_cpu(folders):
    """Unless the noise falls within rounding of the border of two tokens, which none here does."""
    on_cpu, on_gpu = (sampled_from(load_policy(folders[0], place), place)[2] for place in (CPU, torch.device("cuda")))
    assert torch.equal(on_cpu.responses, on_gpu.responses.cpu()) and torch.equal(on_cpu.mask, on_gpu.mask.cpu())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_over_long_rows_are_the_same_bits_twice(precision, device, tmp_path):
    """What a killed run that ends with the same bits needs: no sum whose order changes, also over several blocks of keys."""
    shape = LlamaConfig(
        vocab_size=97, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        max_position_embeddings=512, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(shape).save_pretrained(tmp_path)
    policy = load_policy(tmp_path, device)
    lengths = torch.tensor([400, 390, 301, 120, 64, 3])
    tokens = torch.randint(2, 97, (len(lengths), 400), generator=torch.Generator().manual_seed(0)).to(device)
    attention = (torch.arange(400)[None] < lengths[:, None]).to(device)
    found = []
    for _ in range(3):
        policy.zero_grad()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
            logits = response_logits(policy, tokens, attention, attention[:, 1:])
        log_softmax(logits, 1.0)[:, 3].mean().backward()
        found.append([parameter.grad.clone() for parameter in policy.parameters()])
    assert all(torch.equal(a, b) for again in found[1:] for a, b in zip(found[0], again, strict=True))


@pytest.mark.gpu
def test_what_serves_the_cpu_alone_is_off_on_a_gpu(folders, monkeypatch):
    """oneDNN's products and attention by batched products; on a GPU a layer is PyTorch's own, to the same bits."""

    def refuse(*_, **__):
        raise AssertionError("a path of the CPU")

    monkeypatch.setattr(linear, "multiply", refuse)
    monkeypatch.setattr(attention_module, "bmm_attention", refuse)
    device = torch.device("cuda")
    policy = load_policy(folders[0], device)
    response_logits(policy, *batch(device)).sum().backward()
    sampled_from(policy, device)
    x, weight, bias = (torch.randn(*shape, device=device) for shape in ((512, 96), (80, 96), (80,)))
    with torch.no_grad():
        assert torch.equal(linear.onednn_linear(x, weight, bias), functional.linear(x, weight, bias))


def test_gradients_with_and_without_checkpointing_agree(folders, device):
    models = [(load_policy(folders[0], device), load_scorer(folders[1], device)) for _ in range(2)]
    for model in models[1]:
        checkpoint_gradients(model)
    for policy, critic in models:
        values, _ = response_values(critic, *batch(device))
        (log_softmax(response_logits(policy, *batch(device)), 1.0)[:, 3].mean() + values.square().mean()).backward()
    for plain, checkpointed in zip(*models, strict=True):
        for a, b in zip(plain.parameters(), checkpointed.parameters(), strict=True):
            assert (a.grad is None) == (b.grad is None)
            if a.grad is not None:
                torch.testing.assert_close(b.grad, a.grad, rtol=0, atol=1e-5 * float(a.grad.abs().max()))


@torch.no_grad()
def test_frozen_models_in_bf16_and_bf16_autocast_stay_near_float32(folders, device):
    """KL(π‖π_bf16), the mean over tokens, of a model that is far from uniform; bfloat16 has eight significant bits."""
    policy, held = load_policy(folders[0], device), freeze(load_policy(folders[0], device), "bf16")
    exact = log_softmax(response_logits(policy, *batch(device)), 1.0)
    found = [log_softmax(response_logits(held, *batch(device)), 1.0)]
    with torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False):
        found += [log_softmax(response_logits(model, *batch(device)), 1.0) for model in (policy, held)]
        assert sampled_from(policy, device)[2].log_probs is None  # computed again, since cached passes round apart
    for log_probs in found:
        assert log_probs.dtype == torch.float32
        kl = (exact.exp() * (exact - log_probs)).sum(-1)
        assert 1e-9 < float(kl.mean()) < 1e-2


def test_an_adapter_changes_nothing_at_first_learns_alone_and_can_be_merged(folders, device):
    pytest.importorskip("peft")
    reference = freeze(load_policy(folders[0], device))
    policy = add_adapter(reference, ModelConfig(lora_rank=4), torch_generator(0, "adapter"))
    with torch.no_grad():
        expected = response_logits(reference, *batch(device))
        torch.testing.assert_close(response_logits(policy, *batch(device)), expected, **CLOSE)
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.05, fused=True)
    log_softmax(response_logits(policy, *batch(device)), 1.0)[:, 3].mean().backward()
    optimizer.step()
    with torch.no_grad():
        learned = response_logits(policy, *batch(device))
        assert {parameter.device.type for parameter in trained} == {device.type}
        assert torch.equal(response_logits(reference, *batch(device)), expected)
        assert float((learned - expected).abs().max()) > 1e-2
        torch.testing.assert_close(response_logits(merged(policy), *batch(device)), learned, rtol=0, atol=1e-3)


@pytest.mark.gpu
@torch.no_grad()
def test_on_a_gpu_a_reward_model_in_bf16_rests_in_half_the_memory_and_scores_as_it_would_there(folders):
    device = torch.device("cuda")
    tokens, attention, _ = batch(device)
    there = freeze(load_scorer(folders[1], device), "bf16")
    expected = sequence_score(there, tokens, attention)
    scorer = freeze(load_scorer(folders[1], CPU), "bf16")
    resting = OffloadedModel(scorer, device)
    assert all(parameter.is_pinned() for parameter in scorer.parameters())
    before = torch.cuda.memory_allocated()
    with loaded_on_device([resting]):
        assert torch.equal(sequence_score(scorer, tokens, attention), expected)
        assert torch.cuda.memory_allocated() > before
    assert torch.cuda.memory_allocated() <= before
