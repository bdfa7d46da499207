"""The README.md of a packed set, and what results/README.md says of it: pure functions of what is packed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from ablate.settings.groups import sweep_names
from ablate.sweeps.study import load_study
from analysis.estimate.units import Basis, levels
from analysis.load.frames import Loaded
from analysis.load.packed import SUMS, archive_of
from analysis.load.runfolder import read_summary
from analysis.markdown import markdown_table
from analysis.reference.estimates import ReferenceSet
from analysis.reference.packing import RULES
from analysis.reference.prose import coded, counted, listed, wrapped

UNKNOWN = "not recorded"


def describe(packed: Path, loaded: Loaded) -> str:
    """The README.md of a packed set: its studies, what made each of them, the commands, the rules of packing, and which runs are missing.

    loaded: the runs of the set, as `load` returns them.
    """
    runs, studies = loaded.runs, sorted(loaded.runs["study"].unique())
    parts = {study: runs[runs["study"] == study] for study in studies}
    megabytes = sum(archive_of(packed, study).stat().st_size for study in studies) / 1e6
    lines = [
        "# Reference set",
        "",
        wrapped(f"{len(runs)} real runs as ordinary run folders ([run_folder.md](../../docs/reference/run_folder.md)), packed into one "
                f"archive per study, {megabytes:.1f} MB. Every command of `analysis` reads this folder, or one study of it, as it is:"),
        "",
        "```",
        *(f"python -m analysis.verdicts results/reference/{study}" for study in studies),
        "python -m analysis.reference unpack results/reference --to DIR      # the run folders themselves",
        "```",
        "",
        markdown_table(pd.DataFrame([what_it_holds(study, part) for study, part in parts.items()])),
        "",
        "*Layout only, one seed*: such a study shows what its runs look like, and decides nothing.",
        "",
        "## Where it comes from",
        "",
        "```",
        *(f"{line:<100}# = {made}" if made else line for line, made in (commands_of(study, part) for study, part in parts.items())),
        f"python -m analysis.reference pack {' '.join(f'results/{study}' for study in studies)}",
        "python -m analysis.reference write                  # this file, and all that the documents say of these runs",
        "```",
        "",
        markdown_table(pd.DataFrame([what_made_it(packed, study, part) for study, part in parts.items()])),
        "",
        wrapped("*Code* is the fingerprint of the code that decides a run's numbers (`numerics` in summary.json), *wall* the sum over "
                "runs, without the stages before PPO. A run computes with the threads named, so it took at most wall × threads of CPU."),
        "",
        *(f"- {study}: {versions(part)}." for study, part in parts.items()),
        "",
        "## What was changed",
        "",
        RULES,
        "",
        "Packing ends by unpacking: every outcome (status, collapse, its update) must be that of the runs, every metric within its",
        f"rounding. Checksums: `sha256sum -c {SUMS}`.",
    ]  # fmt: skip
    if missing := [name for study, part in parts.items() for name in holes(study, part)]:
        lines += ["", f"Not in the set, as they did not end or were not made: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def size(reference: ReferenceSet) -> str:
    """The block of results/README.md: how much is committed."""
    runs, studies = counted(len(reference.loaded.runs), "finished run"), counted(len(reference.studies), "study")
    return (f"[reference/](reference/README.md) is committed: {runs} of {studies}, one archive per study, which every command of "
            "`analysis` reads as it lies.")  # fmt: skip


def what_it_holds(study: str, runs: pd.DataFrame) -> dict[str, str]:
    """A study's row: study, arms (their number), runs, what an arm has, updates, collapsed (runs), read as, arms' names."""
    arms = sorted(runs["arm"].unique())
    bases = sorted({levels(runs.assign(one=1.0), "one", [arm]).basis for arm in arms})
    return {"study": study, "arms": str(len(arms)), "runs": str(len(runs)), "an arm has": " or ".join(map(str, bases)),
            "updates": f"{runs['updates'].max():.0f}", "collapsed": str(runs["collapsed"].eq(True).sum()),
            "read as": read_as(bases),
            "arms' names": ", ".join(arms)}  # fmt: skip


def read_as(bases: Sequence[Basis]) -> str:
    """What may be concluded from arms that rest on these: evidence only where each has enough units to decide a mean."""
    if all(basis.runs == 1 for basis in bases):
        return "layout only, one seed"
    return "evidence" if all(basis.enough() for basis in bases) else "too few to decide"


def what_made_it(packed: Path, study: str, runs: pd.DataFrame) -> dict[str, str]:
    """A study's row: study, MB, code, commit, processor, threads; wall hours, and CPU hours at most, of runs not taken over from others."""
    summaries = [read_summary(Path(folder) / "summary.json", []) for folder in runs["folder"]]
    records = [summary.get("numerics") or {} for summary in summaries]
    made = [(summary.get("wall_seconds") or 0.0, record.get("threads")) for summary, record in zip(summaries, records, strict=True)
            if "taken_from" not in summary]  # fmt: skip
    known = all(threads is not None for _, threads in made)
    return {"study": study, "MB": f"{archive_of(packed, study).stat().st_size / 1e6:.1f}",
            "code": together(record.get("code") for record in records),
            "commit": together(str(summary.get("git_commit") or UNKNOWN)[:7] for summary in summaries),
            "processor": together(record.get("processor") for record in records),
            "threads": together(record.get("threads") for record in records),
            "wall": f"{sum(seconds for seconds, _ in made) / 3600:.1f} h" if made else "taken over from other studies",
            "CPU": f"≤ {sum(seconds * (threads or 0) for seconds, threads in made) / 3600:.1f} h" if made and known else
            UNKNOWN if made else "–"}  # fmt: skip


def together(values: Iterable[object]) -> str:
    """Distinct values in one cell; `UNKNOWN` for None."""
    return " and ".join(sorted({UNKNOWN if value is None else str(value) for value in values})) or UNKNOWN


def commands_of(study: str, runs: pd.DataFrame) -> tuple[str, str]:
    """(the command that makes a study's runs, the target of make that does so and packs them; '' where make has none for these seeds)."""
    seeds = sorted(runs["seed"].unique())
    target = f"make reference STUDY={study} SEEDS={len(seeds)}"
    made = _drawn_by_seed(runs) and (_draws(study) or seeds == [0]) and seeds == list(range(len(seeds)))
    return command(study, runs), target if made else ""


def command(study: str, runs: pd.DataFrame) -> str:
    """The command that makes a study's runs."""
    seeds = sorted(runs["seed"].unique())
    chosen = f"'seed=range({len(seeds)})'" if seeds == list(range(len(seeds))) else f"seed={','.join(map(str, seeds))}"
    drawn = " 'pipeline_seed=${seed}'" if _drawn_by_seed(runs) and not _draws(study) else ""
    return f"python -m ablate.run -m sweep={study} {chosen}{drawn}"


def _draws(study: str) -> bool:
    """Whether the study's file in sweeps/ gives every seed a reward model of its own."""
    return study in sweep_names() and "pipeline_seed=${seed}" in load_study(study).base


def _drawn_by_seed(runs: pd.DataFrame) -> bool:
    """Whether each seed has a reward model of its own: `pipeline_seed=${seed}`; of a study of seed 0 alone nothing else is assumed."""
    return "pipeline_seed" in runs and bool((runs["pipeline_seed"] == runs["seed"]).all())


def versions(runs: pd.DataFrame) -> str:
    """All versions of each package that the runs were made with, as 'Python 3.11.7, torch 2.12.0 and 2.13.0'."""
    found = defaultdict(set)
    for folder in runs["folder"]:
        for package, version in read_summary(Path(folder) / "summary.json", []).get("versions", {}).items():
            found[package].add(version)
    return ", ".join(f"{package} {' and '.join(sorted(known))}" for package, known in found.items())


def holes(study: str, runs: pd.DataFrame) -> list[str]:
    """study/arm/seed=n of every seed of the study that one of its arms lacks."""
    seeds = set(runs["seed"])
    return [f"{study}/{arm}/seed={seed}" for arm, part in runs.groupby("arm") for seed in sorted(seeds - set(part["seed"]))]


def made_by(runs: pd.DataFrame) -> str:
    """The code of runs: its fingerprints, or its commits where runs are older than fingerprints."""
    codes = sorted(runs["numerics/code"].dropna().unique()) if "numerics/code" in runs else []
    commits = sorted(runs["git_commit"].dropna().unique())
    told = [f"code of fingerprint {coded(codes)}"] if codes else []
    if "numerics/code" not in runs or runs["numerics/code"].isna().any():
        told.append("code older than fingerprints")
    names = listed([f"`{commit[:7]}`" for commit in commits]) if commits else ""
    return listed(told) + (f" ({'commit' if len(commits) == 1 else 'commits'} {names})" if names else "")
