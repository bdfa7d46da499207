"""An annotator who also likes length: labels by hand-made values, and what of a run the bias belongs to."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ablate.config import Config
from ablate.pipeline import build as module
from ablate.pipeline import preferences
from ablate.settings.identity import config_hash, identity


def pair(gold: float, words: int) -> dict:
    return {"response": " ".join(["so"] * words), "ended": True, "gold": gold}


def chosen_first(noise: float, bias: float, first: dict, second: dict, count: int = 4000) -> float:
    pairs = [{"prompt": "x", "kind": "helpful", "first": dict(first), "second": dict(second)} for _ in range(count)]
    preferences.label(pairs, noise, bias, np.random.default_rng(0))
    return sum(row["chosen"] == first for row in pairs) / count


def test_an_annotator_with_a_length_bias_prefers_by_gold_and_words_together():
    """P = sigmoid((1 − 0.4 · 5) / 0.5) = 0.119 for the better answer, which is five words shorter; without the bias 0.881."""
    better, longer = pair(1.0, 3), pair(0.0, 8)
    assert chosen_first(0.5, 0.4, better, longer) == pytest.approx(0.1192, abs=0.015)
    assert chosen_first(0.5, 0.0, better, longer) == pytest.approx(0.8808, abs=0.015)
    assert chosen_first(0.0, 0.4, better, longer) == 0 and chosen_first(0.0, 0.1, better, longer) == 1


def test_without_a_bias_labels_are_those_of_gold_alone_to_the_bit():
    """One number per pair decides, which is drawn whatever the bias; lengths are not read."""
    drawn = np.random.default_rng(7)
    pairs = [{"first": pair(float(gold), int(words)), "second": pair(0.0, 5)} for gold, words in zip(drawn.normal(size=200),
             drawn.integers(1, 40, 200), strict=True)]  # fmt: skip
    expected = [
        uniform < 1 / (1 + np.exp(-np.clip(row["first"]["gold"] / 0.5, -50, 50)))
        for row, uniform in zip(pairs, np.random.default_rng(3).random(200), strict=True)
    ]
    firsts = [row["first"] for row in pairs]
    preferences.label(pairs, 0.5, 0.0, np.random.default_rng(3))
    assert [row["chosen"] is first for row, first in zip(pairs, firsts, strict=True)] == expected


@pytest.fixture
def stage_keys(monkeypatch, tmp_path):
    """stage_keys(config) → stage → its key, without building anything."""

    def keys(config: Config) -> dict[str, str]:
        found = {}

        def noted(cache, name, key, settings, make):
            found[name] = key
            return tmp_path / name

        monkeypatch.setattr(module, "cached", noted)
        module.build(config)
        return found

    return keys


def biased(bias: float) -> Config:
    config = Config(cache="unused", device="cpu")
    config.preferences.length_bias = bias
    return config


def test_the_bias_is_in_the_keys_of_pairs_and_reward_model_and_in_no_earlier_stages(stage_keys):
    without, with_bias = stage_keys(biased(0.0)), stage_keys(biased(0.15))
    assert {name for name in without if without[name] != with_bias[name]} == {"preferences", "reward_model"}
    assert set(without) == {"pretrain", "sft", "preferences", "reward_model"}


def test_the_bias_is_part_of_a_runs_identity_and_none_of_it_where_it_is_zero():
    assert config_hash(biased(0.0)) == config_hash(Config(device="cpu"))
    assert len({config_hash(biased(bias)) for bias in (0.0, 0.1, 0.15)}) == 3
    assert "length_bias" not in json.dumps(identity(biased(0.0))) and identity(biased(0.15))["preferences"]["length_bias"] == 0.15
