"""Verdicts of a sweep as plain text, as Markdown or as CSV: the answer first, with --all everything it rests on.

python -m analysis.verdicts results/reference
python -m analysis.verdicts results/leave_one_out --base ppo_max --all --markdown verdicts.md --csv tables
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
    """Print the verdicts of every study below the given folders; 1 if no run can be used."""
    parser = argparse.ArgumentParser(prog="python -m analysis.verdicts", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("folders", nargs="+", help="a study (results/STUDY), a results folder, or several")
    parser.add_argument("--base", help="arm that the others are compared with")
    parser.add_argument("--cache", action="store_true", help="keep what was read as Parquet in <folder>/.analysis (needs pyarrow)")
    parser.add_argument("--all", action="store_true", help="also print every effect, level and table behind the answer")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write claims and arms as Markdown tables")
    parser.add_argument("--csv", type=Path, metavar="DIR", help="also write every table as DIR/STUDY/NAME.csv")
    options = parser.parse_args(arguments)
    try:
        begin_reading(options.folders)
        # Imported here, because pandas and scipy take seconds that neither --help nor a folder that is not there should wait for.
        from ablate.system.progress import track
        from analysis.claims.study import runs_to_score, study_verdicts
        from analysis.load.frames import load, load_rows
        from analysis.load.judgements import load_judgements
        from analysis.verdicts.text import as_markdown, as_text, write_csv

        loaded = load(options.folders, cache=options.cache)
        studies = list(dict.fromkeys(loaded.runs["study"]))
        found = [
            study_verdicts(loaded, study, base=options.base,
                           scores=load_rows(runs_to_score(loaded, study), "scores"),
                           judgements=load_judgements(loaded.runs[loaded.runs["study"] == study]))
            for study in track(studies, len(studies), "studies judged", after=2)
        ]  # fmt: skip
        for verdicts in found:
            print(as_text(verdicts, everything=options.all), end="\n\n")
            if options.csv:
                write_csv(verdicts, options.csv)
        if options.markdown and found:
            options.markdown.write_text("\n".join(as_markdown(verdicts) for verdicts in found))
    except (UserError, OSError) as error:
        show_cause(error)
        print(f"error: {error}", file=sys.stderr)
        return 1
    for row in loaded.left_out.itertuples():
        print(f"left out: {row.folder}: {row.reason}")
    if loaded.runs.empty:
        print(f"error: no run folder could be used below {', '.join(options.folders)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
