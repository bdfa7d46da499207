"""One cell and one table of the page, as values: the template `parts.html` makes HTML of them and escapes every text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

LAST = 1e9  # sorts "never" behind every number


class Dot(NamedTuple):
    """A dot with its interval on a short axis from 0 to 1, whose middle is marked; without an interval `low` or `high` is None."""

    value: float
    low: float | None
    high: float | None

    def places(self) -> tuple[float, ...]:
        """The low end, the dot and the high end, in the drawing's units: 4 is 0 and 96 is 1."""
        return tuple(4 + 92 * (self.value if end is None else end) for end in (self.low, self.value, self.high))


class Cell(NamedTuple):
    """A cell's text. All fields are plain text or numbers; None and "" are left out."""

    text: str
    sort: float | str | None = None  # what the column is ordered by
    kind: str = ""  # the cell's class
    small: str = ""  # smaller text behind
    arm: int | None = None  # an arm's index: its line is drawn before the text
    metric: str = ""  # a metric's name as code, behind the text
    dot: Dot | None = None  # drawn before the text


class Table(NamedTuple):
    """A table of the page: the id and label, the columns' titles, rows of cells, and each row's arm (none: rows are no arms)."""

    name: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    arms: Sequence[int] = ()


def text(value: Any, kind: str = "") -> Cell:
    """Any value as text."""
    return Cell(str(value), str(value), kind)


def decimal(value: float | None, digits: int = 2) -> str:
    """A number with a true minus; an en dash for None."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def amount(value: float | None, digits: int = 2) -> Cell:
    """A number."""
    return Cell(decimal(value, digits), value, "number")


def share(value: float | None) -> Cell:
    """A share in per cent."""
    return Cell("–" if value is None else f"{value:.0%}", value, "number")


def ends(low: float | None, high: float | None, digits: int = 2) -> str:
    """'[low, high]'; '' where either is unknown."""
    return f"[{decimal(low, digits)}, {decimal(high, digits)}]" if low is not None and high is not None else ""


def interval(row: dict[str, Any], name: str, prefix: str | None = None) -> Cell:
    """An estimate with its interval; the interval's names are `prefix` (by default `name`_) and low or high."""
    if row[name] is None:
        return amount(None)
    prefix = f"{name}_" if prefix is None else prefix
    return Cell(decimal(row[name]), row[name], "number", small=ends(row[f"{prefix}low"], row[f"{prefix}high"]))


def dot(value: float | None, low: float | None, high: float | None) -> Dot | None:
    """A dot with its interval, None without a value."""
    return None if value is None else Dot(value, low, high)


def arm_name(data: dict[str, Any], index: int) -> Cell:
    """An arm's name beside its line, as in the legend."""
    name = data["arms"][index]["arm"]
    return Cell(name, name, arm=index)
