"""The README.md of a packed set."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.load.frames import load
from analysis.load.packed import ARCHIVE, SUMS
from analysis.markdown import markdown_table
from analysis.reference.packing import RULES


def describe(packed: Path, left_out: Sequence[str]) -> str:
    """The README.md of a packed set: its studies, the code and the commands that made it, the rules of packing, and what was left out."""
    runs = load(packed).runs
    studies = sorted(runs["study"].unique())
    commits = ", ".join(f"`{commit}`" for commit in sorted(runs["git_commit"].dropna().unique()))
    data = (packed / ARCHIVE).stat().st_size
    lines = [
        "# Reference set",
        "",
        f"{len(runs)} real runs as ordinary run folders ([run_folder.md](../../docs/reference/run_folder.md)), packed into `{ARCHIVE}`, "
        f"{data / 1e6:.1f} MB. Every command of `analysis` reads this folder as it is:",
        "",
        "```",
        *(f"python -m analysis.verdicts results/reference/{study}" for study in studies),
        "python -m analysis.reference unpack results/reference --to DIR      # the run folders themselves",
        "```",
        "",
        study_table(runs),
        "",
        "## Where it comes from",
        "",
        "```",
        *(command(study, part) for study, part in runs.groupby("study")),
        f"python -m analysis.reference pack {' '.join(f'results/{study}' for study in studies)} --out results/reference",
        "```",
        "",
        f"Commit {commits}; {versions(runs)}. This file is written by the last command.",
        "",
        "## What was changed",
        "",
        RULES,
        "",
        "Packing ends by unpacking: every outcome (status, collapse, its update) must be that of the runs, every metric within its",
        f"rounding. Checksum: `sha256sum -c {SUMS}`.",
    ]
    if left_out:
        lines += ["", "Left out:", "", *(f"- {sentence}" for sentence in left_out)]
    return "\n".join(lines) + "\n"


def study_table(runs: pd.DataFrame) -> str:
    """A Markdown table with one row per study: study, arms (their number), seeds, runs, updates, collapsed (runs), arms' names."""
    rows = []
    for study, part in runs.groupby("study"):
        arms, seeds = sorted(part["arm"].unique()), sorted(part["seed"].unique())
        rows.append({"study": study, "arms": len(arms), "seeds": ", ".join(map(str, seeds)), "runs": len(part),
                     "updates": f"{part['updates'].max():.0f}", "collapsed": part["collapsed"].eq(True).sum(),
                     "arms' names": ", ".join(arms)})  # fmt: skip
    return markdown_table(pd.DataFrame(rows))


def command(study: str, runs: pd.DataFrame) -> str:
    """The command that makes a study's runs."""
    seeds = sorted(runs["seed"].unique())
    chosen = f"'seed=range({len(seeds)})'" if seeds == list(range(len(seeds))) else f"seed={','.join(map(str, seeds))}"
    return f"python -m ablate.run -m sweep={study} {chosen}"


def versions(runs: pd.DataFrame) -> str:
    """All versions of each package that the runs were made with, as 'Python 3.11.7, torch 2.12.0 and 2.13.0'."""
    found = defaultdict(set)
    for folder in runs["folder"]:
        for package, version in json.loads((Path(folder) / "summary.json").read_text())["versions"].items():
            found[package].add(version)
    return ", ".join(f"{package} {' and '.join(sorted(known))}" for package, known in found.items())
