"""Learn the thresholds of the alarms on runs of the embedded world, and test them on reward models that were held out.

  python -m ablate.run -m sweep=alarms 'seed=range(8)'
  python -m analysis.alarms results/alarms
  python -m analysis.alarms results/clips results/guards     with one reward model: how the thresholds in force fare

Gold tells which of these runs collapsed. The table in docs/explanation/alarms.md is this command's, and its thresholds are those that
`ablate.runs.alarms` judges other runs with.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

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
        collapsed = sum(run.collapses for run in runs)
        print(f"{len(runs)} runs with {models} reward model{'s' * (models > 1)}, of which {collapsed} collapsed.\n")
        if models > 1:
            print("Thresholds learned on them, and how those learned on the other reward models fare on each:\n")
            print(f"{markdown_table(calibrate(runs))}\n")
        else:
            print("No reward model can be held out, so nothing is learned: add runs with other values of pipeline_seed.\n")
        print(f"{VOTES} of {len(ALARMS)} alarms with the thresholds of `ablate.runs.alarms`:\n")
        print(markdown_table(as_set(runs)))
        return 0
    return 1


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m analysis.alarms", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("folders", nargs="+", help="studies of the embedded world")
    return made


if __name__ == "__main__":
    sys.exit(main())
