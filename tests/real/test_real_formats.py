"""The forms in which people share rows, each read as it is meant or refused by the name of the column; and files of odd shapes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from families import hh_rows, write_lines

from ablate.config import DataConfig
from ablate.data import files
from ablate.data.dialogues import Example, HumanPrompt, Malformed, parse_generic, parse_hh, parse_moss
from ablate.data.files import content_key, read_table
from ablate.data.human import HumanSource, train_bpe
from ablate.errors import UserError

ONE = HumanPrompt((("user", "a ?"),), "any")
KIND = HumanPrompt((("system", "be kind"), ("user", "a ?")), "any")
THREE = HumanPrompt((("user", "a ?"), ("assistant", "b"), ("user", "c ?")), "any")
USER, YES, NO = ({"role": role, "content": text} for role, text in (("user", "a ?"), ("assistant", "yes"), ("assistant", "no")))
HUMAN, GPT = {"from": "human", "value": "a ?"}, {"from": "gpt", "value": "yes"}
PAIR = Example(ONE, "yes", "no")

READ = {
    "alpaca": ({"instruction": "a ?", "input": "", "output": "yes"}, Example(ONE, "yes")),
    "alpaca, input": (
        {"instruction": "add", "input": "1 and 2", "output": "3"}, Example(HumanPrompt((("user", "add\n1 and 2"),), "any"), "3")
    ),
    "alpaca, pairs": ({"instruction": "a ?", "input": None, "chosen": "yes", "rejected": "no"}, PAIR),
    "orca": ({"system": "be kind", "question": "a ?", "chosen": "yes", "rejected": "no"}, Example(KIND, "yes", "no")),
    "openorca": ({"id": "7", "system_prompt": "", "question": "a ?", "response": "yes"}, Example(ONE, "yes")),
    "sharegpt": ({"id": "x", "conversations": [HUMAN, GPT]}, Example(ONE, "yes")),
    "sharegpt, prompt": ({"conversations": [{"from": "system", "value": "be kind"}, HUMAN]}, Example(KIND)),
    "sharegpt, pairs": ({"conversations": [HUMAN], "chosen": GPT, "rejected": {"from": "gpt", "value": "no"}}, PAIR),
    "ultrafeedback": (
        {"prompt": "a ?", "prompt_id": "5", "chosen": [USER, YES], "rejected": [USER, NO], "messages": [USER, YES], "score_chosen": 8.0,
         "score_rejected": 1.0}, PAIR
    ),
    "prompt beside messages": ({"prompt": "a ?", "messages": [USER, YES], "category": "QA"}, Example(ONE, "yes")),
    "prompt before messages": ({"prompt": "a ?", "messages": [YES]}, Example(ONE, "yes")),
    "null prompt": ({"prompt": None, "chosen": None, "rejected": None, "messages": [USER, YES]}, Example(ONE, "yes")),
    "trl": ({"prompt": [USER], "completion": [YES]}, Example(ONE, "yes")),
    "kto": ({"prompt": "a ?", "completion": "yes", "label": True}, Example(ONE, "yes")),
    "system": ({"system": "be kind", "messages": [USER, YES]}, Example(KIND, "yes")),
    "same system twice": (
        {"system": "be kind", "messages": [{"role": "system", "content": "be kind"}, USER, YES]}, Example(KIND, "yes")
    ),
    "empty system message": ({"messages": [{"role": "system", "content": ""}, USER, YES]}, Example(ONE, "yes")),
    "dahoas": (
        {"prompt": "\n\nHuman: a ?\n\nAssistant: b\n\nHuman: c ?\n\nAssistant:", "response": " yes", "chosen": " yes", "rejected": " no"},
        Example(THREE, "yes", "no"),
    ),
    "hh": ({side: f"\n\nHuman: a ?\n\nAssistant: {side}" for side in ("chosen", "rejected")}, Example(ONE, "chosen", "rejected")),
    "hh, crlf": (
        {side: f"\r\n\r\nHuman: a ?\r\n\r\nAssistant: {side}" for side in ("chosen", "rejected")}, Example(ONE, "chosen", "rejected")
    ),
    "rejected_response": ({"prompt": "a ?", "response": "yes", "rejected_response": "no"}, PAIR),
    "blocks": ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "?"}]}, YES]},
               Example(ONE, "yes")),
    "nan beside": ({"prompt": "a ?", "chosen": "yes", "rejected": "no", "margin": float("nan"), "tags": None}, PAIR),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_each_known_form_is_read_as_it_is_meant(name):
    row, example = READ[name]
    assert parse_generic(row, "any") == example


REFUSED = {
    "`label` says": {"prompt": "a ?", "completion": "yes", "label": False},
    "`label` says that": {"prompt": "a ?", "chosen": "yes", "rejected": "no", "label": 1},
    "`answer` is not read": {"prompt": "a ?", "answer": "yes"},
    "`response` differs from `chosen`": {"prompt": "a ?", "chosen": "yes", "response": "perhaps", "rejected": "no"},
    "`question` differs from `prompt`": {"prompt": "a ?", "question": "b ?", "chosen": "yes"},
    "`system` differs": {"system": "be rude", "messages": [{"role": "system", "content": "be kind"}, USER, YES]},
    "`system` is no text": {"system": 3, "messages": [USER, YES]},
    "`input` is no text": {"prompt": [USER], "input": "x", "chosen": "yes"},
    "`input` is no text that": {"input": "a ?", "output": "yes"},
    "`negative` is not read": {"prompt": "a ?", "positive": None, "chosen": "yes", "negative": "no"},
    "`label` of a message": {"messages": [USER, {**YES, "label": False}]},
    "`history` is not read": {"instruction": "a ?", "output": "yes", "history": [["b", "c"]]},
    "`swapped` is not read": {"prompt": "a ?", "chosen": "yes", "rejected": "no", "swapped": True},
    "`response_0` is not read": {"prompt": "a ?", "response_0": "yes", "response_1": "no", "better_response_id": 1},
    "`tools` is not read": {"messages": [USER, YES], "tools": "[{}]"},
    "`tool_calls` of a message": {"messages": [USER, {**YES, "tool_calls": [{"name": "f"}]}]},
    "`weight` of a message": {"messages": [USER, {**YES, "weight": 0}]},
    "`prompt` holds a transcript": {"prompt": "be kind\n\nHuman: a ?\n\nAssistant:", "chosen": "yes"},
    "`chosen` holds a dialogue": {"prompt": "a ?", "chosen": "\n\nHuman: a ?\n\nAssistant: yes", "rejected": "no"},
    "`rejected` holds a dialogue": {"prompt": "a ?", "chosen": "yes", "rejected": json.dumps([USER, NO])},
    "messages are written as one text": {"prompt": str([USER]), "chosen": "yes"},
    "the messages do not hold the prompt": {"prompt": "b ?", "messages": [USER, YES]},
    "the messages differ": {"prompt": "a ?", "chosen": "no", "messages": [USER, YES]},
    "rejected without chosen": {"conversations": [HUMAN], "rejected": GPT},
    "role is ['user']": {"messages": [{"role": ["user"], "content": "a ?"}]},
    "role is 'tool'": {"messages": [USER, {"role": "tool", "content": "x"}, YES]},
    "role is {}": {"messages": [{"role": {}, "content": "a ?"}]},
    "a message without": {"messages": [USER, {"role": "assistant", "content": None}]},
    "a message without a role": {"messages": [["user", "a ?"]]},
    r"`\u202eprompt` is not read": {"\u202eprompt": "a ?", "prompt": "a ?"},
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_what_would_change_a_rows_meaning_is_refused_by_name(reason):
    with pytest.raises(Malformed) as caught:
        parse_generic(REFUSED[reason], "any")
    assert reason in str(caught.value)


def test_columns_that_change_the_meaning_are_refused_in_hh_and_moss_rows_too():
    for parse, sides in ((parse_hh, hh_rows(1)[0]), (parse_moss, {"chosen": ["a ?", "b"], "rejected": ["a ?", "c"]})):
        assert parse({**sides, "score_chosen": 3, "id": "x"}, "any") == parse(sides, "any")
        with pytest.raises(Malformed, match="`label` is not read"):
            parse({**sides, "label": False}, "any")


ROWS = [{"prompt": f"ask {i}", "chosen": "yes", "rejected": "no"} for i in range(30)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def data(path: Path, **changed) -> DataConfig:
    return DataConfig(**{"source": "jsonl", "path": str(path), **changed})


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", "\ufeff" + LINES), ("a.json", LINES), ("a.jsonl", json.dumps(ROWS)), ("a.jsonl", json.dumps(ROWS, indent=1)),
     ("a.json", "\ufeff" + json.dumps(ROWS)), ("a.jsonl", "\n \n" + LINES + "\n\n  \n"), ("a.jsonl", LINES.replace("\n", "\r\n")),
     ("a.jsonl", LINES.rstrip("\n")), ("a.jsonl", LINES.replace("ask", "ask \u2028\u2029\x85"))],
)  # fmt: skip
def test_marks_blank_lines_arrays_and_line_separators_cost_no_row(name, content, tmp_path):
    (tmp_path / name).write_bytes(content.encode())
    table = read_table(data(tmp_path / name))
    assert (table.rows, len(table.examples), table.malformed) == (30, 30, [])
    assert table.examples[29].prompt.text.startswith("ask") and table.examples[29].prompt.text.endswith("29")


@pytest.mark.parametrize(
    ("line", "reason"),
    [('{"prompt": "a \\ud83d", "chosen": "b"}', "half of a surrogate pair"), ("[" * 5000, "nested too deeply"),
     ('{"prompt": ' + "[" * 2000 + "]" * 2000 + "}", "nested too deeply"),
     (json.dumps({"prompt": "x" * 5_000_000, "chosen": "b"}), "5,000,001 characters, more than"), ('{"prompt": "a"', "not JSON")],
)  # fmt: skip
def test_one_bad_row_is_counted_and_shown_and_the_others_are_read(line, reason, tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [*ROWS, line])
    table = read_table(data(path))
    assert len(table.examples) == 30
    ((place, why),) = table.malformed
    assert place == "a.jsonl, line 31" and reason in why


def test_a_bad_row_in_an_array_is_counted_too(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([*ROWS, {"prompt": "\ud800", "chosen": "b"}]))
    table = read_table(data(tmp_path / "a.json"))
    assert len(table.examples) == 30 and table.malformed == [("a.json, row 31", "half of a surrogate pair, which is no text")]


def test_a_line_beyond_the_bound_is_one_malformed_row_and_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LONGEST_LINE", 200)
    path = write_lines(tmp_path / "a.jsonl", [*ROWS, {"prompt": "é" * 900, "chosen": "b"}, ROWS[0]])
    table = read_table(data(path))
    assert (table.rows, len(table.examples)) == (32, 31) and [place for place, _ in table.malformed] == ["a.jsonl, line 31"]


@pytest.mark.parametrize("fill", [b"\n", b" \n", b"0", b"[[", b" "])
def test_a_small_file_that_unpacks_to_gigabytes_is_refused_after_a_part_of_them(fill, tmp_path):
    """A member of a gzip file can be repeated: here 64 of 16 MiB."""
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(fill * ((1 << 24) // len(fill))) * 64)
    with pytest.raises(UserError, match=r"a.jsonl.gz unpacks to more than 200 times its size"):
        read_table(data(tmp_path / "a.jsonl.gz"))


@pytest.mark.parametrize("name", ["x" * 300 + ".jsonl", "x/" * 5000 + "a.jsonl", "a.jsonl/b.jsonl", "loop", "a\0b"])
def test_a_path_that_cannot_be_is_one_short_sentence(name, tmp_path):
    (tmp_path / "a.jsonl").write_text(LINES)
    (tmp_path / "loop").symlink_to("loop")
    for read in (read_table, content_key):
        with pytest.raises(UserError) as caught:
            read(data(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_a_file_that_may_not_be_read_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text(LINES)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    for read in (read_table, content_key):
        with pytest.raises(UserError, match=r"cannot read .*a.jsonl \(Permission denied\)"):
            read(data(tmp_path / "a.jsonl"))


def test_a_file_of_malformed_rows_alone_is_refused_before_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "HOPELESS", 50)
    path = write_lines(tmp_path / "a.jsonl", [*ROWS, *["{}"] * 1000])
    with pytest.raises(UserError, match=r"80 rows, 50 malformed"):
        read_table(data(path))


def test_a_flipped_byte_in_a_gz_file_is_one_sentence(tmp_path):
    packed = bytearray(gzip.compress(LINES.encode()))
    for at in (3, 12, len(packed) // 2, len(packed) - 6):
        broken = bytes(packed[:at]) + bytes([packed[at] ^ 0xFF]) + bytes(packed[at + 1 :])
        (tmp_path / "a.jsonl.gz").write_bytes(broken)
        with pytest.raises(UserError, match=r"cannot read .*a.jsonl.gz"):
            read_table(data(tmp_path / "a.jsonl.gz"))


def test_a_clone_of_hh_rlhf_is_read_without_its_transcripts_its_notes_and_hidden_copies(tmp_path):
    for i, name in enumerate(("harmless-base/train", "harmless-base/test", "helpful-base/train")):
        write_lines(tmp_path / f"{name}.jsonl.gz", hh_rows(5, seed=i))
    attempts = json.dumps([{"transcript": "\n\nHuman: a\n\nAssistant: b", "rating": 2.0}] * 5, indent=1)
    write_lines(tmp_path / "red-team-attempts/red_team_attempts.jsonl.gz", [attempts])
    write_lines(tmp_path / "harmless-base/.ipynb_checkpoints/train-checkpoint.jsonl.gz", hh_rows(5, seed=0))
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "dataset_infos.json").write_text("{}")
    table = read_table(data(tmp_path, source="hh_rlhf"))
    assert (table.rows, len(table.examples)) == (15, 15)
    assert [example.prompt.kind for example in table.examples] == ["harmful"] * 10 + ["helpful"] * 5
    assert str(table).endswith("left out, since they hold no rows: dataset_infos.json, red-team-attempts/red_team_attempts.jsonl.gz")


def test_two_files_of_the_same_rows_are_refused_since_every_pair_would_count_twice(tmp_path):
    write_lines(tmp_path / "train.jsonl", ROWS)
    write_lines(tmp_path / "backup/train.jsonl.gz", ROWS)
    with pytest.raises(UserError, match=r"backup/train.jsonl.gz and .*train.jsonl hold the same rows: remove one"):
        read_table(data(tmp_path))


def test_parquet_files_are_read_by_pyarrow(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [READ["ultrafeedback"][0]] * 3
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train-00000-of-00001.parquet")
    assert read_table(data(tmp_path)).examples == [PAIR] * 3
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"cannot read .*parquet"):
        read_table(data(tmp_path))


def test_without_pyarrow_a_parquet_file_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"a.parquet needs the package pyarrow, which the extra `parquet` installs"):
        read_table(data(tmp_path / "a.parquet"))


def test_a_long_text_is_dropped_without_being_encoded(tmp_path):
    """The tokenizer sees no text of more than 100 characters per token of its limit."""
    tokenizer = train_bpe(["a b"], 264)
    rows = [*ROWS, {"prompt": "p" * 900_000, "chosen": "b", "rejected": "c"}, {"prompt": "x", "chosen": "q" * 900_000, "rejected": "c"}]
    seen: list[int] = []

    class Watched(type(tokenizer)):
        def __call__(self, text, **how):
            seen.extend(map(len, text))
            return super().__call__(text, **how)

    tokenizer.__class__ = Watched
    source = HumanSource(data(write_lines(tmp_path / "a.jsonl", rows), held_out_share=0.3), tokenizer)
    assert source.report["too_long"] == 2 and 0 < max(seen) <= 256 * 100
