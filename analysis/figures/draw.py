"""Figures drawn and written: PDF, PNG, and a CSV of what each shows."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ablate.errors import UserError
from analysis.figures.catalogue import FIGURES, Entry, Source, find_source
from analysis.figures.estimate import Drawn, Frames
from analysis.figures.style import style
from analysis.load.frames import Loaded, load, load_reward_models, load_rows
from analysis.load.judgements import load_judgements

DPI = 200


def frames_of(loaded: Loaded, source: Source, reads: str) -> Frames:
    """The runs and curves of `source`, and of the other files those that `reads` names (`Entry.reads`)."""
    runs = loaded.runs[loaded.runs["study"] == source.study]
    if source.arms:
        runs = runs[runs["arm"].isin(source.arms)]
    runs = runs.reset_index(drop=True)
    curves = loaded.curves[loaded.curves["run"].isin(set(runs["run"]))]
    if reads == "scores":
        return Frames(runs, curves, scores=load_rows(runs, "scores"), judgements=load_judgements(runs))
    if reads == "reward_models":
        return Frames(runs, curves, None, *load_reward_models(runs))
    if reads == "judgements":
        return Frames(runs, curves, judgements=load_judgements(runs))
    return Frames(runs, curves)


def write(drawn: Drawn, name: str, out: Path) -> None:
    """Write `name`.pdf, .png and .csv to `out`. Equal figures give equal bytes."""
    out.mkdir(parents=True, exist_ok=True)
    with style():
        drawn.figure.savefig(out / f"{name}.pdf", metadata={"CreationDate": None})
        drawn.figure.savefig(out / f"{name}.png", dpi=DPI, metadata={"Software": None})
    drawn.table.to_csv(out / f"{name}.csv", index=False, float_format="%.6g")


def draw(name: str, loaded: Loaded, source: Source, out: Path) -> str:
    """Draw and write one figure. Returns one line with its files, its study and the number of runs."""
    entry = FIGURES[name]
    frames = frames_of(loaded, source, entry.reads)
    write(entry.draw(frames), name, out)
    return f"{name:10}  {out / name}.pdf .png .csv: {len(frames.runs)} runs of {source.study}"


def missing(name: str, entry: Entry) -> str:
    """One line with the study that the figure `name` lacks and the command that makes its runs."""
    own = entry.sources[0].study
    return f"{name}: no runs of {own} here; python -m ablate.run -m sweep={own} 'seed=range(5)' makes them"


def chosen_source(loaded: Loaded, study: str, arms: str | None) -> Source:
    """The source that --study and --arms name.

    Raises:
        UserError: there is no such study or arm.
    """
    studies = sorted(loaded.runs["study"].unique())
    if study not in studies:
        raise UserError(f"--study {study}: no such study here; there are {', '.join(studies)}")
    present = sorted(loaded.runs.loc[loaded.runs["study"] == study, "arm"].unique())
    named = tuple(arms.split(",")) if arms else ()
    unknown = [arm for arm in named if arm not in present]
    if unknown:
        raise UserError(f"--arms {','.join(unknown)}: not in {study}; there are {', '.join(present)}")
    return Source(study, named)


def draw_all(loaded: Loaded, out: Path) -> int:
    """Draw and write every figure whose runs are loaded, and print one line per figure left out. Returns the number drawn."""
    drawn, left_out = 0, []
    for name, entry in FIGURES.items():
        source = find_source(entry, loaded.runs)
        if source is None:
            left_out.append(missing(name, entry))
            continue
        try:
            print(draw(name, loaded, source, out), flush=True)
            drawn += 1
        except UserError as reason:
            left_out.append(f"{name}: {reason}")
    print("\n".join(["", f"{drawn} figures drawn, {len(left_out)} left out:"[: None if left_out else -1], *left_out]))
    return drawn


def list_figures() -> None:
    """Print every figure with the study that it shows and its first sentence."""
    for name, entry in FIGURES.items():
        print(f"{name:10}  {entry.sources[0].study:26}{(entry.draw.__doc__ or '').splitlines()[0]}")


def run(arguments: argparse.Namespace, names: Sequence[str], folders: Sequence[str]) -> None:
    """Draw the figures `names`, or all, from the runs below `folders`.

    Raises:
        UserError: the study or arm that the arguments name does not exist, or no run is there.
        UserError: no figure can be drawn.
    """
    loaded = load(folders)
    if loaded.runs.empty:
        raise UserError(f"no runs below {', '.join(folders)}: name a study or results folder that python -m ablate.run has written")
    if arguments.all:
        if not draw_all(loaded, arguments.out):
            raise UserError("nothing to draw: name a study with --study and a figure")
        return
    for name in names:
        found = find_source(FIGURES[name], loaded.runs)
        source = chosen_source(loaded, arguments.study, arguments.arms) if arguments.study else found
        if source is None:
            held = ", ".join(sorted(loaded.runs["study"].unique()))
            raise UserError(f"{missing(name, FIGURES[name])}, or draw another study with --study (here: {held})")
        print(draw(name, loaded, source, arguments.out), flush=True)
