"""HTML of one cell and of one table."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

KEY = '<svg class="key" data-key="{}" viewBox="0 0 26 10" aria-hidden="true"><path d="M1 5H25"/></svg>'
LAST = 1e9  # sorts "never" behind every number


class Cell(NamedTuple):
    """`html` is markup, escaped by who makes it; `sort` what the column is ordered by; `kind` a class."""

    html: str
    sort: float | str | None = None
    kind: str = ""


def text(value: Any, kind: str = "") -> Cell:
    """Any value as escaped text."""
    return Cell(escape(str(value)), str(value), kind)


def decimal(value: float | None, digits: int = 2) -> str:
    """A number with a true minus; an en dash for none."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def amount(value: float | None, digits: int = 2) -> Cell:
    """A number."""
    return Cell(decimal(value, digits), value, "number")


def share(value: float | None) -> Cell:
    """A share in per cent."""
    return Cell("–" if value is None else f"{value:.0%}", value, "number")


def ends(low: float | None, high: float | None, digits: int = 2) -> str:
    """' [low, high]', nothing where either is unknown."""
    return f" [{decimal(low, digits)}, {decimal(high, digits)}]" if low is not None and high is not None else ""


def interval(row: dict[str, Any], name: str, prefix: str | None = None) -> Cell:
    """An estimate with its interval; the interval's names are `prefix` (by default `name`_) and low or high."""
    if row[name] is None:
        return amount(None)
    prefix = f"{name}_" if prefix is None else prefix
    shown = ends(row[f"{prefix}low"], row[f"{prefix}high"])
    return Cell(decimal(row[name]) + (f" <small>{shown.strip()}</small>" if shown else ""), row[name], "number")


def dot(value: float | None, low: float | None, high: float | None) -> str:
    """A dot with its interval on a short axis from 0 to 1, as SVG; the middle is marked."""
    if value is None:
        return ""
    left, middle, right = (4 + 92 * (value if x is None else x) for x in (low, value, high))
    return (f'<svg class="dot" viewBox="0 0 100 14" aria-hidden="true"><path class="axis" d="M4 7H96M50 3V11"/>'
            f'<path class="range" d="M{left:.1f} 7H{right:.1f}"/><circle cx="{middle:.1f}" cy="7" r="3.4"/></svg>')  # fmt: skip


def arm_name(data: dict[str, Any], index: int) -> Cell:
    """An arm's name beside its line, as in the legend."""
    name = data["arms"][index]["arm"]
    return Cell(f'<span class="arm">{KEY.format(index)}{escape(name)}</span>', name)


def table(head: Sequence[str], rows: Sequence[Sequence[Cell]], name: str, arms: Sequence[int] = ()) -> str:
    """A table in its own scrolling box, its columns sortable; the first column names the row, `arms` the arm of each."""
    heads = "".join(f'<th scope="col"><button type="button">{escape(title)}</button></th>' for title in head)
    body = []
    for index, row in enumerate(rows):
        cells = "".join(_cell(cell, 'th scope="row"' if column == 0 else "td") for column, cell in enumerate(row))
        body.append(f'<tr data-arm="{arms[index]}">{cells}</tr>' if arms else f"<tr>{cells}</tr>")
    return (f'<div class="scroll" tabindex="0" role="region" aria-label="{name}"><table id="{name}" class="sortable">'
            f"<thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div>")  # fmt: skip


def _cell(cell: Cell, tag: str) -> str:
    order = "" if cell.sort is None else f' data-sort="{escape(str(cell.sort), quote=True)}"'
    kind = f' class="{cell.kind}"' if cell.kind else ""
    return f"<{tag}{order}{kind}>{cell.html}</{tag[:2]}>"
