"""One row of human data → Example, in the formats of HH-RLHF, MOSS-RLHF, plain JSONL and the hub. Pure functions.

A parser takes a decoded row and the kind of its prompt. It raises Malformed for a row that is no example of its format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ablate.data.chat import Turns

Turn = tuple[str, str]  # role, text
HH_TURN = re.compile(r"\n\n(Human|Assistant):")
HH_ROLES = {"Human": "user", "Assistant": "assistant"}
SHOWN = {"user": "Human", "assistant": "Assistant", "system": "System"}


class Malformed(ValueError):
    """A row is no example of its format; the text says why."""


@dataclass(frozen=True)
class HumanPrompt:
    """The turns of a dialogue up to the user's last; `kind` is what evaluations are split by."""

    messages: tuple[Turn, ...]
    kind: str

    @property
    def turns(self) -> Turns:
        """The prompt as `ablate.data.chat` takes it."""
        if len(self.messages) == 1:
            return self.messages[0][1]
        return [{"role": role, "content": text} for role, text in self.messages]

    @property
    def text(self) -> str:
        """The prompt as people read it."""
        return self.messages[0][1] if len(self.messages) == 1 else transcript(self.messages)


@dataclass(frozen=True)
class Example:
    """A prompt with the answers of its row: none, a demonstration (`chosen`), or a pair."""

    prompt: HumanPrompt
    chosen: str | None = None
    rejected: str | None = None


def transcript(messages: Sequence[Turn]) -> str:
    """A dialogue as plain text, as the default chat template renders it."""
    return "\n\n".join(f"{SHOWN[role]}:\n{text}" if role in HH_ROLES.values() else text for role, text in messages)


def prompt_of(messages: Sequence[Turn], kind: str) -> HumanPrompt:
    """The prompt of these turns. Successive turns of one role become one, since chat templates want roles to alternate.

    Raises Malformed for an empty turn, and where the first turn or the last, apart from the system's, is not the human's.
    """
    merged: list[Turn] = []
    for role, text in messages:
        if not text.strip():
            raise Malformed("a turn is empty")
        if merged and merged[-1][0] == role:
            text = f"{merged.pop()[1]}\n\n{text.strip()}"
        merged.append((role, text.strip()))
    roles = [role for role, _ in merged if role != "system"]
    if not roles or roles[0] != "user":
        raise Malformed("the dialogue does not begin with the human's turn")
    if roles[-1] != "user":
        raise Malformed("the prompt does not end with the human's turn")
    return HumanPrompt(tuple(merged), kind)


def example(prompt: HumanPrompt, chosen: str, rejected: str | None) -> Example:
    """The example with stripped answers. Raises Malformed for an empty answer, and for two equal ones."""
    chosen, rejected = chosen.strip(), None if rejected is None else rejected.strip()
    if not chosen or rejected == "":
        raise Malformed("an answer is empty")
    if chosen == rejected:
        raise Malformed("chosen and rejected are the same")
    return Example(prompt, chosen, rejected)


def parse_hh(row: object, kind: str) -> Example:
    """HH-RLHF: `chosen` and `rejected` are whole dialogues that share everything before their last Assistant turn."""
    sides = [text_of(row, name) for name in ("chosen", "rejected")]
    cuts = [side.rfind("\n\nAssistant:") for side in sides]
    if min(cuts) < 0:
        raise Malformed("a dialogue has no Assistant turn")
    prompts = [side[:cut] for side, cut in zip(sides, cuts, strict=True)]
    if prompts[0] != prompts[1]:
        raise Malformed("chosen and rejected have different prompts")
    chosen, rejected = (side[cut + len("\n\nAssistant:") :] for side, cut in zip(sides, cuts, strict=True))
    if HH_TURN.search(chosen) or HH_TURN.search(rejected):
        raise Malformed("a dialogue does not end with an Assistant turn")
    before, *parts = HH_TURN.split(prompts[0])
    if before.strip() or not parts:
        raise Malformed("the dialogue does not begin with the human's turn")
    turns = [(HH_ROLES[name], text) for name, text in zip(parts[0::2], parts[1::2], strict=True)]
    return example(prompt_of(turns, kind), chosen, rejected)


def parse_moss(row: object, kind: str) -> Example:
    """MOSS-RLHF: a list of turns that begins with the human's, or lists `chosen` and `rejected` that differ in the last turn.

    A list of odd length is a prompt. One of even length ends with a demonstration.
    """
    if isinstance(row, dict):
        chosen, rejected = turns_of(row.get("chosen")), turns_of(row.get("rejected"))
        if chosen[:-1] != rejected[:-1]:
            raise Malformed("chosen and rejected have different prompts")
        return example(prompt_of(alternating(chosen[:-1]), kind), chosen[-1], rejected[-1])
    turns = turns_of(row)
    if len(turns) % 2:
        return Example(prompt_of(alternating(turns), kind))
    return example(prompt_of(alternating(turns[:-1]), kind), turns[-1], None)


def turns_of(value: object) -> list[str]:
    """The value, checked to be a list of texts."""
    if not isinstance(value, list) or not value or not all(isinstance(turn, str) for turn in value):
        raise Malformed("no list of turns")
    return value


def alternating(turns: list[str]) -> list[Turn]:
    """(role, text) per turn, the human's first."""
    return [(("user", "assistant")[i % 2], text) for i, text in enumerate(turns)]


def parse_generic(row: object, kind: str) -> Example:
    """JSONL: `prompt`, `chosen` and `rejected`, each a text or messages, or `messages` alone. The row's own `kind` comes first."""
    if not isinstance(row, dict):
        raise Malformed("no JSON object")
    kind = row["kind"] if isinstance(row.get("kind"), str) else kind
    if "messages" in row:
        messages = messages_of(row["messages"])
        if messages[-1][0] != "assistant":
            return Example(prompt_of(messages, kind))
        return example(prompt_of(messages[:-1], kind), messages[-1][1], None)
    given = messages_of(row["prompt"]) if "prompt" in row else None
    sides = [answer_of(row[name], given) for name in ("chosen", "rejected") if row.get(name) is not None]
    if not sides:
        if given is None:
            raise Malformed("neither prompt, chosen and rejected, nor messages")
        return Example(prompt_of(given, kind))
    if "chosen" not in row or any(prompt != sides[0][0] for prompt, _ in sides):
        raise Malformed("chosen and rejected have different prompts" if "chosen" in row else "rejected without chosen")
    return example(prompt_of(sides[0][0], kind), sides[0][1], sides[1][1] if len(sides) == 2 else None)


def answer_of(value: object, given: list[Turn] | None) -> tuple[list[Turn], str]:
    """(prompt, answer) of one side: a text after the given prompt, or messages that end with the answer and may repeat the prompt."""
    if isinstance(value, str):
        if given is None:
            raise Malformed("an answer without a prompt")
        return given, value
    messages = messages_of(value)
    if messages[-1][0] != "assistant":
        raise Malformed("an answer does not end with an assistant's message")
    prompt = messages[:-1] or given
    if prompt is None or (given is not None and prompt != given):
        raise Malformed("an answer's messages do not repeat the prompt")
    return prompt, messages[-1][1]


def messages_of(value: object) -> list[Turn]:
    """(role, text) per message of a list, or of a text, which is one user turn."""
    if isinstance(value, str):
        return [("user", value)]
    if not isinstance(value, list) or not value:
        raise Malformed("neither a text nor a list of messages")
    for message in value:
        if not isinstance(message, dict) or message.get("role") not in SHOWN or not isinstance(message.get("content"), str):
            raise Malformed("a message without a role (user, assistant, system) and a text")
    return [(message["role"], message["content"]) for message in value]


def text_of(row: object, name: str) -> str:
    """The dialogue `name` of a row, with the blank line that comes before every turn."""
    if not isinstance(row, dict) or not isinstance(row.get(name), str):
        raise Malformed(f"no text `{name}`")
    text = row[name]
    return text if text.startswith("\n\n") else "\n\n" + text.lstrip("\n")


def parse_hub(row: object, kind: str) -> Example:
    """A hub data set: as HH-RLHF where a row has no `prompt` and its `chosen` is a text, else as JSONL."""
    whole = isinstance(row, dict) and "prompt" not in row and isinstance(row.get("chosen"), str)
    return parse_hh(row, kind) if whole else parse_generic(row, kind)


PARSERS: dict[str, Callable[[object, str], Example]] = {
    "hh_rlhf": parse_hh,
    "moss": parse_moss,
    "jsonl": parse_generic,
    "hub": parse_hub,
}
