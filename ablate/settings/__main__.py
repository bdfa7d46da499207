"""The reference of all settings.

`python -m ablate.settings` prints docs/reference/settings.md; `python -m ablate.settings kl` prints only what matches.
"""

from __future__ import annotations

import argparse
from dataclasses import MISSING, Field, fields, is_dataclass

from ablate.config import Config

TITLE = "# Settings\n\nMade by `python -m ablate.settings > docs/reference/settings.md`. Change any of them with `setting=value`.\n"


def default_of(field: Field) -> object:
    return field.default if field.default is not MISSING else field.default_factory()


def shown(value: object) -> str:
    """A default as the command line writes it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def legal(field: Field) -> str:
    """The range of a setting, from its metadata."""
    meta = field.metadata
    if meta["choices"]:
        return " | ".join(meta["choices"])
    bounds = [f"{sign} {meta[name]:g}" for name, sign in (("above", ">"), ("low", "≥"), ("high", "≤")) if meta[name] is not None]
    return ", ".join(bounds)


def rows(kind: type, prefix: str, match: str) -> list[str]:
    """One Markdown row a setting of this dataclass whose name or meaning contains `match`."""
    found = []
    for field in fields(kind):
        value = default_of(field)
        if is_dataclass(value):
            continue
        meta = field.metadata
        if match in f"{prefix}{field.name} {meta['meaning']}".lower():
            cells = (f"`{prefix}{field.name}`", shown(value), meta["unit"], legal(field), meta["meaning"], meta["source"])
            found.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return found


def reference(match: str = "") -> str:
    """The whole reference as Markdown, a table a group."""
    groups = [("Run", Config, "")] + [
        (field.name, type(default_of(field)), f"{field.name}.") for field in fields(Config) if is_dataclass(default_of(field))
    ]
    parts = [] if match else [TITLE]
    for title, kind, prefix in groups:
        lines = rows(kind, prefix, match.lower())
        if lines:
            parts.append(
                f"## {title}\n\n| setting | default | unit | values | meaning | source |\n|---|---|---|---|---|---|\n"
                + "\n".join(lines)
                + "\n"
            )
    return "\n".join(parts) or f"no setting matches {match!r}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Print every setting with its default, unit, legal values, meaning and source.")
    parser.add_argument("match", nargs="?", default="", help="only settings whose name or meaning contains this")
    print(reference(parser.parse_args().match), end="")


if __name__ == "__main__":
    main()
