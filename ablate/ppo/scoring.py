"""Dialogues as text → scores: a reward model that reads another tokenizer than the policy's, and a second one as gold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ablate.data.chat import MOSS_TEMPLATE, Turns, encode_dialogues, same_encoding, same_vocabulary
from ablate.data.source import Prompt, Source
from ablate.errors import UserError
from ablate.models.folder import check_length, has_tokenizer, is_moss_layout, read_shape
from ablate.models.forward import sequence_score
from ablate.models.load import Models, freeze, load_scorer, load_tokenizer
from ablate.ppo.rollout import decode_responses
from ablate.ppo.types import Rollout

CHUNK = 32  # dialogues of one forward pass

Gold = Callable[[Sequence[Prompt], Sequence[str], Sequence[bool]], list[float | None]]
"""(prompts, responses, ended) → gold of each response, null where nothing judges."""


@dataclass(frozen=True)
class RetokenizingRewardModel:
    """A reward model and the tokenizer, with its chat template, that it reads dialogues in."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str

    @classmethod
    def load(cls, folder: str | Path, device: torch.device) -> RetokenizingRewardModel:
        """Raises UserError."""
        return cls(freeze(load_scorer(folder, device)), load_scorer_tokenizer(folder), str(folder))

    @torch.no_grad()
    def __call__(self, prompts: Sequence[Turns], responses: Sequence[str], ended: Sequence[bool]) -> Tensor:
        """Scores [B], float32, at the last real token: the end token of a response that ended. Raises UserError where one is too long."""
        rows = [ids for ids, _ in encode_dialogues(self.tokenizer, prompts, responses, ended)]
        longest = max(map(len, rows))
        check_length(
            longest, self.model.config, f"a dialogue in the tokens of the reward model {self.name}",
            "lower sampling.max_new_tokens or data.max_prompt_tokens",
        )  # fmt: skip
        device = next(self.model.parameters()).device
        scores = torch.zeros(len(rows), device=device)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for start in range(0, len(order), CHUNK):
            part = order[start : start + CHUNK]
            lengths = torch.tensor([len(rows[i]) for i in part])
            width = int(lengths.max())
            tokens = torch.tensor([rows[i] + [self.tokenizer.pad_token_id] * (width - len(rows[i])) for i in part])
            attention = torch.arange(width)[None] < lengths[:, None]
            scores[torch.tensor(part, device=device)] = sequence_score(self.model, tokens.to(device), attention.to(device))
        return scores


def load_scorer_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """A reward model's tokenizer; the released MOSS-RLHF reward model reads dialogues in its own form."""
    return load_tokenizer(folder, template=MOSS_TEMPLATE if is_moss_layout(folder) else None)


def needs_retokenizing(folder: str | Path, tokenizer: PreTrainedTokenizerBase, critic_init: str) -> bool:
    """Whether the reward model in `folder` must be given text, since it encodes a dialogue in another way than the policy does.

    A folder without a tokenizer is taken to share the policy's. Raises UserError where it cannot, and where the critic would have
    to start from a model that reads other tokens.
    """
    if not has_tokenizer(folder):
        size = read_shape(folder).get_text_config().vocab_size
        if size < len(tokenizer):
            raise UserError(
                f"the reward model {folder} has {size} tokens and no tokenizer of its own, the policy's has {len(tokenizer)}: "
                "they do not share a vocabulary; put the reward model's tokenizer into its folder, or name another reward_model.path"
            )
        return False
    own = load_scorer_tokenizer(folder)
    if critic_init == "reward" and not same_vocabulary(own, tokenizer):
        raise UserError(
            f"the reward model {folder} has another tokenizer than the policy, so the critic cannot start from it: set ppo.critic_init=sft"
        )
    return not same_encoding(own, tokenizer)


def with_text_rewards(rollout: Rollout, models: Models, prompts: Sequence[Turns]) -> Rollout:
    """The rollout with the scores of `models.text_reward`, where the reward model reads text; else as it is."""
    if models.text_reward is None:
        return rollout
    responses = rollout.tokens[:, -rollout.mask.shape[1] :]
    texts = decode_responses(models.tokenizer, responses, rollout.mask, rollout.ended)
    return replace(rollout, score=models.text_reward(prompts, texts, rollout.ended.tolist()))


def open_gold(path: str | Path | None, source: Source, device: torch.device) -> Gold:
    """Gold by the source itself, or by the reward model in the folder `path`. Raises UserError."""
    if path is None:
        return lambda prompts, responses, ended: [source.gold(*answer) for answer in zip(prompts, responses, ended, strict=True)]
    judge = RetokenizingRewardModel.load(path, device)
    return lambda prompts, responses, ended: judge([prompt.turns for prompt in prompts], responses, ended).tolist()
