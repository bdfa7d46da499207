"""The reference set, the finished runs that are committed: pack and unpack it, and keep the documents true to it.

    python -m analysis.reference pack results/add_one_in results/leave_one_out     add these studies to the set, or replace them
    python -m analysis.reference remove vanilla                                    take a study out of it
    python -m analysis.reference unpack results/reference --to DIR                 the run folders themselves
    python -m analysis.reference check                                             fail if a document says anything else than the runs
    python -m analysis.reference write                                             make the documents say what the runs do
    python -m analysis.reference figure results/reference --out docs/opening.png   draw the figure that opens the README

The commands of `analysis` read a packed set, or a study of one, as it is: `python -m analysis.verdicts results/reference/add_one_in`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ablate.errors import UserError
from ablate.system.commands import announce, show_cause
from analysis.load.packed import REFERENCE, studies, unpack


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the command. Return 1 if `check` finds a difference, and if a command cannot be done, after saying why."""
    options = parser().parse_args(arguments)
    try:
        if options.command == "unpack":
            unpack(options.packed, options.to)
        elif options.command in ("pack", "remove"):
            change(options)
        elif options.command == "figure":
            draw_opening(options.folders, options.out)
        else:
            return keep_true(write=options.command == "write")
    except (UserError, OSError) as error:
        show_cause(error)
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m analysis.reference", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="finished runs → studies of a set that can be committed; its other studies stay")
    packing.add_argument("studies", nargs="+", type=Path, help="results/STUDY, one or several")
    packing.add_argument("--out", type=Path, default=REFERENCE)
    removing = commands.add_parser("remove", help="take studies out of a set")
    removing.add_argument("studies", nargs="+", help="names of studies")
    removing.add_argument("--out", type=Path, default=REFERENCE)
    unpacking = commands.add_parser("unpack", help="a packed set → run folders")
    unpacking.add_argument("packed", nargs="?", type=Path, default=REFERENCE)
    unpacking.add_argument("--to", type=Path, required=True, help="the folder that gets a folder for each study, for instance results")
    commands.add_parser("check", help="a readable diff of every document that does not say what the committed runs do")
    commands.add_parser("write", help="rewrite those documents, and draw the figures whose data changed")
    drawing = commands.add_parser("figure", help="the figure that opens the README")
    drawing.add_argument("folders", nargs="*", type=Path, default=[REFERENCE], help="the packed set, or results/STUDY, one or several")
    drawing.add_argument("--out", type=Path, required=True, help="PNG, PDF or SVG")
    return parser


# Each function imports what it needs when it is called, because pandas takes a second that --help should not wait for.


def change(options: argparse.Namespace) -> None:
    """Pack or remove studies, then write the set's README.md. Raises UserError."""
    announce("packing and comparing: about a minute per hundred runs" if options.command == "pack" else "reading what is left of the set")
    from analysis.load.frames import load
    from analysis.reference.packing import pack, remove_study
    from analysis.reference.readme import describe

    if options.command == "pack":
        for sentence in pack(options.studies, options.out):
            print(f"left out: {sentence}")
    else:
        for study in options.studies:
            remove_study(options.out, study)
    loaded = load(options.out)
    (options.out / "README.md").write_text(describe(options.out, loaded), encoding="utf-8")
    print(f"{options.out}: {len(loaded.runs)} runs of {', '.join(studies(options.out)) or 'no study'}")


def keep_true(*, write: bool) -> int:
    """Write what the documents say of the committed runs, or print how they differ and return 1. Raises UserError."""
    announce("reading the committed runs and estimating what the documents say of them: seconds")
    from analysis.reference import generated
    from analysis.reference.estimates import estimated

    reference = estimated(REFERENCE)
    texts, lacking = generated.documents(reference)
    if lacking:
        print(f"left as they are, as the set has no runs for them: {', '.join(lacking)}")
    if write:
        for name in generated.write(reference, texts):
            print(f"written: {name}", flush=True)
    found = list(generated.differences(texts))
    print("\n\n".join(found) or f"the documents say what the {len(reference.loaded.runs)} committed runs do")
    if found and not write:
        print("error: the documents differ from the committed runs: python -m analysis.reference write rewrites them", file=sys.stderr)
    return int(bool(found))


def draw_opening(folders: Sequence[Path], out: Path) -> None:
    """Draw the figure of the README. Raises UserError for a file of another kind than a picture."""
    from analysis.figures.opening import opening
    from analysis.load.frames import load

    loaded = load(folders)
    figure = opening(loaded.runs, loaded.curves)
    if out.suffix[1:] not in figure.canvas.get_supported_filetypes():
        raise UserError(f"--out {out}: name a file that ends in .png, .pdf or .svg")
    figure.savefig(out, dpi=160)


if __name__ == "__main__":
    sys.exit(main())
