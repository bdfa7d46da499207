"""Verdicts of a sweep: `python -m analysis.verdicts results/STUDY` prints them as plain text.

Reads what `load` returns, computes frames, and only at the end turns frames into text, so that figures and the report can
use the same frames.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.claims import Claim, Verdict, judge
from analysis.collapse import collapse_times, disagreements, threshold_curve
from analysis.effects import arm_settings, base_arm, factorial_effects, factors, trick_effects
from analysis.load import Loaded, load
from analysis.outcomes import outcomes
from analysis.paper_claims import PAPER_CLAIMS
from analysis.stats import bootstrap, clopper_pearson, iqm
from analysis.survival import logrank, median_time, restricted_mean

LEVELS = ("gold", "win", "proxy", "kl", "gold_at_kl", "win_at_kl", "gold_at_proxy", "win_at_proxy")


@dataclass(frozen=True)
class StudyVerdicts:
    """Everything said about one study: frames and verdicts, no text layout."""

    study: str
    outcomes: pd.DataFrame  # a row a run, see `outcomes`
    arms: pd.DataFrame  # a row an arm, see `arm_table`
    effects: pd.DataFrame  # a row an arm and outcome, against the base
    factorial: pd.DataFrame  # a row a term and outcome; empty unless the arms are a full two-level design
    claims: list[tuple[Claim, Verdict]]
    thresholds: pd.DataFrame  # a row an arm and threshold
    remarks: list[str]


def study_verdicts(loaded: Loaded, study: str, generator: np.random.Generator, *, base: str | None = None,
                   claims: Sequence[Claim] = PAPER_CLAIMS) -> StudyVerdicts:  # fmt: skip
    """All estimates of one study. `base` is the arm that others are compared with; by default the most central one."""
    runs = loaded.runs[loaded.runs["study"] == study].reset_index(drop=True)
    curves = loaded.curves[loaded.curves["study"] == study]
    table, settings = outcomes(runs, curves), arm_settings(runs)
    base = base_arm(settings) if base is None else base
    if base not in settings.index:
        raise ValueError(f"--base {base}: no such arm in {study}; there are {', '.join(settings.index)}")
    several = len(settings) > 1
    design = factors(settings) if several else {}
    factorial = [factorial_effects(table, design, measure) for measure in ("collapsed", "stable_updates", "gold", "win")] if design else []
    judged = [(claim, verdict) for claim in claims if (verdict := judge(claim, table, settings)) is not None]
    return StudyVerdicts(
        study=study,
        outcomes=table,
        arms=arm_table(table, generator),
        effects=trick_effects(table, settings, base) if several else pd.DataFrame(),
        factorial=pd.concat(factorial, ignore_index=True) if factorial else pd.DataFrame(),
        claims=judged,
        thresholds=threshold_curve(runs, curves),
        remarks=_remarks(runs, curves, table),
    )


def arm_table(table: pd.DataFrame, generator: np.random.Generator) -> pd.DataFrame:
    """A row an arm: runs, collapses of how many known with the exact interval, median and restricted mean time to collapse,
    and for every level in `LEVELS` its interquartile mean over seeds with a bootstrap interval and the seeds behind it.
    """
    rows = []
    for arm, part in table.groupby("arm", sort=True, observed=True):
        known = part["collapsed"].dropna()
        row = dict(arm=arm, runs=len(part), unfinished=int((~part["status"].isin(["completed", "diverged"])).sum()),
                   diverged=int((part["status"] == "diverged").sum()), collapses=int(known.sum()), n=len(known))  # fmt: skip
        intervals = {"rate": clopper_pearson(row["collapses"], row["n"])}
        times, events = part["time"].to_numpy(), part["event"].to_numpy()
        intervals["median_time"] = median_time(times, events)
        intervals["stable_updates"] = restricted_mean(times, events, float(part["horizon"].min()))
        for level in LEVELS:
            values = part[level].dropna().to_numpy()
            row[f"{level}_n"] = len(values)
            intervals[level] = bootstrap(values, iqm, generator)
        for name, interval in intervals.items():
            row |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
        rows.append(row)
    return pd.DataFrame(rows)


def _remarks(runs: pd.DataFrame, curves: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    remarks = []
    if runs.get("pipeline_seed", pd.Series(dtype=float)).nunique() == 1:
        remarks.append(f"Given this world and reward model: every run has pipeline_seed={runs['pipeline_seed'].iloc[0]}.")
    if table["collapsed"].isna().all():
        remarks.append("No run has a gold reward: nothing is said about collapse, only about monitors.")
    if runs["git_commit"].nunique() > 1:
        remarks.append(f"The runs come from {runs['git_commit'].nunique()} commits of the code.")
    if table["arm"].nunique() > 1 and table["event"].any():
        test = logrank(table["time"].to_numpy(), table["event"].to_numpy(), table["arm"].to_numpy().astype(str))
        remarks.append(f"Time to collapse differs between arms: log-rank p = {test.p:.2g}." if test.p < 0.05
                       else f"Time to collapse: no difference shown between arms (log-rank p = {test.p:.2g}).")  # fmt: skip
    for on in ("kl", "proxy"):
        target = table[f"matched_{on}"].iloc[0]
        if np.isfinite(target):
            remarks.append(f"Matched {on}: each run where it first reaches {target:.2f}, which half of every arm's runs do.")
    return remarks + disagreements(runs, collapse_times(runs, curves))


def text(verdicts: StudyVerdicts) -> str:
    """The verdicts as plain text: claims first, then arms, effects, factorial terms, the threshold's influence."""
    lines = [f"== {verdicts.study} ==", ""]
    for _, verdict in verdicts.claims:
        lines += [verdict.sentence, *(f"    {part.sentence}" for part in verdict.parts)]
    if not verdicts.claims:
        lines.append("No claim of the paper can be judged with these arms.")
    lines += ["", "Arms (mean of the middle half of seeds [95 % bootstrap]; rates [95 % exact]; time in updates)", _arms_text(verdicts.arms)]
    if len(verdicts.effects):
        base = verdicts.effects["base"].iloc[0]
        lines += ["", f"Effect against {base} (paired by seed, 95 % intervals; p after Holm over arms)", _effects_text(verdicts.effects)]
    if len(verdicts.factorial):
        shown = verdicts.factorial.assign(effect=[_interval(row) for row in verdicts.factorial.to_dict("records")])
        lines += ["", "Factorial: main and two-way effects (seeds as blocks)", shown[["outcome", "term", "effect", "p_holm", "n"]].to_string(index=False)]
    if len(verdicts.thresholds):
        wide = verdicts.thresholds.assign(of=[f"{row.collapses}/{row.n}" for row in verdicts.thresholds.itertuples()])
        lines += ["", "Collapses by threshold (SDs of SFT's gold)", wide.pivot(index="arm", columns="threshold", values="of").to_string()]
    return "\n".join([*lines, "", *verdicts.remarks])


def _interval(row: dict, name: str = "", digits: int = 2) -> str:
    prefix = f"{name}_" if name else ""
    estimate = row[name] if name else row["estimate"]
    if pd.isna(estimate):
        return "-"
    return f"{estimate:.{digits}f} [{row[prefix + 'low']:.{digits}f}, {row[prefix + 'high']:.{digits}f}]"


def _arms_text(arms: pd.DataFrame) -> str:
    rows = []
    for row in arms.to_dict("records"):
        shown = {"arm": row["arm"], "runs": row["runs"], "collapsed": f"{row['collapses']}/{row['n']} {_interval(row, 'rate').partition(' ')[2]}",
                 "median time": _interval(row, "median_time", 0)}  # fmt: skip
        rows.append(shown | {level.replace("_", " "): _interval(row, level) for level in LEVELS})
    return pd.DataFrame(rows).to_string(index=False)


def _effects_text(effects: pd.DataFrame) -> str:
    shown = effects.assign(text=[f"{_interval(row)} p={row['p_holm']:.2g}" if row["n"] > 1 else "-" for row in effects.to_dict("records")])
    wide = shown.pivot(index=["arm", "change"], columns="outcome", values="text")
    return wide[list(dict.fromkeys(effects["outcome"]))].rename(columns=lambda name: name.replace("_", " ")).to_string()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the verdicts of every study below the given folders; 1 if no run can be used."""
    parser = argparse.ArgumentParser(prog="python -m analysis.verdicts", description="Verdicts of a sweep as plain text.")
    parser.add_argument("folders", nargs="+", help="a study (results/STUDY), a results folder, or several")
    parser.add_argument("--base", help="arm that the others are compared with")
    parser.add_argument("--cache", action="store_true", help="keep what was read as Parquet in <folder>/.analysis (needs pyarrow)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap")
    options = parser.parse_args(arguments)
    try:
        loaded = load(options.folders, cache=options.cache)
        for study in dict.fromkeys(loaded.runs["study"]):
            print(text(study_verdicts(loaded, study, np.random.default_rng(options.seed), base=options.base)), end="\n\n")
    except (FileNotFoundError, ModuleNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    for row in loaded.left_out.itertuples():
        print(f"left out: {row.folder}: {row.reason}")
    if loaded.runs.empty:
        print(f"no run folder could be used below {', '.join(options.folders)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
