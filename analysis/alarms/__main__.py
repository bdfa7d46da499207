"""Learn the thresholds of the alarms on runs of the embedded world, and test them on reward models that were held out.

  python -m ablate.run -m sweep=alarms 'seed=range(8)'
  python -m analysis.alarms results/alarms

Gold tells which of these runs collapsed. The table in docs/explanation/alarms.md is this command's, and its thresholds are those that
`ablate.runs.alarms` judges other runs with.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ablate.errors import UserError
from ablate.runs.alarms import ALARMS, VOTES
from ablate.system.commands import announce, command_errors


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. A UserError is one sentence on stderr and exit status 1."""
    options = parser().parse_args(arguments)
    with command_errors():
        announce(f"reading the runs below {', '.join(options.folders)}")
        # Imported here, because numpy, scipy and pandas take seconds that neither --help nor a refusal should wait for.
        from analysis.alarms.learn import as_set, calibrate, courses
        from analysis.markdown import markdown_table

        runs = courses(options.folders)
        models = len({run.reward_model for run in runs})
        if models < 2:
            raise UserError("all these runs share one reward model, and none can be held out: add runs with other values of pipeline_seed")
        print(f"{len(runs)} runs with {models} reward models, {sum(run.collapses for run in runs)} of which collapsed.\n")
        print(markdown_table(calibrate(runs)))
        print(f"\n{VOTES} of {len(ALARMS)} with the thresholds of `ablate.runs.alarms`, on these same runs:\n")
        print(markdown_table(as_set(runs)))
        return 0
    return 1


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m analysis.alarms", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("folders", nargs="+", help="studies of the embedded world over several reward models")
    return made


if __name__ == "__main__":
    sys.exit(main())
