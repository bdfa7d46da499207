"""Responses → scores: by a reward model that reads the policy's tokens, by one that reads text in its own, and by a second one as gold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ablate.data.chat import MOSS_TEMPLATE, Turns, encode_dialogues, same_encoding, same_vocabulary
from ablate.data.source import Prompt, Source
from ablate.errors import UserError
from ablate.models.folder import check_length, has_tokenizer, is_moss_layout, read_shape
from ablate.models.forward import sequence_score
from ablate.models.load import freeze, load_scorer, load_tokenizer
from ablate.ppo.models import Scorer, check_policy_length
from ablate.ppo.rollout import by_length, decode_responses, rows_of_a_pass
from ablate.ppo.sampling import EncodedPrompts, Sampled, concat_prompt_response

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
    def load(cls, folder: str | Path, device: torch.device, dtype: str = "fp32") -> RetokenizingRewardModel:
        """The reward model in `folder`, held in `dtype` (`ablate.models.frozen`). Raises UserError."""
        return cls(freeze(load_scorer(folder, device), dtype), load_scorer_tokenizer(folder), str(folder))

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


@dataclass(frozen=True)
class TokenScorer:
    """A reward model that reads the policy's tokens as they are."""

    model: PreTrainedModel

    def scores(self, prompts: EncodedPrompts, sampled: Sampled) -> Tensor:
        """Scores [B], float32, at the last real token of each response; in the passes of `ablate.ppo.rollout.score_responses`."""
        tokens, attention = concat_prompt_response(prompts.tokens, prompts.attention, sampled)
        scores, steps = torch.zeros(len(tokens), device=tokens.device), sampled.mask.shape[1]
        for rows, longest in by_length(sampled.mask, rows_of_a_pass(steps, self.model.config.get_text_config().vocab_size)):
            width = prompts.tokens.shape[1] + longest
            scores[rows] = sequence_score(self.model, tokens[rows, :width], attention[rows, :width])
        return scores

    def check_length(self, longest: int) -> None:
        """Raises UserError where the model has fewer positions than `longest`."""
        check_policy_length(self.model, longest)


@dataclass(frozen=True)
class TextScorer:
    """A reward model that reads another tokenizer than the policy's: it is given what the policy said as text."""

    judge: RetokenizingRewardModel
    tokenizer: PreTrainedTokenizerBase  # the policy's

    @property
    def model(self) -> PreTrainedModel:
        return self.judge.model

    def scores(self, prompts: EncodedPrompts, sampled: Sampled) -> Tensor:
        """Scores [B], float32, of prompts and responses encoded anew. Raises UserError for a dialogue that is too long."""
        texts = decode_responses(self.tokenizer, sampled.responses, sampled.mask, sampled.ended)
        return self.judge(prompts.turns, texts, sampled.ended.tolist())

    def check_length(self, longest: int) -> None:
        """Nothing follows from a length in the policy's tokens: `scores` counts the reward model's own."""


def open_scorer(
    folder: str | Path, tokenizer: PreTrainedTokenizerBase, critic_init: str, device: torch.device, dtype: str = "fp32"
) -> Scorer:
    """The reward model in `folder`, held in `dtype`, for a policy that reads `tokenizer`. Raises UserError as `needs_retokenizing` does."""
    if needs_retokenizing(folder, tokenizer, critic_init):
        return TextScorer(RetokenizingRewardModel.load(folder, device, dtype), tokenizer)
    return TokenScorer(freeze(load_scorer(folder, device), dtype))


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


def open_gold(path: str | Path | None, source: Source, device: torch.device, dtype: str = "fp32") -> Gold:
    """Gold by the source itself, or by the reward model in the folder `path`, held in `dtype`. Raises UserError."""
    if path is None:
        return lambda prompts, responses, ended: [source.gold(*answer) for answer in zip(prompts, responses, ended, strict=True)]
    judge = RetokenizingRewardModel.load(path, device, dtype)
    return lambda prompts, responses, ended: judge([prompt.turns for prompt in prompts], responses, ended).tolist()
