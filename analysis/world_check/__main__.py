"""Check that the embedded world behaves as docs/explanation/world.md says it must, over reward models.

    python -m analysis.world_check results/world_check
    python -m analysis.world_check results/world_check --figure docs/collapse.png

The runs come from `python -m ablate.run -m sweep=world_check 'seed=range(8)'`. The command prints six points in parts, each with what was
found, its interval over reward models, and "pass", "fail" or "cannot tell"; then a table of the arms. Both are Markdown. Of a study with
several worlds, such as `sweep=world_calibration`, each is judged by itself.
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
    """Print the points and the arms, and write what is asked for. If runs are missing, say so and return 1."""
    parser = argparse.ArgumentParser(prog="python -m analysis.world_check", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("study", help="the folder of the study, results/world_check or results/world_calibration")
    parser.add_argument("--limit", type=float, default=60.0, metavar="SECONDS", help="processor time that a run may take (%(default)g)")
    parser.add_argument("--figure", type=Path, metavar="PNG", help="also draw proxy and gold of the arms")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write one row per run, unfinished runs among them")
    options = parser.parse_args(arguments)
    try:
        begin_reading([options.study])
        # Imported here, because pandas takes a second that neither --help nor a folder that is not there should wait for.
        from analysis.world_check.tables import report

        report(options.study, limit=options.limit, figure=options.figure, csv=options.csv)
    except (UserError, OSError) as error:
        show_cause(error)
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
