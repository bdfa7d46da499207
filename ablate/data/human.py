"""Human data as a source: split by a hash of the prompt, limited in length, drawn with a generator, with a tokenizer trained on it."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ablate.config import DataConfig
from ablate.data.chat import TOKEN_LETTERS, encode_plain, encode_turns, prepare, unwritable
from ablate.data.dialogues import Example, HumanPrompt, transcript
from ablate.data.files import read_table
from ablate.errors import UserError

PAD, EOS = "<pad>", "<eos>"
Pair = tuple[HumanPrompt, str, str]  # prompt, chosen, rejected


@dataclass(frozen=True)
class Split:
    """One side of the data. Prompts are distinct and in the order of the files."""

    examples: list[Example]
    prompts: list[HumanPrompt]

    @classmethod
    def of(cls, examples: list[Example]) -> Split:
        return cls(examples, list(dict.fromkeys(example.prompt for example in examples)))


class HumanSource:
    """Prompts, demonstrations and pairs of people. Draws are without replacement.

    Where there are fewer than `count`, `demonstrations`, `corpus` and `pairs` return all of them.
    """

    def __init__(self, data: DataConfig, tokenizer: PreTrainedTokenizerBase | None = None):
        """Read and split data.path; with a tokenizer, what is longer than data.max_*_tokens is dropped.

        Raises UserError where no training prompt or no held-out prompt is left.
        """
        self.data = data
        table = read_table(data)
        written, names = (table.examples, set()) if tokenizer is None else writable(table.examples, tokenizer)
        kept = written if tokenizer is None else within_limits(written, data, tokenizer)
        held_out = [is_held_out(example.prompt, data.held_out_share) for example in kept]
        self.train = Split.of([example for example, out in zip(kept, held_out, strict=True) if not out])
        self.held_out = Split.of([example for example, out in zip(kept, held_out, strict=True) if out])
        self.report = {
            "rows": table.rows, "malformed": len(table.malformed), "malformed_rows": [": ".join(row) for row in table.malformed[:20]],
            "too_long": len(written) - len(kept), "train_examples": len(self.train.examples),
            "held_out_examples": len(self.held_out.examples), "train_prompts": len(self.train.prompts),
            "held_out_prompts": len(self.held_out.prompts),
        }  # fmt: skip
        if not self.train.prompts or not self.held_out.prompts:
            raise UserError(
                f"data.path={data.path} leaves {len(self.train.prompts)} training and {len(self.held_out.prompts)} held-out prompts "
                f"({table}; {self.report['too_long']} too long): raise data.max_prompt_tokens or change data.held_out_share"
            )
        if names:
            self.report["spell_special_tokens"] = len(table.examples) - len(written)
            print(f"data: {self.report['spell_special_tokens']:,} dialogues left out, since they spell special tokens that the tokenizer "
                  f"cannot write as text: {', '.join(sorted(names))}", file=sys.stderr, flush=True)  # fmt: skip

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """A byte-level BPE of data.vocabulary tokens, trained on the training dialogues that `can_fit`.

        The time that BPE takes grows with the square of a run of letters or blanks, so that one text of a megabyte would take hours.
        """
        return train_bpe([dialogue(example) for example in self.train.examples if can_fit(example, self.data)], self.data.vocabulary)

    def prompts(self, count: int, rng: np.random.Generator) -> Sequence[HumanPrompt]:
        """Training prompts, some of them repeated where there are fewer than `count`."""
        prompts = self.train.prompts
        return [prompts[i] for i in rng.choice(len(prompts), count, replace=count > len(prompts))]

    def held_out_prompts(self, count: int, rng: np.random.Generator) -> Sequence[HumanPrompt]:
        """Held-out prompts. Raises UserError where there are fewer than `count`."""
        found = self.held_out.prompts
        if count > len(found):
            raise UserError(
                f"evaluation.prompts={count}, but data.path={self.data.path} has {len(found)} held-out prompts: "
                "lower it, or raise data.held_out_share"
            )
        return drawn(found, count, rng)

    def demonstrations(self, count: int, rng: np.random.Generator) -> Sequence[tuple[HumanPrompt, str]]:
        """Training prompts, with the answers that people chose or wrote. Raises UserError where the data has none."""
        found = [(example.prompt, example.chosen) for example in self.train.examples if example.chosen is not None]
        if not found:
            raise UserError(f"data.path={self.data.path} holds no demonstrations: set sft.path")
        return drawn(found, count, rng)

    def corpus(self, count: int, rng: np.random.Generator) -> Sequence[str]:
        """Whole training dialogues as plain text, chosen answers included."""
        return [dialogue(example) for example in drawn(self.train.examples, count, rng)]

    def pairs(self, count: int, rng: np.random.Generator, held_out: bool = False, half: str = "all") -> Sequence[Pair]:
        """Pairs as people ranked them. `half` (all, first or second) takes those of one half of the prompts.

        Raises UserError where the data has none.
        """
        found = self.all_pairs(held_out, half)
        if not found:
            side = "held-out" if held_out else "training"
            raise UserError(f"data.path={self.data.path} holds no {side} pairs: set preferences.path or reward_model.path")
        return drawn(found, count, rng)

    def all_pairs(self, held_out: bool = False, half: str = "all") -> list[Pair]:
        """Every pair of a side, or of one half of its prompts; none where the data has none."""
        examples = (self.held_out if held_out else self.train).examples
        found = [(e.prompt, e.chosen, e.rejected) for e in examples if e.chosen is not None and e.rejected is not None]
        return found if half == "all" else [pair for pair in found if (position(pair[0], "half") < 0.5) == (half == "first")]

    def gold(self, prompt: HumanPrompt, response: str, ended: bool) -> None:
        """None: human data has no gold reward of its own."""
        return None


def drawn(items: Sequence, count: int, rng: np.random.Generator) -> list:
    """`count` of the items in random order, or all of them."""
    return [items[i] for i in rng.permutation(len(items))[:count]]


def dialogue(example: Example) -> str:
    """The prompt and the chosen answer, where there is one, as plain text."""
    answer = [] if example.chosen is None else [("assistant", example.chosen)]
    return transcript([*example.prompt.messages, *answer])


def is_held_out(prompt: HumanPrompt, share: float) -> bool:
    """Whether a prompt is held out: decided by a hash of it, so alike in every file, order, version and seed."""
    return position(prompt, "held out") < share


def position(prompt: HumanPrompt, what: str) -> float:
    """A number in [0, 1) from a hash of `what` and the turns alone."""
    digest = hashlib.sha256(json.dumps([what, prompt.messages], ensure_ascii=False).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def writable(examples: list[Example], tokenizer: PreTrainedTokenizerBase) -> tuple[list[Example], set[str]]:
    """(the examples whose every text this tokenizer can write without a special token, the special tokens that the others spell)."""
    named = unwritable(tokenizer)
    spelt = [{name for text in texts_of(example) for name in named.findall(text)} for example in examples]
    return [example for example, names in zip(examples, spelt, strict=True) if not names], set().union(*spelt)


def texts_of(example: Example) -> list[str]:
    """Every turn and answer of an example."""
    answers = [answer for answer in (example.chosen, example.rejected) if answer is not None]
    return [text for _, text in example.prompt.messages] + answers


def can_fit(example: Example, data: DataConfig) -> bool:
    """Whether the prompt and the answers of an example have at most TOKEN_LETTERS characters per token of their limits."""
    longest = max((len(answer) for answer in (example.chosen, example.rejected) if answer is not None), default=0)
    return len(example.prompt.text) <= data.max_prompt_tokens * TOKEN_LETTERS and longest <= data.max_response_tokens * TOKEN_LETTERS


def within_limits(examples: list[Example], data: DataConfig, tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """Examples whose prompt has at most data.max_prompt_tokens, and whose answers have at most data.max_response_tokens.

    A prompt counts in the chat template, and an answer with its end token. What cannot fit is not encoded to find out.
    """
    examples = [example for example in examples if can_fit(example, data)]
    prompts = list(dict.fromkeys(e.prompt for e in examples))
    lengths = dict(zip(prompts, map(len, encode_turns(tokenizer, [prompt.turns for prompt in prompts])), strict=True))
    fits = {prompt for prompt, length in lengths.items() if length <= data.max_prompt_tokens}
    answers = list({answer for e in examples for answer in (e.chosen, e.rejected) if answer is not None})
    # One token of the limit is left for the end.
    short = {
        answer for answer, ids in zip(answers, encode_plain(tokenizer, answers), strict=True) if len(ids) < data.max_response_tokens
    } | {None}
    return [e for e in examples if e.prompt in fits and e.chosen in short and e.rejected in short]


def train_bpe(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE (Radford et al. 2019): any text round-trips, so there is no unknown token. <pad> and <eos> are tokens 0 and 1."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocabulary, special_tokens=[PAD, EOS], initial_alphabet=sorted(ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, padding_side="left", clean_up_tokenization_spaces=False
    )
    return prepare(fast, "the data")
