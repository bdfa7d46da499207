"""A docstring as Markdown that shows it letter by letter."""

from __future__ import annotations

import re


def as_markdown(docstring: str) -> str:
    """Paragraphs flow, indented lines keep their form, and no sign means anything to Markdown except backticks."""
    return "\n\n".join(_paragraph(block) for block in re.split(r"\n\s*\n", docstring))


def _paragraph(block: str) -> str:
    lines: list[str] = []
    for line in block.splitlines():
        indented, was_indented = line.startswith("    "), bool(lines) and lines[-1].startswith("    ")
        if lines and indented != was_indented:
            lines.append("")
        lines.append(line if indented else _escaped(line))
    return "\n".join(lines)


def _escaped(line: str) -> str:
    """A line whose signs mean nothing outside backticks; a span that goes on in the next line ends with this one."""
    parts = line.split("`")
    spans = len(parts) % 2 == 1  # every backtick has its other one
    for index in range(0, len(parts), 2 if spans else 1):
        parts[index] = re.sub(r"([*_|~$])", r"\\\1", parts[index]).replace("<", "&lt;")
    return "`".join(parts) if spans else "\\`".join(parts)
