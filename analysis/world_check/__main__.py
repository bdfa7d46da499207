"""Check that the embedded world behaves as docs/explanation/world.md says it must. The table and the figure there are this command's.

    python -m analysis.world_check results/world_check
    python -m analysis.world_check results/world_check --figure docs/collapse.png

The runs come from `python -m ablate.run -m sweep=world_check 'seed=range(5)'`. The command prints a table of the arms and the statements
a to e. Each statement is tested on the runs and printed with its numbers, as "holds" or as "FAILS".
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ablate.errors import UserError
from ablate.system.commands import show_cause
from analysis.load.packed import begin_reading


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and the statements, and draw the figure if --figure is given. If runs are missing, say so and return 1."""
    parser = argparse.ArgumentParser(prog="python -m analysis.world_check", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("study", help="the folder of the study, results/world_check")
    parser.add_argument("--figure", type=Path, help="also draw proxy and gold of three arms to this PNG")
    options = parser.parse_args(arguments)
    try:
        begin_reading([options.study])
        # Imported here, because pandas takes a second that neither --help nor a folder that is not there should wait for.
        from analysis.world_check.statements import report

        report(options.study, options.figure)
    except (UserError, OSError) as error:
        show_cause(error)
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
