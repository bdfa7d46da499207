"""The check as text: the points with their verdicts, the arms side by side, and the runs as CSV."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ablate.errors import UserError
from analysis.estimate.stats import clustered_rate
from analysis.estimate.survival import median_time
from analysis.estimate.units import levels
from analysis.figures.collapse import proxy_and_gold
from analysis.load.frames import Loaded, load
from analysis.markdown import markdown_table
from analysis.world_check.measures import run_table
from analysis.world_check.points import BASES, CPU_SECONDS, findings, number, shares, verdict_of

PICTURED = {"vanilla": "vanilla PPO", "ppo_max_without_kl": "PPO-max without its KL penalty", "ppo_max": "PPO-max", "kl": "vanilla + KL"}
IN_CSV = (
    "world", "base", "reward_model", "seed", "status", "updates", "last_update", "collapsed", "end_update", "rose", "rise", "peak_update",
    "gold_sft", "gold_peak", "gold_end", "gold_gain", "gain_low", "gain_high", "win", "proxy_sft", "proxy_peak", "proxy_end",
    "kl_peak", "kl_collapse", "kl_end", "length_sft", "length_peak", "length_collapse", "length_end", "longest", "perplexity_sft",
    "perplexity_peak", "perplexity_collapse", "perplexity_end", "rm_accuracy", "label_accuracy", "longer_wins", "cpu_seconds",
)  # fmt: skip


def points_table(table: pd.DataFrame, limit: float) -> str:
    """A Markdown table with one row per part of a point, and a line with the verdict on each point. table: the runs of one world.

    Parts whose arm has no finished run have no row. A last line names those arms.
    """
    parts = findings(table, limit)
    rows = pd.DataFrame([(part.point, part.asks, part.found, part.verdict) for part in parts if not part.lacking],
                        columns=["point", "the world must show", "found, with 95 % intervals over reward models", "verdict"])  # fmt: skip
    points = {point: verdict_of([part for part in parts if part.point == point]) for point in dict.fromkeys(part.point for part in parts)}
    lines = [markdown_table(rows), "", f"Points: {', '.join(f'{point} {verdict}' for point, verdict in points.items())}."]
    if lacking := list(dict.fromkeys(part.lacking for part in parts if part.lacking)):
        lines.append(f"There is no finished run of {', '.join(lacking)}.")
    return "\n".join(lines)


def arms_table(table: pd.DataFrame) -> str:
    """A Markdown table with one row per arm and world, of runs that ended by themselves.

    Means over reward models where these vary, else over seeds. KL is in nats per response, length in tokens, perplexity that of the
    responses under the policy; a pair of numbers with an arrow is SFT's and the run's. RM accuracy is on held-out pairs by gold.
    """
    shown = []
    for arm, rows in table[table["ended"]].groupby("arm", sort=False, observed=True):
        sample = levels(rows, "collapsed", [arm])
        rate = clustered_rate(sample.values, sample.basis.runs)
        median = median_time(rows["end_update"].to_numpy(), rows["event"].to_numpy(), rows["reward_model"].to_numpy()).estimate
        known = rows["collapsed"].dropna()

        def mean(name: str, digits: int = 1, arm=arm, rows=rows) -> str:
            value = levels(rows, name, [arm]).values
            return f"{value.mean():.{digits}f}" if len(value) else "–"

        shown.append({
            "arm": arm,
            "runs": len(rows),
            "RM accuracy": mean("rm_accuracy", 2),
            "longer wins": mean("longer_wins", 2),
            "collapsed": f"{int(known.sum())} of {len(known)} {shares(rate)}",
            "at update (median)": number(median) if np.isfinite(median) else "never",
            "gold (least … greatest)": f"{mean('gold', 2)} ({rows['gold'].min():.2f} … {rows['gold'].max():.2f})",
            "win rate": mean("win", 2),
            "proxy": f"{mean('proxy_sft')} → {mean('proxy_end')}",
            "KL": mean("kl_end"),
            "length, and longest": f"{mean('length_sft')} → {mean('length_end')}, {mean('longest')}",
            "ppl": f"{mean('perplexity_sft', 2)} → {mean('perplexity_end', 2)}",
            "CPU s": mean("cpu_seconds", 0),
        })  # fmt: skip
    return markdown_table(pd.DataFrame(shown))


def picture(loaded: Loaded, table: pd.DataFrame, path: Path) -> None:
    """Draw proxy and gold of the arms of `PICTURED` that there are to a PNG. table: the runs of one world."""
    bases = table.set_index("run")["base"]
    curves = loaded.curves[loaded.curves["run"].isin(bases.index)]
    curves = curves.assign(arm=bases.loc[curves["run"].astype(str)].to_numpy())
    vanilla = loaded.runs[loaded.runs["run"].isin(table["run"][table["base"] == "vanilla"])]
    limit = (vanilla["sft/eval/gold"] - vanilla["collapse.threshold"] * vanilla["sft/eval/gold_sd"]).mean()
    there = {base: label for base, label in PICTURED.items() if base in set(bases)}
    proxy_and_gold(curves, there, limit).savefig(path, dpi=160)


def report(study: str, *, limit: float = CPU_SECONDS, figure: Path | None = None, csv: Path | None = None) -> None:
    """Print the points and the arms of `study`, world by world; write the runs to `csv`, and the picture of the first world to `figure`.

    Raises:
        UserError: `study` is no folder, or has no run of vanilla that ended.
    """
    loaded = load(study)
    table = run_table(loaded) if len(loaded.runs) else pd.DataFrame(columns=["base", "ended"])
    if csv and len(table):
        table[[name for name in IN_CSV if name in table]].to_csv(csv, index=False, float_format="%.6g")
    if not (table["base"][table["ended"].astype(bool)] == "vanilla").any():
        raise UserError(f"{study} has no completed run of vanilla: python -m ablate.run -m sweep=world_check 'seed=range(8)'")
    known = table[table["base"].isin(BASES)]
    for world, rows in known.groupby("world", sort=False):
        if known["world"].nunique() > 1:
            print(f"## {world}\n")
        print(points_table(rows, limit), end="\n\n")
    print(arms_table(table))
    if figure:
        picture(loaded, known[known["world"] == known["world"].iloc[0]], figure)
    if unfinished := int((~table["ended"]).sum()):
        print(f"\n{unfinished} runs that have not ended are in no table.")
