"""Say of each trick of PPO what it is and what it did: equation, setting, code, source, and its effect in finished runs.

    python -m analysis.tricks kl_penalty reward_clip            these two
    python -m analysis.tricks > docs/explanation/tricks.md      all of them, the page of the documents

The runs are those of `sweep=add_one_in` and `sweep=leave_one_out`, by default the committed ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ablate.errors import UserError
from ablate.settings.fields import nearest
from ablate.system.commands import command_errors
from analysis.load.packed import REFERENCE, begin_reading
from analysis.tricks.equations import sections


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. A UserError is one sentence on stderr and exit status 1."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.tricks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tricks", nargs="*", help="settings of PPO without `ppo.`; all tricks where none is named")
    parser.add_argument("--results", type=Path, default=REFERENCE, help="where the runs lie (default: results/reference)")
    options = parser.parse_args(arguments)
    with command_errors():
        known = sections()
        for name in options.tricks:
            if name.removeprefix("ppo.") not in known:
                raise UserError(f"{name} has no section{nearest(name, list(known))}; there are {', '.join(known)}")
        begin_reading([options.results])
        # Imported here, because pandas takes a second that neither --help nor a refusal should wait for.
        from analysis.load.frames import load
        from analysis.tricks.measured import measured_arms
        from analysis.tricks.page import page, section

        arms = measured_arms(load(options.results))
        chosen = [name.removeprefix("ppo.") for name in options.tricks]
        sys.stdout.write("\n".join(section(name, known[name], arms) for name in chosen) if chosen else page(arms))


if __name__ == "__main__":
    main()
