"""Audit RLHF runs of other trainers by their logs: KL, entropy, length, reward and what else they log, as monitors of this project.

  python -m analysis.audit trainer_state.json --from trl
  python -m analysis.audit --from verl --arm kl=a.jsonl,b.jsonl --arm no_kl=c.jsonl,d.jsonl --figure audit.png

A LOG is a CSV or JSON history of wandb, JSON lines, transformers' trainer_state.json, an offline run's .wandb file, or an event file of
TensorBoard (or a folder of either). The names that are known: docs/howto/audit.md. Exit status 1 where an alarm of collapse fires.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ablate.errors import UserError
from ablate.system.commands import announce, command_errors, without_controls
from analysis.audit.judge import Rule, blind, judge, sounded

SOURCES = ("trl", "verl", "openrlhf", "nemo_rl", "roll", "prime_rl", "csv")  # those of `analysis.audit.names`


def main(arguments: Sequence[str] | None = None, rule: Rule = sounded) -> int:
    """The command. Returns 1 where an alarm fires in any run, else 0; a UserError is one sentence on stderr and exit status 1.

    rule: of the alarms, instead of that of `analysis.audit.judge`.
    """
    options = parser().parse_args(arguments)
    with command_errors():
        arms = chosen(options.logs, options.arm)
        count = sum(map(len, arms.values()))
        announce(f"reading {count} log{'s' * (count > 1)} with the names of {options.source}")
        # Imported here, because numpy, scipy and pandas take seconds that neither --help nor a refusal should wait for.
        from analysis.audit.names import TRAINERS
        from analysis.audit.read import read_logs
        from analysis.audit.show import check_figure, table, write_figure
        from analysis.audit.translate import translate

        if options.figure is not None:
            check_figure(options.figure)
        runs = {arm: [translate(log, TRAINERS[options.source]) for path in paths for log in read_logs(path)] for arm, paths in arms.items()}
        fired = False
        for run in (run for members in runs.values() for run in members):
            alarm = judge(run.judged(), rule)
            fired = fired or alarm is not None
            said = alarm or blind(run.judged()) or "No alarm of collapse has sounded."
            print(without_controls(f"{table(run)}\n{said}\n"), flush=True)
        if options.figure is not None:
            write_figure(runs, options.figure)
            print(f"wrote {options.figure}")
        return int(fired)
    return 1


def chosen(logs: Sequence[Path], arms: Sequence[str]) -> dict[str, list[Path]]:
    """Arm → its logs: those that --arm names, then every other log as an arm of its own. Raises UserError."""
    found: dict[str, list[Path]] = {}
    for text in arms:
        name, equals, paths = text.partition("=")
        if not equals or not name or not all(paths.split(",")):
            raise UserError(f"--arm {text}: write an arm and its logs as --arm NAME=LOG,LOG")
        found.setdefault(name, []).extend(Path(path) for path in paths.split(","))
    for path in logs:
        own = str(path) if path.stem in found else path.stem
        found.setdefault(own, []).append(path)
    if not found:
        raise UserError("name a log, or arms with --arm NAME=LOG,LOG: python -m analysis.audit trainer_state.json --from trl")
    return found


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m analysis.audit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("logs", type=Path, nargs="*", metavar="LOG", help="a log, each an arm of its own")
    result.add_argument("--from", dest="source", required=True, choices=SOURCES, help="whose names it has; csv: those of our metrics.jsonl")
    result.add_argument("--arm", action="append", default=[], metavar="NAME=LOG,LOG", help="the logs of one arm, one per seed; repeatable")
    result.add_argument("--figure", type=Path, metavar="FILE", help="also draw the curves of all arms: .png, .pdf or .svg")
    return result


if __name__ == "__main__":
    sys.exit(main())
