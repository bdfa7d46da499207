"""Text tables, character by character."""

import pytest

from ablate.system.tables import text_table

HEADER = ["model", "size", "[peak]"]
ROWS = [["tiny :smile:", "[b]9[/b]", "–"], ["", "1,000 kB", "模型"]]


@pytest.mark.parametrize(("options", "expected"), [
    ({}, [
        "model         size      [peak]",
        "tiny :smile:  [b]9[/b]  –",
        "              1,000 kB  模型",
    ]),
    ({"align": "right"}, [
        "model             size  [peak]",
        "tiny :smile:  [b]9[/b]       –",
        "              1,000 kB    模型",
    ]),
    ({"align": "right", "markdown": True}, [
        "| model        |     size | [peak] |",
        "|--------------|----------|--------|",
        "| tiny :smile: | [b]9[/b] |      – |",
        "|              | 1,000 kB |   模型 |",
    ]),
], ids=["left", "right", "markdown"])  # fmt: skip
def test_columns_are_aligned_and_cells_printed_as_they_are(options, expected):
    assert text_table(HEADER, ROWS, **options).splitlines() == expected


def test_no_cell_is_wrapped_or_cut():
    long = "x" * 3000
    assert text_table(["a", "b"], [[long, "y"]]).splitlines()[1] == f"{long}  y"


def test_a_table_without_rows_is_its_header():
    assert text_table(["a", "b"], []) == "a  b"
