"""JSONL: rows and their lines. A line ends at "\\n" alone: strings in JSON may hold the other characters that `splitlines` cuts at."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any


def complete_lines(data: bytes) -> list[bytes]:
    """The lines that end in a line break. A last line without one is left out, since it is incomplete."""
    return data.split(b"\n")[:-1]


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """(number, line) of every line that is not blank, counted from 1, for messages about files written by hand.

    A byte order mark before the first line is no part of it.
    """
    return ((number, line) for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1) if line.strip())


def decoded(line: str | bytes) -> Any:
    """The value of a line of JSON. Raises ValueError, also for nesting deeper than Python's stack and for half of a surrogate pair.

    Such a half, as in "\\ud83d" without its other half, cannot be written as UTF-8. Bytes are decoded here, since `json` would take one.
    """
    text = line.decode("utf-8-sig") if isinstance(line, bytes) else line
    try:
        value = json.loads(text)
        if "\\" in text and "\\u" in text:  # to look for one character first is forty times as fast, and few texts hold it
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ValueError("half of a surrogate pair, which is no text") from error
    return value


def readable_rows(lines: Iterable[bytes]) -> Iterator[Any]:
    """The value of every line that is JSON; a line that a kill tore is passed over, and so is a blank one."""
    for line in lines:
        try:
            row = decoded(line)
        except ValueError:
            continue
        yield row


def to_lines(rows: Iterable[object]) -> str:
    """The rows as JSONL, each line closed by a line break; other letters than ASCII stand as they are."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def finite(value: object) -> object:
    """Replace a float that is not finite by null, since JSON has no NaN; in the values of a dict too."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
