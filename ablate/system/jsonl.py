"""JSONL files, cut into lines. A line ends at "\\n" alone: strings in JSON may hold the other characters that `splitlines` cuts at."""

from __future__ import annotations

from collections.abc import Iterator


def complete_lines(data: bytes) -> list[bytes]:
    """The lines that a line break closes. What follows the last one is left out: a kill tore it off, or it is being written."""
    return data.split(b"\n")[:-1]


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """(number, line) of every line that is not blank, counted from 1, for messages about files that people write."""
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
