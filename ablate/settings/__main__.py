"""The reference of all settings: in a file or a pipe a Markdown table per group, on a terminal plain text.

python -m ablate.settings > docs/reference/settings.md    # all of them
python -m ablate.settings kl                              # those whose name or meaning contains "kl"
"""

from __future__ import annotations

import argparse
import difflib
import shutil
import sys
from collections.abc import Sequence
from dataclasses import Field
from itertools import groupby
from textwrap import wrap

from ablate.config import Config
from ablate.errors import UserError
from ablate.settings.fields import Setting, setting_names, spelled, walk
from ablate.system.commands import command_errors

TITLE = "# Settings\n\nMade by `python -m ablate.settings > docs/reference/settings.md`. Change any of them with `setting=value`.\n"
HEADER = "| setting | default | unit | values | meaning | source |\n|---|---|---|---|---|---|\n"


def legal(field: Field) -> str:
    """The values that a setting may have, from its metadata: its choices or its bounds."""
    meta = field.metadata
    if meta["choices"]:
        return " | ".join(meta["choices"])
    bounds = [f"{sign} {meta[name]:g}" for name, sign in (("above", ">"), ("low", "≥"), ("high", "≤")) if meta[name] is not None]
    return ", ".join(bounds)


def group(setting: Setting) -> str:
    """The title of a setting's table: the first part of its name, and "Run" for a name of one part."""
    return setting.name.rpartition(".")[0] or "Run"


def row(setting: Setting) -> str:
    """The Markdown row of a setting whose value is its default."""
    meta = setting.field.metadata
    cells = (f"`{setting.name}`", spelled(setting.value), meta["unit"], legal(setting.field), meta["meaning"], meta["source"])
    return "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |"


def plain(match: str, width: int) -> str:
    """The settings whose name or meaning contains `match`, each as `name = default (unit, values)` above its meaning, for a terminal.

    Raises UserError where there is none.
    """
    lines = []
    for setting in matching(match):
        details = ", ".join(filter(None, (setting.field.metadata["unit"], legal(setting.field))))
        lines.append(f"{setting.name} = {spelled(setting.value)}{f'  ({details})' if details else ''}")
        meaning = ". ".join(filter(None, (setting.field.metadata["meaning"], setting.field.metadata["source"])))
        lines += wrap(meaning, width, initial_indent="    ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def matching(match: str) -> list[Setting]:
    """The settings whose name or meaning contains `match`, those of the run itself first. Raises UserError where there is none."""
    chosen = [setting for setting in walk(Config()) if match.lower() in f"{setting.name} {setting.field.metadata['meaning']}".lower()]
    if not chosen:
        raise UserError(f"no setting has {match!r} in its name or meaning; the nearest name is {nearest_name(match)}")
    return sorted(chosen, key=lambda setting: "." in setting.name)


def reference(match: str = "") -> str:
    """The tables of the settings that `matching` finds, in Markdown. Raises UserError where there is none."""
    tables = [f"## {title}\n\n{HEADER}" + "\n".join(map(row, settings)) + "\n" for title, settings in groupby(matching(match), group)]
    return "\n".join([*([] if match else [TITLE]), *tables])


def nearest_name(text: str) -> str:
    """The setting whose name, with or without its group, is most like `text`."""

    def likeness(name: str) -> float:
        return max(difflib.SequenceMatcher(None, text.lower(), part).ratio() for part in (name, name.rpartition(".")[2]))

    return max(setting_names(), key=likeness)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. A UserError is one sentence on stderr and exit status 1."""
    parser = argparse.ArgumentParser(
        prog="python -m ablate.settings", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("match", nargs="?", default="", help="only settings whose name or meaning contains this")
    with command_errors():
        match = parser.parse_args(arguments).match
        terminal = sys.stdout.isatty()
        print(plain(match, shutil.get_terminal_size().columns) if terminal else reference(match), end="")


if __name__ == "__main__":
    main()
