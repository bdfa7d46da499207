"""Frames → one plain dict of everything that the page shows: lists, numbers, text and None, without HTML and without NaN."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ablate.errors import UserError
from ablate.sweeps.study import study_names
from analysis.claims.answer import answer, arm_answers, question_of
from analysis.claims.judge import NAMES
from analysis.claims.study import LEVELS, StudyVerdicts, runs_to_score, study_verdicts
from analysis.estimate.effects import base_arm, change, differing
from analysis.estimate.equivalence import margin_of
from analysis.estimate.overoptimisation import GOLD, KL, fit_arms, gao, points
from analysis.estimate.survival import kaplan_meier
from analysis.figures.style import arm_colours, arm_dashes, arm_order
from analysis.load.designs import arm_settings, design_of
from analysis.load.frames import Loaded, load_rows
from analysis.load.judgements import load_judgements
from analysis.report.alarms import alarm_data
from analysis.report.curves import curve_data, short
from analysis.report.texts import draws, load_samples, text_data
from analysis.report.tokens import load_tokens, token_data

MANY = 6  # arms; of more only the base and those that differ from it are drawn at the start
UNITS = {"collapsed": "share of runs", "gold": "gold", "win": "share of prompts", "gold_at_kl": "gold"}
MEDIAN_TIME = ("median_time", "median_time_low", "median_time_high")
RUN_COLUMNS = ("collapsed", "end_update", "gold", "win", "kl", "proxy", "length")


def report_data(loaded: Loaded, study: str, *, base: str | None = None) -> dict[str, Any]:
    """Everything that the page shows of one study, each part as the function that makes it describes it.

    Lists of arms begin with the base arm. Lists of runs have the order of arms, and within an arm that of seeds.

    Raises:
        UserError: there is no run of the study, or `base` is not one of its arms.
    """
    runs = loaded.runs[loaded.runs["study"] == study].reset_index(drop=True)
    if runs.empty:
        raise UserError(f"no run folder of {study} could be used")
    scores, judgements = load_rows(runs_to_score(loaded, study), "scores"), load_judgements(runs)
    verdicts = study_verdicts(loaded, study, base=base, scores=scores, judgements=judgements)
    curves = loaded.curves[loaded.curves["study"] == study]
    settings = arm_settings(runs)
    base = base_arm(settings) if base is None else base
    arms = sorted(arm_order(runs), key=lambda arm: arm != base)
    index = {arm: position for position, arm in enumerate(arms)}
    runs = runs.sort_values(["reward_model", "seed"], kind="stable")
    runs = runs.sort_values("arm", key=lambda names: names.map(index), kind="stable", ignore_index=True)
    answers = arm_answers(verdicts)
    return {
        "study": study, "base": base, "arms": arm_rows(verdicts.arms, settings, arms, base), "facts": facts(runs, verdicts),
        "question": question_of(study), "answer": answer(verdicts), "setup": setup(runs, study),
        "answers": answer_rows(answers, index, verdicts.outcomes), "start": arms_at_start(answers, index),
        "claims": [claim_row(claim, verdict) for claim, verdict in verdicts.claims], "remarks": verdicts.remarks,
        "left_out": loaded.left_out.to_dict("records"), "runs": run_rows(runs, verdicts.outcomes, settings, index),
        "curves": curve_data(runs, curves, arms), "lines": gold_lines(runs), "effects": effect_panels(verdicts, index),
        "factorial": factorial_panels(verdicts), "thresholds": threshold_lines(verdicts.thresholds, arms),
        "survival": survival_steps(verdicts.outcomes, arms), "over": over_optimisation(curves, arms),
        "frontier": plain(verdicts.frontier), "warnings": plain(verdicts.warnings), "texts": text_data(runs, load_samples(runs)),
        "tokens": token_data(runs, load_tokens(runs)), "alarms": alarm_data(runs, curves, arms),
        "settings": {"names": list(differing(settings).columns), "arms": [differing(settings).loc[arm].tolist() for arm in arms]},
    }  # fmt: skip


def plain(frame: pd.DataFrame, digits: int = 4) -> list[dict[str, Any]]:
    """The rows of a frame as dicts, column → value. Floats are rounded to `digits` significant digits, None where not finite."""
    columns = {name: short(frame[name], digits) if frame[name].dtype.kind == "f" else frame[name].tolist() for name in frame.columns}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def facts(runs: pd.DataFrame, verdicts: StudyVerdicts) -> dict[str, Any]:
    """Counts for the head of the page and for captions.

    runs, arms, updates: their number. basis: the design of an arm's runs, '' where arms differ in it. seeds: the least and the greatest
    number of runs per arm. units: the least number of units of inference per arm (reward models where an arm has several).
    status: status → number of runs. rule: threshold and patience of collapse, None where runs differ in them.
    alarms: the number of runs that alarms judge, and not gold. gold_model: whether gold is the score of a reward model in any run.
    commits: of the code. matched_kl: nats. time_unit: of times to collapse. reward_models: their number.
    """
    rules = runs[[name for name in ("collapse.threshold", "collapse.patience") if name in runs]].drop_duplicates()
    seeds, bases, models = (
        verdicts.arms["runs"],
        verdicts.arms["basis"].unique(),
        runs.groupby("arm", observed=True)["reward_model"].nunique(),
    )
    units = models.where(models > 1, runs.groupby("arm", observed=True).size())
    return {
        "runs": len(runs), "arms": len(verdicts.arms), "seeds": [int(seeds.min()), int(seeds.max())],
        "basis": bases[0] if len(bases) == 1 else "", "units": int(units.min()), "reward_models": design_of(runs)[0],
        "updates": int(runs["last_update"].max()), "status": runs["status"].value_counts().to_dict(),
        "rule": [float(value) for value in rules.iloc[0]] if rules.shape == (1, 2) else None,
        "alarms": int((verdicts.outcomes["judged_by"] == "alarms").sum()),
        "gold_model": "gold.path" in runs and bool(runs["gold.path"].notna().any()),
        "commits": sorted({str(commit)[:10] for commit in runs["git_commit"].dropna()}),
        "matched_kl": number(verdicts.outcomes["matched_kl"].iloc[0]), "time_unit": verdicts.outcomes["time_unit"].iloc[0],
    }  # fmt: skip


def setup(runs: pd.DataFrame, study: str) -> dict[str, str]:
    """{model, data, amount, accuracy, command}: what the runs have in common, each as text, '' where it is not known or differs."""

    def one(name: str) -> str:
        values = runs[name].dropna().unique() if name in runs else ()
        return f"{values[0]}" if len(values) == 1 else ""

    layers, hidden = one("model.layers"), one("model.hidden_size")
    size = f"Llama of {layers} layers and width {hidden}" if layers and hidden else ""
    data = "the embedded world" if one("data.source") == "world" else one("data.source")
    amount = [
        f"{value} {label}"
        for name, label in (("ppo.batch_size", "responses per update"), ("ppo.updates", "updates"))
        if (value := one(name))
    ]
    accuracy = runs["rm/held_out_accuracy"].dropna().astype(float) if "rm/held_out_accuracy" in runs else pd.Series(dtype=float)
    told = ""
    if len(accuracy):
        low, high = (f"{value:.0%}" for value in (accuracy.min(), accuracy.max()))
        told = f"reward model right on {low if low == high else f'{low} to {high}'} of held-out pairs"
    seeds = sorted(runs["seed"].unique())
    which = f"'seed=range({len(seeds)})'" if seeds == list(range(len(seeds))) else f"seed={','.join(map(str, seeds))}"
    models = sorted(runs["pipeline_seed"].dropna().astype(int).unique()) if "pipeline_seed" in runs else []
    crossed = len(models) > 1 and bool((runs["pipeline_seed"] != runs["seed"]).any())  # else the study itself gives each seed its own
    drawn = f" pipeline_seed={','.join(map(str, models))}" if crossed else ""
    command = f"python -m ablate.run -m sweep={study}{drawn} {which}" if study in study_names() else ""
    return {"model": one("model.path") or size, "data": data, "amount": " × ".join(amount), "accuracy": told, "command": command}


def answer_rows(answers: pd.DataFrame, index: dict[str, int], outcomes: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of `arm_answers` with arm as an index and followed, the longest time known of a run of the arm."""
    last = dict(outcomes.groupby("arm", observed=True)["time"].max())
    return [
        row | {"arm": index[row["arm"]], "followed": float(last[row["arm"]])} for row in plain(answers, 8)
    ]  # rounded once, where it is shown


def arms_at_start(answers: pd.DataFrame, index: dict[str, int]) -> list[int]:
    """The arms drawn when the page opens: all up to `MANY`, else the base and those that differ from it in collapses or gold."""
    apart = answers["versus"].isin(["base", "fewer", "more"]) | answers["gold_versus"].isin(["higher", "lower"])
    chosen = answers["arm"][apart] if len(answers) > MANY else answers["arm"]
    return sorted(index[arm] for arm in chosen)


def number(value: Any) -> float | None:
    """The value as a float, or None if it is None or not finite."""
    return float(value) if value is not None and math.isfinite(value) else None


def arm_rows(table: pd.DataFrame, settings: pd.DataFrame, arms: Sequence[str], base: str) -> list[dict[str, Any]]:
    """One dict per arm, in drawing order: arm, change, colour (on light and on dark paper), dash, and the values of `arm_table`.

    An infinite median time is an estimate and not a missing one. It is given as 'never'.
    """
    colours, dashes = arm_colours(arms), arm_dashes(arms)
    numbers = [name for name in table.columns if name.startswith((*LEVELS, "rate"))]
    rows = []
    for arm, row in ((arm, table.set_index("arm").loc[arm]) for arm in arms):
        entry = {name: int(row[name]) for name in ("runs", "unfinished", "diverged", "too_short", "collapses", "n")} | {
            "basis": row["basis"]
        }
        entry |= dict(zip(numbers, short(row[numbers].astype(float), 8), strict=True))
        entry |= {name: "never" if row[name] == np.inf else number(row[name]) for name in MEDIAN_TIME}
        dash = "" if dashes[arm] == "-" else " ".join(f"{2 * length:g}" for length in dashes[arm][1])
        colour = [colours[arm], on_dark(colours[arm])]
        rows.append({"arm": arm, "change": change(settings, arm, base), "colour": colour, "dash": dash, **entry})
    return rows


def on_dark(colour: str, contrast: float = 4.5, paper: float = 0.009) -> str:
    """The colour '#rrggbb', mixed with the least white that gives it `contrast` (WCAG) on paper of relative luminance `paper`."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    for white in np.linspace(0, 1, 21):
        mixed = rgb + white * (1 - rgb)
        linear = np.where(mixed <= 0.04045, mixed / 12.92, ((mixed + 0.055) / 1.055) ** 2.4)
        if (linear @ [0.2126, 0.7152, 0.0722] + 0.05) / (paper + 0.05) >= contrast:
            break
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in mixed)


def claim_row(claim: Any, verdict: Any) -> dict[str, Any]:
    """{verdict, text, figure, parts} of one claim of the paper. parts: {verdict, sentence, needed}, needed: units that would decide.

    A sentence does not begin with its verdict, which the page shows as a badge.
    """
    parts = [{"verdict": part.verdict, "sentence": part.sentence.removeprefix(f"{part.verdict}: "), "needed": part.needed}
             for part in verdict.parts]  # fmt: skip
    return {"verdict": verdict.verdict, "text": claim.text, "figure": claim.figure, "parts": parts}


def run_rows(runs: pd.DataFrame, outcomes: pd.DataFrame, settings: pd.DataFrame, index: dict[str, int]) -> dict[str, Any]:
    """{settings, base, rows}. settings: names of those that differ between arms. base: their values in the first arm.

    rows: one dict per run, in the order of `runs`: arm (index), seed, status, reason, updates, event, collapsed, time, gold, win, kl,
    proxy, length and settings (values); reward_model; time: the update of the collapse or the last one; draw: see `draws`.
    """
    different, rows = differing(settings), []
    values_of = dict(zip(different.index, different.to_numpy(dtype=object).tolist(), strict=True))
    table, labels = outcomes.set_index("run").loc[runs["run"]], draws(runs).to_dict()
    numbers = short(table[list(RUN_COLUMNS)].astype(float), 3)
    for run, known, event in zip(runs.itertuples(), numbers, table["event"].tolist(), strict=True):
        reason = run.reason if isinstance(run.reason, str) else ""
        entry = {"arm": index[run.arm], "seed": int(run.seed), "reward_model": run.reward_model, "draw": labels[run.run],
                 "status": run.status, "reason": reason,
                 "updates": int(run.last_update), "event": bool(event)}  # fmt: skip
        entry |= dict(zip(RUN_COLUMNS, known, strict=True))
        entry["time"] = entry.pop("end_update")
        rows.append(entry | {"settings": values_of[run.arm]})
    base = min(index, key=index.__getitem__)
    return {"settings": list(different.columns), "base": values_of[base], "rows": rows}


def gold_lines(runs: pd.DataFrame) -> dict[str, Any]:
    """{sft, limit}: SFT's gold, and the gold below which a run counts as collapsed, each [mean, least, greatest] over runs, or None."""
    mean, deviation = runs["sft/eval/gold"].astype(float), runs["sft/eval/gold_sd"].astype(float)
    threshold = runs["collapse.threshold"].astype(float) if "collapse.threshold" in runs else np.nan
    levels = {"sft": mean, "limit": mean - threshold * deviation}
    return {name: short([level.mean(), level.min(), level.max()]) if level.notna().any() else None for name, level in levels.items()}


def effect_panels(verdicts: StudyVerdicts, index: dict[str, int]) -> list[dict[str, Any]]:
    """One forest panel per outcome: {outcome, label, unit, margin, rows}.

    margin: a smaller difference does not matter. rows: one dict per arm, with arm (index), label, and the columns of `effects` but base
    and outcome.
    """
    panels = []
    for outcome, part in verdicts.effects.groupby("outcome", sort=False) if len(verdicts.effects) else ():
        rows = [row | {"arm": index[row["arm"]], "label": row["arm"]} for row in plain(part.drop(columns=["base", "outcome"]))]
        panels.append(_panel(outcome, sorted((row for row in rows if row["n"]), key=lambda row: row["arm"]), verdicts))
    return [panel for panel in panels if panel["rows"]]


def factorial_panels(verdicts: StudyVerdicts) -> list[dict[str, Any]]:
    """The panels of `effect_panels` for the main and two-way effects of a full factorial. [] if the study is none."""
    grouped = verdicts.factorial.groupby("outcome", sort=False) if len(verdicts.factorial) else ()
    panels = [_panel(outcome, [row | {"label": row["term"]} for row in plain(part.drop(columns="outcome")) if row["n"]], verdicts)
              for outcome, part in grouped]  # fmt: skip
    return [panel for panel in panels if panel["rows"]]


def _panel(outcome: str, rows: list[dict[str, Any]], verdicts: StudyVerdicts) -> dict[str, Any]:
    margin = number(margin_of(outcome, verdicts.outcomes))
    return {
        "outcome": outcome,
        "label": NAMES.get(outcome, outcome),
        "unit": verdicts.outcomes["time_unit"].iloc[0] if outcome == "stable_updates" else UNITS.get(outcome, ""),
        "margin": margin,
        "rows": rows,
    }


def threshold_lines(table: pd.DataFrame, arms: Sequence[str]) -> list[dict[str, list]] | None:
    """Collapse rate over thresholds: per arm {threshold, rate, low, high, collapses, n}, each a list. None if no run is judged."""
    if table.empty:
        return None
    parts = [table[table["arm"] == arm] for arm in arms]
    names = ("threshold", "rate", "low", "high", "collapses", "n")
    return [{name: short(part[name]) for name in names} for part in parts]


def survival_steps(outcomes: pd.DataFrame, arms: Sequence[str]) -> list[dict[str, list]] | None:
    """Kaplan–Meier estimate: per arm {time, survival, low, high, at_risk, events, censored}, each a list. None without a gold reward.

    censored: the times of runs that did not collapse.
    """
    if outcomes["collapsed"].isna().all() and not outcomes["event"].any():
        return None
    steps = []
    for part in (outcomes[outcomes["arm"] == arm] for arm in arms):
        table = kaplan_meier(part["time"].to_numpy(), part["event"].to_numpy(), part["reward_model"].to_numpy())
        lists = {name: short(table[name]) for name in ("time", "survival", "low", "high", "at_risk", "events")}
        steps.append(lists | {"censored": sorted(part.loc[~part["event"], "time"].astype(int).tolist())})
    return steps


def over_optimisation(curves: pd.DataFrame, arms: Sequence[str]) -> list | None:
    """Gain over SFT in gold and in proxy against d = √KL(π‖SFT): per arm {gold, proxy, fit, line}. None if no run has gold.

    gold, proxy: one path {seed, x, y, update} per run. fit: the row of `fit_arms`, gold gained = d (α − β log d), or None. line: {x, y}.
    """
    if not {KL, GOLD} <= set(curves.columns):
        return None
    table = points(curves)
    fits = {row["arm"]: row for row in plain(fit_arms(curves))}
    proxy = points(curves.assign(**{GOLD: curves["eval/proxy"]})) if "eval/proxy" in curves else table.iloc[:0]
    entries = []
    for arm in arms:
        part = table[table["arm"] == arm]
        fit = fits.get(arm)
        grid = np.linspace(0, part["d"].max(), 41) if fit else np.empty(0)
        line = {"x": short(grid, 3), "y": short(gao(grid, fit["alpha"], fit["beta"]), 3)} if fit else None
        entries.append({"gold": _paths(part), "proxy": _paths(proxy[proxy["arm"] == arm]), "fit": fit, "line": line})
    return entries if any(entry["gold"] for entry in entries) else None


def _paths(part: pd.DataFrame) -> list[dict[str, list]]:
    return [{"seed": int(path["seed"].iloc[0]), "x": short(path["d"], 3), "y": short(path["gain"], 3), "update": path["update"].tolist()}
            for _, path in part.groupby("run", observed=True, sort=False)]  # fmt: skip
