"""Random mutations of rows and files in every format: the right dialogues, rows counted as malformed, or one UserError. Never another end.

What a row means is told apart from the parsers: each answer of the unharmed row holds a word of its own, "GOOD" for what people preferred
and "BAD" for what they rejected, so a demonstration that holds "BAD" is a wrong one, however the row was changed.
"""

from __future__ import annotations

import copy
import gzip
import itertools
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from ablate.config import DataConfig
from ablate.data import files
from ablate.data.dialogues import PARSERS, Example, Malformed
from ablate.data.files import read_table
from ablate.errors import UserError
from ablate.pipeline.preferences import read

ROWS_TRIED, FILES_TRIED = 30_000, 600


def messages(*texts: str, names: tuple[str, str] = ("role", "content"), roles: tuple[str, str] = ("user", "assistant")) -> list[dict]:
    return [{names[0]: roles[i % 2], names[1]: text} for i, text in enumerate(texts)]


SHAREGPT = {"names": ("from", "value"), "roles": ("human", "gpt")}
HH = "\n\nHuman: ask\n\nAssistant: so\n\nHuman: more\n\nAssistant: "
FORMATS: dict[str, tuple[str, object]] = {
    "hh_rlhf": ("hh_rlhf", {"chosen": HH + "GOOD", "rejected": HH + "BAD"}),
    "hh as hub": ("hub", {"chosen": HH + "GOOD", "rejected": HH + "BAD"}),
    "moss pair": ("moss", {"chosen": ["ask", "so", "more", "GOOD"], "rejected": ["ask", "so", "more", "BAD"]}),
    "moss turns": ("moss", ["ask", "so", "more", "GOOD"]),
    "texts": ("jsonl", {"prompt": "ask", "chosen": "GOOD", "rejected": "BAD", "kind": "helpful"}),
    "messages": ("jsonl", {"messages": messages("ask", "so", "more", "GOOD")}),
    "ultrafeedback": ("jsonl", {
        "prompt": "ask", "prompt_id": "1", "chosen": messages("ask", "GOOD"), "rejected": messages("ask", "BAD"),
        "messages": messages("ask", "GOOD"), "score_chosen": 8.5, "score_rejected": 2.0,
    }),
    "sharegpt": ("jsonl", {"conversations": messages("ask", "so", "more", "GOOD", **SHAREGPT)}),
    "sharegpt pair": ("jsonl", {
        "conversations": messages("ask", **SHAREGPT), "chosen": {"from": "gpt", "value": "GOOD"},
        "rejected": {"from": "gpt", "value": "BAD"},
    }),
    "alpaca": ("jsonl", {"instruction": "ask", "input": "more", "output": "GOOD"}),
    "orca": ("jsonl", {"system": "be kind", "question": "ask", "chosen": "GOOD", "rejected": "BAD"}),
    "dahoas": ("jsonl", {"prompt": HH.rstrip(), "response": " GOOD", "chosen": " GOOD", "rejected": " BAD"}),
    "kto": ("jsonl", {"prompt": "ask", "completion": "GOOD", "label": True}),
}  # fmt: skip
ODD = (
    None, True, False, 0, -1, 1.5, float("nan"), float("inf"), 10**30, "", " ", "\n\nHuman: ", "\n\nAssistant: x", "<eos>", "\ud83d",
    "\x00", "\u2028", "\x85", "\ufeff", [], {}, [[]], [None], ["ask"], [["ask"]], {"role": "user"}, {"role": ["user"], "content": "x"},
    {"role": "assistant", "content": "x"}, {"role": "tool", "content": "x"}, {"content": "x"}, {"from": "human", "value": None},
    [{"role": "system", "content": "x"}], "x" * 2000,
)  # fmt: skip
COLUMNS = (
    "prompt", "chosen", "rejected", "messages", "conversations", "system", "label", "response", "rejected_response", "history", "input",
    "output", "instruction", "question", "answer", "kind", "tools", "score", "id", "winner", "completion",
)  # fmt: skip


def places(value: object, path: tuple = ()) -> list[tuple]:
    """Where something stands within a row: paths of keys and indices."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, entry in items for place in places(entry, (*path, key)))]


def mutated(row: object, rng: random.Random) -> tuple[object, bool]:
    """A copy with one change: a value replaced, removed, doubled or moved to another name, a column added, or a deep value put in.

    The second value says whether an answer may have moved to where another meaning is.
    """
    row = copy.deepcopy(row)
    path = rng.choice(places(row)[1:])
    holder = row
    for key in path[:-1]:
        holder = holder[key]  # type: ignore[index]
    key, change = path[-1], rng.randrange(7)
    if change == 0:
        holder[key] = copy.deepcopy(rng.choice(ODD))
    elif change == 1:
        del holder[key]
    elif change == 2 and isinstance(holder, dict):
        holder[rng.choice(COLUMNS)] = holder.pop(key)
    elif change == 3 and isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(rng.choice((holder[key], *ODD))))
    elif change == 4 and isinstance(row, dict):
        row[rng.choice(COLUMNS)] = copy.deepcopy(rng.choice(ODD))
    elif change == 5 and isinstance(holder[key], str):
        at = rng.randrange(len(holder[key]) + 1)
        holder[key] = holder[key][:at] + rng.choice([odd for odd in ODD if isinstance(odd, str)]) + holder[key][at:]
    else:
        deep: object = "x"
        for _ in range(rng.choice((3, 50))):
            deep = [deep]
        holder[key] = deep
    return row, change in (2, 3)


def check(example: Example, row: object = None, moved: bool = False) -> None:
    """What every example must be; and unless the change moved an answer, nothing rejected is a demonstration or in a prompt."""
    roles = [role for role, _ in example.prompt.messages]
    spoken = [role for role in roles if role != "system"]
    assert spoken and spoken[0] == spoken[-1] == "user" and set(roles) <= {"user", "assistant", "system"}
    assert all(one != other for one, other in itertools.pairwise(roles))
    turns = [text for _, text in example.prompt.messages]
    assert all(isinstance(text, str) and text.strip() for text in [*turns, example.chosen or "x", example.rejected or "x"])
    assert "" not in (example.chosen, example.rejected)
    assert example.rejected is None or (example.chosen is not None and example.chosen != example.rejected)
    if not moved:
        assert not any("BAD" in text for text in [*turns, example.chosen or ""])
    if isinstance(row, dict):
        label = row.get("label")
        assert label in (None, "", [], {}) or (label is True and example.rejected is None)
        assert row.get("system") != "be kind" or ("system", "be kind") in example.prompt.messages
        assert not row.get("history") and not row.get("tools") and not row.get("winner")


@pytest.mark.parametrize("name", FORMATS)
def test_the_unharmed_row_of_each_format_is_an_example(name):
    source, row = FORMATS[name]
    example = PARSERS[source](row, "any")
    check(example)
    assert example.chosen == "GOOD" and example.rejected in ("BAD", None)


def test_mutated_rows_are_examples_or_malformed():
    rng, ends = random.Random(0), Counter()
    for i in range(ROWS_TRIED):
        source, row = FORMATS[list(FORMATS)[i % len(FORMATS)]]
        moved = False
        for _ in range(rng.choice((1, 1, 2))):
            row, change = mutated(row, rng) if len(places(row)) > 1 else (row, False)
            moved = moved or change
        try:
            check(PARSERS[source](row, "any"), row, moved)
            ends["read"] += 1
        except Malformed as error:
            assert str(error).isprintable() and len(str(error)) < 300
            ends["malformed"] += 1
    print(f"rows tried: {ROWS_TRIED:,} ({dict(ends)})")
    assert min(ends["read"], ends["malformed"]) > ROWS_TRIED // 20
    assert sum(ends.values()) == ROWS_TRIED


def harmed(data: bytes, rng: random.Random) -> bytes:
    """The bytes of a file with one of: a byte changed, a part lost, its end lost, a part doubled, a mark or a separator put in."""
    at, end = sorted((rng.randrange(len(data)), rng.randrange(len(data))))
    odd = (b"\n", b"\r", b"\x85", b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"\x00", b"\xff", b"[" * 3000, b'"\\ud83d"', b"{}", b"\n\n\n", b"[")
    return rng.choice(
        (data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :], data[:at] + data[end:], data[:at], data[:end] + data[at:],
         data[:at] + rng.choice(odd) + data[at:], rng.choice(odd) + data)
    )  # fmt: skip


def test_harmed_files_are_read_or_refused_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LONGEST_LINE", 10_000)
    rng, ends = random.Random(1), Counter()
    for i in range(FILES_TRIED):
        source, row = FORMATS[list(FORMATS)[i % len(FORMATS)]]
        source = "jsonl" if source == "hub" else source
        share = rng.choice((0.0, 0.0, 0.1))
        rows = [mutated(row, rng)[0] if rng.random() < share else row for _ in range(40)]
        form = rng.choice((".jsonl", ".json", ".jsonl.gz", ".json.gz"))
        array = form.startswith(".json.") or form == ".json"
        text = json.dumps(rows, indent=rng.choice((None, 1))) if array else "".join(json.dumps(row) + "\n" for row in rows)
        data = harmed(text.encode(), rng) if rng.random() < 0.7 else text.encode()
        if form.endswith(".gz"):
            data = gzip.compress(data, 1)
            data = harmed(data, rng) if rng.random() < 0.5 else data
        path = tmp_path / f"rows-{i}{form}"
        path.write_bytes(data)
        ends[outcome(DataConfig(source=source, path=str(path), max_malformed=rng.choice((0.05, 1.0))))] += 1
        if not array and not form.endswith(".gz"):
            ends[pairs_outcome(path)] += 1
    print(f"files tried: {FILES_TRIED:,} ({dict(ends)})")
    assert min(ends["read"], ends["refused"]) > FILES_TRIED // 20


def outcome(data: DataConfig) -> str:
    """`read` or `refused`; every row is an example or counted, and the sentence names the file."""
    try:
        table = read_table(data)
    except UserError as error:
        assert str(data.path) in str(error) and "\n" not in str(error)
        return "refused"
    assert table.rows == len(table.examples) + len(table.malformed) and len(table.malformed) <= data.max_malformed * table.rows
    for example in table.examples:
        check(example, moved=True)
    return "read"


def pairs_outcome(path: Path) -> str:
    """`pairs read` or `pairs refused`, for a file that `preferences.path` would name."""
    try:
        rows = read(path)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return "pairs refused"
    assert rows and all(row["chosen"]["response"] != row["rejected"]["response"] for row in rows)
    return "pairs read"
