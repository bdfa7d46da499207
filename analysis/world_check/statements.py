"""The arms of `sweep=world_check` as a table, and what the world must show as statements that hold or fail."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from ablate.errors import UserError
from ablate.runs.metrics import win_rate
from analysis.figures.collapse import proxy_and_gold
from analysis.load.frames import load, load_rows
from analysis.markdown import markdown_table

ORDER = (
    "vanilla", "vanilla_kl_0.05", "vanilla_kl_0.1", "vanilla_kl_0.2", "ppo_max", "ppo_max_no_kl", "ppo_max_kl_0.05", "ppo_max_kl_0.2",
    "rm_default", "rm_fewer_pairs", "rm_noisier_pairs",
)  # fmt: skip
PICTURED = {"vanilla": "vanilla PPO", "ppo_max_no_kl": "PPO-max without its KL penalty", "ppo_max": "PPO-max"}
Z = 1.96  # two-sided 95 %


def win_bounds(runs: pd.DataFrame) -> pd.Series:
    """Lower 95 % bound of every run's win rate against SFT, by normal approximation: one value per row of `runs`, with its index.

    The win rate is the mean over held-out prompts of 1 (win), ½ (tie) and 0 (loss). Answers are paired by prompt. SFT's answers are
    those of update 0, where the policy equals SFT.
    """
    scores = load_rows(runs, "scores")
    bounds = {}
    for run, rows in scores.groupby("run"):
        gold = rows.pivot(index="prompt", columns="update", values="gold")
        difference = gold[gold.columns.max()] - gold[0]
        outcome = np.where(difference > 0, 1.0, np.where(difference < 0, 0.0, 0.5))
        bounds[run] = outcome.mean() - Z * outcome.std(ddof=1) / len(outcome) ** 0.5
    return runs["run"].map(bounds)


def with_reward_models(runs: pd.DataFrame) -> pd.DataFrame:
    """`runs` with the columns rm_accuracy (on held-out pairs), win_bound (`win_bounds`) and win_rate (ties half).

    The arms `ppo_max` and `rm_default` share the run whose two seeds are equal. It is listed under both.
    """
    reports = [json.loads((Path(folder) / "reward_model" / "report.json").read_text()) for folder in runs["folder"]]
    runs = runs.assign(rm_accuracy=[report["held_out_accuracy"] for report in reports], win_bound=win_bounds(runs))
    runs["win_rate"] = win_rate(runs["final/eval/win"], runs["final/eval/tie"])
    shared = runs[(runs["arm"] == "ppo_max") & (runs["seed"] == runs["pipeline_seed"])]
    return pd.concat([runs, shared.assign(arm="rm_default")], ignore_index=True)


def table(runs: pd.DataFrame) -> str:
    """A Markdown table with one row per arm.

    Its columns are arm, seeds, RM accuracy, gold (mean and range), win rate (mean and least lower bound), the means of proxy, KL (nats
    per response), perplexity and length (tokens) at the last evaluation, and the number of collapses with their updates.
    """
    shown = []
    for arm in [name for name in ORDER if name in set(runs["arm"])]:
        rows = runs[runs["arm"] == arm]
        gold = rows["final/eval/gold"]
        events = sorted(int(update) for update in rows["collapse_update"].dropna())
        when = f" (updates {', '.join(map(str, events))})" if events else ""
        shown.append({
            "arm": arm,
            "seeds": len(rows),
            "RM accuracy": f"{rows['rm_accuracy'].mean():.2f}",
            "gold (least … greatest)": f"{gold.mean():+.2f} ({gold.min():+.2f} … {gold.max():+.2f})",
            "win rate (least lower bound)": f"{rows['win_rate'].mean():.2f} ({rows['win_bound'].min():.2f})",
            "proxy": f"{rows['final/eval/proxy'].mean():.2f}",
            "KL": f"{rows['final/eval/kl_to_sft'].mean():.1f}",
            "ppl": f"{rows['final/eval/perplexity'].mean():.2f}",
            "length": f"{rows['final/eval/length'].mean():.1f}",
            "collapsed": f"{len(events)} of {len(rows)}{when}",
        })  # fmt: skip
    return markdown_table(pd.DataFrame(shown))


def statements(runs: pd.DataFrame, curves: pd.DataFrame) -> list[tuple[str, bool, str]]:
    """(statement, whether it holds, its numbers) for everything that the world must show."""
    arm = {name: rows for name, rows in runs.groupby("arm")}
    vanilla, best, without = arm["vanilla"], arm["ppo_max"], arm["ppo_max_no_kl"]
    gold = curves[curves["arm"] == "vanilla"].dropna(subset=["eval/gold"]).pivot(index="update", columns="seed", values="eval/gold")
    proxy = curves[curves["arm"] == "vanilla"].dropna(subset=["eval/proxy"]).pivot(index="update", columns="seed", values="eval/proxy")
    share = vanilla["collapse_update"].median() / vanilla["ppo.updates"].iloc[0]
    updates = proxy.index.to_numpy()
    half = updates[updates <= updates.max() / 2].max()
    rising = (proxy.iloc[-1] > proxy.loc[half]).sum()
    kl = {name: rows["final/eval/kl_to_sft"].mean() for name, rows in arm.items()}
    orders = [[kl[name] for name in names] for names in (ORDER[1:4], (ORDER[6], ORDER[4], ORDER[7]))]
    worse = [
        (arm["rm_default"][name].mean(), [arm[other][name].mean() for other in ORDER[9:]]) for name in ("rm_accuracy", "final/eval/gold")
    ]
    n = len(vanilla)
    return [
        ("a. vanilla collapses", bool(vanilla["collapsed"].sum() >= n - 1), f"{int(vanilla['collapsed'].sum())} of {n}"),
        ("a. … its gold first not worse than SFT's", bool((gold.max() >= gold.loc[0]).all()),
         f"peak {gold.max().mean():+.2f} from {gold.loc[0].mean():+.2f}, end {gold.iloc[-1].mean():+.2f}"),
        ("a. … while proxy keeps rising", bool(rising == n), f"higher at the end than at update {half} in {rising} of {n}"),
        ("a. … at 30–60 % of the updates (median)", bool(0.3 <= share <= 0.6), f"{share:.0%}"),
        ("b. PPO-max does not collapse", bool(best["collapsed"].sum() == 0), f"{int(best['collapsed'].sum())} of {len(best)}"),
        ("b. … and beats SFT on every seed", bool((best["win_bound"] > 0.5).all()), f"least lower bound {best['win_bound'].min():.2f}"),
        ("c. KL(0.05) > KL(0.1) > KL(0.2) on both presets", all(a > b > c for a, b, c in orders),
         "; ".join(" > ".join(f"{value:.1f}" for value in order) for order in orders)),
        ("d. fewer or noisier pairs lower RM accuracy", all(value < worse[0][0] for value in worse[0][1]),
         f"{worse[0][0]:.3f} against " + ", ".join(f"{value:.3f}" for value in worse[0][1])),
        ("d. … and final gold", all(value < worse[1][0] for value in worse[1][1]),
         f"{worse[1][0]:+.2f} against " + ", ".join(f"{value:+.2f}" for value in worse[1][1])),
        ("e. PPO-max without its KL penalty collapses", bool(without["collapsed"].sum() >= n - 1),
         f"{int(without['collapsed'].sum())} of {len(without)}"),
    ]  # fmt: skip


def report(study: str, figure: Path | None) -> None:
    """Print the table and the statements of `study`, and draw proxy and gold of three arms to `figure`.

    Raises:
        UserError: `study` is no folder, or an arm has no completed run in it.
    """
    loaded = load(study)
    completed = loaded.runs[loaded.runs["status"] == "completed"]
    if missing := [arm for arm in ORDER if arm not in set(completed["arm"]) and arm != "rm_default"]:
        raise UserError(f"{study} has no completed run of {', '.join(missing)}: python -m ablate.run -m sweep=world_check 'seed=range(5)'")
    if figure:
        sft = completed[completed["arm"] == "vanilla"]
        limit = (sft["sft/eval/gold"] - sft["collapse.threshold"] * sft["sft/eval/gold_sd"]).mean()
        proxy_and_gold(loaded.curves, PICTURED, limit).savefig(figure, dpi=160)
    runs = with_reward_models(completed)
    print(table(runs), end="\n\n")
    for statement, holds, numbers in statements(runs, loaded.curves):
        print(f"{'holds    ' if holds else 'FAILS    '} {statement}: {numbers}")
