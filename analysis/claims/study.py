"""Everything said about one study, as frames: verdicts, report and figures draw from the same ones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ablate.errors import UserError
from ablate.runs.numerics import PACKAGES, code_fingerprint
from analysis.claims.judge import Claim, Verdict, find_arms, judge
from analysis.claims.paper import PAPER_CLAIMS
from analysis.estimate.collapse import collapse_times, disagreements, threshold_curve
from analysis.estimate.early_warning import early_warning
from analysis.estimate.effects import arm_settings, base_arm, factorial_effects, factors, trick_effects
from analysis.estimate.equivalence import margin_of
from analysis.estimate.outcomes import ENDED, outcomes, proxy_tails, scales_of_proxy, with_shared_runs
from analysis.estimate.overoptimisation import against_early_stopping, frontier_test
from analysis.estimate.stats import MIN_SEEDS, bootstrap, clopper_pearson, iqm
from analysis.estimate.survival import logrank, median_time, restricted_mean
from analysis.load.frames import Loaded
from analysis.load.judgements import third_losses, third_parties
from analysis.load.packed import is_packed

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
    frontier: pd.DataFrame  # a row an arm with a KL penalty, against the same without, see `frontier_table`
    warnings: pd.DataFrame  # a row a monitor, see `early_warning`
    remarks: list[str]


def study_verdicts(loaded: Loaded, study: str, generator: np.random.Generator, *, base: str | None = None,
                   claims: Sequence[Claim] = PAPER_CLAIMS, scores: pd.DataFrame | None = None,
                   judgements: pd.DataFrame | None = None) -> StudyVerdicts:  # fmt: skip
    """All estimates of one study. `base` is the arm that others are compared with; by default the most central one.

    `scores` are those of `runs_to_score`; without them nothing is said about the distribution of scores. `judgements`
    are those of `load_judgements`; without any that hold a third party nothing is said of one.
    """
    runs = loaded.runs[loaded.runs["study"] == study].reset_index(drop=True)
    own, curves = len(runs), loaded.curves[loaded.curves["study"] == study]
    runs, curves = with_shared_runs(runs, curves)
    table, settings = outcomes(runs, curves), arm_settings(runs)
    base = base_arm(settings) if base is None else base
    if base not in settings.index:
        raise UserError(f"--base {base}: no such arm in {study}; there are {', '.join(settings.index)}")
    if scores is not None and len(scores):
        table["proxy_tail"] = proxy_tails(table, scores)
    if judgements is not None and len(third_parties(judgements[judgements["run"].isin(table["run"])])):
        table["third_losses"] = third_losses(table, judgements)
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
        frontier=frontier_table(table, curves, settings),
        warnings=early_warning(table[:own], curves[curves["run"].isin(runs["run"][:own])]),
        remarks=_remarks(runs, curves, table, own),
    )


def runs_to_score(loaded: Loaded, study: str, claims: Sequence[Claim] = PAPER_CLAIMS) -> pd.DataFrame:
    """The runs of a study whose scores a claim is about: `study_verdicts(…, scores=load_rows(runs_to_score(…), "scores"))`."""
    runs = loaded.runs[loaded.runs["study"] == study]
    parts = [part for claim in claims for part in claim.parts if part.outcome == "proxy_tail"]
    settings = arm_settings(runs)
    return runs[runs["arm"].isin([arm for part in parts for side in find_arms(settings, part) for arm in side])]


def arm_table(table: pd.DataFrame, generator: np.random.Generator) -> pd.DataFrame:
    """A row an arm: runs, collapses of how many known with the exact interval, median and restricted mean time to collapse,
    and for every level in `LEVELS` its interquartile mean over seeds with a bootstrap interval and the seeds behind it.
    """
    rows = []
    for arm, part in table.groupby("arm", sort=True, observed=True):
        known = part["collapsed"].dropna()
        row = dict(arm=arm, runs=len(part), unfinished=int((~part["status"].isin(ENDED)).sum()),
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


def frontier_table(table: pd.DataFrame, curves: pd.DataFrame, settings: pd.DataFrame) -> pd.DataFrame:
    """Does a KL penalty move gold at equal KL, or only stop earlier? A row a pair of arms that differ in nothing but the penalty.

    Columns: arm, control, verdict, estimate, low, high, p, n of gold at equal KL, margin (differences below it count as the
    same), seeds (how many would do, NaN if decided or none would), and `over_stopping…`: gold at the arm's end minus that of
    its control stopped early. Runs that have not ended take no part. Empty without such arms or where nothing is measured.
    """
    if not {"eval/gold", "eval/kl_to_sft"} <= set(curves.columns) or "ppo.kl_penalty" not in settings:
        return pd.DataFrame()
    curves = curves[curves["run"].isin(table["run"][table["status"].isin(ENDED)])]
    rows = []
    for arm, control in itertools.product(*(settings.index[settings["ppo.kl_penalty"] == on] for on in ("True", "False"))):
        if all(name.startswith("ppo.kl_") for name in settings.columns[settings.loc[arm] != settings.loc[control]]):
            found = frontier_test(curves, arm, control, margin_of("gold_at_kl", table))
            stopping = against_early_stopping(curves, arm, control)
            over = dict(over_stopping=stopping.estimate, over_stopping_low=stopping.low, over_stopping_high=stopping.high)
            about = dict(margin=found.margin, seeds=np.nan if found.seeds is None else found.seeds)
            rows.append(dict(arm=arm, control=control, verdict=found.verdict, **found.effect._asdict(), **about, **over))
    return pd.DataFrame(rows)


def code_remarks(runs: pd.DataFrame) -> list[str]:
    """One sentence where the runs of a study were not made by one code with one set of packages, or that is not known; else none.

    A packed set is held to the code at hand as well: whoever reads it may want to compare it with runs of their own.
    """
    blank = pd.Series(np.nan, index=runs.index, dtype=object)
    columns = {
        name: runs[name] if name in runs else blank
        for name in ("numerics/code", "numerics/earlier", *(f"numerics/{package}" for package in PACKAGES))
    }
    codes, total = columns["numerics/code"], len(runs)
    unknown = int(codes.isna().sum())
    parts: list[str] = []
    made = [f"{count} by code {code}" for code, count in codes.value_counts().items()]
    made += [f"{unknown} before fingerprints of the code were kept"] if unknown else []
    for package in PACKAGES:
        versions = columns[f"numerics/{package}"].value_counts()
        parts += [f"{count} with {package} {version}" for version, count in versions.items() if len(versions) > 1]
    resumed = int((columns["numerics/earlier"] > 0).sum())
    parts += [f"{resumed} resumed after other code or packages had begun them"] if resumed else []
    what = ", ".join(made + parts)
    packed = runs["folder"].map(is_packed).astype(bool)
    others = int((packed & (codes != code_fingerprint())).sum()) if packed.any() else 0
    if others:
        return [f"{others} of {total} runs come from a packed set that the code at hand, {code_fingerprint()}, did not make ({what}): make "
                "them anew, by the commands in the set's README.md, before you compare them with runs of your own."]  # fmt: skip
    if unknown == total:
        return [f"{'The one run was' if total == 1 else f'All {total} runs were'} made before fingerprints of the code were kept, so which "
                "code made them is not known: run them again before you compare them with newer runs."]  # fmt: skip
    if len(made) > 1 or parts:
        return [f"The {total} runs were not all made by one code with one set of packages ({what}): remove the folders of the smaller "
                "part and start the study again before you trust a small difference."]  # fmt: skip
    return []


def _remarks(runs: pd.DataFrame, curves: pd.DataFrame, table: pd.DataFrame, own: int) -> list[str]:
    """Sentences on what the numbers rest on; the rows of `runs` from `own` on are runs listed under a second arm."""
    remarks = code_remarks(runs[:own])
    unfinished = table["status"][:own][~table["status"][:own].isin(ENDED)].value_counts()
    if len(unfinished):
        kinds = ", ".join(f"{count} {status}" for status, count in unfinished.items())
        remarks.append(f"{unfinished.sum()} of {own} runs have not ended ({kinds}): they count in times to collapse and in nothing else.")
    if len(runs) > own:
        shared = sorted(set(runs["arm"][own:]))
        remarks.append(f"Listed under two arms, as the settings of both are the same: {len(runs) - own} run(s) of {', '.join(shared)}.")
    if "pipeline_seed" in runs and runs["pipeline_seed"].nunique() == 1:
        remarks.append(f"Given this world and reward model: every run has pipeline_seed={runs['pipeline_seed'].iloc[0]}.")
    if "eval/gold" not in curves or curves["eval/gold"].isna().all():
        remarks.append("No run has a gold reward: nothing is said about collapse, only about monitors.")
    elif table["collapsed"].isna().all():
        remarks.append("No run has ended or collapsed yet.")
    if runs["git_commit"].nunique() > 1:
        remarks.append(f"The runs come from {runs['git_commit'].nunique()} commits of the code.")
    if table["arm"].nunique() > 1 and table["event"].any() and table["arm"].value_counts().min() >= MIN_SEEDS:
        test = logrank(table["time"].to_numpy(), table["event"].to_numpy(), table["arm"].to_numpy().astype(str))
        remarks.append(f"Time to collapse differs between arms: log-rank p = {test.p:.2g}." if test.p < 0.05
                       else f"Time to collapse: no difference shown between arms (log-rank p = {test.p:.2g}).")  # fmt: skip
    for on, name in (("kl", "KL"), ("proxy", "proxy")):
        target = table[f"matched_{on}"].iloc[0]
        if np.isfinite(target):
            remarks.append(f"Matched {name}: each run that has ended where it first reaches {target:.2f}, as half of every arm's runs do.")
    if not all(scales_of_proxy(runs).values()):
        remarks.append("Proxy scores of different reward models are on different scales: compare them only between arms of one.")
    return remarks + disagreements(runs, collapse_times(runs, curves))
