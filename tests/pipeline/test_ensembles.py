"""Ensembles of reward models and their average: cached stages, and runs that are scored by them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ablate.pipeline import build as module
from ablate.pipeline import reward_model as stage
from ablate.ppo.scoring import TokenScorer
from ablate.runs.folder import read_rows, run_folder
from ablate.session import execute
from ablate.trainer import Trainer

TRAINED = ("reward_model.path=null", "reward_model.steps=10", "reward_model.learning_rate=0.03", "reward_model.batch_size=1")


@pytest.fixture
def pairs(tmp_path) -> Path:
    """Six different pairs, so that an order or a bootstrap sample of them can differ."""
    folder, answers = tmp_path / "pairs", ("no", "of course !", "start with bread", "i do", "how ?", "bread with bread !")
    folder.mkdir()
    rows = [
        {"prompt": "how do i start with bread ?", "chosen": {"response": answer, "gold": 1.0}, "rejected": {"response": "do", "gold": 0.0}}
        for answer in answers
    ]
    for name in ("train.jsonl", "held_out.jsonl"):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def trained(tiny_config, pairs):
    """trained(overrides…) → a tiny run whose reward model the pipeline trains."""
    return lambda *overrides: tiny_config(*TRAINED, f"preferences.path={pairs}", *overrides)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def members(stages: module.Stages) -> list[Path]:
    return [stages.reward_model, *stages.ensemble]


@pytest.mark.parametrize("varies", ["initialisation", "order", "data"])
def test_members_are_stages_of_their_own_built_once_and_the_first_is_that_of_a_run_without_an_ensemble(varies, trained, monkeypatch):
    built = []
    train = stage.reward_model

    def counted(*arguments):
        built.append(arguments[-1])
        train(*arguments)

    monkeypatch.setattr(stage, "reward_model", counted)
    alone = module.build(trained())
    assert alone.ensemble == () and built == [0]
    ensemble = trained("reward_model.ensemble=3", f"reward_model.ensemble_varies={varies}")
    stages = module.build(ensemble)
    assert stages.reward_model == alone.reward_model and built == [0, 1, 2]
    assert module.build(trained("reward_model.ensemble=2", f"reward_model.ensemble_varies={varies}")).ensemble == stages.ensemble[:1]
    assert built == [0, 1, 2]
    heads = [weights(folder)["score.weight"] for folder in members(stages)]
    assert not any(torch.equal(heads[i], heads[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_the_average_has_the_mean_of_the_members_weights_and_is_the_only_reward_model(trained):
    several = ("reward_model.ensemble=3", "reward_model.ensemble_varies=order")
    parts = [weights(folder) for folder in members(module.build(trained(*several)))]
    stages = module.build(trained(*several, "reward_model.average=true"))
    assert stages.ensemble == ()
    assert not torch.equal(parts[0]["score.weight"], parts[1]["score.weight"])
    for name, mean in weights(stages.reward_model).items():
        torch.testing.assert_close(mean, torch.stack([part[name] for part in parts]).mean(0), rtol=0, atol=5e-7)
    assert json.loads((stages.reward_model / "report.json").read_text())["held_out_pairs"] == 6


@pytest.mark.parametrize("settings", [
    ("reward_model.ensemble=2", "ppo.ensemble_score=worst"), ("reward_model.ensemble=2", "ppo.ensemble_score=uncertainty"),
    ("reward_model.ensemble=2", "reward_model.ensemble_varies=data", "reward_model.average=true"),
    ("ppo.reward_shape=sigmoid", "ppo.reward_shape_references=2"), ("ppo.reward_shape=minmax",), ("ppo.length_penalty=linear",),
])  # fmt: skip
def test_a_run_with_them_goes_to_its_end_and_gives_other_rewards_to_the_same_responses(settings, trained):
    rows = []
    for arm, given in (("off", ()), ("on", settings)):
        config = trained(*given, f"arm={arm}", "ppo.critic_pretrain=false", "ppo.reward_norm=false")
        assert execute(config)["status"] == "completed"
        rows.append(next(row for row in read_rows(run_folder(config) / "metrics.jsonl") if row["update"] == 1))
    assert rows[0]["monitor/response_length"] == rows[1]["monitor/response_length"]
    assert rows[0]["reward/shaped_mean"] != rows[1]["reward/shaped_mean"]


def test_each_member_scores_each_response_once(trained, monkeypatch):
    passes = []
    scores = TokenScorer.scores
    monkeypatch.setattr(TokenScorer, "scores", lambda self, *arguments: (passes.append(id(self)), scores(self, *arguments))[1])
    rollouts = []
    collect = Trainer.collect

    def spied(self, *arguments):
        before = len(passes)
        rollouts.append(collect(self, *arguments))
        assert len(passes) - before == 3
        return rollouts[-1]

    monkeypatch.setattr(Trainer, "collect", spied)
    execute(trained("reward_model.ensemble=3"))
    assert all(torch.equal(rollout.score, rollout.member_scores.mean(1)) for rollout in rollouts)
