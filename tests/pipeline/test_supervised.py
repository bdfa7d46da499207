"""The losses of the supervised stages against transformers' own, one dialogue at a time."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from ablate.models.forward import packed_states
from ablate.models.load import load_policy, load_scorer
from ablate.pipeline.reward_model import score_all
from ablate.pipeline.supervised import language_model_loss, pad_right, real_tokens, response_targets, token_nll

CPU, PAD = torch.device("cpu"), 0
ROWS = [([5, 9, 3, 3, 7, 1], 2), ([4, 1], 1), ([8, 6, 2, 11, 19, 20, 21, 1, 2, 3], 7), ([2, 2, 2, 2], 3)]  # token ids, tokens of the prompt


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    tokens = pad_right([ids for ids, _ in ROWS], PAD, CPU)
    return tokens, response_targets(ROWS, tokens)


def transformers_loss(model) -> torch.Tensor:
    """Labels of −100 at the prompt; each row's mean weighed by its tokens."""
    sums, count = 0.0, 0
    for ids, prompt in ROWS:
        labels = torch.tensor([[-100] * prompt + ids[prompt:]])
        sums = sums + model(input_ids=torch.tensor([ids]), labels=labels).loss * (len(ids) - prompt)
        count += len(ids) - prompt
    return sums / count


def test_the_loss_and_its_gradients_equal_transformers_own(architecture, architecture_folders):
    folder = architecture_folders(architecture)[0]
    ours, plain = load_policy(folder, CPU), AutoModelForCausalLM.from_pretrained(folder).eval()
    loss, expected = language_model_loss(ours, ours.get_output_embeddings(), *batch()), transformers_loss(plain)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    loss.backward()
    expected.backward()
    gradients = {name: p.grad for name, p in ours.named_parameters()}
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


@torch.no_grad()
def test_states_of_a_part_of_the_rows_give_the_loss_of_that_part(architecture_folders):
    """As the reward model's language-model loss has it, on the preferred half of its batch."""
    model = load_policy(architecture_folders("llama")[0], CPU)
    tokens, targets = batch()
    hidden, first = packed_states(model, tokens, real_tokens([len(ids) for ids, _ in ROWS], tokens))
    part = token_nll((hidden, first[:2]), model.get_output_embeddings(), tokens[:2], targets[:2])
    alone = language_model_loss(model, model.get_output_embeddings(), tokens[:2], targets[:2])
    torch.testing.assert_close(part, alone, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 3, 64])
def test_scores_are_those_of_transformers_one_dialogue_at_a_time(architecture, architecture_folders, size):
    folder = architecture_folders(architecture)[1]
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    expected = torch.cat([plain(input_ids=torch.tensor([ids])).logits[:, 0] for ids, _ in ROWS])
    torch.testing.assert_close(score_all(load_scorer(folder, CPU), ROWS, PAD, CPU, size), expected, rtol=0, atol=2e-5)
