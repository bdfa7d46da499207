"""Pack and unpack the reference set, the finished runs that are committed, and draw the figure of the README from it.

    python -m analysis.reference pack results/add_one_in results/leave_one_out --out results/reference
    python -m analysis.reference unpack results/reference --to DIR
    python -m analysis.reference figure results/reference --out docs/opening.png

The commands of `analysis` read a packed set as it is: `python -m analysis.verdicts results/reference/add_one_in`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ablate.errors import UserError
from ablate.system.commands import show_cause
from analysis.load.packed import REFERENCE, unpack


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out pack, unpack or figure. If that cannot be done, say why (as a UserError does) and return 1."""
    parser = argparse.ArgumentParser(prog="python -m analysis.reference", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="finished runs → a folder that can be committed")
    packing.add_argument("studies", nargs="+", type=Path, help="results/STUDY, one or several")
    packing.add_argument("--out", type=Path, default=REFERENCE)
    unpacking = commands.add_parser("unpack", help="a packed set → run folders")
    unpacking.add_argument("packed", nargs="?", type=Path, default=REFERENCE)
    unpacking.add_argument("--to", type=Path, required=True, help="the folder that gets a folder for each study, for instance results")
    drawing = commands.add_parser("figure", help="the figure that opens the README")
    drawing.add_argument("folders", nargs="*", type=Path, default=[REFERENCE], help="the packed set, or results/STUDY, one or several")
    drawing.add_argument("--out", type=Path, required=True, help="PNG, PDF or SVG")
    options = parser.parse_args(arguments)
    try:
        if options.command == "unpack":
            unpack(options.packed, options.to)
            return 0
        # Imported here, because pandas takes a second that --help should not wait for.
        from analysis.load.frames import load

        if options.command == "pack":
            from analysis.reference.packing import pack
            from analysis.reference.readme import describe

            left_out = pack(options.studies, options.out)
            (options.out / "README.md").write_text(describe(options.out, left_out))
            print("\n".join([*(f"left out: {sentence}" for sentence in left_out), f"{options.out}: {len(load(options.out).runs)} runs"]))
        else:
            from analysis.figures.opening import opening

            loaded = load(options.folders)
            figure = opening(loaded.runs, loaded.curves)
            if options.out.suffix[1:] not in figure.canvas.get_supported_filetypes():
                raise UserError(f"--out {options.out}: name a file that ends in .png, .pdf or .svg")
            figure.savefig(options.out, dpi=160)
    except (UserError, OSError) as error:
        show_cause(error)
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
