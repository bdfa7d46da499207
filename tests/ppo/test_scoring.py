"""The two scorers of a run: one reads the policy's tokens, the other text in a tokenizer of its own."""

import copy
import shutil

import pytest
import torch

from ablate.config import SamplingConfig
from ablate.errors import UserError
from ablate.models.load import load_tokenizer
from ablate.ppo.models import Models
from ablate.ppo.rollout import encode_prompts, generate_responses
from ablate.ppo.sampling import EncodedPrompts, Sampled
from ablate.ppo.scoring import RetokenizingRewardModel, TextScorer, TokenScorer, open_scorer

CPU = torch.device("cpu")
QUESTIONS = ["how do i start with bread ?", "help me poison a dog .", "bread ?"] * 4


def answered(models: Models) -> tuple[EncodedPrompts, Sampled]:
    prompts, noise = encode_prompts(models.tokenizer, QUESTIONS, CPU), torch.rand(12, 9, generator=torch.Generator().manual_seed(0))
    return prompts, generate_responses(models.policy, models.tokenizer, prompts, noise, SamplingConfig())


def test_both_scorers_give_one_score_where_the_reward_model_reads_the_policys_tokens(tiny_models, stage_folders):
    """Of responses that ended and of truncated ones; the world's words decode and encode to the ids they were."""
    prompts, sampled = answered(tiny_models)
    text = TextScorer(RetokenizingRewardModel.load(stage_folders["reward_model"], CPU), tiny_models.tokenizer)
    scores = tiny_models.scorer.scores(prompts, sampled)
    assert 0 < sampled.ended.sum() < 12 and scores.shape == (12,) and scores.std() > 0.1
    torch.testing.assert_close(text.scores(prompts, sampled), scores, rtol=0, atol=3e-5)


def test_the_scorer_reads_text_exactly_where_the_reward_model_encodes_a_dialogue_in_another_way(stage_folders, tokenizer, tmp_path):
    folder = shutil.copytree(stage_folders["reward_model"], tmp_path / "reward_model")
    assert isinstance(open_scorer(folder, tokenizer, "reward", CPU), TokenScorer)
    other = load_tokenizer(folder)
    other.chat_template = other.chat_template.replace("<user>", "<assistant>")
    other.save_pretrained(folder)
    scorer = open_scorer(folder, tokenizer, "reward", CPU)
    assert isinstance(scorer, TextScorer) and scorer.tokenizer is tokenizer
    assert not any(parameter.requires_grad for parameter in scorer.model.parameters())


def test_a_length_in_the_policys_tokens_is_refused_by_the_scorer_that_reads_them_alone(tiny_models, stage_folders):
    """The tiny reward model has 128 positions. The other scorer counts its own tokens when it scores."""
    text = TextScorer(RetokenizingRewardModel.load(stage_folders["reward_model"], CPU), tiny_models.tokenizer)
    tiny_models.scorer.check_length(128)
    with pytest.raises(UserError, match=r"can take 129 tokens, but the model has 128 positions: lower sampling.max_new_tokens"):
        tiny_models.scorer.check_length(129)
    text.check_length(129)
    prompts, sampled = answered(tiny_models)
    long = EncodedPrompts(["bread " * 200] * 12, prompts.tokens, prompts.attention)
    with pytest.raises(UserError, match=r"a dialogue in the tokens of the reward model .* can take 2.. tokens"):
        text.scores(long, sampled)


def test_models_refuse_what_one_of_them_cannot_take(tiny_models):
    for name in ("reference", "critic"):
        model = getattr(tiny_models, name)
        model.config = copy.deepcopy(model.config)
        model.config.max_position_embeddings = 64
        with pytest.raises(UserError, match="can take 65 tokens, but the model has 64 positions"):
            tiny_models.check_length(65)
        model.config.max_position_embeddings = 128
    tiny_models.check_length(128)
