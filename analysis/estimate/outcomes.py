"""Curves → one row a run: did it collapse, when, and what it had at the end and at matched KL or proxy.

`status` decides what is known. A run that diverged counts as an event at its last update: it was not stable. A run that is
still going, was interrupted or failed counts in survival (an event if it has collapsed, censored otherwise) and nowhere
else: of unfinished runs the collapsed ones would be known first, and a rate over those known would be too high.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from ablate.runs.metrics import win_rate
from analysis.estimate.collapse import collapse_times, evaluations

ENDED = ("completed", "diverged")
# Commits whose code counted a truncated answer's score twice under `ppo.bootstrap_truncated`.
SCORE_COUNTED_TWICE = ("192cade877040226b171ed973e1535757aaf2015", "5527edcc617c39046cb4dba9dcccd5579361fdd4")
END_METRICS = {"gold": "eval/gold", "proxy": "eval/proxy", "kl": "eval/kl_to_sft", "length": "eval/length", "perplexity": "eval/perplexity"}
ABILITY = {"lm_loss": "eval/lm_loss", "choice_accuracy": "eval/choice_accuracy"}  # the alignment tax, where runs have measured it
MATCHED_ON = {"kl": "eval/sqrt_kl", "proxy": "eval/proxy"}
KINDS = ("helpful", "harmful")
REWARD_MODEL = ("data.", "model.", "sft.", "preferences.", "reward_model.")  # settings that make a reward model, beside pipeline_seed


def outcomes(runs: pd.DataFrame, curves: pd.DataFrame, *, threshold: float | None = None, patience: int | None = None) -> pd.DataFrame:
    """One row per run.

    Columns: run, study, arm, reward_model, seed, status; event, time (for survival) in time_unit, end_update (the same in updates);
    collapsed (1, 0, NaN unknown), judged_by ('gold' or 'alarms') and too_short (it could not have collapsed); stable_updates =
    min(time, horizon), NaN if not known up to the study's horizon, the shortest planned length; gold, proxy, win (ties half), kl,
    length, perplexity at the last evaluation (NaN unless ended); gold_gain, proxy_gain over SFT; win_margin_helpful,
    win_margin_harmful: wins − losses against SFT on such prompts; lm_loss, choice_accuracy at the last evaluation and lm_loss_gain,
    choice_accuracy_gain over SFT, absent where no run has measured them; sft_gold_sd, the unit of gold; gold_at_kl, gold_at_proxy,
    win_at_kl, win_at_proxy where an ended run first reaches matched_kl or matched_proxy, if it was measured near there (`at_matched`);
    rm_accuracy of the run's reward model on held-out pairs.

    time_unit is "updates", or "responses" (update × `ppo.batch_size`) in a study whose arms differ in responses per update.
    """
    table = runs[["run", "study", "arm", "reward_model", "seed", "status"]].copy()
    times = collapse_times(runs, curves, threshold, patience).set_index("run").loc[table["run"]]
    at_evaluations = with_win_rate(evaluations(curves))
    if "eval/kl_to_sft" in at_evaluations:
        # Gold is far from linear in KL but close to it in √KL: between evaluations, lines in KL would favour slow arms.
        at_evaluations = at_evaluations.assign(**{"eval/sqrt_kl": np.sqrt(at_evaluations["eval/kl_to_sft"].clip(lower=0))})
    diverged, last = table["status"].to_numpy() == "diverged", runs["last_update"].to_numpy(dtype=float)
    collapse, judged = times["collapse_update"].to_numpy(), times["judged"].to_numpy()
    table["judged_by"] = times["by"].to_numpy()
    ended = table["status"].isin(ENDED).to_numpy()
    length, table["time_unit"] = _length_of_updates(runs)
    table["event"], table["too_short"] = np.isfinite(collapse) | diverged, times["too_short"].to_numpy() & ~diverged
    table["end_update"] = np.where(np.isfinite(collapse), collapse, last)
    table["time"] = table["end_update"] * length
    table["collapsed"] = np.where(ended & (judged | diverged), table["event"].astype(float), np.nan)
    planned = (runs["ppo.updates"].to_numpy(dtype=float) if "ppo.updates" in runs else last) * length
    horizon = pd.Series(planned).groupby(runs["study"].to_numpy()).transform("min").to_numpy()
    known = judged & ((ended & table["event"]) | (last * length >= horizon))
    table["horizon"], table["sft_gold_sd"] = horizon, runs["sft/eval/gold_sd"].to_numpy(dtype=float)
    table["stable_updates"] = np.where(known, np.minimum(table["time"], horizon), np.nan)
    table["rm_accuracy"] = runs["rm/held_out_accuracy"].to_numpy(dtype=float) if "rm/held_out_accuracy" in runs else np.nan
    table = _add_ends(table, at_evaluations, ended, runs)
    return _add_matched(table, at_evaluations[at_evaluations["run"].isin(table["run"][ended])], scales_of_proxy(runs))


def miscounted(runs: pd.DataFrame) -> tuple[str, ...]:
    """The arms, sorted, that measure an error of the code which made their runs and not their setting: `SCORE_COUNTED_TWICE`."""
    on = runs["ppo.bootstrap_truncated"].eq(True) if "ppo.bootstrap_truncated" in runs else pd.Series(False, runs.index)
    return tuple(sorted(runs.loc[on & runs["git_commit"].isin(SCORE_COUNTED_TWICE), "arm"].unique()))


def _length_of_updates(runs: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(length of an update, unit of time) of every run: 1 and "updates", or in a study of several batch sizes those and "responses"."""
    if "ppo.batch_size" not in runs:
        return np.ones(len(runs)), np.full(len(runs), "updates")
    size = pd.to_numeric(runs["ppo.batch_size"], errors="coerce").fillna(1.0)
    sizes = size.groupby(runs["study"].to_numpy()).nunique()
    several = runs["study"].map(sizes > 1).to_numpy(dtype=bool)
    return np.where(several, size, 1.0), np.where(several, "responses", "updates")


def with_win_rate(curves: pd.DataFrame) -> pd.DataFrame:
    """`curves` with the column eval/win_rate, a share of prompts; unchanged where no run has logged eval/win and eval/tie."""
    if not {"eval/win", "eval/tie"} <= set(curves.columns):
        return curves
    return curves.assign(**{"eval/win_rate": win_rate(curves["eval/win"], curves["eval/tie"])})


def proxy_tails(table: pd.DataFrame, scores: pd.DataFrame) -> np.ndarray:
    """Growth of the tails of proxy scores with the collapse, a value a row of `outcomes`; NaN for runs without a collapse or scores.

    The tails of an evaluation are the excess kurtosis of its scores over held-out prompts, 0 for a normal distribution; their
    growth is the median over evaluations from the collapse on minus the median before. `scores`: see `load.load_rows`.
    """
    times = table.set_index("run")["end_update"][table["event"].to_numpy()]
    rows = scores[scores["run"].isin(times.index)] if "proxy" in scores else scores[:0]
    if rows.empty:
        return np.full(len(table), np.nan)
    tails = rows.groupby(["run", "update"])["proxy"].agg(lambda values: stats.kurtosis(values)).reset_index()
    after = tails["update"] >= times.loc[tails["run"]].to_numpy()
    medians = tails.groupby(["run", after])["proxy"].median().unstack().reindex(columns=[False, True])
    return (medians[True] - medians[False]).reindex(table["run"]).to_numpy()


def scales_of_proxy(runs: pd.DataFrame) -> dict[str, bool]:
    """Study → whether runs with one `pipeline_seed` share their reward model, so that their proxy scores can be compared."""
    names = [name for name in runs.columns if name.startswith(REWARD_MODEL)]
    return {
        study: bool((part.groupby("reward_model")[names].nunique(dropna=False) <= 1).all(axis=None))
        for study, part in runs.groupby("study")
    }


def _add_ends(table: pd.DataFrame, at_evaluations: pd.DataFrame, ended: np.ndarray, runs: pd.DataFrame) -> pd.DataFrame:
    parts = at_evaluations.groupby("run", observed=True, sort=False)
    final, first = parts.last().reindex(table["run"]), parts.first().reindex(table["run"])
    for name, metric in {**END_METRICS, "win": "eval/win_rate"}.items():
        table[name] = np.where(ended, final[metric], np.nan) if metric in final else np.nan

    def of_sft(metric: str) -> np.ndarray:
        """SFT's own value: the summary's, which forks have too, else that of the evaluation at update 0."""
        start = first[metric].where(first["update"] == 0).to_numpy()
        said = pd.to_numeric(runs[f"sft/{metric}"], errors="coerce").to_numpy(dtype=float) if f"sft/{metric}" in runs else start
        return np.where(np.isfinite(said), said, start)

    for name in ("gold", "proxy"):
        metric = END_METRICS[name]
        table[f"{name}_gain"] = table[name] - of_sft(metric) if metric in first else np.nan
    for name, metric in ABILITY.items():
        if metric in final and final[metric].notna().any():
            table[name] = np.where(ended, final[metric], np.nan)
            table[f"{name}_gain"] = table[name] - of_sft(metric)
    for kind in KINDS:
        won, lost = f"eval/{kind}/win", f"eval/{kind}/lose"
        margin = final[won] - final[lost] if {won, lost} <= set(final.columns) else np.nan
        table[f"win_margin_{kind}"] = np.where(ended, margin, np.nan)
    return table


def _add_matched(table: pd.DataFrame, at_evaluations: pd.DataFrame, comparable: dict[str, bool]) -> pd.DataFrame:
    for on, metric in MATCHED_ON.items():
        for value in ("gold", "win"):
            table[f"{value}_at_{on}"] = np.nan
        table[f"matched_{on}"] = np.nan
        # Proxy scores of two reward models are on two scales, so each reward model has a matched value of its own.
        for (study, *_), members in table.groupby(["study"] if on == "kl" else ["study", "reward_model"], observed=True):
            part = at_evaluations[at_evaluations["run"].isin(members["run"])]
            target = matched_value(part, metric) if on == "kl" or comparable[study] else np.nan
            for value, column in (("gold", "eval/gold"), ("win", "eval/win_rate")):
                if column in part and np.isfinite(target):
                    table.loc[members.index, f"{value}_at_{on}"] = (
                        at_matched(part, metric, target, column).reindex(members["run"]).to_numpy()
                    )
            table.loc[members.index, f"matched_{on}"] = target**2 if on == "kl" else target
    return table


def matched_value(at_evaluations: pd.DataFrame, on: str) -> float:
    """A value of `on` that at least half of the runs of every arm reach: the least over arms of the median of the runs' largest."""
    if on not in at_evaluations or at_evaluations[on].notna().sum() == 0:
        return np.nan
    largest = at_evaluations.groupby(["arm", "run"], observed=True)[on].max()
    return float(largest.groupby("arm", observed=True).median().min())


def at_matched(at_evaluations: pd.DataFrame, on: str, target: float, value: str) -> pd.Series:
    """`value` where a run's `on` first reaches `target`, linear between the evaluations before and after, by run.

    NaN for runs that never reach it, and for runs that were not measured near it: with s the run's `on` at its first evaluation,
    the evaluation before must have come half the way from s to the target, and the one after must not be more than half of it beyond.
    Between evaluations further apart gold would be a guess at what nobody measured.
    """
    whole = at_evaluations[np.isfinite(at_evaluations[on]) & np.isfinite(at_evaluations[value])]
    found = {run: interpolate_at(part[on].to_numpy(), part[value].to_numpy(), target) for run, part in whole.groupby("run", observed=True)}
    return pd.Series(found, dtype=float)


def interpolate_at(x: np.ndarray, y: np.ndarray, target: float) -> float:
    """y at the first crossing of `target` by the path x, linear between neighbours; NaN if x stays below, or not measured near it."""
    whole = np.isfinite(x) & np.isfinite(y)
    x, y = x[whole], y[whole]
    reached = np.flatnonzero(x >= target)
    if len(reached) == 0:
        return np.nan
    after = reached[0]
    if x[after] == target:
        return float(y[after])
    if after == 0:
        return np.nan
    near = (target - x[0]) / 2
    if target - x[after - 1] > near or x[after] - target > near:
        return np.nan
    share = (target - x[after - 1]) / (x[after] - x[after - 1])
    return float(y[after - 1] + share * (y[after] - y[after - 1]))
