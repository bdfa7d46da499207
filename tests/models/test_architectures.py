"""Every causal architecture of transformers is computed right, or refused by name when it is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig, MistralConfig

from ablate.config import SamplingConfig
from ablate.errors import UserError
from ablate.models import agreement
from ablate.models.attention import attends_in_groups
from ablate.models.forward import RescalingHead, log_softmax, response_logits, vocabulary_head
from ablate.models.load import load_policy, load_scorer
from ablate.ppo.sampling import concat_prompt_response, sample
from tests.models.architectures import causal_architectures, tiny_model

CPU = torch.device("cpu")
PROMPTS, STEPS = (9, 4, 1, 6, 9, 2), 16
# What each has that a trunk of keys, values and packed rows, followed by a layer of logits, has not.
RIGHT = {
    "gemma2": "softcaps of logits and of attention", "gemma3_text": "windows in some layers", "cohere": "logit_scale",
    "granite": "logits_scaling", "phimoe": "windows told by the mask alone", "nemotron": "reads its mask",
    "deepseek_v3": "values narrower than keys", "gpt_oss": "sinks", "bloom": "positions by a bias",
}  # fmt: skip
REFUSED = {
    "mamba": "a state in place of keys", "rwkv": "a state in place of keys", "falcon_h1": "both", "jamba": "both",
    "deepseek_v32": "keys picked by an indexer", "modernbert-decoder": "a head of several layers", "bert": "reads later tokens",
}  # fmt: skip


def folder_of(model_type: str, folder: Path) -> Path:
    tiny_model(model_type).save_pretrained(folder)
    return folder


def rollout(policy) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens, attention [B, L], mask [B, T] of sampled responses, and the log-probs [N, V] that the sampler kept of their tokens."""
    draw, width = torch.Generator().manual_seed(1), max(PROMPTS)
    attention = torch.arange(width) >= width - torch.tensor(PROMPTS)[:, None]
    prompts = torch.where(attention, torch.randint(3, 24, (len(PROMPTS), width), generator=draw), 0)
    noise = torch.rand(len(PROMPTS), STEPS, generator=draw)
    sampled = sample(policy, prompts, attention, noise, SamplingConfig(), eos=1, pad=0)
    assert sampled.log_probs is not None
    return *concat_prompt_response(prompts, attention, sampled), sampled.mask, sampled.log_probs[sampled.mask]


@torch.no_grad()
def oracle(folder: Path, tokens: Tensor, attention: Tensor, mask: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Log-probs [N, V] of each row alone, by transformers' own eager forward pass."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval().to(dtype)
    found = []
    for row, real, chosen in zip(tokens, attention, mask, strict=True):
        logits = model(input_ids=row[real][None], use_cache=False).logits[0]
        found.append(logits[int(real.sum()) - int(chosen.sum()) - 1 : -1].log_softmax(-1))
    return torch.cat(found)


def verdict(folder: Path) -> str:
    """`right`, the refusal's sentence, or `wrong` with the largest difference from the oracle, in nats, of each kind of log-probs."""
    try:
        policy = load_policy(folder, CPU)
    except UserError as error:
        return str(error)
    tokens, attention, mask, kept = rollout(policy)
    expected = oracle(folder, tokens, attention, mask)
    found = {"sampled": kept}
    for name, gradients in (("measured", False), ("trained", True)):
        with torch.set_grad_enabled(gradients):
            found[name] = log_softmax(response_logits(policy, tokens, attention, mask), 1.0).detach()
    off = {name: float((log_probs - expected).abs().max()) for name, log_probs in found.items()}
    bound = 1e-3 * (1 + float(expected.abs().max()))
    if max(off.values()) > bound:  # one that runs its layers many times amplifies rounding, in its own pass too
        bound = 10 * float((expected - oracle(folder, tokens, attention, mask, torch.float64)).abs().max())
    return "right" if max(off.values()) <= bound else f"wrong: {off}"


@pytest.mark.parametrize("model_type", RIGHT)
def test_an_architecture_with_more_than_a_plain_decoder_samples_and_trains_with_its_own_log_probs(model_type, tmp_path):
    assert verdict(folder_of(model_type, tmp_path)) == "right"


@pytest.mark.parametrize("model_type", REFUSED)
def test_an_architecture_that_cannot_be_computed_here_is_refused_by_name(model_type, tmp_path):
    with pytest.raises(UserError, match=f"{model_type} is (not supported|no causal decoder)") as caught:
        load_policy(folder_of(model_type, tmp_path), CPU)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.slow
def test_every_causal_architecture_is_right_or_refused(tmp_path):
    """Prints a line per architecture. One that cannot be built from its config is no finding."""
    verdicts, unbuilt = {}, []
    for model_type in causal_architectures():
        try:
            folder = folder_of(model_type, tmp_path / model_type)
        except Exception:  # configs, timm and sizes each raise their own kinds
            unbuilt.append(model_type)
            continue
        verdicts[model_type] = verdict(folder)
    right = [name for name, found in verdicts.items() if found == "right"]
    for name, found in verdicts.items():
        print(f"{name}: {found}")
    print(f"{len(right)} right, {len(verdicts) - len(right)} refused, not built: {', '.join(unbuilt)}")
    assert not [name for name, found in verdicts.items() if found.startswith("wrong")]
    assert len(right) >= 93 and len(verdicts) >= 160


def test_a_difference_is_told_with_its_size(tmp_path, monkeypatch):
    """A head that is off by a factor, as one is of which this product does not know."""
    folder = folder_of("llama", tmp_path)
    monkeypatch.setattr("ablate.models.forward.vocabulary_head", lambda policy: RescalingHead(policy.get_output_embeddings(), 1.1, None))
    with pytest.raises(UserError, match=r"llama is not supported \(log-probs of packed rows are [\d.]+ off its own forward pass\)"):
        load_policy(folder, CPU)


def test_a_softcap_and_a_factor_by_hand():
    head = torch.nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0], [-4.0]]))
    scaled = RescalingHead(head, 0.5, None)(torch.tensor([[2.0]]))
    assert scaled.tolist() == [[1.0, -4.0]]
    capped = RescalingHead(head, 0.5, 2.0)(torch.tensor([[2.0]]))
    torch.testing.assert_close(capped, torch.tensor([[0.9242343, -1.9280552]]))  # 2 tanh(1/2), −2 tanh 2


def test_a_plain_decoder_keeps_its_own_head_and_attends_in_groups(architecture, architecture_folders):
    policy = load_policy(architecture_folders(architecture)[0], CPU)
    assert attends_in_groups(policy) and vocabulary_head(policy) is policy.get_output_embeddings()


def test_the_check_leaves_random_state_windows_and_weights_as_they_are(tmp_path):
    shape = MistralConfig(
        vocab_size=24, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        sliding_window=20, max_position_embeddings=64,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(shape).eval()
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    state = torch.get_rng_state()
    agreement.use_checked_passes(model, tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.config.sliding_window == 20
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items()) and attends_in_groups(model)
    assert all(weight.grad is None for weight in model.parameters())


def test_a_model_is_not_refused_because_autocast_rounds(tmp_path):
    """Under precision=bf16 models are loaded with autocast on, where the two ways of a pass differ by rounding."""
    shape = LlamaConfig(
        vocab_size=24, hidden_size=64, intermediate_size=128, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=2,
        initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(shape).save_pretrained(tmp_path)
    with torch.autocast("cpu", torch.bfloat16):
        policy = load_policy(tmp_path, CPU)
        assert attends_in_groups(policy)
        own = agreement.own_answers(policy, policy.config._attn_implementation)
        assert "of packed rows are" in str(agreement.disagreement(policy, own))  # the check would refuse the model if autocast were on


def test_a_scorer_is_compared_with_the_score_that_transformers_pools(tmp_path, monkeypatch):
    shape = LlamaConfig(
        vocab_size=24, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        num_labels=1, pad_token_id=None, initializer_range=0.3, score_shift=5.0,
    )  # fmt: skip
    AutoModelForSequenceClassification.from_config(shape).save_pretrained(tmp_path)
    load_scorer(tmp_path, CPU)
    monkeypatch.setattr(agreement, "score_shift", lambda model: 5.5)
    with pytest.raises(UserError, match=r"llama is not supported \(scores are 0.5 off its own forward pass\)"):
        load_scorer(tmp_path, CPU)
