"""Human dialogues and preferences, a row at a time: the formats of HH-RLHF, MOSS-RLHF and plain JSONL → Example. Pure functions."""

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
    """Why a row is no example of its format."""


@dataclass(frozen=True)
class HumanPrompt:
    """The turns of a dialogue up to the user's last; `kind` is what evaluations are split by."""

    messages: tuple[Turn, ...]
    kind: str

    @property
    def turns(self) -> Turns:
        """As `ablate.data.chat` takes it."""
        if len(self.messages) == 1:
            return self.messages[0][1]
        return [{"role": role, "content": text} for role, text in self.messages]

    @property
    def text(self) -> str:
        """As people read it."""
        return self.messages[0][1] if len(self.messages) == 1 else transcript(self.messages)


@dataclass(frozen=True)
class Example:
    """A prompt with what the row has of answers: none, a demonstration (`chosen`), or a pair."""

    prompt: HumanPrompt
    chosen: str | None = None
    rejected: str | None = None


def transcript(messages: Sequence[Turn]) -> str:
    """A dialogue as plain text, as the default chat template renders it."""
    return "\n\n".join(f"{SHOWN[role]}:\n{text}" if role in HH_ROLES.values() else text for role, text in messages)


def prompt_of(messages: Sequence[Turn], kind: str) -> HumanPrompt:
    """Check the turns of a prompt; turns of one side in a row become one, since chat templates want them to alternate."""
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
    """Check the answers, stripped of space around them."""
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
    """MOSS-RLHF: a list of turns from the human's on (odd: a prompt; even: with a demonstration), or two of them as a pair."""
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
    if not isinstance(value, list) or not value or not all(isinstance(turn, str) for turn in value):
        raise Malformed("no list of turns")
    return value


def alternating(turns: list[str]) -> list[Turn]:
    return [(("user", "assistant")[i % 2], text) for i, text in enumerate(turns)]


def parse_generic(row: object, kind: str) -> Example:
    """`prompt`, `chosen`, `rejected`, each a text or messages, or `messages` alone; the row's own `kind` comes first."""
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
    """A text as one user turn, or a list of messages."""
    if isinstance(value, str):
        return [("user", value)]
    if not isinstance(value, list) or not value:
        raise Malformed("neither a text nor a list of messages")
    for message in value:
        if not isinstance(message, dict) or message.get("role") not in SHOWN or not isinstance(message.get("content"), str):
            raise Malformed("a message without a role (user, assistant, system) and a text")
    return [(message["role"], message["content"]) for message in value]


def text_of(row: object, name: str) -> str:
    if not isinstance(row, dict) or not isinstance(row.get(name), str):
        raise Malformed(f"no text `{name}`")
    text = row[name]
    return text if text.startswith("\n\n") else "\n\n" + text.lstrip("\n")


def parse_hub(row: object, kind: str) -> Example:
    """A row of a hub data set: HH-RLHF's dialogues, where there is no prompt and `chosen` is a text; else generic."""
    whole = isinstance(row, dict) and "prompt" not in row and isinstance(row.get("chosen"), str)
    return parse_hh(row, kind) if whole else parse_generic(row, kind)


PARSERS: dict[str, Callable[[object, str], Example]] = {
    "hh_rlhf": parse_hh,
    "moss": parse_moss,
    "jsonl": parse_generic,
    "hub": parse_hub,
}
