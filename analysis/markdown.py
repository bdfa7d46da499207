"""Frames as Markdown tables."""

from __future__ import annotations

import pandas as pd


def markdown_table(table: pd.DataFrame) -> str:
    """A frame as a Markdown table: its column names as the head, one line per row, without the index. Bars in cells are escaped."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in table.astype(str).to_numpy().tolist()]
    lines = ["| " + " | ".join(row) + " |" for row in [list(table.columns), *rows]]
    return "\n".join([lines[0], "|" + "---|" * len(table.columns), *lines[1:]])
