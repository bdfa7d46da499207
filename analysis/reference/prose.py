"""Numbers, lists and lines as they stand in the documents."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.tricks.measured import minus, signed

WIDTH = 180  # characters of a line
HELD = "\x00"  # stands for a space at which no line may end
# What no line may begin with, as Markdown would take it for an item of a list or a head; and counts and intervals, which stay whole.
WHOLE = re.compile(r"\d+ of \d+|\S+ \[[−\d.]+, [−\d.]+\]|\S+ [-+*#>=](?= )|\S+ \d+[.)](?= )")


def wrapped(text: str, indent: str = "", width: int = WIDTH) -> str:
    """A paragraph as lines of at most `width` characters, those after the first behind `indent`."""
    held = WHOLE.sub(lambda found: found[0].replace(" ", HELD), text)
    filled = textwrap.fill(held, width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)
    return filled.replace(HELD, " ")


def bullets(texts: Sequence[str | None], width: int = WIDTH) -> str:
    """The texts that are not None as a list, one item per text."""
    return "\n".join(wrapped(f"- {text}", "  ", width) for text in texts if text)


def listed(names: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def coded(names: Sequence[str]) -> str:
    """Names as code, listed."""
    return listed([f"`{name}`" for name in names])


def counted(number: int, name: str) -> str:
    """'1 run', '2 runs', '2 studies'."""
    many = f"{name[:-1]}ies" if name.endswith("y") else f"{name}s"
    return f"{number} {name if number == 1 else many}"


def level(row: pd.Series, name: str, *, sign: bool = False) -> str:
    """'+0.63 [0.32, 0.95]', a mean or rate with its 95 % interval, of the columns name, name_low and name_high; '–' where unknown."""
    return between(row[name], row[f"{name}_low"], row[f"{name}_high"], sign=sign)


def between(estimate: float, low: float, high: float, *, sign: bool = False) -> str:
    """'0.63 [0.32, 0.95]', with `sign` '+0.63 […]'; without an interval where there is none, '–' where there is no estimate."""
    if not np.isfinite(estimate):
        return "–"
    text = signed(estimate) if sign else minus(estimate)
    return f"{text} [{minus(low)}, {minus(high)}]" if np.isfinite(low) and np.isfinite(high) else text


def fate(row: pd.Series) -> str:
    """'5 of 5': collapses among the runs of which it is known."""
    return f"{row['collapses']} of {row['n']}"


def difference(effect: pd.Series) -> str:
    """'−1.00 [−1.00, −0.39], p = 0.002, after Holm 0.037'."""
    found = between(effect["estimate"], effect["low"], effect["high"], sign=True)
    return f"{found}, {p_value('p', effect['p'])}, {p_value('after Holm', effect['p_holm'])}"


def p_value(name: str, p: float) -> str:
    """'p = 0.002', 'p < 0.001'."""
    return f"{name} not known" if not np.isfinite(p) else f"{name} < 0.001" if p < 0.001 else f"{name} = {p:.2g}"
