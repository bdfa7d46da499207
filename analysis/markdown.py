"""Frames as Markdown tables, for the commands that write one."""

from __future__ import annotations

import pandas as pd


def markdown_table(table: pd.DataFrame) -> str:
    """Any frame as a Markdown table: its columns' names as the head, one line per row, without the index; bars in cells are escaped."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in table.astype(str).to_numpy().tolist()]
    lines = ["| " + " | ".join(row) + " |" for row in [list(table.columns), *rows]]
    return "\n".join([lines[0], "|" + "---|" * len(table.columns), *lines[1:]])
