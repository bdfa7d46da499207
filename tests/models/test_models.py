"""The fast passes (rows packed, the head on few positions) against plain padded Hugging Face passes."""

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from ablate.errors import UserError
from ablate.models.forward import entropy_of, log_softmax, response_logits, response_values, sequence_score, unflatten
from ablate.models.load import load_policy, load_scorer, new_critic
from ablate.system.seeding import torch_generator

CPU = torch.device("cpu")
CLOSE = dict(rtol=0, atol=1e-4)  # float32: each instruction set adds in an order of its own
PROMPTS, RESPONSES = (3, 6, 1, 4), (5, 2, 7, 1)


@pytest.fixture
def pair(architecture, architecture_folders):
    """(policy, scorer) as the product loads them, and as Hugging Face does."""
    folders = architecture_folders(architecture)
    plain = AutoModelForCausalLM.from_pretrained(folders[0]).eval(), AutoModelForSequenceClassification.from_pretrained(folders[1]).eval()
    return (load_policy(folders[0], CPU), load_scorer(folders[1], CPU)), plain


def padded_batch(left: int = 0, right: int = 0, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, attention [B, P+T] and mask [B, T] of four dialogues, with extra pad columns on either side and random ids at pads."""
    generator = torch.Generator().manual_seed(0)
    width, steps = max(PROMPTS) + left, max(RESPONSES) + right
    tokens = torch.randint(0, 23, (4, width + steps), generator=torch.Generator().manual_seed(100 + seed))
    attention = torch.zeros(4, width + steps, dtype=torch.bool)
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        tokens[row, width - prompt : width + response] = torch.randint(2, 23, (prompt + response,), generator=generator)
        attention[row, width - prompt : width + response] = True
    return tokens, attention, attention[:, width:]


def plain_hidden(model, tokens: Tensor, attention: Tensor) -> Tensor:
    """The textbook pass over the padded batch: attention mask, and position ids that count real tokens."""
    positions = (attention.long().cumsum(1) - 1).clamp(min=0)
    return model.base_model(input_ids=tokens, attention_mask=attention.long(), position_ids=positions, use_cache=False).last_hidden_state


@torch.no_grad()
def test_logits_values_and_score_equal_a_plain_padded_forward(pair):
    (policy, scorer), (plain_policy, plain_scorer) = pair
    tokens, attention, mask = padded_batch()
    prompt = tokens.shape[1] - mask.shape[1]
    logits = plain_policy.get_output_embeddings()(plain_hidden(plain_policy, tokens, attention))
    torch.testing.assert_close(response_logits(policy, tokens, attention, mask), logits[:, prompt - 1 : -1][mask], **CLOSE)
    scores = plain_scorer.score(plain_hidden(plain_scorer, tokens, attention)).squeeze(-1) - 0.25
    before, after = response_values(scorer, tokens, attention, mask)
    last = prompt - 1 + mask.sum(1, keepdim=True)
    torch.testing.assert_close(before, torch.where(mask, scores[:, prompt - 1 : -1], 0.0), **CLOSE)
    torch.testing.assert_close(after, scores.gather(1, last).squeeze(1), **CLOSE)
    torch.testing.assert_close(sequence_score(scorer, tokens, attention), after, **CLOSE)


@torch.no_grad()
def test_the_score_is_the_one_that_transformers_itself_pools_from_the_last_token(pair):
    """One dialogue without pads, through the model's own forward, less the shift."""
    (_, scorer), (_, plain) = pair
    tokens = torch.randint(2, 23, (1, 9), generator=torch.Generator().manual_seed(4))
    score = sequence_score(scorer, tokens, torch.ones_like(tokens, dtype=torch.bool))
    torch.testing.assert_close(score, plain(input_ids=tokens).logits.squeeze(-1) - 0.25, **CLOSE)


@torch.no_grad()
def test_a_response_scores_the_same_padded_either_way_and_beside_any_neighbours(pair):
    (policy, scorer), _ = pair
    tokens, attention, mask = padded_batch()
    logits, score = response_logits(policy, tokens, attention, mask), sequence_score(scorer, tokens, attention)
    values, last = response_values(scorer, tokens, attention, mask)
    for left, right in ((4, 0), (0, 3), (5, 5)):
        wide = padded_batch(left, right, seed=1)
        torch.testing.assert_close(response_logits(policy, *wide), logits, **CLOSE)
        wide_values, wide_last = response_values(scorer, *wide)
        torch.testing.assert_close(wide_values[wide[2]], values[mask], **CLOSE)
        torch.testing.assert_close(wide_last, last, **CLOSE)
        torch.testing.assert_close(sequence_score(scorer, *wide[:2]), score, **CLOSE)
    for row, length in enumerate(RESPONSES):
        start, stop = max(PROMPTS) - PROMPTS[row], max(PROMPTS) + length
        alone = tokens[row : row + 1, start:stop], attention[row : row + 1, start:stop], mask[row : row + 1, :length]
        torch.testing.assert_close(response_logits(policy, *alone), logits[mask.nonzero()[:, 0] == row], **CLOSE)
        torch.testing.assert_close(response_values(scorer, *alone)[0][0], values[row, :length], **CLOSE)
        torch.testing.assert_close(sequence_score(scorer, *alone[:2])[0], score[row], **CLOSE)


@torch.no_grad()
def test_a_scorer_subtracts_the_shift_that_its_config_holds_and_nothing_without_one(architecture_folders):
    scorer = load_scorer(architecture_folders("llama")[1], CPU)
    tokens, attention, mask = padded_batch()
    shifted, (values, _) = sequence_score(scorer, tokens, attention), response_values(scorer, tokens, attention, mask)
    del scorer.config.score_shift
    torch.testing.assert_close(sequence_score(scorer, tokens, attention), shifted + 0.25, rtol=0, atol=1e-6)
    raw, _ = response_values(scorer, tokens, attention, mask)
    torch.testing.assert_close(raw[mask], values[mask] + 0.25, rtol=0, atol=1e-6)
    assert (raw[~mask] == 0).all()


@torch.no_grad()
def test_logits_of_every_token_but_the_first_equal_a_plain_padded_forward(pair):
    """A mask that begins within the padding of the shorter prompts."""
    (policy, _), (plain, _) = pair
    tokens, attention, _ = padded_batch()
    mask = attention[:, 1:] & attention[:, :-1]
    logits = plain.get_output_embeddings()(plain_hidden(plain, tokens, attention))
    torch.testing.assert_close(response_logits(policy, tokens, attention, mask), logits[:, :-1][mask], **CLOSE)


def test_packed_gradients_equal_those_of_the_plain_padded_pass(pair):
    """1e-5 of the largest gradient."""
    tokens, attention, mask = padded_batch()
    prompt = tokens.shape[1] - mask.shape[1]
    gradients = []
    for packed, model in zip((True, False), (pair[0][0], pair[1][0]), strict=True):
        model.zero_grad()
        with torch.enable_grad():
            if packed:
                logits = response_logits(model, tokens, attention, mask)
            else:
                logits = model.get_output_embeddings()(plain_hidden(model, tokens, attention))[:, prompt - 1 : -1][mask]
            log_softmax(logits, 1.0).square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    for name, plain in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], plain, rtol=0, atol=1e-5 * float(plain.abs().max()) + 1e-6, msg=name)


def test_spread_by_hand():
    mask = torch.tensor([[True, False], [True, True]])
    assert unflatten(torch.tensor([1.0, 2.0, 3.0]), mask).tolist() == [[1.0, 0.0], [2.0, 3.0]]


def test_log_softmax_is_float32_whatever_the_logits_are():
    """At bf16 a logit near 50 is kept in steps of 0.25, and so would its log-probs be."""
    logits = torch.linspace(40, 50, 1000, dtype=torch.bfloat16)[None]
    assert log_softmax(logits, 1.0).dtype == torch.float32
    exact = (logits.double() / 0.7).log_softmax(-1)
    torch.testing.assert_close(log_softmax(logits, 0.7).double(), exact, rtol=0, atol=1e-4)
    assert log_softmax(logits, 1.0).exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_logits_and_values_leave_a_bf16_pass_as_float32(architecture_folders):
    policy, scorer = (load(folder, CPU) for load, folder in zip((load_policy, load_scorer), architecture_folders("llama"), strict=True))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        batch = padded_batch()
        assert response_logits(policy, *batch).dtype == torch.float32
        assert response_values(scorer, *batch)[0].dtype == torch.float32
        assert sequence_score(scorer, *batch[:2]).dtype == torch.float32


def test_entropy_by_hand_and_with_impossible_tokens():
    log_probs = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).log()
    assert entropy_of(log_probs).tolist() == pytest.approx([0.693147, 0.0], abs=1e-6)


def weights(model) -> list[Tensor]:
    return [p.detach() for _, p in sorted(model.named_parameters())]


def test_each_critic_initialisation_starts_from_the_weights_it_names(stage_folders):
    sft, reward = stage_folders["sft"], stage_folders["reward_model"]
    build = {init: new_critic(init, sft, reward, CPU, torch_generator(0, "critic head")) for init in ("reward", "sft", "random")}
    scorer, policy = load_scorer(reward, CPU), load_policy(sft, CPU)
    assert all(torch.equal(a, b) for a, b in zip(weights(build["reward"]), weights(scorer), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(weights(build["sft"].model), weights(policy.model), strict=True))
    assert not torch.equal(build["sft"].score.weight, scorer.score.weight)
    random = build["random"].model.layers[0].mlp.up_proj.weight
    assert not any(torch.equal(random, model.layers[0].mlp.up_proj.weight) for model in (policy.model, scorer.model))


@pytest.mark.parametrize("init", ["sft", "random"])
def test_new_critic_weights_belong_to_the_seed(init, stage_folders):
    folders = stage_folders["sft"], stage_folders["reward_model"]
    first, again, other = (new_critic(init, *folders, CPU, torch_generator(seed, "critic head")) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(again), strict=True))
    assert not torch.equal(first.score.weight, other.score.weight)


def test_a_missing_folder_and_broken_weights_are_named(tmp_path, stage_folders):
    with pytest.raises(UserError, match="nowhere is not a Hugging Face model folder"):
        load_policy(tmp_path / "nowhere", CPU)
    (tmp_path / "config.json").write_text((stage_folders["sft"] / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((stage_folders["sft"] / "model.safetensors").read_bytes()[:500])
    with pytest.raises(UserError, match=f"cannot load the model in {tmp_path}"):
        load_policy(tmp_path, CPU)
