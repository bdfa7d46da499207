"""JSONL: lines, torn lines, and what JSON cannot say."""

import json
import math

import pytest

from ablate.system.jsonl import complete_lines, decoded, finite, numbered_lines, readable_rows, to_lines

SEPARATOR = chr(0x2028)  # `splitlines` cuts here, and JSON may hold it


def test_rows_come_back_from_their_lines_whatever_their_strings_hold():
    rows = [{"text": f"a{SEPARATOR}b\nc\x85d", "gold": 0.1}, {"text": "ö", "gold": None}]
    text = to_lines(rows)
    assert text.count("\n") == 2 and "ö" in text
    assert [json.loads(line) for line in complete_lines(text.encode())] == rows
    assert list(readable_rows(text.encode().split(b"\n"))) == rows
    assert [number for number, _ in numbered_lines(text)] == [1, 2]


def test_a_torn_line_is_no_row_for_either_reader():
    """The strict reader leaves out the end that no line break closes, the tolerant one every line that is not JSON."""
    assert complete_lines(b'{"a": 1}\n{"a": 2}') == [b'{"a": 1}']
    assert list(readable_rows([b'{"a": 1}', b'{"a": 2', b"", b'{"a": 3}\n'])) == [{"a": 1}, {"a": 3}]


def test_blank_lines_keep_their_numbers():
    assert list(numbered_lines("\na\n \nb")) == [(2, "a"), (4, "b")]


def test_what_is_not_finite_becomes_null_at_any_depth_of_dicts():
    assert finite({"a": math.nan, "b": {"c": -math.inf, "d": 1.5}, "e": "nan"}) == {"a": None, "b": {"c": None, "d": 1.5}, "e": "nan"}


def test_a_byte_order_mark_is_no_part_of_the_first_line():
    assert list(numbered_lines('\ufeff{"a": 1}\n\n')) == [(1, '{"a": 1}')]


@pytest.mark.parametrize("line", ['{"a": ', "[" * 5000, '{"a": "\\ud83d"}', '{"a": "\\uDE00x"}', "1" * 5000, b"\xff"])
def test_a_line_that_holds_no_value_is_one_kind_of_error_and_a_tolerant_reader_passes_over_it(line):
    with pytest.raises(ValueError):
        decoded(line)
    assert list(readable_rows([line if isinstance(line, bytes) else line.encode(), b"1"])) == [1]


def test_pairs_of_surrogates_and_escaped_backslashes_are_text():
    assert decoded(r'["\ud83d\ude00", "\\ud83d"]') == ["😀", r"\ud83d"]
