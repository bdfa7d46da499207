"""Everything in the repository that is made from the committed runs: blocks of documents, whole documents, and tables behind figures."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pandas as pd

from analysis.figures.catalogue import FIGURES
from analysis.figures.collapse import proxy_and_gold, proxy_and_gold_table
from analysis.figures.draw import frames_of
from analysis.figures.estimate import Drawn, collapse_limit
from analysis.figures.opening import opening, opening_table
from analysis.figures.style import style
from analysis.load.packed import REFERENCE
from analysis.notebooks.__main__ import executed_on, notebooks, set_digest
from analysis.reference import findings, headlines, world
from analysis.reference.blocks import filled
from analysis.reference.estimates import ReferenceSet
from analysis.reference.readme import describe, size
from analysis.reference.tutorial import tutorial
from analysis.tricks.measured import measured_arms
from analysis.tricks.page import page
from analysis.world_check.tables import PICTURED

ROOT = REFERENCE.parents[1]
Block = Callable[[ReferenceSet], str | None]
# Document → its blocks. A block that is None for a set keeps what it has.
BLOCKS: dict[str, dict[str, Block]] = {
    "README.md": {"findings": headlines.findings},
    "docs/findings.md": {
        "origin": findings.origin, "add_one_in": findings.arms_of("add_one_in"), "leave_one_out": findings.arms_of("leave_one_out"),
        "policy_constraints": findings.arms_of("policy_constraints"), "frontier": findings.frontier, "thresholds": findings.thresholds,
        "claims": findings.claims,
        "limits": findings.limits, "one_seed": findings.one_seed, "world_held": world.world_held,
    },
    "docs/explanation/world.md": {
        "world_answers": world.world_answers, "world": world.world, "world_unbiased": world.world_unbiased,
    },
    "docs/explanation/alarms.md": {"alarms": world.alarms},
    "docs/tutorial/first_hour.md": {"tutorial": tutorial},
    "results/README.md": {"size": size},
}  # fmt: skip
PAPERS = ("fig04", "fig07")  # figures of the paper that docs/findings.md shows
EVERY = 5  # updates
DIGITS = 5  # significant, of the tables behind figures


def documents(reference: ReferenceSet) -> tuple[dict[str, str], list[str]]:
    """(file → its whole text as it should be, the blocks and tables that the set has no runs for, which stay as they stand).

    Raises:
        UserError: a document has not the blocks that it should have.
        OSError: a document cannot be read.
    """
    texts: dict[str, str] = {}
    lacking: list[str] = []
    for name, blocks in BLOCKS.items():
        contents = {block: make(reference) for block, make in blocks.items()}
        texts[name] = filled((ROOT / name).read_text(encoding="utf-8"), contents, name)
        lacking += [f"{block} of {name}" for block, content in contents.items() if content is None]
    for name, table in tables(reference).items():
        if table is None:
            lacking.append(name)
        else:
            texts[name] = as_csv(table)
    texts["results/reference/README.md"] = describe(reference.folder, reference.loaded)
    texts["docs/explanation/tricks.md"] = page(measured_arms(reference.loaded))
    return texts, lacking


def tables(reference: ReferenceSet) -> dict[str, pd.DataFrame | None]:
    """The tables behind the figures of the documents, None where the set lacks the study."""
    runs, curves = reference.loaded.runs, reference.loaded.curves
    papers = {name: of_the_paper(reference, name) for name in PAPERS}
    check = reference.studies.get("world_check")
    return {
        "docs/opening.csv": opening_table(runs, curves) if {"add_one_in", "leave_one_out"} & reference.studies.keys() else None,
        "docs/collapse.csv": None if check is None else proxy_and_gold_table(check.curves, list(PICTURED)),
        **{f"docs/{name}.csv": None if drawn is None else means(drawn.table) for name, drawn in papers.items()},
    }


def of_the_paper(reference: ReferenceSet, name: str) -> Drawn | None:
    """A figure of the paper from the runs of `policy_constraints`; None where the set lacks them."""
    study = reference.several("policy_constraints")
    if study is None:
        return None
    entry = FIGURES[name]
    source = next(source for source in entry.sources if source.study == study.name)
    return entry.draw(frames_of(reference.loaded, source, entry.reads))


def means(table: pd.DataFrame) -> pd.DataFrame:
    """Of what a figure shows the means with their intervals and the collapses, at every `EVERY`-th update: the runs are in the set."""
    return table[(table["kind"] != "run") & (table["update"] % EVERY == 0)]


def as_csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, float_format=f"%.{DIGITS}g", lineterminator="\n")


def differences(texts: Mapping[str, str]) -> Iterator[str]:
    """A unified diff per file that is not as `documents` has it, from what stands to what should; and a sentence on notebooks that were
    executed on another set."""
    for name, wanted in texts.items():
        if (present := standing(ROOT / name)) != wanted:
            lines = present.splitlines(), wanted.splitlines()
            yield "\n".join(difflib.unified_diff(*lines, name, f"{name}, from the committed runs", lineterm="", n=1))
    stale = [path.name for path in notebooks() if executed_on(path) != set_digest()]
    if stale:
        yield f"{', '.join(stale)}: executed on another set of runs; make notebooks executes them again"


def write(reference: ReferenceSet, texts: Mapping[str, str]) -> Iterator[str]:
    """Write every file that is not as `documents` has it, and draw the figures whose tables changed. Yields each file when written."""
    for name, wanted in texts.items():
        if standing(ROOT / name) != wanted:
            (ROOT / name).write_text(wanted, encoding="utf-8")
            yield name
            if name.endswith(".csv"):
                picture = (ROOT / name).with_suffix(".png")
                draw(reference, picture)
                yield picture.relative_to(ROOT).as_posix()


def standing(path: Path) -> str:
    """The text of a file as it stands, '' without one."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def draw(reference: ReferenceSet, picture: Path) -> None:
    """Draw docs/opening.png, docs/collapse.png or a figure of the paper."""
    if picture.stem in PAPERS:
        drawn = of_the_paper(reference, picture.stem)
        assert drawn is not None, f"the set lacks the runs of {picture.stem}"
        with style():
            drawn.figure.savefig(picture, dpi=110, metadata={"Software": None})
        return
    if picture.stem == "opening":
        figure = opening(reference.loaded.runs, reference.loaded.curves)
    else:
        check = reference.studies["world_check"]
        figure = proxy_and_gold(check.curves, PICTURED, collapse_limit(check.runs[check.runs["arm"] == "vanilla"]))
    figure.savefig(picture, dpi=160)
