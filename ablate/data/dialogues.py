"""One row of human data → Example, in the formats of HH-RLHF, MOSS-RLHF, JSONL of many forms, and the hub. Pure functions.

A parser takes a decoded row and the kind of its prompt. It raises Malformed for a row that is no example of its format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

Messages = list[dict[str, str]]  # `role` and `content` of each
Turns = str | Messages
Turn = tuple[str, str]  # role, text
HH_TURN = re.compile(r"\n\n(Human|Assistant):")
HH_ROLES = {"Human": "user", "Assistant": "assistant"}
# Meaning → the names that people give its column in JSONL, Alpaca's, Orca's, ShareGPT's, TRL's and UltraFeedback's rows.
COLUMNS = {
    "prompt": ("prompt", "question", "query", "instruction"),
    "chosen": ("chosen", "chosen_response", "completion", "response", "output"),
    "rejected": ("rejected", "rejected_response"),
    "dialogue": ("messages", "conversations", "conversation"),
    "system": ("system", "system_prompt"),
}
READ = frozenset({*(name for names in COLUMNS.values() for name in names), "input", "kind", "label"})
HH_COLUMNS = frozenset({"chosen", "rejected"})
# Columns by whose name a row may mean something else, and parts of names of what is only said about a row.
MEANING = re.compile(
    r"system|instruct|prompt|question|query|^input|^output|respon|answer|complet|repl(y|ies)|reject|chosen|accepted|label|prefer|winner"
    r"|better|worse|choice|rank|message|conversation|dialog|transcript|histor|context|turn|tool|function|image|audio|video|document"
    r"|passage|article|think|reasoning|weight|^text|target|persona|human|assistant|^gpt"
    r"|positive|negative|^good|^bad|quality|correct|swap|flip|invert|vote"
)
ABOUT = re.compile(
    r"(^|_)(ids?|uid|scores?|ratings?|models?|source|sources|len|lengths?|tokens?|count|num|hash|type|lang|language|category|url|date|time"
    r"|timestamp|logps?|margin|name|version|split|dataset|perplexity|avg|annotator|annotators|policy)(_|$)"
)
ROLES = {
    "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant",
    "system": "system",
}  # fmt: skip
MESSAGE_EXTRAS = {"tool_calls", "function_call", "tools", "weight", "reasoning_content", "thinking", "images", "audio", "label"}
WRITTEN_MESSAGES = re.compile(r"""\s*\[?\s*\{\s*["'](role|from)["']\s*:""")
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
    if isinstance(row, dict):
        check_columns(row, HH_COLUMNS)
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
    return example(prompt_of(hh_turns(parts), kind), chosen, rejected)


def parse_moss(row: object, kind: str) -> Example:
    """MOSS-RLHF: a list of turns that begins with the human's, or lists `chosen` and `rejected` that differ in the last turn.

    A list of odd length is a prompt. One of even length ends with a demonstration.
    """
    if isinstance(row, dict):
        check_columns(row, HH_COLUMNS)
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
    """JSONL in the forms that people share: a prompt, answers, or whole dialogues, under the names of COLUMNS.

    Texts or messages (`role` and `content`, or ShareGPT's `from` and `value`). `kind` of the row comes first, `system` opens the dialogue,
    and `input` (Alpaca) follows the instruction after a line break. HH-RLHF's transcripts are split into their turns. A dialogue beside
    a prompt or chosen must agree with them. Raises Malformed, also for a column that is not read and may change what the row means.
    """
    if not isinstance(row, dict):
        raise Malformed("no JSON object")
    check_columns(row, READ)
    kind = row["kind"] if isinstance(row.get("kind"), str) else kind
    found = {meaning: column(row, names) for meaning, names in COLUMNS.items()}
    if row.get("label") is not None and (row["label"] is not True or found["rejected"] is not None):
        refuse("label", "says that this answer is no demonstration, or means something else")
    if isinstance(found["chosen"], str) and found["prompt"] is found["dialogue"] is None and not row.get("input"):
        if found["system"]:
            refuse("system", "cannot open a transcript")
        return parse_hh({name: found[name] for name in ("chosen", "rejected")}, kind)
    prompt = with_input(found["prompt"], row.get("input"))
    given = None if prompt is None else prompt_turns(prompt)
    if found["dialogue"] is not None:
        given, found["chosen"] = joined(messages_of(found["dialogue"]), given, found["chosen"])
    if found["chosen"] is None:
        if found["rejected"] is not None:
            raise Malformed("rejected without chosen")
        if given is None:
            raise Malformed("neither prompt, chosen and rejected, nor messages")
        return Example(prompt_of(opened(found["system"], given), kind))
    sides = [answer_of(found[name], given, name) for name in ("chosen", "rejected") if found[name] is not None]
    if any(prompt != sides[0][0] for prompt, _ in sides):
        raise Malformed("chosen and rejected have different prompts")
    return example(prompt_of(opened(found["system"], sides[0][0]), kind), sides[0][1], sides[1][1] if len(sides) == 2 else None)


def check_columns(row: dict, known: frozenset[str]) -> None:
    """Raises Malformed for a column that is filled, not among the known ones, and by its name may change what the row means."""
    for name, value in row.items():
        meant = name not in known and MEANING.search(name.lower()) and not ABOUT.search(name.lower())
        if meant and value is not None and value not in ("", [], {}):
            refuse(name, "is not read and may change what the row means: rename or remove it")


def refuse(name: str, reason: str) -> NoReturn:
    """Raises Malformed with the column's name, in ASCII and cut to forty characters."""
    raise Malformed(f"the column `{ascii(name)[1:-1][:40]}` {reason}")


def column(row: dict, names: tuple[str, ...]) -> object:
    """What the row holds under one of the names, None where it holds nothing. Raises Malformed where two of them differ."""
    filled = [name for name in names if row.get(name) is not None]
    for name in filled[1:]:
        if row[name] != row[filled[0]]:
            refuse(name, f"differs from `{filled[0]}`")
    return row[filled[0]] if filled else None


def with_input(prompt: object, more: object) -> object:
    """Alpaca's instruction with its `input`, where there is one."""
    if more is None or more == "":
        return prompt
    if not isinstance(prompt, str) or not isinstance(more, str):
        refuse("input", "is no text that follows an instruction")
    return f"{prompt}\n{more}"


def prompt_turns(value: object) -> list[Turn]:
    """The turns of a prompt: messages, a text, or HH-RLHF's transcript up to the mark of the answer. Raises Malformed."""
    if not isinstance(value, str):
        return messages_of(value)
    text = unix(value)
    if not HH_TURN.search("\n\n" + text.lstrip()):
        return messages_of(text)
    before, *parts = HH_TURN.split(("\n\n" + text.lstrip()).rstrip().removesuffix("\n\nAssistant:"))
    if before.strip() or len(parts) < 2:
        refuse("prompt", "holds a transcript that does not begin with the human's turn")
    return hh_turns(parts)


def joined(dialogue: list[Turn], given: list[Turn] | None, chosen: object) -> tuple[list[Turn], object]:
    """(prompt, chosen) of a row with a whole dialogue. Raises Malformed where prompt or chosen, if given, do not agree with it."""
    if given is not None and dialogue[0][0] == "assistant":
        dialogue = given + dialogue
    elif given is not None and not within(given, dialogue):
        raise Malformed("the messages do not hold the prompt")
    *before, (role, answer) = dialogue
    if role != "assistant":
        return dialogue, chosen
    if not before:
        raise Malformed("the dialogue does not begin with the human's turn")
    if chosen is not None and answer_of(chosen, before, "chosen")[1].strip() != answer.strip():
        raise Malformed("the messages differ from prompt and chosen")
    return before, {"role": role, "content": answer}


def within(part: list[Turn], whole: list[Turn]) -> bool:
    """Whether turns stand in a dialogue one after another, apart from blanks around them."""
    one, other = ([(role, text.strip()) for role, text in turns] for turns in (part, whole))
    return any(other[i : i + len(one)] == one for i in range(len(other)))


def opened(system: object, turns: list[Turn]) -> list[Turn]:
    """The turns after the row's `system` text. Raises Malformed where it is no text, or the turns open with another."""
    if system is None or system == "":
        return turns
    if not isinstance(system, str):
        refuse("system", "is no text")
    own = [text for role, text in turns if role == "system"]
    if own and own != [system]:
        refuse("system", "differs from the system message")
    return turns if own else [("system", system), *turns]


def answer_of(value: object, given: list[Turn] | None, name: str) -> tuple[list[Turn], str]:
    """(prompt, answer) of one side: a text after the given prompt, or messages that end with the answer and may repeat the prompt."""
    if isinstance(value, str):
        if given is None:
            raise Malformed("an answer without a prompt")
        if HH_TURN.search("\n\n" + unix(value).lstrip()) or WRITTEN_MESSAGES.match(value):
            refuse(name, "holds a dialogue as text, not an answer")
        return given, value
    messages = messages_of(value)
    if messages[-1][0] != "assistant":
        raise Malformed("an answer does not end with an assistant's message")
    prompt = messages[:-1] or given
    if prompt is None or (given is not None and not same_turns(prompt, given)):
        raise Malformed("an answer's messages do not repeat the prompt")
    return prompt, messages[-1][1]


def same_turns(one: list[Turn], other: list[Turn]) -> bool:
    """Whether two prompts are the same but for blanks around their turns."""
    return len(one) == len(other) and within(one, other)


def messages_of(value: object) -> list[Turn]:
    """(role, text) per message of a list, of one message, or of a text, which is one user turn. Empty system messages are left out."""
    if isinstance(value, str):
        if WRITTEN_MESSAGES.match(value):
            raise Malformed("messages are written as one text: write them as a list")
        return [("user", value)]
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not value:
        raise Malformed("neither a text nor a list of messages")
    turns = [turn for turn in map(message_of, value) if turn[0] != "system" or turn[1].strip()]
    if not turns:
        raise Malformed("a turn is empty")
    return turns


def message_of(message: object) -> Turn:
    """(role, text) of one message, whose content may be a list of blocks of text. Raises Malformed."""
    if not isinstance(message, dict):
        raise Malformed("a message without a role (user, assistant, system) and a text")
    role, content = (message.get(name) for name in (("role", "content") if "role" in message else ("from", "value")))
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise Malformed(f"a message's role is {ascii(role)[:40]}, not user, assistant or system")
    for name in MESSAGE_EXTRAS & message.keys():
        if message[name] is not None and message[name] not in ("", [], {}, 1):
            refuse(name, "of a message is not read and may change what it means: remove it")
    if isinstance(content, list) and content and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(part["text"] if isinstance(part.get("text"), str) else "" for part in content)
    if not isinstance(content, str):
        raise Malformed("a message without a role (user, assistant, system) and a text")
    return ROLES[role.lower()], content


def unix(text: str) -> str:
    """The text with line breaks of one character."""
    return text.replace("\r\n", "\n")


def hh_turns(parts: list[str]) -> list[Turn]:
    """Turns from what HH_TURN splits a transcript into: names and texts in turn."""
    return [(HH_ROLES[name], text) for name, text in zip(parts[0::2], parts[1::2], strict=True)]


def text_of(row: object, name: str) -> str:
    """The dialogue `name` of a row, with the blank line that comes before every turn."""
    if not isinstance(row, dict) or not isinstance(row.get(name), str):
        raise Malformed(f"no text `{name}`")
    text = unix(row[name])
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
