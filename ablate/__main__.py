"""One name for every command: `ablate verdicts …` is `python -m analysis.verdicts …`.

    ablate run ppo=vanilla seed=1                       one run
    ablate sweep ppo.kl_penalty=true,false              a sweep: `ablate run -m …`
    ablate verdicts results/default                     what its runs say
    ablate completion bash                              a script that completes commands, flags and settings

`ablate COMMAND --help` explains a command. What begins as a setting or as a flag of a run goes to `run`: `ablate ppo=vanilla`,
`ablate -m sweep=kl_coef`.
"""

from __future__ import annotations

import runpy
import shutil
import sys
from collections.abc import Sequence
from textwrap import TextWrapper

from ablate import __version__
from ablate.commands import Command, commands
from ablate.errors import UserError
from ablate.system.commands import command_errors

SWEEP = "sweep"  # `run` with `-m`
HELP, VERSION = ("-h", "--help", "help"), ("-V", "--version", "version")


def help_text(width: int) -> str:
    """What the commands are, one or more lines each, at most `width` characters wide."""
    known = commands()
    lines = ["usage: ablate COMMAND [argument ...]", "", *(__doc__ or "").splitlines()]
    for package, title in (("ablate", "Runs and models, python -m ablate.COMMAND:"), ("analysis", "Results, python -m analysis.COMMAND:")):
        lines += [title]
        for command in known.values():
            if command.module.partition(".")[0] == package:
                lines += described(command.name, command.meaning, width)
                lines += described(SWEEP, "Run several values of settings, or a study: run -m", width) if command.name == "run" else []
        lines += [""]
    return "\n".join([*lines, "-V, --version prints the version."])


def described(name: str, meaning: str, width: int) -> list[str]:
    """A name and its meaning beside it, wrapped."""
    indent = " " * 16
    wrapper = TextWrapper(width, initial_indent=f"  {name:<13} ", subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)
    return wrapper.wrap(meaning)


def chosen(arguments: Sequence[str]) -> tuple[Command, list[str]]:
    """The command that arguments name, and what is left for it. Raises UserError for a name that there is not."""
    known = commands()
    first, *rest = arguments
    name = first.replace("_", "-")
    if name == SWEEP:
        return known["run"], ["-m", *rest]
    if name in known:
        return known[name], rest
    if "=" in first or first.startswith(("-", "+", "~")):
        return known["run"], list(arguments)
    from difflib import get_close_matches

    close = get_close_matches(name, [*known, SWEEP], 1, 0.5)
    raise UserError(f"{first[:60]!r} is not a command{f': did you mean {close[0]}?' if close else ':'} `ablate --help` lists them")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command as `python -m` would. A UserError is one sentence on stderr and exit status 1."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    with command_errors():
        if not arguments or arguments[0] in HELP:
            print(help_text(min(shutil.get_terminal_size().columns, 140)))
            return
        if arguments[0] in VERSION:
            print(f"ablate {__version__}")
            return
        command, rest = chosen(arguments)
    sys.argv = [str(command.file), *rest]
    runpy.run_module(command.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
