"""Tables as plain text, laid out by rich. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table

COLUMNS = 10_000  # width of the console, in characters: wider than any table, so that no cell is wrapped or cut


def text_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], align: Literal["left", "right"] = "left", markdown: bool = False
) -> str:
    """The rows under their header, in columns two spaces apart, or as a Markdown table. Cells are printed as they are.

    align: the alignment of every column but the first, which is aligned to the left.
    """
    table = Table(box=box.MARKDOWN if markdown else None, pad_edge=markdown)
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else align, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(width=COLUMNS, color_system=None, markup=False, highlight=False, emoji=False)
    with console.capture() as printed:
        console.print(table)
    lines = [line.rstrip() for line in printed.get().splitlines()]
    return "\n".join(lines[1:-1] if markdown else lines)  # rich prints a blank line where other boxes have an edge
