"""Everything said about one study, as frames: verdicts, report and figures draw from the same ones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ablate.errors import UserError
from ablate.runs.alarms import PATIENCE
from ablate.runs.numerics import PACKAGES, code_fingerprint
from analysis.claims.judge import Claim, Verdict, find_arms, judge
from analysis.claims.modern import MODERN_CLAIMS
from analysis.claims.paper import PAPER_CLAIMS
from analysis.estimate.collapse import collapse_times, disagreements, threshold_curve
from analysis.estimate.early_warning import early_warning
from analysis.estimate.effects import base_arm, factorial_effects, factors, trick_effects
from analysis.estimate.equivalence import margin_of, never_acted
from analysis.estimate.outcomes import ENDED, outcomes, proxy_tails, scales_of_proxy
from analysis.estimate.overoptimisation import against_early_stopping, end_at_equal_kl, frontier_test
from analysis.estimate.stats import Interval, clustered_rate, mean_interval
from analysis.estimate.survival import median_time
from analysis.estimate.units import levels
from analysis.load.designs import arm_settings, design_of, merged_names
from analysis.load.frames import Loaded
from analysis.load.judgements import third_losses, third_parties
from analysis.load.packed import are_packed

FACTORIAL_OUTCOMES = ("collapsed", "stable_updates", "gold", "win")
BOUNDS = {"win": (0.0, 1.0), "win_at_kl": (0.0, 1.0), "win_at_proxy": (0.0, 1.0), "kl": (0.0, np.inf), "stable_updates": (0.0, np.inf)}
LEVELS = ("gold", "gold_gain", "win", "proxy", "kl", "gold_at_kl", "win_at_kl", "gold_at_proxy", "win_at_proxy")

ALL_CLAIMS = PAPER_CLAIMS + MODERN_CLAIMS


@dataclass(frozen=True)
class StudyVerdicts:
    """Everything said about one study: frames and verdicts, no text layout."""

    study: str
    outcomes: pd.DataFrame  # one row per run, see `outcomes`
    arms: pd.DataFrame  # one row per arm, see `arm_table`
    effects: pd.DataFrame  # one row per arm and outcome, against the base
    factorial: pd.DataFrame  # one row per term and outcome; empty unless the arms are a full two-level design
    claims: list[tuple[Claim, Verdict]]
    thresholds: pd.DataFrame  # one row per arm and threshold
    frontier: pd.DataFrame  # one row per arm with a KL penalty, against the same without, see `frontier_table`
    warnings: pd.DataFrame  # one row per monitor, see `early_warning`
    remarks: list[str]


def study_verdicts(loaded: Loaded, study: str, *, base: str | None = None, claims: Sequence[Claim] = ALL_CLAIMS,
                   scores: pd.DataFrame | None = None, judgements: pd.DataFrame | None = None) -> StudyVerdicts:  # fmt: skip
    """All estimates of one study. `base` is the arm that others are compared with; by default the most central one.

    `scores` are those of `runs_to_score`; without them nothing is said about the distribution of scores. `judgements`
    are those of `load_judgements`; without any that hold a third party nothing is said of one.

    Raises:
        UserError: the study has no arm `base`.
    """
    runs = loaded.runs[loaded.runs["study"] == study].reset_index(drop=True)
    curves = loaded.curves[loaded.curves["study"] == study]
    table, settings = outcomes(runs, curves), arm_settings(runs)
    base = base_arm(settings) if base is None else base
    if base not in settings.index:
        raise UserError(f"--base {base}: no such arm in {study}; there are {', '.join(settings.index)}")
    if scores is not None and len(scores):
        table["proxy_tail"] = proxy_tails(table, scores)
    if judgements is not None and len(third_parties(judgements[judgements["run"].isin(table["run"])])):
        table["third_losses"] = third_losses(table, judgements)
    several, compared = len(settings) > 1, table.astype({"arm": object, "reward_model": object})  # compared row by row, over and over
    design = factors(settings) if several else {}
    factorial = [factorial_effects(compared, design, measure) for measure in FACTORIAL_OUTCOMES] if design else []
    judged = [(claim, verdict) for claim in claims if (verdict := judge(claim, compared, settings)) is not None]
    return StudyVerdicts(
        study=study,
        outcomes=table,
        arms=arm_table(table),
        effects=trick_effects(compared, settings, base) if several else pd.DataFrame(),
        factorial=pd.concat(factorial, ignore_index=True) if factorial else pd.DataFrame(),
        claims=judged,
        thresholds=threshold_curve(runs, curves),
        frontier=frontier_table(table, curves, settings),
        warnings=early_warning(table, curves),
        remarks=_remarks(runs, curves, table, base),
    )


def runs_to_score(loaded: Loaded, study: str, claims: Sequence[Claim] = ALL_CLAIMS) -> pd.DataFrame:
    """The runs of a study whose scores a claim is about: `study_verdicts(…, scores=load_rows(runs_to_score(…), "scores"))`."""
    runs = loaded.runs[loaded.runs["study"] == study]
    parts = [part for claim in claims for part in claim.parts if part.outcome == "proxy_tail"]
    settings = arm_settings(runs)
    return runs[runs["arm"].isin([arm for part in parts for side in find_arms(settings, part) for arm in side])]


def arm_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per arm.

    Columns: arm, basis (the design of its runs), runs, unfinished, diverged, too_short, collapses, n (runs of which it is known), rate
    with its exact interval (`clustered_rate`), median_time, stable_updates, and every level in `LEVELS`: means over units with t
    intervals, each with _low, _high and _n, the runs behind it.
    """
    rows = []
    for arm, part in table.groupby("arm", sort=True, observed=True):
        counts = {name: levels(part, name, [arm]) for name in ("collapsed", "stable_updates", *LEVELS)}
        rate, times = counts["collapsed"], part["time"].to_numpy()
        unfinished = int((~part["status"].isin(ENDED)).sum())
        row = dict(arm=arm, basis=str(levels(part, "time", [arm]).basis), runs=len(part), unfinished=unfinished,
                   diverged=int((part["status"] == "diverged").sum()), too_short=int(part["too_short"].sum()),
                   collapses=int(part["collapsed"].sum()), n=rate.basis.runs)  # fmt: skip
        intervals: dict[str, Interval] = {"rate": clustered_rate(rate.values, rate.basis.runs)}
        intervals["median_time"] = median_time(times, part["event"].to_numpy(), part["reward_model"].to_numpy())
        for name in ("stable_updates", *LEVELS):
            row[f"{name}_n"] = counts[name].basis.runs
            intervals[name] = _within(mean_interval(counts[name].values), *BOUNDS.get(name, (-np.inf, np.inf)))
        for name, interval in intervals.items():
            row |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
        rows.append(row)
    return pd.DataFrame(rows)


def _within(interval: Interval, low: float, high: float) -> Interval:
    """The interval cut at the bounds of what it is an interval of."""
    return interval if np.isinf(interval.low) else Interval(interval.estimate, max(interval.low, low), min(interval.high, high))


def frontier_table(table: pd.DataFrame, curves: pd.DataFrame, settings: pd.DataFrame) -> pd.DataFrame:
    """Does a KL penalty move gold at equal KL, or only stop earlier? One row per pair of arms that
    differ in nothing but the penalty.

    Columns: arm, control, verdict, estimate, low, high, p, n, basis of gold at equal KL, margin (differences below it count as the
    same), needed (how many units would do, NaN if decided or none would), unmeasured (pairs without measurements in the compared
    range) and every (the `evaluation.every` that would have measured them); `at_end…` with its p: gold at the arm's end minus that of
    its control at that KL (`end_at_equal_kl`); `over_stopping…`: the same minus that of its control stopped early. Runs that have not
    ended take no part. Empty without such arms or where nothing is measured.
    """
    if not {"eval/gold", "eval/kl_to_sft"} <= set(curves.columns) or "ppo.kl_penalty" not in settings:
        return pd.DataFrame()
    ended = curves["run"].isin(table["run"][table["status"].isin(ENDED)])
    curves = curves.loc[ended, [name for name in curves if "/" not in name or name.startswith("eval/")]]
    rows = []
    for arm, control in itertools.product(*(settings.index[settings["ppo.kl_penalty"] == on] for on in ("True", "False"))):
        if all(name.startswith("ppo.kl_") for name in settings.columns[settings.loc[arm] != settings.loc[control]]):
            found = frontier_test(curves, arm, control, margin_of("gold_at_kl", table))
            stopping = against_early_stopping(curves, arm, control)
            end = end_at_equal_kl(curves, arm, control)
            enough = end.basis.enough()
            over = dict(at_end=end.estimate, at_end_low=end.low, at_end_high=end.high, at_end_p=end.p if enough else np.nan)
            over |= dict(over_stopping=stopping.estimate, over_stopping_low=stopping.low, over_stopping_high=stopping.high)
            effect = found.effect._asdict() | {"basis": str(found.effect.basis)}
            about = dict(margin=found.margin, needed=np.nan if found.needed is None else found.needed, unmeasured=found.unmeasured,
                         every=found.every)  # fmt: skip
            rows.append(dict(arm=arm, control=control, verdict=found.verdict, **effect, **about, **over))
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
    packed = np.array(are_packed(runs["folder"].tolist()), dtype=bool)
    others = int((packed & (codes != code_fingerprint())).sum()) if packed.any() else 0
    if others:
        return [f"{others} of {total} runs come from a packed set that other or unknown code made, not the code "
                f"at hand, {code_fingerprint()} ({what}): "
                "make them anew, by the commands in the set's README.md, before you compare them with runs of your own."]  # fmt: skip
    if unknown == total:
        return [f"{'The one run was' if total == 1 else f'All {total} runs were'} made before fingerprints of the code were kept, so which "
                "code made them is not known: run them again before you compare them with newer runs."]  # fmt: skip
    if len(made) > 1 or parts:
        return [f"The {total} runs were not all made by one code with one set of packages ({what}): remove the folders of the smaller "
                "part and start the study again before you trust a small difference."]  # fmt: skip
    return []


def _remarks(runs: pd.DataFrame, curves: pd.DataFrame, table: pd.DataFrame, base: str) -> list[str]:
    """Sentences on what the numbers rest on."""
    remarks = [*code_remarks(runs), *design_remarks(runs)]
    if inert := never_acted(table, base):
        remarks.append(f"Never acted: {', '.join(inert)}. Each run of such an arm is the run of {base} to the bit, so the study says "
                       "nothing of its trick where that would act.")  # fmt: skip
    if "gold.path" in runs and runs["gold.path"].notna().any():
        remarks.append("Gold is the score of a reward model (gold.path), a second opinion and not the truth: it can like answers that have "
                       "collapsed.")  # fmt: skip
    unfinished = table["status"][~table["status"].isin(ENDED)].value_counts()
    if len(unfinished):
        kinds = ", ".join(f"{count} {status}" for status, count in unfinished.items())
        remarks.append(
            f"{unfinished.sum()} of {len(runs)} runs have not ended ({kinds}): they count in times to collapse and in nothing else."
        )
    if short := int(table["too_short"].sum()):
        remarks.append(f"{short} of {len(runs)} runs are too short to collapse: a collapse takes `collapse.patience` evaluations after the "
                       f"first in a row (by alarms {PATIENCE} updates), and they have fewer. They count as unknown, not as held: "
                       "raise ppo.updates or lower evaluation.every.")  # fmt: skip
    if "eval/gold" not in curves or curves["eval/gold"].isna().all():
        judged = (table["judged_by"] == "alarms").any()
        said = "nothing is said about what answers are worth" if judged else "nothing is said about collapse, only about monitors"
        remarks.append(f"No run has a gold reward: {said}.")
    elif table["collapsed"].isna().all() and not short:
        remarks.append("No run has ended or collapsed yet.")
    if runs["git_commit"].nunique() > 1:
        remarks.append(f"The runs come from {runs['git_commit'].nunique()} commits of the code.")
    if (units := table["time_unit"].iloc[0]) != "updates":
        remarks.append(f"Arms differ in the length of an update, so times are in {units}.")
    remarks += [remark for on, name in (("kl", "KL"), ("proxy", "proxy")) if (remark := _matched_remark(table, on, name))]
    if not all(scales_of_proxy(runs).values()):
        remarks.append("Proxy scores of different reward models are on different scales: compare them only between arms of one.")
    return remarks + disagreements(runs, collapse_times(runs, curves))


def design_remarks(runs: pd.DataFrame) -> list[str]:
    """Which reward models and seeds a study's runs have, and which folders are one arm."""
    models, fewest, most = design_of(runs)
    seeds = f"{fewest}–{most}" if most > fewest else str(most)
    if models > 1:
        remarks = [f"Over {models} reward models, {seeds} seed{'s' * (most > 1)} of an arm with each: the unit of every estimate is the "
                   "reward model where the compared runs have several."]  # fmt: skip
    else:
        which = f" ({runs['reward_model'].iloc[0]})" if runs["reward_model"].iloc[0] else ""
        has = "which every run has" if all(scales_of_proxy(runs).values()) else "in each arm that of its settings"
        remarks = [f"Given one reward model{which}, {has}: what is said need not hold with another."]
    names = merged_names(runs)
    listed = [
        f"{arm} ({', '.join(folders)})" for arm, folders in names.items() if not all("pipeline_seed=" in folder for folder in folders)
    ]
    if listed:
        remarks.append(f"One arm each, as the settings of their folders differ in pipeline_seed alone or in nothing: {'; '.join(listed)}.")
    return remarks


def _matched_remark(table: pd.DataFrame, on: str, name: str) -> str:
    """Where runs are compared at equal KL or proxy, and how many were not measured there."""
    targets = table[f"matched_{on}"].dropna().unique()
    if len(targets) == 0:
        return ""
    where = f"{targets[0]:.2f}" if len(targets) == 1 else f"{targets.min():.2f} to {targets.max():.2f}, by reward model"
    text = f"Matched {name}: each run that has ended where it first reaches {where}, as half of every arm's runs do."
    known, ended = table[f"gold_at_{on}"].notna(), table["gold"].notna()
    missing = int((ended & ~known).sum())
    return text + (
        f" {missing} of {int(ended.sum())} did not reach it or were not measured near it and have no value there." if missing else ""
    )
