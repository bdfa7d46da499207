"""Tokenizers with the end, pad and chat template that a run needs, and turns or text → token ids. No torch here.

A prompt is one user turn as a string, or a list of messages (`role`, `content`) that ends with the user's.
"""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ablate.errors import UserError

Messages = list[dict[str, str]]
Turns = str | Messages

# Where a tokenizer brings no template of its own. The newline before each text lets a byte-level BPE cut a response the same way
# alone as in place; the end token stands behind the last response only, as after a plain text.
DEFAULT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if not loop.first %}{{ '\\n\\n' }}{% endif -%}"
    "{%- if message.role == 'user' %}{{ 'Human:\\n' + message.content }}"
    "{%- elif message.role == 'assistant' %}{{ 'Assistant:\\n' + message.content }}"
    "{%- else %}{{ message.content }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt %}{{ '\\n\\nAssistant:\\n' }}{% endif -%}"
)
# The prompts of the released MOSS-RLHF reward model (rm/reward_datahelper.py of OpenLMLab/MOSS-RLHF).
MOSS_TEMPLATE = (
    "{{ bos_token }}"
    "{%- for message in messages -%}"
    "{{ ('Human:' if message.role == 'user' else 'Assistant:') + message.content + eos_token }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt %}{{ 'Assistant:' }}{% endif -%}"
)
PROBE_TOKENS = 200


def prepare(tokenizer: PreTrainedTokenizerBase, where: object, template: str | None = None) -> PreTrainedTokenizerBase:
    """Fill in what a tokenizer lacks, and return it. No token is new, so the embedding keeps its size.

    A missing pad becomes the end token, since pads only stand where a mask is False. A missing chat template becomes `template`, else
    DEFAULT_TEMPLATE, after the beginning token where the tokenizer itself puts one. Raises UserError where there is no end token.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer in {where} has no end token, so no response could end: set eos_token in its tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.chat_template is None:
        tokenizer.chat_template = template or ("{{ bos_token }}" if beginning(tokenizer) else "") + DEFAULT_TEMPLATE
    return tokenizer


def beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """[bos] where the tokenizer puts that token before a text by itself, else []."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("")["input_ids"][:1] == [bos] else []


def encode_turns(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Turns]) -> list[list[int]]:
    """Token ids per prompt, up to and with the mark before the response. Raises UserError where the chat template refuses a prompt."""
    turns = [[{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt for prompt in prompts]
    try:
        texts = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    except TemplateError as error:
        raise UserError(f"the tokenizer's chat template refuses a prompt of the data ({error}): change the template or the data") from error
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def encode_dialogues(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Turns], responses: Sequence[str], ended: Sequence[bool]
) -> list[tuple[list[int], int]]:
    """(token ids of prompt and response, how many of them are the prompt's) per dialogue. Without `ended`, no end token is added."""
    turns = encode_turns(tokenizer, prompts)
    answers = tokenizer(list(responses), add_special_tokens=False)["input_ids"]
    end = [tokenizer.eos_token_id]
    return [(turn + answer + end * whole, len(turn)) for turn, answer, whole in zip(turns, answers, ended, strict=True)]


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], limit: int | None = None) -> list[list[int]]:
    """Token ids per plain text, opened as the tokenizer does, closed by the end token, and cut to `limit` tokens."""
    opening, end = beginning(tokenizer), [tokenizer.eos_token_id]
    return [(opening + ids + end)[:limit] for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]


def same_vocabulary(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether a token id stands for the same token in both."""
    return one.eos_token_id == other.eos_token_id and one.get_vocab() == other.get_vocab()


def same_encoding(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether both have the same vocabulary and encode a probe alike: a dialogue with tokens from all over the vocabulary."""
    if not same_vocabulary(one, other):
        return False
    size = len(one)
    text = one.decode(range(0, size, max(size // PROBE_TOKENS, 1)), skip_special_tokens=True)
    turns = [{"role": role, "content": text} for role in ("user", "assistant", "user")]
    first, second = (encode_dialogues(tokenizer, [turns], [text], [True]) for tokenizer in (one, other))
    return first == second
