"""What is written for others to open: no tags or links of others in Markdown, no formulas in CSV, a card that no prompt breaks out of."""

from __future__ import annotations

import ast

import pandas as pd
import pytest

from ablate.export.card import inline, python_literal
from analysis.markdown import markdown_table, plain
from analysis.verdicts.text import no_formula

HOSTILE = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[x](javascript:alert(1))", "a | b", "line\nbreak", "```", "`code`",
    "<javascript:alert(1)>", "&lt;b&gt;", "![x](http://x/y.png)",
)  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_stays_one_cell_and_makes_no_tag_and_no_link(text):
    table = markdown_table(pd.DataFrame({text: [text, "1.0 [0.5, 1.5]"]}))
    lines = table.split("\n")
    assert len(lines) == 4 and lines[3] == "| 1.0 [0.5, 1.5] |"
    for line in (lines[0], lines[2]):
        inside = line[2:-2]
        assert "<" not in inside and "](" not in inside
        assert all(inside[i - 1] == "\\" for i, character in enumerate(inside) if character in "|`")


def test_what_was_escaped_reads_as_it_was():
    assert plain("a < b & c") == "a &lt; b &amp; c"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1+2", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_text_that_a_spreadsheet_would_compute_is_a_text(text):
    assert no_formula(text) == f"'{text}"


def test_numbers_stay_numbers():
    assert no_formula(-1.5) == -1.5 and no_formula(3) == 3 and no_formula("vanilla") == "vanilla"


@pytest.mark.parametrize("text", [*HOSTILE, '"); import os; ("', "\\", "\\n", "'''", '"""', "\u2028", "ünï", "\x00\x1b[31m"])
def test_a_prompt_is_one_string_of_python_that_ends_no_block_of_code(text):
    literal = python_literal(text)
    assert ast.literal_eval(literal) == text
    assert "`" not in literal and "\n" not in literal and literal.isascii()


@pytest.mark.parametrize("text", HOSTILE)
def test_a_name_in_a_card_ends_no_code_and_begins_no_tag(text):
    shown = inline(text)
    assert "`" not in shown and "<" not in shown and "\n" not in shown
