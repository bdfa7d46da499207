"""Everything said about one study, as frames: verdicts, report and figures draw from the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.claims import Claim, Verdict, judge
from analysis.collapse import collapse_times, disagreements, threshold_curve
from analysis.early_warning import early_warning
from analysis.effects import arm_settings, base_arm, factorial_effects, factors, trick_effects
from analysis.equivalence import margin_of
from analysis.load import Loaded
from analysis.outcomes import outcomes
from analysis.overoptimisation import against_early_stopping, frontier_test
from analysis.paper_claims import PAPER_CLAIMS
from analysis.stats import bootstrap, clopper_pearson, iqm
from analysis.survival import logrank, median_time, restricted_mean

FACTORIAL_OUTCOMES = ("collapsed", "stable_updates", "gold", "win")
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
    frontier: pd.DataFrame  # a row an arm with a KL penalty, against the base without, see `frontier_table`
    warnings: pd.DataFrame  # a row a monitor, see `early_warning`
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
    factorial = [factorial_effects(table, design, measure) for measure in FACTORIAL_OUTCOMES] if design else []
    judged = [(claim, verdict) for claim in claims if (verdict := judge(claim, table, settings)) is not None]
    return StudyVerdicts(
        study=study,
        outcomes=table,
        arms=arm_table(table, generator),
        effects=trick_effects(table, settings, base) if several else pd.DataFrame(),
        factorial=pd.concat(factorial, ignore_index=True) if factorial else pd.DataFrame(),
        claims=judged,
        thresholds=threshold_curve(runs, curves),
        frontier=frontier_table(table, curves, settings, base),
        warnings=early_warning(table, curves),
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


def frontier_table(table: pd.DataFrame, curves: pd.DataFrame, settings: pd.DataFrame, base: str) -> pd.DataFrame:
    """Does a KL penalty move gold at equal KL, or only stop earlier? A row an arm that adds nothing but the penalty to the base.

    Columns: arm, verdict, estimate, low, high, p, n of gold at equal KL, and `over_stopping…`: gold at the arm's end minus
    that of the base stopped early. Empty if the base has a KL penalty or nothing is measured.
    """
    if not {"eval/gold", "eval/kl_to_sft"} <= set(curves.columns) or settings.loc[base].get("ppo.kl_penalty") != "False":
        return pd.DataFrame()
    rows = []
    for arm in settings.index[settings["ppo.kl_penalty"] == "True"]:
        if all(name.startswith("ppo.kl_") for name in settings.columns[settings.loc[arm] != settings.loc[base]]):
            found = frontier_test(curves, arm, base, margin_of("gold_at_kl", table))
            stopping = against_early_stopping(curves, arm, base)
            over = dict(over_stopping=stopping.estimate, over_stopping_low=stopping.low, over_stopping_high=stopping.high)
            rows.append(dict(arm=arm, verdict=found.verdict, **found.effect._asdict(), **over))
    return pd.DataFrame(rows)


def _remarks(runs: pd.DataFrame, curves: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    remarks = []
    if runs.get("pipeline_seed", pd.Series(dtype=float)).nunique() == 1:
        remarks.append(f"Given this world and reward model: every run has pipeline_seed={runs['pipeline_seed'].iloc[0]}.")
    if "eval/gold" not in curves or curves["eval/gold"].isna().all():
        remarks.append("No run has a gold reward: nothing is said about collapse, only about monitors.")
    elif table["collapsed"].isna().all():
        remarks.append("No run has ended or collapsed yet.")
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
