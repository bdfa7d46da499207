"""The settings of the tree by their dotted names, and how a value is written on the command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, fields, is_dataclass
from typing import Any, NamedTuple

from ablate.config import Config


class Setting(NamedTuple):
    """One leaf of the tree: its dotted name, the field that holds its meaning and range, and its value."""

    name: str
    field: Field
    value: Any


def walk(settings: Any, prefix: str = "") -> Iterator[Setting]:
    """Every setting of a Config or of a part of one, in the order of the dataclasses."""
    for field in fields(settings):
        name, value = f"{prefix}{field.name}", getattr(settings, field.name)
        if is_dataclass(value):
            yield from walk(value, f"{name}.")
        else:
            yield Setting(name, field, value)


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every leaf of nested dicts, such as config.yaml holds. A list is a leaf."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def setting_names() -> list[str]:
    """Every setting by its dotted name, in the order of the dataclasses."""
    return [setting.name for setting in walk(Config())]


def is_path_setting(name: str) -> bool:
    """Whether the value of a setting is a path or a hub name."""
    return name in ("results", "cache", "fork") or name.endswith("path")


def cut(text: str, width: int = 60) -> str:
    """A text as a message has it: at most `width` characters, and in quotes where it is empty or has characters that are not printable."""
    short = text if len(text) <= width else f"{text[: width - 1]}…"
    return short if short and short.isprintable() else repr(short)


def spelled(value: Any) -> str:
    """A value as an override writes it: null, true and false where Python writes None, True and False."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def nearest(name: str, known: Sequence[str]) -> str:
    """`: did you mean x?` for the known name most like a mistyped one, or "" where none is like it."""
    last = {option.rpartition(".")[2]: option for option in known}
    close = difflib.get_close_matches(name, known, 1, 0.6) or [
        last[match] for match in difflib.get_close_matches(name.rpartition(".")[2], list(last), 1, 0.6)
    ]
    return f": did you mean {close[0]}?" if close else ""
