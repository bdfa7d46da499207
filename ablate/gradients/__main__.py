"""Measure how far each estimator of the KL to SFT, in the loss or in the reward, turns and stretches the KL's gradient.

  python -m ablate.run ppo=vanilla study=kl_gradient checkpoint.every=1 checkpoint.keep=0 ppo.updates=60
  python -m ablate.gradients results/kl_gradient/*/* --kl 1,5,20 --to results/kl_gradient/gradients.csv
  python -m ablate.gradients results/kl_gradient/vanilla/seed=0 --batches 16

For each run and each KL of --kl the checkpoint whose logged KL to SFT is nearest is taken. The table says for each estimator, against
the exact gradient with the states as they are and against the exact gradient of the whole response: the cosine of the angle between
them, the ratio of their lengths, and how much of the exact gradient it has along it (1 is unbiased). Intervals are 95 %, over batches.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

from ablate.errors import UserError
from ablate.runs.folder import config_of
from ablate.system.commands import announce, command_errors

COLUMNS = ("run", "update", "kl", "target", "estimator", "measure", "value", "low", "high")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. A UserError is one sentence on stderr and exit status 1."""
    options = parser().parse_args(arguments)
    with command_errors():
        distances = numbers(options.kl)
        if options.batches < 3 or options.responses < 2:
            raise UserError("intervals need at least 3 batches of 2 responses: raise --batches and --responses")
        for run in options.runs:
            config_of(run)
        announce(f"{options.batches} batches of {options.responses} responses for each of {len(options.runs)} runs at KL {options.kl}")
        # Imported here, because torch and transformers take seconds that neither --help nor a refusal should wait for.
        from ablate.gradients.table import lines, rows

        found = rows(options.runs, distances, options.batches, options.responses)
        if options.to is not None:
            write(options.to, found)
        print("\n".join(lines(found)))


def numbers(text: str) -> list[float]:
    """Numbers between commas. Raises UserError."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"--kl {text} is not numbers between commas: write for instance --kl 1,5,20") from error
    if not all(0 <= number < float("inf") for number in found):
        raise UserError(f"--kl {text} has a KL that no policy has: give numbers from 0")
    return found


def write(path: Path, found: list[dict]) -> None:
    """Write the rows as CSV. Raises UserError."""
    try:
        with path.open("w", newline="") as handle:
            out = csv.DictWriter(handle, COLUMNS)
            out.writeheader()
            out.writerows(found)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): name another file with --to") from error


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m ablate.gradients", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("runs", type=Path, nargs="+", help="run folders that hold checkpoints, results/<study>/<arm>/seed=<n>")
    result.add_argument("--kl", default="1,5,20", help="distances from SFT in nats per response (default: %(default)s)")
    result.add_argument("--batches", type=int, default=64, help="independent batches (default: %(default)s)")
    result.add_argument("--responses", type=int, default=128, help="responses of a batch (default: %(default)s)")
    result.add_argument("--to", type=Path, help="also write the numbers to this CSV file")
    return result


if __name__ == "__main__":
    main()
