"""Verdicts of a sweep as plain text: `python -m analysis.verdicts results/STUDY`.

Only layout: every number comes from `analysis.study`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.load import load
from analysis.study import LEVELS, StudyVerdicts, study_verdicts

WARNING = ["monitor", "direction", "area", "detected", "lead", "false_alarms", "collapses", "runs"]


def as_text(verdicts: StudyVerdicts) -> str:
    """The verdicts as plain text: claims first, then arms, effects, factorial terms, the threshold's influence."""
    lines = [f"== {verdicts.study} ==", ""]
    for _, verdict in verdicts.claims:
        lines += [verdict.sentence, *(f"    {part.sentence}" for part in verdict.parts)]
    if not verdicts.claims:
        lines.append("No claim of the paper can be judged with these arms.")
    lines += [
        "",
        "Arms (mean of the middle half of seeds [95 % bootstrap]; rates [95 % exact]; time in updates)",
        _arms_text(verdicts.arms),
    ]
    if len(verdicts.effects):
        base = verdicts.effects["base"].iloc[0]
        lines += ["", f"Effect against {base} (paired by seed, 95 % intervals; p after Holm over arms)", _effects_text(verdicts.effects)]
    if len(verdicts.factorial):
        shown = verdicts.factorial.assign(effect=[_interval(row) for row in verdicts.factorial.to_dict("records")])
        lines += [
            "",
            "Factorial: main and two-way effects (seeds as blocks)",
            shown[["outcome", "term", "effect", "p_holm", "n"]].to_string(index=False),
        ]
    if len(verdicts.frontier):
        lines += ["", "KL penalty against early stopping (gold at equal KL, 95 %; and gold at the end over the base stopped early)"]
        lines += [f"{row['arm']}: {row['verdict']}: {_interval(row)}, {row['n']} seeds; over stopping {_interval(row, 'over_stopping')}"
                  for row in verdicts.frontier.to_dict("records")]  # fmt: skip
    if len(verdicts.warnings):
        shown = verdicts.warnings.assign(area=[_interval(row, "auc", prefix="") for row in verdicts.warnings.to_dict("records")])
        lines += ["", "Early warning of a collapse within 15 updates, on held-out seeds", shown[WARNING].round(2).to_string(index=False)]
    if len(verdicts.thresholds):
        wide = verdicts.thresholds.assign(of=[f"{row.collapses}/{row.n}" for row in verdicts.thresholds.itertuples()])
        lines += ["", "Collapses by threshold (SDs of SFT's gold)", wide.pivot(index="arm", columns="threshold", values="of").to_string()]
    return "\n".join([*lines, "", *verdicts.remarks])


def _interval(row: dict, name: str = "", digits: int = 2, prefix: str | None = None) -> str:
    """'estimate [low, high]' of the columns name, name_low, name_high (or of estimate, low, high); '-' if there is none."""
    prefix = (f"{name}_" if name else "") if prefix is None else prefix
    estimate = row[name] if name else row["estimate"]
    if pd.isna(estimate):
        return "-"
    return f"{estimate:.{digits}f} [{row[prefix + 'low']:.{digits}f}, {row[prefix + 'high']:.{digits}f}]"


def _arms_text(arms: pd.DataFrame) -> str:
    rows = []
    for row in arms.to_dict("records"):
        collapsed = f"{row['collapses']}/{row['n']} {_interval(row, 'rate').partition(' ')[2]}"
        shown = {"arm": row["arm"], "runs": row["runs"], "collapsed": collapsed, "median time": _interval(row, "median_time", 0)}
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
            print(as_text(study_verdicts(loaded, study, np.random.default_rng(options.seed), base=options.base)), end="\n\n")
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
