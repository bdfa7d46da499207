"""One interface over every source of data. The world is the source that needs nothing outside this package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from transformers import PreTrainedTokenizerBase

from ablate.config import Config
from ablate.data.chat import Turns
from ablate.data.human import HumanSource
from ablate.world import gold as world_gold
from ablate.world import grammar as world
from ablate.world.tokenizer import build_tokenizer


class Prompt(Protocol):
    """`text` is for people, `turns` for a chat template; `kind` is what evaluations are split by."""

    @property
    def text(self) -> str: ...

    @property
    def turns(self) -> Turns: ...

    @property
    def kind(self) -> str: ...


class Source(Protocol):
    """The data of a run. Every draw of `count` items takes its generator.

    prompts and held_out_prompts are the training and the evaluation side; demonstrations are (prompt, response); corpus gives plain texts.
    gold is the gold reward of a response, or None where the data has none.
    """

    def tokenizer(self) -> PreTrainedTokenizerBase: ...

    def prompts(self, count: int, rng: np.random.Generator) -> Sequence[Prompt]: ...

    def held_out_prompts(self, count: int, rng: np.random.Generator) -> Sequence[Prompt]: ...

    def demonstrations(self, count: int, rng: np.random.Generator) -> Sequence[tuple[Prompt, str]]: ...

    def corpus(self, count: int, rng: np.random.Generator) -> Sequence[str]: ...

    def gold(self, prompt: Prompt, response: str, ended: bool) -> float | None: ...


class WorldSource:
    """The embedded world in one language."""

    def __init__(self, language: str):
        self.grammar = world.grammar(language)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        return build_tokenizer(self.grammar)

    def prompts(self, count: int, rng: np.random.Generator) -> Sequence[world.Prompt]:
        return world.prompts(self.grammar, count, rng)

    def held_out_prompts(self, count: int, rng: np.random.Generator) -> Sequence[world.Prompt]:
        return world.prompts(self.grammar, count, rng, held_out=True)

    def demonstrations(self, count: int, rng: np.random.Generator) -> Sequence[tuple[world.Prompt, str]]:
        return world.demonstrations(self.grammar, count, rng)

    def corpus(self, count: int, rng: np.random.Generator) -> Sequence[str]:
        return world.corpus(self.grammar, count, rng)

    def gold(self, prompt: world.Prompt, response: str, ended: bool) -> float:
        return world_gold.gold(self.grammar, prompt, response, ended)


def open_source(config: Config, tokenizer: PreTrainedTokenizerBase | None = None) -> Source:
    """The source that `data.source` names. With a tokenizer, human data longer than its limits in tokens is left out. Raises UserError."""
    if config.data.source == "world":
        return WorldSource(config.data.language)
    return HumanSource(config.data, tokenizer)
