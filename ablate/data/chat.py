"""Tokenizers with the end, pad and chat template that a run needs, and turns or text → token ids. No torch here.

A prompt is one user turn as a string, or a list of messages (`role`, `content`) that ends with the user's. Only a chat template makes
special tokens: where a text spells one, as in "<eos>", it is encoded as the letters that it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from ablate.data.dialogues import Messages, Turns
from ablate.data.templates import TEMPLATE_ERRORS, frozen, rendered
from ablate.errors import UserError

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
PRIVATE_USE = range(0xF0000, 0xFFFFE)  # Unicode's plane 15, whose characters mean nothing by themselves
TOKEN_LETTERS = 100  # a text with more characters than this per token of a limit is beyond it, and is not encoded to find out


def prepare(tokenizer: PreTrainedTokenizerBase, where: object, template: str | None = None) -> PreTrainedTokenizerBase:
    """Fill in what a tokenizer lacks, and return it. No token is new, so the embedding keeps its size.

    A missing pad becomes the end token, since pads only stand where a mask is False. A missing chat template becomes `template`, else
    DEFAULT_TEMPLATE, after the beginning token where the tokenizer itself puts one; one that asks for today's date gets a fixed one.
    Raises UserError where there is no end token, and for a template that reads the clock in another way.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer in {where} has no end token, so no response could end: set eos_token in its tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.chat_template is None:
        tokenizer.chat_template = template or ("{{ bos_token }}" if beginning(tokenizer) else "") + DEFAULT_TEMPLATE
    elif isinstance(tokenizer.chat_template, dict):  # several by name, as older models have them
        tokenizer.chat_template = {name: frozen(text, where) for name, text in tokenizer.chat_template.items()}
    else:
        tokenizer.chat_template = frozen(tokenizer.chat_template, where)
    return tokenizer


def beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """[bos] where the tokenizer puts that token before a text by itself, else []."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("")["input_ids"][:1] == [bos] else []


def spellings(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """How the special tokens are spelt, and the template's marks of turns, which are not special everywhere."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return list(dict.fromkeys([*added, *tokenizer.all_special_tokens, *turn_marks(tokenizer)]))


def turn_marks(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Added tokens that are not special and that the chat template puts around turns, as DeepSeek's "<｜User｜>" is."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if not token.special]
    if not added or tokenizer.chat_template is None:
        return []
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
    try:
        text = rendered(tokenizer, [turns])[0]
    except TEMPLATE_ERRORS:
        return []
    return [name for name in added if name.strip() and name in text]


def one_of(names: Sequence[str]) -> re.Pattern[str]:
    """What finds any of the names in a text, longer ones first, and nothing where there is no name."""
    return re.compile("|".join(map(re.escape, sorted(filter(None, names), key=len, reverse=True))) or r"(?!)")


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], **how) -> list[list[int]]:
    """Token ids per text, as it stands. Raises UserError where the tokenizer lacks a word of it and has no unknown token."""
    try:
        return tokenizer(list(texts), add_special_tokens=False, **how)["input_ids"] if len(texts) else []
    except Exception as error:
        if type(error) is not Exception:  # the library `tokenizers` raises no other kind
            raise
        raise UserError(
            f"the tokenizer cannot encode a text of the data, {unknown(tokenizer, texts)} ({error}): write it in words that the tokenizer "
            "knows, or name a model whose tokenizer knows any text"
        ) from error


def unknown(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> str:
    """The first word that the tokenizer, which has no unknown token, lacks, in quotes and cut to forty characters."""
    known = tokenizer.get_vocab()
    return next((ascii(word[:40]) for text in texts for word in text.split() if word not in known), "an empty text")


def encode_plain(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids per text, in which the spelling of a special token is text like any other.

    A tokenizer of whole words knows no other way to write one: see `unwritable`.
    """
    named, rows = one_of(spellings(tokenizer)), encode(tokenizer, texts)
    for i, text in enumerate(texts):
        if named.search(text):
            rows[i] = letters(tokenizer, text)
    return rows


def letters(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text without special tokens. What the tokenizer cuts out though it is not special is encoded in two parts."""
    cut = one_of(turn_marks(tokenizer))
    parts = []
    for part in re.split(f"({cut.pattern})", text):
        parts += [part[:1], part[1:]] if cut.fullmatch(part) else [part]
    return [token for ids in encode(tokenizer, [part for part in parts if part], split_special_tokens=True) for token in ids]


def unwritable(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """What finds the spelling of a special token that this tokenizer cannot write as plain text, as one of whole words cannot."""
    names = spellings(tokenizer)
    plain = [letters(tokenizer, name) for name in names]
    return one_of([name for name, ids in zip(names, plain, strict=True) if tokenizer.convert_tokens_to_ids(name) in ids])


def encode_turns(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Turns]) -> list[list[int]]:
    """Token ids per prompt, up to and with the mark before the response. Raises UserError where the chat template refuses a prompt."""
    turns = [[{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt for prompt in prompts]
    named = one_of(spellings(tokenizer))
    marked = [marked_messages(messages, named) for messages in turns]
    try:
        texts = rendered(tokenizer, [messages for messages, _ in marked], add_generation_prompt=True)
    except TEMPLATE_ERRORS as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"the tokenizer's chat template refuses a prompt of the data ({reason}): change the template or the data"
        ) from error
    rows = encode(tokenizer, texts)
    for i, (_, marks) in enumerate(marked):
        if marks:
            parts = re.split(f"([{''.join(marks)}])", texts[i])
            plain = encode_plain(tokenizer, [marks[part] for part in parts[1::2]])
            between = [encode(tokenizer, [part])[0] if part else [] for part in parts[0::2]]
            rows[i] = between[0] + [token for name, rest in zip(plain, between[1:], strict=True) for token in name + rest]
    return rows


def marked_messages(messages: Messages, named: re.Pattern[str]) -> tuple[Messages, dict[str, str]]:
    """(messages, mark → spelling): each special token that a message spells becomes a character for private use, which no message holds.

    Then the chat template can be told from the text that it was given.
    """
    found = dict.fromkeys(name for message in messages for name in named.findall(message["content"]))
    if not found:
        return messages, {}
    free = (mark for mark in map(chr, PRIVATE_USE) if not any(mark in message["content"] for message in messages))
    marks = dict(zip(found, free, strict=False))
    changed = [{**message, "content": named.sub(lambda spelt: marks[spelt[0]], message["content"])} for message in messages]
    return changed, {mark: name for name, mark in marks.items()}


def encode_dialogues(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Turns], responses: Sequence[str], ended: Sequence[bool]
) -> list[tuple[list[int], int]]:
    """(token ids of prompt and response, how many of them are the prompt's) per dialogue. Without `ended`, no end token is added."""
    turns = encode_turns(tokenizer, prompts)
    answers = encode_plain(tokenizer, responses)
    end = [tokenizer.eos_token_id]
    return [(turn + answer + end * whole, len(turn)) for turn, answer, whole in zip(turns, answers, ended, strict=True)]


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], limit: int | None = None) -> list[list[int]]:
    """Token ids per plain text, opened as the tokenizer does, closed by the end token, and cut to `limit` tokens.

    Of a longer text no more than TOKEN_LETTERS characters per token are encoded.
    """
    opening, end = beginning(tokenizer), [tokenizer.eos_token_id]
    if limit is not None:
        texts = [text[: limit * TOKEN_LETTERS] for text in texts]
    return [(opening + ids + end)[:limit] for ids in encode_plain(tokenizer, texts)]


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
