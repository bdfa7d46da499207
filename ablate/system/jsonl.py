"""JSONL files, cut into lines. A line ends at "\\n" alone: strings in JSON may hold the other characters that `splitlines` cuts at."""

from __future__ import annotations

from collections.abc import Iterator


def complete_lines(data: bytes) -> list[bytes]:
    """The lines that end in a line break. A last line without one is left out, since it is incomplete."""
    return data.split(b"\n")[:-1]


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """(number, line) of every line that is not blank, counted from 1, for messages about files written by hand."""
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
