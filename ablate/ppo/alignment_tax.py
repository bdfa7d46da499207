"""What PPO may cost, the alignment tax (Secrets of RLHF I, Fig. 12): loss on held-out text and accuracy on multiple choice.

    lm_loss          −Σ log π(x_t | x_<t) / Σ 1           nats per token, over every token after the first of every text
    choice_accuracy  mean of [argmax_c Σ_t log π(c_t | q, c_<t) / |c| = answer]    c a choice's tokens, |c| how many

The log-likelihood of a choice is thus normalised by its length in tokens, and of equal choices the first is taken. Both quantities
are of plain text at temperature 1, without a chat template. The pipeline's seed alone fixes the items, so arms and evaluations are
compared on the same ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ablate.config import Config
from ablate.data.chat import beginning, encode_plain, encode_texts
from ablate.data.probes import Question, held_out_texts, questions
from ablate.errors import UserError
from ablate.models.folder import check_length, context_length
from ablate.models.forward import hidden_states, log_softmax, vocabulary_head
from ablate.system.seeding import numpy_generator

LONGEST = 512  # most tokens of a text; the rest is not read
CHUNK = 64  # rows of one forward pass

Item = tuple[list[int], int]  # (token ids, how many of them come before the first that is scored)


@dataclass(frozen=True)
class HeldOutTasks:
    """The held-out texts and multiple-choice questions as items. The lists are empty where there are none."""

    texts: list[Item]
    choices: list[list[Item]]  # per question its choices
    answers: list[int]  # per question the index of the right choice

    @classmethod
    def draw(cls, config: Config, tokenizer: PreTrainedTokenizerBase) -> HeldOutTasks:
        """Draw the items from the pipeline's seed. Raises UserError if the tokenizer cannot encode a text or a question."""
        seed = config.pipeline_seed
        texts = held_out_texts(config, numpy_generator(seed, "corpus"), numpy_generator(seed, "held-out text"))
        asked = questions(config, numpy_generator(seed, "held-out questions"))
        try:
            rows = encode_texts(tokenizer, texts, LONGEST) if texts else []
            choices = encode_choices(tokenizer, asked)
        except UserError as error:  # a word tokenizer has no token for what it does not know
            raise UserError(f"evaluation.text_path or evaluation.choices_path has words that the model does not know: {error}") from error
        return cls([(row, 1) for row in rows if len(row) > 1], choices, [question.answer for question in asked])

    def alignment_tax(self, policy: PreTrainedModel) -> dict[str, float]:
        """`eval/lm_loss` and `eval/choice_accuracy` of a policy. Each is absent where there are no items for it."""
        measured = {}
        if self.texts:
            cut = [(ids[: context_length(policy.config)], first) for ids, first in self.texts]
            sums = log_likelihoods(policy, cut)
            measured["eval/lm_loss"] = -float(sums.sum()) / sum(len(ids) - first for ids, first in cut)
        if self.choices:
            items = [item for choices in self.choices for item in choices]
            check_length(max(len(ids) for ids, _ in items), policy.config, "a question of evaluation.choices_path", "shorten it")
            lengths = torch.tensor([len(ids) - first for ids, first in items], dtype=torch.float64)
            scores = (log_likelihoods(policy, items) / lengths).split([len(choices) for choices in self.choices])
            right = [int(score.argmax()) == answer for score, answer in zip(scores, self.answers, strict=True)]
            measured["eval/choice_accuracy"] = sum(right) / len(right)
        return measured


def encode_choices(tokenizer: PreTrainedTokenizerBase, asked: Sequence[Question]) -> list[list[Item]]:
    """Per question one item per choice: prompt and choice as one text, with a space between them where neither side has one.

    The scored tokens are those after the ones that the prompt alone has too, so a token that spans both belongs to the choice. All texts
    are encoded at once, since a call of the tokenizer costs more than the text in it.
    """
    opening, prompts = beginning(tokenizer), encode_plain(tokenizer, [question.prompt for question in asked])
    texts = [
        question.prompt + " " * (not question.prompt[-1].isspace() and not choice[0].isspace()) + choice
        for question in asked
        for choice in question.choices
    ]
    rows, items = iter(encode_plain(tokenizer, texts)), []
    for prompt, question in zip(prompts, asked, strict=True):
        items.append([])
        for ids in itertools.islice(rows, len(question.choices)):
            same = next((i for i, (a, b) in enumerate(zip(prompt, ids, strict=False)) if a != b), min(len(prompt), len(ids) - 1))
            items[-1].append((opening + ids, max(len(opening) + same, 1)))
    return items


@torch.no_grad()
def log_likelihoods(policy: PreTrainedModel, items: Sequence[Item]) -> Tensor:
    """Σ log π over the scored tokens of each of N items, [N] in float64 on the CPU.

    Items that differ in their last token alone share one row of a forward pass.
    """
    device = next(policy.parameters()).device
    members: dict[tuple[int, ...], list[int]] = {}
    for index, (ids, _) in enumerate(items):
        members.setdefault(tuple(ids[:-1]), []).append(index)
    sums = torch.zeros(len(items), dtype=torch.float64)
    head, prefixes = vocabulary_head(policy), sorted(members, key=len)
    for start in range(0, len(prefixes), CHUNK):
        part = prefixes[start : start + CHUNK]
        width = len(part[-1])
        tokens = torch.tensor([[*prefix, *[prefix[-1]] * (width - len(prefix))] for prefix in part], device=device)
        hidden = hidden_states(policy, tokens)
        counted = [(i, row, t) for row, prefix in enumerate(part) for i in members[prefix] for t in range(items[i][1], len(items[i][0]))]
        rows, columns = (torch.tensor(column, device=device) for column in zip(*((row, t - 1) for _, row, t in counted), strict=True))
        targets = torch.tensor([items[i][0][t] for i, _, t in counted], device=device)
        places, which = torch.stack([rows, columns]).unique(dim=1, return_inverse=True)
        log_probs = log_softmax(head(hidden[places[0], places[1]]), 1.0)
        values = log_probs[which, targets].cpu().double()
        sums.index_add_(0, torch.tensor([i for i, _, _ in counted]), values)
    return sums
