"""The folders and files of `families`, made once; and the settings of a short run on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from families import FAMILIES, family_shape, family_tokenizer, hh_rows, random_model, short_overrides, write_lines
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM

from ablate.config import Config


@pytest.fixture(scope="session")
def family_folders(tmp_path_factory) -> dict[str, Path]:
    """A causal LM of each family as the hub has it: weights, config, tokenizer."""
    root = tmp_path_factory.mktemp("families")
    for seed, family in enumerate(FAMILIES):
        tokenizer = family_tokenizer(family)
        random_model(AutoModelForCausalLM, family_shape(family, tokenizer), seed).save_pretrained(root / family)
        tokenizer.save_pretrained(root / family)
    return {family: root / family for family in FAMILIES}


@pytest.fixture(scope="session")
def dialogues(tmp_path_factory) -> Path:
    return write_lines(tmp_path_factory.mktemp("data") / "harmless-base.jsonl.gz", hh_rows(120))


@pytest.fixture
def short_config(tmp_path) -> Callable[..., Config]:
    """short_config("model.path=…", …) → Config of a short run under tmp_path."""

    def build(*overrides: str) -> Config:
        tree = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.from_dotlist([*short_overrides(tmp_path), *overrides]))
        return OmegaConf.to_object(tree)

    return build
