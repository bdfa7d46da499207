"""What the check reads off each run: its collapse, its gold, the course of its monitors, its reward model and what it cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ablate.errors import UserError
from analysis.estimate.collapse import evaluations
from analysis.estimate.outcomes import ENDED, outcomes
from analysis.estimate.stats import Interval, mean_interval
from analysis.load.frames import Loaded, load_reward_models
from analysis.load.runfolder import iter_jsonl, read_summary

MONITORS = {"gold": "eval/gold", "proxy": "eval/proxy", "kl": "eval/kl_to_sft", "length": "eval/length", "perplexity": "eval/perplexity"}
STAGES_OF_A_RUN = (
    "sft",
    "peak",
    "collapse",
    "end",
)  # of a monitor's course: update 0, gold's greatest value, the collapse, the last evaluation


def run_table(loaded: Loaded) -> pd.DataFrame:
    """One row per run: the columns of `outcomes`, and what is read off its curves and files.

    - base: the name of the arm before its first comma. world: `world_of` the run, since one study may hold the arms of several worlds.
    - updates (planned), last_update (reached), ended.
    - rose: 1 if gold was above SFT's at an evaluation before the collapse, else 0; rise: by how much at most, 0 or more.
    - {gold,proxy,kl,length,perplexity}_{sft,peak,collapse,end} and peak_update: at update 0, at gold's greatest value before the
      collapse (update 0 where it never rose), at the collapse (NaN without one) and at the last evaluation; longest: the greatest mean
      length. Unlike the columns of `outcomes` these are known of runs that have not ended.
    - gain_low, gain_high: the interval of the run's gold over SFT's, over held-out prompts.
    - rm_accuracy: the share of held-out pairs of different gold whose better answer its reward model scores higher. Labels' noise does not
      count in it, unlike in label_accuracy, the share of held-out labels that it predicts; longer_wins: the share of labels for the longer
      answer, equal lengths counting one half.
    - cpu_seconds: of all updates and their evaluations; NaN where runs are older than the metric.

    Raises UserError for a study with two arms of one base in one world.
    """
    runs, curves = loaded.runs, loaded.curves
    table = outcomes(runs, curves)
    table = table.assign(
        base=table["arm"].astype(str).str.partition(",")[0],
        world=world_of(runs),
        ended=table["status"].isin(ENDED),
        last_update=runs["last_update"],
        updates=runs["ppo.updates"] if "ppo.updates" in runs else runs["last_update"],
    )
    arms = table.groupby(["base", "world"])["arm"].nunique()
    if (arms > 1).any():
        base, world = arms.idxmax()
        raise UserError(f"{arms.max()} arms are {base} with {world}, and one world has one of them: give each its own study")
    course = pd.DataFrame([course_of(*run) for run in split_by_run(table, evaluations(curves))], index=table.index)
    gains = pd.DataFrame([gold_over_sft(Path(folder)) for folder in runs["folder"]], index=table.index)
    reports = [read_summary(Path(folder) / "reward_model" / "report.json", []) for folder in runs["folder"]]
    seconds = curves.groupby("run", observed=True)["time/cpu_s"].sum(min_count=1) if "time/cpu_s" in curves else pd.Series(dtype=float)
    return pd.concat([table, course], axis=1).assign(
        gain_low=gains["low"], gain_high=gains["high"], label_accuracy=table["rm_accuracy"], rm_accuracy=accuracy_by_gold(runs),
        longer_wins=[report.get("longer_wins_accuracy", np.nan) for report in reports],
        cpu_seconds=seconds.reindex(table["run"]).to_numpy(dtype=float),
    )  # fmt: skip


def world_of(runs: pd.DataFrame) -> pd.Series:
    """One text per run: its annotator's bias and the room of its answers, 'length bias 0.2, answers of up to 96 tokens'."""
    settings = [runs[name] if name in runs else pd.Series(default, runs.index)
                for name, default in (("preferences.length_bias", 0.0), ("sampling.max_new_tokens", np.nan))]  # fmt: skip
    worlds = zip(*(pd.to_numeric(values) for values in settings), strict=True)
    return pd.Series([f"length bias {bias:g}, answers of up to {room:g} tokens" for bias, room in worlds], runs.index, dtype=object)


def split_by_run(table: pd.DataFrame, evaluated: pd.DataFrame) -> list[tuple[pd.DataFrame, float]]:
    """(evaluations with gold, update of the collapse or ∞) per row of `table`, in its order."""
    measured = evaluated.dropna(subset=["eval/gold"]) if "eval/gold" in evaluated else evaluated[:0]
    parts = {run: part for run, part in measured.groupby("run", observed=True)}
    ends = np.where(table["event"], table["end_update"], np.inf)
    return [(parts.get(run, measured[:0]), float(end)) for run, end in zip(table["run"], ends, strict=True)]


def course_of(evaluated: pd.DataFrame, collapse: float) -> dict[str, float]:
    """The columns rose to longest of `run_table`, from the evaluations of one run, in order, and the update of its collapse."""
    if evaluated.empty:
        return {"rose": np.nan}
    gold, updates = evaluated["eval/gold"].to_numpy(), evaluated["update"].to_numpy()
    before = np.flatnonzero(updates < collapse)
    peak = int(before[gold[before].argmax()]) if len(before) else 0
    fallen = np.flatnonzero(updates >= collapse)
    at = {"sft": 0, "peak": peak, "collapse": int(fallen[0]) if len(fallen) else None, "end": len(evaluated) - 1}
    found = {"rose": float(gold[peak] > gold[0]), "rise": gold[peak] - gold[0], "peak_update": float(updates[peak])}
    for name, metric in MONITORS.items():
        values = evaluated[metric].to_numpy() if metric in evaluated else np.full(len(evaluated), np.nan)
        found |= {f"{name}_{stage}": np.nan if index is None else values[index] for stage, index in at.items()}
    lengths = evaluated["eval/length"].to_numpy() if "eval/length" in evaluated else np.full(1, np.nan)
    return found | {"longest": lengths.max()}


def gold_over_sft(folder: Path) -> dict[str, float]:
    """The interval over held-out prompts of a run's gold at its last evaluation minus SFT's, paired by prompt: estimate, low, high.

    SFT's answers are those of update 0, where the policy equals SFT. NaN for a run without them.
    """
    golds: dict[int, dict[int, float]] = {}
    for row in iter_jsonl(folder / "scores.jsonl"):
        if row["gold"] is not None:
            golds.setdefault(row["update"], {})[row["prompt"]] = row["gold"]
    if 0 not in golds:
        return Interval(np.nan, np.nan, np.nan)._asdict()
    first, last = golds[0], golds[max(golds)]
    return mean_interval(np.array([last[prompt] - gold for prompt, gold in first.items() if prompt in last]))._asdict()


def accuracy_by_gold(runs: pd.DataFrame) -> np.ndarray:
    """One value per run: the share of held-out pairs of different gold whose better answer its reward model scores higher, NaN without."""
    _, pairs = load_reward_models(runs)
    if not {"score_difference", "gold_difference"} <= set(pairs.columns):
        return np.full(len(runs), np.nan)
    told = pairs[pairs["gold_difference"].notna() & (pairs["gold_difference"] != 0)]
    right = (np.sign(told["score_difference"]) == np.sign(told["gold_difference"])).astype(float)
    return right.groupby(told["run"]).mean().reindex(runs["run"]).to_numpy(dtype=float)
