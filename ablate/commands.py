"""The commands of both packages, found by their files and not imported: `ablate/export/__main__.py` is `export`."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("ablate", "analysis")
ROOT = Path(__file__).resolve().parents[1]  # the checkout, or the folder of installed packages
STARTS = '\nif __name__ == "__main__":\n'  # the line by which a module is a command


class Command(NamedTuple):
    """A module that `python -m` runs."""

    name: str  # `import-gguf` of `ablate.import_gguf`
    module: str
    file: Path

    @property
    def meaning(self) -> str:
        """The first sentence of its docstring, without the full stop."""
        opening = re.match(r'"""(.+?)[.:]?(?:\s*"""|[.]\s|\n\n)', self.file.read_text(encoding="utf-8"), re.DOTALL)
        return " ".join(opening.group(1).split()) if opening else ""

    @property
    def options(self) -> list[str]:
        """The flags that its parser adds, read from the source, `--help` first."""
        calls = (node for node in ast.walk(ast.parse(self.file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
        added = [call.args for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"]
        texts = [argument.value for arguments in added for argument in arguments if isinstance(argument, ast.Constant)]
        return ["--help", *dict.fromkeys(text for text in texts if str(text).startswith("--"))]


def commands() -> dict[str, Command]:
    """Name → command, those of `ablate` first, each package's in alphabetical order."""
    found = {}
    for package in PACKAGES:
        files = sorted((ROOT / package).rglob("*.py"))
        for command in sorted(command_of(file) for file in files if STARTS in file.read_text(encoding="utf-8")):
            if command.module != "ablate":  # that is the one which chooses among the others
                found[command.name] = command
    return found


def command_of(file: Path) -> Command:
    """The command that a file is."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__main__" else parts
    return Command(parts[-1].replace("_", "-"), ".".join(parts), file)
