"""Draw the paper's figures from run folders.

    python -m analysis.figures fig07 results/policy_constraints
    python -m analysis.figures --all results
    python -m analysis.figures fig07 results --study add_one_in --arms vanilla,kl_penalty,entropy_bonus

Each figure is written as PDF and as PNG, with a CSV of what it shows.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from ablate.errors import UserError
from ablate.system.commands import show_cause
from analysis.load.packed import begin_reading

# Those of `analysis.figures.catalogue`, which would bring matplotlib.
NAMES = (*(f"fig{number:02}" for number in (2, 3, 4, *range(6, 20))), "perplexity")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.figures", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("what", nargs="*", metavar="FIGURE … FOLDER …", help="figures by name, then studies or results folders")
    parser.add_argument("--all", action="store_true", help="every figure whose runs are there")
    parser.add_argument("--list", action="store_true", help="the figures and the studies they show")
    parser.add_argument("--study", help="draw from this study instead of the figure's own")
    parser.add_argument("--arms", help="with --study: only these arms, separated by commas")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="where to write (default: figures/)")
    arguments = parser.parse_intermixed_args()
    if arguments.list:
        from analysis.figures.draw import list_figures

        list_figures()
        return
    try:
        names, folders = chosen(arguments)
        begin_reading(folders)
        # Imported here, because matplotlib and pandas take seconds that neither --help nor a refusal should wait for.
        from analysis.figures.draw import run

        run(arguments, names, folders)
    except (UserError, OSError) as error:
        show_cause(error)
        sys.exit(f"error: {error}")


def chosen(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The figures and the folders that the command line names.

    Raises:
        UserError: the options do not go together, or there is no such figure.
    """
    names = [word for word in arguments.what if word in NAMES]
    folders = [word for word in arguments.what if word not in NAMES]
    unknown = [word for word in folders if re.fullmatch(r"fig\d+", word)]
    if unknown:
        raise UserError(f"no figure {unknown[0]}: there are {', '.join(NAMES)}")
    if not folders or bool(names) == arguments.all:
        raise UserError("name figures or --all, and a folder: python -m analysis.figures fig07 results/policy_constraints")
    if (arguments.all and arguments.study) or (arguments.arms and not arguments.study):
        raise UserError("--study goes with named figures, and --arms with --study")
    return names, folders


if __name__ == "__main__":
    main()
