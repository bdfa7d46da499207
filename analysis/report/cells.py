"""Cells and tables of the page as values. The template `parts.html` turns them into HTML and escapes every text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

LAST = 1e9  # the sort key of "never": behind every number


class Dot(NamedTuple):
    """A dot with its interval on a short axis from 0 to 1, whose middle is marked. Without an interval `low` or `high` is None."""

    value: float
    low: float | None
    high: float | None

    def places(self) -> tuple[float, ...]:
        """Positions of the low end, the dot and the high end in the drawing, where 0 is at 4 and 1 at 96."""
        return tuple(4 + 92 * (self.value if end is None else end) for end in (self.low, self.value, self.high))


class Cell(NamedTuple):
    """One cell. All fields are plain text or numbers. None and "" are not shown."""

    text: str
    sort: float | str | None = None  # the key by which the column is sorted
    kind: str = ""  # the cell's CSS class
    small: str = ""  # smaller text after the text
    arm: int | None = None  # the index of an arm, whose line is drawn before the text
    metric: str = ""  # the name of a metric, shown as code after the text
    dot: Dot | None = None  # drawn before the text


class Table(NamedTuple):
    """One table. name: its id and label. head: the columns' titles. arms: the arm of each row, empty if rows are not arms."""

    name: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    arms: Sequence[int] = ()


def text(value: Any, kind: str = "") -> Cell:
    """A cell with any value as text."""
    return Cell(str(value), str(value), kind)


def decimal(value: float | None, digits: int = 2) -> str:
    """A number with a minus sign instead of a hyphen. An en dash for None."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def amount(value: float | None, digits: int = 2) -> Cell:
    """A cell with a number."""
    return Cell(decimal(value, digits), value, "number")


def share(value: float | None) -> Cell:
    """A cell with a share in per cent."""
    return Cell("–" if value is None else f"{value:.0%}", value, "number")


def ends(low: float | None, high: float | None, digits: int = 2) -> str:
    """'[low, high]', or '' if either is None."""
    return f"[{decimal(low, digits)}, {decimal(high, digits)}]" if low is not None and high is not None else ""


def interval(row: dict[str, Any], name: str, prefix: str | None = None) -> Cell:
    """A cell with the estimate `name` of `row` and its interval, the keys `prefix`low and `prefix`high. By default `prefix` is `name`_."""
    if row[name] is None:
        return amount(None)
    prefix = f"{name}_" if prefix is None else prefix
    return Cell(decimal(row[name]), row[name], "number", small=ends(row[f"{prefix}low"], row[f"{prefix}high"]))


def dot(value: float | None, low: float | None, high: float | None) -> Dot | None:
    """A dot with its interval, or None without a value."""
    return None if value is None else Dot(value, low, high)


def arm_name(data: dict[str, Any], index: int) -> Cell:
    """A cell with the name of an arm and its line, as in the legend."""
    name = data["arms"][index]["arm"]
    return Cell(name, name, arm=index)
