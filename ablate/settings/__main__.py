"""The reference of all settings, as a Markdown table per group.

python -m ablate.settings > docs/reference/settings.md    # all of them
python -m ablate.settings kl                              # those whose name or meaning contains "kl"
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import Field
from itertools import groupby

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
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def reference(match: str = "") -> str:
    """The tables of the settings whose name or meaning contains `match`. Raises UserError where there is none."""
    chosen = [setting for setting in walk(Config()) if match.lower() in f"{setting.name} {setting.field.metadata['meaning']}".lower()]
    if not chosen:
        raise UserError(f"no setting has {match!r} in its name or meaning; the nearest name is {nearest_name(match)}")
    chosen.sort(key=lambda setting: "." in setting.name)  # stable: the settings of the run itself come first
    tables = [f"## {title}\n\n{HEADER}" + "\n".join(map(row, settings)) + "\n" for title, settings in groupby(chosen, group)]
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
        print(reference(parser.parse_args(arguments).match), end="")


if __name__ == "__main__":
    main()
