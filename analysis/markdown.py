"""Frames as Markdown tables."""

from __future__ import annotations

import pandas as pd


def markdown_table(table: pd.DataFrame) -> str:
    """A frame as a Markdown table: its column names as the head, one line per row, without the index. Cells and names are `plain`."""
    rows = [[plain(cell) for cell in row] for row in [list(table.columns), *table.astype(str).to_numpy().tolist()]]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(table.columns), *lines[1:]])


def plain(text: str) -> str:
    """A text that Markdown shows as it is: no cell, line, tag, entity or link begins or ends in it. Brackets of intervals stay."""
    for character, written in {"&": "&amp;", "<": "&lt;", "|": "\\|", "](": "]\\(", "`": "\\`"}.items():
        text = text.replace(character, written)
    return " ".join(text.split())
