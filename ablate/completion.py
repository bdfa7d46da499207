"""Print a script that makes the Tab key complete `ablate`: its commands, their flags, and the settings and presets of a run.

    eval "$(ablate completion bash)"                    bash, for this session; put the line into ~/.bashrc to keep it
    eval "$(ablate completion zsh)"                     zsh, after compinit; put it into ~/.zshrc to keep it

The script holds the words themselves and starts no Python: print it again after an update.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ablate.commands import commands
from ablate.config import Config
from ablate.settings.fields import walk
from ablate.settings.groups import groups
from ablate.system.commands import command_errors

TAKES_SETTINGS = ("run", "sweep", "tune", "memory", "stages")
RUN_FLAGS = ("--help", "-m", "--cfg")

BASH = """\
_ablate() {
    local line="${COMP_LINE:0:COMP_POINT}" current words
    current="${line##* }"
    COMPREPLY=()
    if [ "$COMP_CWORD" -le 1 ]; then words="@COMMANDS@"; else
        case "${COMP_WORDS[1]}" in
@CASES@
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    if [ "${#COMPREPLY[@]}" = 1 ] && [ "${COMPREPLY[0]: -1}" = "=" ]; then compopt -o nospace; fi
    case "$COMP_WORDBREAKS" in  # where bash parts words at =, it wants what follows the =
        *=*) if [ "${current#*=}" != "$current" ]; then COMPREPLY=("${COMPREPLY[@]#"${current%"${current##*=}"}"}"); fi ;;
    esac
}
complete -o default -F _ablate ablate
"""
ZSH = """\
#compdef ablate
_ablate() {
    local -a words_here finished
    local list
    if (( CURRENT <= 2 )); then list="@COMMANDS@"; else
        case "${words[2]}" in
@CASES@
        esac
    fi
    words_here=(${=list})
    finished=(${words_here:#*=})
    compadd -a finished
    compadd -S '' -- ${(M)words_here:#*=}
    _files
}
compdef _ablate ablate
"""


def setting_words() -> list[str]:
    """What may begin or be an argument of a run: `ppo=vanilla`, `ppo.kl_penalty=true`, and `seed=` where any value may follow."""
    words = [f"{group}={name}" for group, names in groups().items() for name in names]
    for setting in walk(Config()):
        switch = ("true", "false") if isinstance(setting.value, bool) else ()
        values = setting.field.metadata["choices"] or switch
        words += [f"{setting.name}={value}" for value in values] or ([f"{setting.name}="] if setting.name != "sweep" else [])
    return words


def words_of() -> dict[str, list[str]]:
    """Command → the words that may follow it, `sweep` and `completion` among the commands."""
    words = {name: command.options for name, command in commands().items()}
    words["run"] = words["sweep"] = list(RUN_FLAGS)
    words["completion"] += SHELLS
    settings = setting_words()
    return {name: [*options, *(settings if name in TAKES_SETTINGS else ())] for name, options in words.items()}


def script(shell: str) -> str:
    """The script of a shell, a key of SHELLS. Commands of equal words share a case."""
    words = words_of()
    variable = {"bash": "words", "zsh": "list"}[shell]
    alike: dict[str, list[str]] = {}
    for name, options in words.items():
        alike.setdefault(" ".join(options), []).append(name)
    cases = "\n".join(f'        {"|".join(names)}) {variable}="{options}" ;;' for options, names in alike.items())
    cases += f'\n        *) {variable}="{" ".join(words["run"])}" ;;'  # settings without a command are those of a run
    return SHELLS[shell].replace("@COMMANDS@", " ".join([*words, "--help", "--version"])).replace("@CASES@", cases)


SHELLS = {"bash": BASH, "zsh": ZSH}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the script of the shell that is named."""
    parser = argparse.ArgumentParser(
        prog="python -m ablate.completion", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shell", choices=SHELLS)
    with command_errors():
        print(script(parser.parse_args(arguments).shell), end="")


if __name__ == "__main__":
    main()
