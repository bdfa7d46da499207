"""PPO runs of another tool as the frames that `load` returns: from a wandb offline run, or from a CSV exported from wandb.

Foreign runs have monitors but rarely a gold reward. They can therefore be compared in curves and monitors, not in collapse.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablate.errors import UserError
from analysis.load.frames import IDENTITY, Loaded
from analysis.load.runfolder import flatten

# Names of TRL's PPOTrainer. Its objective/kl sums log ratios over a response, which is k1. Its entropy is such a sum too and is not mapped.
TRL_NAMES = {
    "objective/kl": "monitor/kl_k1",
    "objective/scores": "reward/proxy_mean",
    "policy/approxkl_avg": "ppo/approx_kl",
    "policy/clipfrac_avg": "ppo/clip_fraction",
    "loss/policy_avg": "ppo/policy_loss",
    "loss/value_avg": "ppo/value_loss",
}


def load_wandb_run(path: str | Path, *, study: str = "foreign", names: Mapping[str, str] = TRL_NAMES) -> Loaded:
    """Read one wandb offline run. `path` is its `.wandb` file or the folder that holds one.

    `names` maps foreign metrics to those of metrics.jsonl. A leading "train/" is ignored, and other metrics keep their names.
    `runs` has one row: run, study, arm (the display name), seed (that of the config, else 0), folder, status, last_update, sft/eval/gold
    and sft/eval/gold_sd (NaN), and every setting of the config. `curves` has one row per step: run, study, arm, seed, update
    (wandb's step), and one column per metric. `left_out` has no rows.

    Raises:
        UserError: wandb is not installed.
        UserError: wandb cannot read the file, or it holds no history.
    """
    lines = inspect_wandb(Path(path))
    records = [json.loads(line) for line in lines]
    config: dict[str, Any] = {}
    title, run_id = None, Path(path).name
    for record in records:
        if record["type"] == "run":
            config |= record["run"].get("config", {}).get("update", {})
            title, run_id = record["run"].get("display_name", title), record["run"].get("run_id", run_id)
        elif record["type"] == "config":
            config |= record["config"].get("update", {})
    history = [record["history"]["item"] for record in records if record["type"] == "history"]
    rows = [{"update": item.get("_step", index), **_numbers(item, names)} for index, item in enumerate(history)]
    if not rows:
        raise UserError(f"{path}: no history in this wandb run")
    settings = flatten({name: value for name, value in config.items() if name != "_wandb"})
    exited = any(record["type"] == "exit" for record in records)
    who = dict(study=study, arm=title or run_id, seed=int(settings.get("seed", 0)))
    run = {**settings, **who, "folder": str(path), "status": "completed" if exited else "running"}
    return frames_of([run], [pd.DataFrame(rows)])


def load_wandb_export(path: str | Path, *, study: str = "foreign", names: Mapping[str, str] = TRL_NAMES) -> Loaded:
    """Read a CSV exported from a wandb chart: a column Step and columns "RUN - METRIC". Their __MIN and __MAX are not used.

    `names` maps metrics as in `load_wandb_run`. `runs` has one row per RUN: run, study, arm (RUN), seed (0), folder, status,
    last_update, sft/eval/gold and sft/eval/gold_sd (NaN). `curves` has one row per run and step: run, study, arm, seed, update (Step),
    and one column per METRIC. `left_out` has no rows.

    Raises:
        UserError: there is no Step column or no "RUN - METRIC" column.
    """
    table = pd.read_csv(path)
    columns = [name for name in table.columns if " - " in name and not name.endswith(("__MIN", "__MAX"))]
    if "Step" not in table or not columns:
        raise UserError(f'{path}: not a chart exported from wandb, which has a column Step and columns "RUN - METRIC"')
    runs, curves = [], []
    for arm in dict.fromkeys(name.rsplit(" - ", 1)[0] for name in columns):
        mine = {name: _ours(name.rsplit(" - ", 1)[1], names) for name in columns if name.rsplit(" - ", 1)[0] == arm}
        part = table[["Step", *mine]].rename(columns={"Step": "update", **mine}).dropna(subset=list(mine.values()), how="all")
        runs.append(dict(study=study, arm=arm, seed=0, folder=str(path), status="completed"))
        curves.append(part)
    return frames_of(runs, curves)


def combine(*parts: Loaded) -> Loaded:
    """Several loads as one, with the columns of `Loaded`. Where a load lacks a column its rows are NaN."""
    frames = [pd.concat([getattr(part, name) for part in parts], ignore_index=True) for name in ("runs", "curves", "left_out")]
    return Loaded(*frames)


def inspect_wandb(path: Path) -> list[str]:
    """The records of a wandb file, one JSON text each. Raises UserError if wandb is not installed or cannot read the file."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if "No module named wandb" in done.stderr:
        raise UserError("reading a wandb run needs wandb: pip install wandb")
    if done.returncode != 0:
        raise UserError(f"{path}: wandb cannot read it: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.splitlines()


def _ours(name: str, names: Mapping[str, str]) -> str:
    bare = name.removeprefix("train/")
    return names.get(bare, bare)


def _numbers(item: dict[str, Any], names: Mapping[str, str]) -> dict[str, float]:
    """The numeric metrics of one history row under their mapped names. Text, histograms, media and wandb's clocks are left out."""
    numeric = {name: value for name, value in item.items() if not name.startswith("_") and isinstance(value, (int, float))}
    return {_ours(name, names): float(value) for name, value in numeric.items()}


def frames_of(runs: list[dict[str, Any]], curves: list[pd.DataFrame]) -> Loaded:
    """Add run, last_update, sft/eval/gold and sft/eval/gold_sd to `runs`, and `IDENTITY` to the curves of each run."""
    parts = []
    for run, part in zip(runs, curves, strict=True):
        run["run"] = f"{run['study']}/{run['arm']}/seed={run['seed']}"
        run["reward_model"], run["folder_arm"] = "", run["arm"]
        run["last_update"] = int(part["update"].max())
        run["sft/eval/gold"] = run["sft/eval/gold_sd"] = np.nan
        parts.append(part.assign(**{name: run[name] for name in IDENTITY}))
    columns = pd.concat(parts, ignore_index=True)
    order = [*IDENTITY, "update", *(name for name in columns if name not in (*IDENTITY, "update"))]
    return Loaded(pd.DataFrame(runs), columns[order], pd.DataFrame(columns=["folder", "what", "reason"]))
