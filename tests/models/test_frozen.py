"""Frozen models held in bfloat16: log-probs and scores are those of rounded weights, computed in float32."""

from __future__ import annotations

import pytest
import torch
from synthetic import random_rollout

from ablate.models.forward import response_logits, sequence_score
from ablate.models.load import freeze, load_policy, load_scorer
from ablate.pipeline.build import Stages
from ablate.settings.identity import config_hash, identity
from ablate.trainer import load_models

CPU = torch.device("cpu")


def rounded(model):
    """The model in float32, its matrices rounded to bfloat16."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(parameter.bfloat16())
    return model


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal but for the order of sums in float32."""
    return torch.allclose(one, other, rtol=1e-5, atol=1e-5)


def dtypes(model) -> dict[int, set[torch.dtype]]:
    """Dimensions of a parameter → the number formats of those that have as many."""
    return {dim: {p.dtype for p in model.parameters() if p.dim() == dim} for dim in (1, 2)}


@torch.no_grad()
def test_logits_and_scores_are_those_of_rounded_weights_in_float32(architecture, architecture_folders):
    folders, rollout = architecture_folders(architecture), random_rollout()
    batch = rollout.tokens, rollout.attention, rollout.mask
    plain = response_logits(load_policy(folders[0], CPU), *batch)
    held, by_hand = freeze(load_policy(folders[0], CPU), "bf16"), rounded(load_policy(folders[0], CPU))
    logits = response_logits(held, *batch)
    assert logits.dtype == torch.float32 and close(logits, response_logits(by_hand, *batch)) and not close(logits, plain)
    assert dtypes(held) == {1: {torch.float32}, 2: {torch.bfloat16}}
    scorers = freeze(load_scorer(folders[1], CPU), "bf16"), rounded(load_scorer(folders[1], CPU))
    scores = [sequence_score(scorer, *batch[:2]) for scorer in scorers]
    assert scores[0].dtype == torch.float32 and close(*scores)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_an_embedding_that_is_the_vocabulary_head_too_is_held_once(architecture, tied_policy):
    rollout = random_rollout()
    batch = rollout.tokens, rollout.attention, rollout.mask
    folder = tied_policy(architecture)
    held, by_hand = freeze(load_policy(folder, CPU), "bf16"), rounded(load_policy(folder, CPU))
    assert held.get_input_embeddings().weight is held.get_output_embeddings().weight
    assert close(response_logits(held, *batch), response_logits(by_hand, *batch))


@torch.no_grad()
def test_under_autocast_a_held_matrix_is_multiplied_as_it_is(architecture_folders):
    rollout = random_rollout()
    folder = architecture_folders("llama")[0]
    held, by_hand = freeze(load_policy(folder, CPU), "bf16"), rounded(load_policy(folder, CPU))
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        found, expected = (response_logits(model, rollout.tokens, rollout.attention, rollout.mask) for model in (held, by_hand))
    assert found.dtype == torch.float32 and close(found, expected)


def test_a_run_rounds_its_frozen_models_and_nothing_that_learns(tiny_config, stage_folders):
    config = tiny_config("model.frozen_dtype=bf16", "ppo.reference_update=ema", "ppo.reference_update_rate=0.5")
    stages = Stages(stage_folders["pretrained"], stage_folders["sft"], stage_folders["preferences"], stage_folders["reward_model"])
    models = load_models(config, stages, None, CPU)
    frozen = {1: {torch.float32}, 2: {torch.bfloat16}}
    assert dtypes(models.sft) == dtypes(models.scorer.model) == frozen
    for model in (models.policy, models.critic, models.reference):
        assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_by_default_the_setting_is_no_part_of_a_runs_identity(tiny_config):
    plain, held = tiny_config(), tiny_config("model.frozen_dtype=bf16")
    assert "frozen_dtype" not in identity(plain)["model"] and identity(held)["model"]["frozen_dtype"] == "bf16"
    assert config_hash(plain) != config_hash(held)
